"""protocol/codecs.md section 6: the canonical integer mean."""

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.compress.blocks import INT4, INT8, BlockCodec, MalformedShard
from p2ptrain.compress.codecs import CODECS
from p2ptrain.compress.reduce import (
    FACTOR_MAX,
    WeightedShard,
    reduce_shard,
    round_half_even,
    round_to_float32,
)
from p2ptrain.wire.limits import CODEC_BLOCK, COMMITTEE_MAX

VECTORS = json.loads(
    (Path(__file__).parents[1] / "protocol" / "vectors" / "codecs.json").read_text()
)
BOTH = pytest.mark.parametrize("codec", [INT4, INT8], ids=["int4", "int8"])


def expand(runs: list[list[Any]]) -> bytes:
    return b"".join(bytes.fromhex(text) * times for text, times in runs)


def normal_terms(codec: BlockCodec, seed: int, sizes: list[float]) -> list[WeightedShard]:
    """Terms with two blocks each, of the given standard deviations."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(1, FACTOR_MAX + 1, len(sizes))
    factors[0] = FACTOR_MAX
    return [
        WeightedShard(
            int(factor),
            codec.encode((rng.standard_normal(2 * CODEC_BLOCK) * size).astype(np.float32)),
        )
        for factor, size in zip(factors, sizes, strict=True)
    ]


def float64_mean(codec: BlockCodec, terms: list[WeightedShard]) -> Any:
    total = sum(term.factor for term in terms)
    return sum(term.factor * codec.decode(term.shard).astype(np.float64) for term in terms) / total


@pytest.mark.parametrize("vector", VECTORS["reduce"], ids=lambda v: v["name"])
def test_the_vectors_reduce_to_their_bytes(vector: dict[str, Any]) -> None:
    terms = [WeightedShard(term["factor"], expand(term["shard"])) for term in vector["terms"]]
    assert reduce_shard(CODECS[vector["codec"]], terms) == expand(vector["reduced"])


@BOTH
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_terms_does_not_change_a_bit(
    codec: BlockCodec, seed: int, count: int
) -> None:
    terms = normal_terms(codec, seed, [0.1 * (i + 1) for i in range(count)])
    reduced = reduce_shard(codec, terms)
    random.Random(seed).shuffle(terms)
    assert reduce_shard(codec, terms) == reduced


@BOTH
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.floats(1e-8, 1e6), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_the_mean_is_that_of_float64_to_half_a_scale(
    codec: BlockCodec, seed: int, sizes: list[float]
) -> None:
    terms = normal_terms(codec, seed, sizes)
    reduced = reduce_shard(codec, terms)
    mean = float64_mean(codec, terms).reshape(2, CODEC_BLOCK)
    scales = INT8.quantised(reduced).scales.astype(np.float64)
    lost = np.abs(INT8.decode(reduced).reshape(2, CODEC_BLOCK) - mean).max(axis=1)
    assert (lost <= scales * 0.5001).all()


@BOTH
@given(seed=st.integers(0, 2**32), exponent=st.integers(-26, 20))
@settings(max_examples=15, deadline=None)
def test_a_mean_scales_with_its_terms(codec: BlockCodec, seed: int, exponent: int) -> None:
    """A power of two moves the scales and leaves every q: from 1e-8 to 1e6 nothing is lost."""
    terms = normal_terms(codec, seed, [1.0, 1.0, 1.0])
    plain = INT8.quantised(reduce_shard(codec, terms))
    scaled_terms = []
    for term in terms:
        blocks = len(term.shard) // (4 + codec.block_bytes)
        scales = np.frombuffer(term.shard, "<f4", blocks) * np.float32(2.0**exponent)
        shard = scales.astype("<f4").tobytes() + term.shard[4 * blocks :]
        scaled_terms.append(WeightedShard(term.factor, shard))
    scaled = INT8.quantised(reduce_shard(codec, scaled_terms))
    assert np.array_equal(scaled.q, plain.q)
    assert np.array_equal(scaled.scales, plain.scales * np.float32(2.0**exponent))


def test_a_huge_term_with_a_small_factor_does_not_push_the_others_out() -> None:
    """Section 6: the unit follows factor x scale, so clipping protects precision too."""
    honest = normal_terms(INT8, 1, [1.0, 1.0, 1.0])
    huge = WeightedShard(1, normal_terms(INT8, 2, [65535.0])[0].shard)
    terms = [*honest, huge]
    reduced = INT8.quantised(reduce_shard(INT8, terms))
    mean = float64_mean(INT8, terms).reshape(2, CODEC_BLOCK)
    lost = np.abs(reduced.values().reshape(2, CODEC_BLOCK) - mean).max(axis=1)
    assert (lost <= reduced.scales * 0.5001).all()


def test_a_term_of_factor_zero_changes_nothing() -> None:
    terms = normal_terms(INT4, 5, [1.0, 1.0])
    absent = WeightedShard(0, normal_terms(INT4, 6, [1e9])[0].shard)
    assert reduce_shard(INT4, [*terms, absent]) == reduce_shard(INT4, terms)


@BOTH
def test_sets_of_zeros_and_sets_that_cancel_are_zero(codec: BlockCodec) -> None:
    values = np.linspace(-1, 1, CODEC_BLOCK).astype(np.float32)
    zeros = bytes(INT8.shard_bytes(CODEC_BLOCK))
    nothing = WeightedShard(FACTOR_MAX, codec.encode(np.zeros_like(values)))
    assert reduce_shard(codec, [nothing]) == zeros
    unheard = [WeightedShard(0, codec.encode(values))]  # all were clipped to nothing
    assert reduce_shard(codec, unheard) == zeros
    opposite = [WeightedShard(FACTOR_MAX, codec.encode(sign * values)) for sign in (1, -1)]
    assert reduce_shard(codec, opposite) == zeros


def test_the_largest_set_stays_inside_its_bits() -> None:
    q = np.where(np.arange(CODEC_BLOCK) % 2, 127, -127).astype(np.int8)
    scale = np.nextafter(np.float32(2.0**24), np.float32(0))  # a mantissa of 24 ones
    shard = scale.astype("<f4").tobytes() + q.tobytes()
    terms = [WeightedShard(FACTOR_MAX, shard)] * COMMITTEE_MAX
    assert reduce_shard(INT8, terms) == shard


def test_a_reduced_shard_is_canonical() -> None:
    reduced = reduce_shard(INT4, normal_terms(INT4, 9, [1.0, 1e-3]))
    assert INT8.join(INT8.quantised(reduced)) == reduced


def test_a_malformed_term_is_refused() -> None:
    terms = [*normal_terms(INT8, 1, [1.0]), WeightedShard(1, bytes(17))]
    with pytest.raises(MalformedShard):
        reduce_shard(INT8, terms)


@given(numerators=st.lists(st.integers(-(2**60), 2**60), min_size=1), divisor=st.integers(1, 2**53))
def test_quotients_are_rounded_half_to_even(numerators: list[int], divisor: int) -> None:
    rounded = round_half_even(np.array(numerators, np.int64), divisor)
    assert rounded.tolist() == [round(Fraction(n, divisor)) for n in numerators]


@given(
    numerator=st.integers(1, 2**53), denominator=st.integers(1, 2**30), unit=st.integers(-90, 40)
)
def test_scales_are_rounded_half_to_even(numerator: int, denominator: int, unit: int) -> None:
    exact = Fraction(numerator, denominator) * Fraction(2) ** unit
    got = round_to_float32(numerator, denominator, unit)
    below, above = np.nextafter(got, np.float32(0)), np.nextafter(got, np.float32(np.inf))
    distance = abs(Fraction(float(got)) - exact)
    for other in (below, above):
        other_distance = abs(Fraction(float(other)) - exact)
        even = got.view(np.uint32) & 1 == 0
        assert distance < other_distance or (distance == other_distance and even)
