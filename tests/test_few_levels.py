"""protocol/codecs.md sections 2.1, 3.2 and 3.3: int2 and topk, their rounding and their bytes."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.codecs import Way, digits, trained
from p2ptrain.compress.blocks import INT8, TINY, BlockCodec, MalformedShard, NotFinite
from p2ptrain.compress.codecs import CODECS, INT2, TOPK
from p2ptrain.compress.feedback import quantise_with_feedback
from p2ptrain.compress.gaps import Gaps, gaps_of
from p2ptrain.compress.levels import lane_sums
from p2ptrain.compress.reduce import WeightedShard, reduce_shard
from p2ptrain.config import AveragingSection
from p2ptrain.device.opencl import open_device
from p2ptrain.device.reference_math import lane_sum
from p2ptrain.train.local import Trainer, open_operations
from p2ptrain.wire.limits import CODEC_BLOCK, CODEC_NUMBERS, TOPK_KEPT

K = 128
LAYOUT = gaps_of(K)
FEW = pytest.mark.parametrize("codec", [INT2, TOPK[K]], ids=["int2", "topk"])


def normal(seed: int, blocks: int = 1, size: float = 1e-3) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(blocks * CODEC_BLOCK) * size).astype(np.float32)


def sparse(seed: int, blocks: int, kept: int) -> NDArray[np.int8]:
    """Blocks of q with up to `kept` values, in clusters and far apart."""
    rng = np.random.default_rng(seed)
    q = np.zeros((blocks, CODEC_BLOCK), np.int8)
    for block in q:
        count = int(rng.integers(0, kept + 1))
        span = int(rng.integers(max(count, 1), CODEC_BLOCK + 1))
        places = rng.choice(span, count, replace=False) + rng.integers(0, CODEC_BLOCK - span + 1)
        block[places] = rng.choice(np.array([-3, -2, 2, 3], np.int8), count)
    return q


def test_the_numbers_on_the_wire_are_those_of_the_codecs() -> None:
    assert sorted(CODECS) == sorted(CODEC_NUMBERS)
    assert all(CODECS[number].number == number for number in CODECS)
    assert sorted(TOPK) == sorted(TOPK_KEPT)
    assert get_args(AveragingSection.model_fields["topk"].annotation) == TOPK_KEPT


def test_sums_are_those_of_the_kernels() -> None:
    values = normal(1, 3, 1e3).reshape(3, CODEC_BLOCK)
    assert lane_sums(values).tobytes() == lane_sum(values.T).tobytes()


# --- rounding ---------------------------------------------------------------------------------
@FEW
@given(seed=st.integers(0, 2**32), exponent=st.integers(-14, 30))
@settings(max_examples=15, deadline=None)
def test_what_is_left_of_a_block_is_shorter_than_the_block(
    codec: BlockCodec, seed: int, exponent: int
) -> None:
    """So error feedback cannot run away, whatever the values are."""
    values = normal(seed, 1, 2.0**exponent) ** 3 if seed % 2 else normal(seed, 1, 2.0**exponent)
    exact = values.astype(np.float64)
    left = exact - codec.quantise(values).values()
    assert np.square(left).sum() <= np.square(exact).sum() * 0.99


def test_int2_takes_what_is_above_the_mean_or_nearly() -> None:
    values = np.zeros(CODEC_BLOCK, np.float32)
    values[::2] = 1.0
    values[1::4] = -0.625  # the mean is 0.65625, and 31/32 of it 0.6357421875
    quantised = INT2.quantise(values)
    assert quantised.scales.tolist() == [1.0]
    assert quantised.q[0, :4].tolist() == [1, 0, 1, 0]
    values[1::4] = -0.6875  # of 0.671875: 0.650390625
    assert INT2.quantise(values).q[0, :4].tolist() == [1, -1, 1, 0]


def test_topk_keeps_the_largest_and_of_equal_ones_the_first() -> None:
    values = np.full(CODEC_BLOCK, 0.25, np.float32)
    values[4000:4010] = -1.0
    q = TOPK[32].quantise(values).q[0]
    assert np.flatnonzero(q).tolist() == [*range(22), *range(4000, 4010)]
    assert q[:22].tolist() == [2] * 22
    assert q[4000:4010].tolist() == [-3] * 10


@pytest.mark.parametrize("value", [1.1, 1 / 3, 5e-7])
def test_int2_sends_a_block_of_equal_values(value: float) -> None:
    """Their mean may be rounded up, above all of them."""
    values = np.full(CODEC_BLOCK, value, np.float32)
    assert np.allclose(INT2.quantise(values).values(), values, rtol=1e-5)


@pytest.mark.parametrize("kept", TOPK_KEPT)
@pytest.mark.parametrize("count", [0, 1, 31, 33, 600, CODEC_BLOCK])
def test_topk_of_equal_values_has_the_upper_level(kept: int, count: int) -> None:
    """Rule 4.5 holds for any number of values: the mean of equal ones may round up."""
    values = np.zeros(CODEC_BLOCK, np.float32)
    values[CODEC_BLOCK - count :] = 1.1
    quantised = TOPK[kept].quantise(values)
    assert set(quantised.q[0].tolist()) <= {0, 3}
    assert np.count_nonzero(quantised.q) == min(kept, count)
    TOPK[kept].quantised(TOPK[kept].join(quantised))


@FEW
def test_zeros_stay_zeros_and_tiny_values_count_as_zeros(codec: BlockCodec) -> None:
    values = np.full(CODEC_BLOCK, np.nextafter(TINY, np.float32(0)), np.float32)
    values[5], values[9] = -1e-3, 1e-3
    quantised, kept = quantise_with_feedback(codec, values, np.zeros_like(values))
    assert np.flatnonzero(quantised.q).tolist() == [5, 9]
    assert not kept[np.abs(values) < TINY].any()


@FEW
def test_a_sum_of_magnitudes_that_overflows_is_refused(codec: BlockCodec) -> None:
    with pytest.raises(NotFinite):
        codec.quantise(np.full(CODEC_BLOCK, np.finfo(np.float32).max / 8, np.float32))


def test_topk_forgets_a_twentieth_of_the_residual_each_round() -> None:
    gradient, residual = normal(1), normal(2)
    total = gradient + np.float32(0.95) * residual
    quantised, kept = quantise_with_feedback(TOPK[K], gradient, residual)
    zeros = quantised.q.ravel() == 0
    assert kept[zeros].tobytes() == total[zeros].tobytes()


@pytest.mark.parametrize("codec", [INT2, TOPK[512]], ids=["int2", "topk"])
def test_feedback_makes_up_for_few_levels_over_rounds(codec: BlockCodec) -> None:
    """What was sent in 200 rounds points where the gradient does."""
    gradient = normal(3)
    residual, sent = np.zeros_like(gradient), np.zeros(gradient.shape, np.float64)
    for _ in range(200):
        quantised, residual = quantise_with_feedback(codec, gradient, residual)
        sent += quantised.values()
    cosine = sent @ gradient / np.linalg.norm(sent) / np.linalg.norm(gradient)
    assert cosine > 0.99


# --- bytes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kept", TOPK_KEPT)
@given(seed=st.integers(0, 2**32), blocks=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_any_positions_have_one_encoding_of_one_length(kept: int, seed: int, blocks: int) -> None:
    layout = gaps_of(kept)
    q = sparse(seed, blocks, kept)
    packed = layout.pack(q)
    assert len(packed) == blocks * layout.block_bytes
    again = layout.unpack(np.frombuffer(packed, np.uint8).reshape(blocks, -1))
    assert np.array_equal(again, q)


@pytest.mark.parametrize("last", [False, True])
def test_the_worst_case_fits(last: bool) -> None:
    """All values at the end of the block: the longest gap there is. Or at its start."""
    for kept in TOPK_KEPT:
        q = np.zeros((1, CODEC_BLOCK), np.int8)
        q[0, -kept:] = 3
        q = q if last else q[:, ::-1].copy()
        layout = gaps_of(kept)
        packed = np.frombuffer(layout.pack(q), np.uint8).reshape(1, -1)
        assert np.array_equal(layout.unpack(packed), q)


@given(content=st.binary(min_size=2 * LAYOUT.block_bytes, max_size=2 * LAYOUT.block_bytes))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_canonical_or_refused(content: bytes) -> None:
    _canonical_or_refused(np.frombuffer(content, np.uint8).reshape(2, -1))


@given(seed=st.integers(0, 2**32), flips=st.sets(st.integers(0, 8 * 143 - 1), max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_few_flipped_bits_are_canonical_or_refused(seed: int, flips: set[int]) -> None:
    packed = np.frombuffer(LAYOUT.pack(sparse(seed, 1, K)), np.uint8).copy()
    for flip in flips:
        packed[flip // 8] ^= 1 << flip % 8
    _canonical_or_refused(packed.reshape(1, -1))


def _canonical_or_refused(packed: NDArray[np.uint8]) -> None:
    try:
        q = LAYOUT.unpack(packed)
    except MalformedShard:
        return
    assert set(np.unique(np.abs(q))) <= {0, 2, 3}
    assert LAYOUT.pack(q) == packed.tobytes()


def one_value(**bits: list[int]) -> bytes:
    """A shard of scale 1 with one value of 3, or with other bits set in the areas."""
    areas = [np.zeros(size, np.uint8) for size in LAYOUT.areas]
    for area, name in zip(areas, ("low", "high", "value"), strict=True):
        area[bits.get(name, {"low": [], "high": [0], "value": [1]}[name])] = 1
    packed = np.packbits(np.concatenate(areas), bitorder="little").tobytes()
    return np.float32(1).tobytes() + packed


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        ({"high": list(range(129))}, "more than 128"),
        ({"low": [4]}, "not 0"),
        ({"value": [1, 2]}, "not 0"),
        ({"high": [256]}, "behind the end"),
        ({"high": [255], "low": [0, 1, 2, 3], "value": []}, r"no q of \+-3"),
        ({"high": [], "value": []}, r"no q of \+-3"),
    ],
)
def test_a_sparse_block_is_refused(bits: dict[str, list[int]], said: str) -> None:
    assert np.count_nonzero(TOPK[K].quantised(one_value()).q) == 1
    with pytest.raises(MalformedShard, match=said):
        TOPK[K].quantised(one_value(**bits))


def test_a_block_is_as_long_as_the_text_says() -> None:
    """Section 2: the table of lengths."""
    layouts = [gaps_of(kept) for kept in TOPK_KEPT]
    assert layouts[2] == Gaps(128, 4)
    assert [layout.low_bits for layout in layouts] == [6, 5, 4, 3, 2]
    assert [4 + layout.block_bytes for layout in layouts] == [48, 84, 147, 256, 436]


# --- the mean ---------------------------------------------------------------------------------
def test_sparse_terms_of_different_places_add_up() -> None:
    """Section 6 does not know that blocks are sparse: the mean has the places of all."""
    left, right = (np.zeros(CODEC_BLOCK, np.float32) for _ in range(2))
    left[10:20], right[4000:4010] = 1.0, -1.0
    terms = [WeightedShard(65535, TOPK[32].encode(values)) for values in (left, right)]
    mean = INT8.decode(reduce_shard(TOPK[32], terms))
    assert np.flatnonzero(mean).tolist() == [*range(10, 20), *range(4000, 4010)]
    assert np.allclose(mean[10:20], 0.5, rtol=1e-6)


# --- training ---------------------------------------------------------------------------------
def test_four_peers_learn_the_digits_with_few_levels() -> None:
    """In 24 rounds, as the benchmark trains: int8 first, then three ways of fewer bits."""
    task = digits()
    trainer = Trainer(open_operations(open_device()), task.network, task.inner, task.data, 1)
    fresh = trainer.inner_state()
    for codec in (INT2, TOPK[128], TOPK[512]):
        trainer.set_inner_state(fresh)
        assert trained(trainer, task, Way("", codec, 4), 1, 24).accuracy > 0.94
