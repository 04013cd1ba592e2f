"""protocol/codecs.md section 5: error feedback and the cutting of vectors into shards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.compress.blocks import INT4, INT8, TINY, BlockCodec, NotFinite
from p2ptrain.compress.feedback import (
    cut_shards,
    join_values,
    quantise_with_feedback,
    shard_lengths,
)
from p2ptrain.wire.limits import CODEC_BLOCK

BOTH = pytest.mark.parametrize("codec", [INT4, INT8], ids=["int4", "int8"])


def normal(seed: int, blocks: int = 2) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(blocks * CODEC_BLOCK) * 1e-3).astype(np.float32)


@BOTH
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_what_is_sent_and_what_is_kept_add_up_to_what_was_there(
    codec: BlockCodec, seed: int
) -> None:
    gradient, residual = normal(seed), normal(seed + 1)
    quantised, kept = quantise_with_feedback(codec, gradient, residual)
    total = (gradient + residual).astype(np.float64)
    scales = np.repeat(quantised.scales, CODEC_BLOCK)
    assert (np.abs(quantised.values() + kept.astype(np.float64) - total) <= scales * 1e-5).all()
    assert (np.abs(kept) <= scales * 0.5001).all()


def test_feedback_makes_up_for_rounding_over_rounds() -> None:
    """The mean of what is sent comes to the gradient, though each round has 4 bits."""
    gradient = normal(3)
    residual = np.zeros_like(gradient)
    sent = np.zeros(gradient.shape, np.float64)
    for _ in range(50):
        quantised, residual = quantise_with_feedback(INT4, gradient, residual)
        sent += quantised.values()
    assert np.abs(sent / 50 - gradient).max() < np.abs(gradient).max() / 14 / 20


def test_the_arguments_are_left_alone() -> None:
    """A discarded contribution keeps the old residual."""
    gradient, residual = normal(1), normal(2)
    before = gradient.tobytes(), residual.tobytes()
    quantise_with_feedback(INT8, gradient, residual)
    assert (gradient.tobytes(), residual.tobytes()) == before


def test_what_is_kept_below_tiny_is_plus_zero() -> None:
    gradient = np.full(CODEC_BLOCK, -TINY / 2, np.float32)
    _, kept = quantise_with_feedback(INT8, gradient, np.zeros_like(gradient))
    assert kept.tobytes() == bytes(4 * CODEC_BLOCK)


def test_a_sum_that_overflows_is_refused() -> None:
    large = np.full(CODEC_BLOCK, np.finfo(np.float32).max)
    with pytest.raises(NotFinite):
        quantise_with_feedback(INT8, large, large)


@BOTH
@given(blocks=st.integers(1, 9), shard_blocks=st.integers(1, 10))
@settings(max_examples=20, deadline=None)
def test_shards_join_to_the_vector(codec: BlockCodec, blocks: int, shard_blocks: int) -> None:
    values = normal(blocks, blocks)
    shard_values = shard_blocks * CODEC_BLOCK
    shards = cut_shards(codec, codec.quantise(values), shard_values)
    lengths = shard_lengths(values.size, shard_values)
    assert [len(shard) for shard in shards] == [codec.shard_bytes(n) for n in lengths]
    assert join_values(codec, shards).tobytes() == codec.decode(codec.encode(values)).tobytes()
