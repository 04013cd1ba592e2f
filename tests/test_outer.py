"""protocol/codecs.md section 7: the outer step and the state."""

import numpy as np
import pytest
from numpy.typing import NDArray

from p2ptrain.compress.blocks import NotFinite
from p2ptrain.train.outer import (
    OuterConfig,
    initial_state,
    outer_step,
    state_bytes,
    state_digest,
    state_from_bytes,
    state_pieces,
)
from p2ptrain.wire.limits import CODEC_BLOCK, STATE_PIECE_BYTES
from p2ptrain.wire.shards import merkle_root

PLAIN = OuterConfig("plain", 1.0, 0.0)
NESTEROV = OuterConfig("nesterov", 0.7, 0.5)


def normal(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(2 * CODEC_BLOCK).astype(np.float32)


def test_plain_takes_the_gradient_away() -> None:
    state = outer_step(PLAIN, initial_state(PLAIN, normal(1)), normal(2))
    assert state.momentum is None
    assert state.parameters.tobytes() == (normal(1) - normal(2)).tobytes()


def test_nesterov_is_that_of_torch() -> None:
    """Three steps against float64: u = mu u + g; p -= lr (g + mu u)."""
    state = initial_state(NESTEROV, normal(1))
    parameters, momentum = normal(1).astype(np.float64), np.zeros(2 * CODEC_BLOCK)
    for seed in (2, 3, 4):
        state = outer_step(NESTEROV, state, normal(seed))
        momentum = 0.5 * momentum + normal(seed)
        parameters = parameters - 0.7 * (normal(seed) + 0.5 * momentum)
    assert np.allclose(state.parameters, parameters, atol=1e-5)


def test_every_operation_is_rounded_by_itself() -> None:
    """In the order of section 7, one operation after the other."""
    state = outer_step(NESTEROV, initial_state(NESTEROV, normal(1)), normal(2))
    state = outer_step(NESTEROV, state, normal(3))
    assert state.momentum is not None
    mu, rate = np.float32(0.5), np.float32(0.7)
    for i in (0, 17, 8191):
        p, u = normal(1)[i], np.float32(0)
        for g in (normal(2)[i], normal(3)[i]):
            u = np.float32(np.float32(mu * u) + g)
            p = np.float32(p - np.float32(rate * np.float32(g + np.float32(mu * u))))
        assert state.parameters[i] == p
        assert state.momentum[i] == u


@pytest.mark.parametrize("config", [PLAIN, NESTEROV], ids=["plain", "nesterov"])
def test_a_state_is_its_bytes(config: OuterConfig) -> None:
    state = outer_step(config, initial_state(config, normal(1)), normal(2))
    content = state_bytes(state)
    assert len(content) == 4 * 2 * CODEC_BLOCK * config.vectors
    again = state_from_bytes(config, content, 2 * CODEC_BLOCK)
    assert state_bytes(again) == content
    assert content.startswith(state.parameters.tobytes())


def test_the_digest_of_a_state_is_the_merkle_root_of_its_pieces() -> None:
    content = bytes(range(256)) * (2 * STATE_PIECE_BYTES // 256) + b"rest"
    pieces = state_pieces(content)
    assert [len(piece) for piece in pieces] == [STATE_PIECE_BYTES, STATE_PIECE_BYTES, 4]
    assert b"".join(pieces) == content
    assert state_digest(content) == merkle_root(pieces)


def test_momentum_that_fades_becomes_zero_before_it_is_denormal() -> None:
    parameters = np.ones(CODEC_BLOCK, np.float32)
    state = initial_state(NESTEROV, parameters)
    state = outer_step(NESTEROV, state, parameters)
    for _ in range(70):
        state = outer_step(NESTEROV, state, np.zeros_like(parameters))
    assert state.momentum is not None
    assert not state.momentum.any()


def test_what_is_not_finite_is_refused() -> None:
    large = np.full(CODEC_BLOCK, np.finfo(np.float32).max)
    with pytest.raises(NotFinite):
        outer_step(PLAIN, initial_state(PLAIN, large), -large)
    with pytest.raises(NotFinite):
        state_from_bytes(PLAIN, np.full(CODEC_BLOCK, np.nan, "<f4").tobytes(), CODEC_BLOCK)


def test_a_state_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        state_from_bytes(NESTEROV, bytes(4 * CODEC_BLOCK), CODEC_BLOCK)
