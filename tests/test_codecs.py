"""protocol/codecs.md sections 2 to 4: block formats, what they refuse, and their norms."""

import json
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.compress.blocks import INT4, INT8, TINY, BlockCodec, MalformedShard, NotFinite
from p2ptrain.compress.codecs import CODECS
from p2ptrain.compress.feedback import quantise_with_feedback
from p2ptrain.wire.limits import CODEC_BLOCK

VECTORS = json.loads(
    (Path(__file__).parents[1] / "protocol" / "vectors" / "codecs.json").read_text()
)
BOTH = pytest.mark.parametrize("codec", [INT4, INT8], ids=["int4", "int8"])
ALL = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def expand(runs: list[list[Any]]) -> bytes:
    """Bytes written as [hex, times] runs, so that vectors of 4096 values can be read."""
    return b"".join(bytes.fromhex(text) * times for text, times in runs)


def floats(runs: list[list[Any]]) -> NDArray[np.float32]:
    return np.frombuffer(expand(runs), "<f4").astype(np.float32)


def normal(seed: int, blocks: int = 2, size: float = 1e-3) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(blocks * CODEC_BLOCK) * size).astype(np.float32)


def shard_of(scales: list[float], q: NDArray[np.int8], codec: BlockCodec = INT8) -> bytes:
    return np.array(scales, "<f4").tobytes() + codec.pack(q.reshape(-1, CODEC_BLOCK))


@pytest.mark.parametrize("vector", VECTORS["encode"], ids=lambda v: v["name"])
def test_the_vectors_encode_to_their_bytes(vector: dict[str, Any]) -> None:
    codec = CODECS[vector["codec"]]
    shard = expand(vector["shard"])
    assert codec.encode(floats(vector["values"])) == shard
    assert codec.decode(shard).tobytes() == floats(vector["decoded"]).tobytes()
    assert codec.squared_norm(shard) == int(vector["norm2"])


@pytest.mark.parametrize("vector", VECTORS["feedback"], ids=lambda v: str(v["codec"]))
def test_the_vectors_of_feedback_have_their_shards_and_residuals(vector: dict[str, Any]) -> None:
    codec = CODECS[vector["codec"]]
    gradient, residual = floats(vector["gradient"]), floats(vector["residual"])
    quantised, left = quantise_with_feedback(codec, gradient, residual)
    assert codec.join(quantised) == expand(vector["shard"])
    assert left.tobytes() == expand(vector["next"])


@pytest.mark.parametrize("vector", VECTORS["rejected"], ids=lambda v: v["name"])
def test_the_rejected_vectors_are_refused_by_their_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedShard) as caught:
        CODECS[vector["codec"]].squared_norm(expand(vector["shard"]))
    assert caught.value.rule == vector["rule"]


@BOTH
@given(seed=st.integers(0, 2**32), exponent=st.integers(-70, 30))
@settings(max_examples=30, deadline=None)
def test_encoding_what_was_decoded_changes_nothing(
    codec: BlockCodec, seed: int, exponent: int
) -> None:
    """Section 3: one encoding for each value."""
    shard = codec.encode(normal(seed, 1, 2.0**exponent))
    quantised = codec.quantised(shard)
    again = codec.quantised(codec.encode(quantised.values()))
    assert np.array_equal(again.q, quantised.q)


@BOTH
@given(seed=st.integers(0, 2**32), exponent=st.integers(-60, 30))
@settings(max_examples=30, deadline=None)
def test_a_value_is_lost_by_half_a_scale_at_most(
    codec: BlockCodec, seed: int, exponent: int
) -> None:
    values = normal(seed, 1, 2.0**exponent)
    shard = codec.encode(values)
    scale = float(codec.quantised(shard).scales[0])
    assert np.abs(codec.decode(shard).astype(np.float64) - values).max() <= scale * 0.50001
    assert np.abs(codec.quantised(shard).q).max() == codec.peak


@ALL
def test_blocks_below_tiny_are_zeros_with_scale_plus_zero(codec: BlockCodec) -> None:
    values = np.full(CODEC_BLOCK, np.nextafter(TINY, np.float32(0)), np.float32)
    assert codec.encode(-values) == bytes(codec.shard_bytes(CODEC_BLOCK))
    values[7] = TINY
    assert codec.quantised(codec.encode(values)).q[0, 7] == codec.peak


@ALL
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_encoded(codec: BlockCodec, bad: float) -> None:
    values = normal(1)
    values[-1] = bad
    with pytest.raises(NotFinite):
        codec.encode(values)


@ALL
@given(data=st.binary(max_size=200), at=st.integers(0, 4200))
@settings(max_examples=40, deadline=None)
def test_bytes_are_either_canonical_or_refused(codec: BlockCodec, data: bytes, at: int) -> None:
    """Whatever is accepted is the one encoding of its values; nothing else is ever raised."""
    shard = bytearray(codec.encode(normal(3, 1)))
    at = min(at, len(shard))
    shard[at : at + len(data)] = data
    try:
        quantised = codec.quantised(bytes(shard))
    except MalformedShard:
        return
    assert codec.join(quantised) == bytes(shard)


@ALL
@given(seed=st.integers(0, 2**32), exponent=st.integers(-60, 25))
@settings(max_examples=10, deadline=None)
def test_the_squared_norm_is_the_exact_one_rounded_down(
    codec: BlockCodec, seed: int, exponent: int
) -> None:
    shard = codec.encode(normal(seed, 2, 2.0**exponent))
    quantised = codec.quantised(shard)
    exact = sum(
        Fraction(float(scale)) ** 2 * int(np.square(q, dtype=np.int64).sum())
        for q, scale in zip(quantised.q, quantised.scales, strict=True)
    )
    assert codec.squared_norm(shard) == floor(exact * 2**64)


def test_int4_keeps_the_halves_of_a_block_side_by_side() -> None:
    """Section 2: byte j holds value j below and value j + 2048 above."""
    q = np.zeros((1, CODEC_BLOCK), np.int8)
    q[0, 0], q[0, 2048] = 7, -7
    assert INT4.pack(q)[0] == 0x97
    assert np.array_equal(INT4.quantised(shard_of([1.0], q, INT4)).q, q)


def test_scales_are_products_with_the_stated_constants() -> None:
    """Section 3: fl(1/127) and fl(1/7)."""
    assert np.float32(1 / 127).tobytes() == bytes.fromhex("0402013c")
    assert np.float32(1 / 7).tobytes() == bytes.fromhex("2549123e")
