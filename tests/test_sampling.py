"""Sampling: the same text on every machine, drawn as often as the network expects."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.data.tokenisers import Tokens
from p2ptrain.device.reference_math import Floats
from p2ptrain.errors import ConfigError
from p2ptrain.train.sampling import SamplingConfig, draw, sample, weights

LOGITS = np.array([0.5, -1.25, 2.0, 2.0, -30.0, 1.0], np.float32)


def drawn(config: SamplingConfig, count: int, logits: Floats = LOGITS) -> NDArray[np.int64]:
    return np.array([draw(logits, config, index) for index in range(count)])


def test_each_token_is_drawn_as_often_as_the_network_expects() -> None:
    for temperature in (0.5, 2.0):
        expected = np.exp(LOGITS.astype(np.float64) / temperature)
        expected /= expected.sum()
        counts = np.bincount(drawn(SamplingConfig(temperature), 800), minlength=len(LOGITS))
        # Five standard deviations; the draws are fixed, so this passes always or never.
        assert (np.abs(counts / 800 - expected) < 5 * np.sqrt(expected / 800) + 1e-9).all()


def test_at_temperature_zero_the_first_of_the_largest_wins() -> None:
    assert set(drawn(SamplingConfig(0.0), 20)) == {2}
    assert set(drawn(SamplingConfig(0.001), 200)) == {2, 3}, "these two are equal"


def test_only_the_k_most_likely_are_drawn() -> None:
    assert set(drawn(SamplingConfig(10.0, top_k=3), 400)) == {2, 3, 5}
    assert set(drawn(SamplingConfig(10.0, top_k=1), 50)) == {2}
    everything = drawn(SamplingConfig(10.0), 400)
    assert np.array_equal(everything, drawn(SamplingConfig(10.0, top_k=100), 400))


def test_the_draws_are_the_ones_that_every_machine_makes() -> None:
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**32, (200, 65), np.uint32) & np.uint32(0x83FFFFFF)
    logits = (bits | np.uint32(0x3F000000)).view(np.float32)
    tokens = [draw(row, SamplingConfig(0.8, 40, 7), index) for index, row in enumerate(logits)]
    assert (
        hashlib.sha256(bytes(tokens)).hexdigest()
        == "c0ad95f4c9df0db1087f4227dc3caa68cb7b94e162ec5593f42a08afbea2ea6b"
    )


def test_another_seed_draws_another_text() -> None:
    texts = {tuple(drawn(SamplingConfig(1.0, seed=seed), 50)) for seed in (0, 1, 2**64 - 1)}
    assert len(texts) == 3


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=80),
    st.just(0.0) | st.floats(0.001, 100),
    st.integers(0, 90),
    st.integers(0, 2**64 - 1),
)
def test_any_finite_logits_give_a_token(
    values: list[float], temperature: float, top_k: int, seed: int
) -> None:
    logits = np.array(values, np.float32)
    assert 0 <= draw(logits, SamplingConfig(temperature, top_k, seed), 5) < len(logits)
    assert weights(logits, max(temperature, 0.1)).max() == 1 << 32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_network_that_has_diverged_is_named_as_such(value: float) -> None:
    with pytest.raises(ConfigError, match="diverged"):
        draw(np.array([0, value], np.float32), SamplingConfig(), 0)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -0.1}, {"temperature": 1e-9}, {"temperature": float("nan")},
     {"temperature": 1e3}, {"top_k": -1},
     {"seed": -1}, {"seed": 1 << 64}],
)  # fmt: skip
def test_settings_that_cannot_be_drawn_by_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="--"):
        SamplingConfig(**settings)  # type: ignore[arg-type]


def test_the_network_sees_the_last_tokens_of_prompt_and_text() -> None:
    seen: list[list[int]] = []

    def counting(tokens: Tokens) -> Floats:
        """A network that is sure that the next number follows."""
        seen.append(tokens.tolist())
        logits = np.zeros(10, np.float32)
        logits[(int(tokens[-1]) + 1) % 10] = 50
        return logits

    prompt = np.array([5, 6], np.uint8)
    text = sample(counting, prompt, 3, SamplingConfig(1.0))
    assert [next(text) for _ in range(5)] == [7, 8, 9, 0, 1]
    assert seen == [[5, 6], [5, 6, 7], [6, 7, 8], [7, 8, 9], [8, 9, 0]]
    long = sample(counting, np.arange(8, dtype=np.uint8), 2, SamplingConfig(0.0))
    assert next(long) == 8
    assert seen[-1] == [6, 7]
