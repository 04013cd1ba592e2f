"""compress/centring.py: what a minority can do to a shard's mean; equal bits for all."""

import json
import random
from fractions import Fraction
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.compress.blocks import INT4, INT8, Quantised
from p2ptrain.compress.centring import aggregate_shard, centred_factors, inner_products
from p2ptrain.compress.codecs import CODECS
from p2ptrain.compress.reduce import FACTOR_MAX, WeightedShard, reduce_shard
from p2ptrain.wire.limits import CODEC_BLOCK
from simnet import canon

VECTORS = json.loads(
    (Path(__file__).parents[1] / "protocol" / "vectors" / "codecs.json").read_text()
)
Values = NDArray[np.float64]


def expand(runs: list[list[Any]]) -> bytes:
    return b"".join(bytes.fromhex(text) * times for text, times in runs)


def honest_work(count: int, noise: float, seed: int = 0) -> list[Values]:
    """One direction of length 1 a value, and noise beside it."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(2 * CODEC_BLOCK)
    return [truth + noise * rng.standard_normal(len(truth)) for _ in range(count)]


def shards_of(vectors: list[Values], factors: list[int] | None = None) -> list[WeightedShard]:
    given = factors or [FACTOR_MAX] * len(vectors)
    return [
        WeightedShard(factor, INT8.encode(vector.astype(np.float32)))
        for factor, vector in zip(given, vectors, strict=True)
    ]


def clipped_mean(terms: list[WeightedShard]) -> Values:
    return INT8.decode(aggregate_shard(INT8, terms, "centered-clip")).astype(np.float64)


def captured(honest: list[Values], wrong: list[Values], factors: list[int] | None = None) -> float:
    """Distance of the clipped mean to the honest mean, in the honest's own median distance."""
    mean = np.mean(honest, axis=0)
    spread = float(np.median([np.linalg.norm(v - mean) for v in honest]))
    ours = clipped_mean(shards_of([*honest, *wrong], factors))
    return float(np.linalg.norm(ours - mean)) / spread


@pytest.mark.parametrize("vector", VECTORS["centred"], ids=lambda v: v["name"])
def test_the_vectors_have_their_factors_and_their_bytes(vector: dict[str, Any]) -> None:
    codec = CODECS[vector["codec"]]
    terms = [WeightedShard(term["factor"], expand(term["shard"])) for term in vector["terms"]]
    blocks = [codec.quantised(term.shard) for term in terms]
    assert centred_factors([term.factor for term in terms], blocks) == vector["clipped"]
    assert aggregate_shard(codec, terms, "centered-clip") == expand(vector["reduced"])


@given(seed=st.integers(0, 2**32), count=st.integers(1, 9), liars=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_terms_does_not_change_a_bit(seed: int, count: int, liars: int) -> None:
    rng = random.Random(seed)
    vectors = honest_work(count, 0.5, seed)
    vectors += [rng.choice((-1.0, 50.0, 1e-6)) * vectors[0] for _ in range(liars)]
    terms = shards_of(vectors, [rng.randint(0, FACTOR_MAX) for _ in vectors])
    reduced = aggregate_shard(INT8, terms, "centered-clip")
    rng.shuffle(terms)
    assert aggregate_shard(INT8, terms, "centered-clip") == reduced


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([2.0**-60, 1.0, 2.0**60]))
@settings(max_examples=20, deadline=None)
def test_inner_products_are_exact(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    terms = [
        Quantised(
            rng.integers(-127, 128, (2, CODEC_BLOCK)).astype(np.int8),
            (rng.random(2) * scale ** rng.integers(0, 2, 2)).astype(np.float32),
        )
        for _ in range(3)
    ]
    products = inner_products(terms)
    exact = {
        (i, j): sum(
            Fraction(float(terms[i].scales[b]))
            * Fraction(float(terms[j].scales[b]))
            * int(terms[i].q[b].astype(int) @ terms[j].q[b].astype(int))
            for b in range(2)
        )
        for i, j in combinations_with_replacement(range(3), 2)
    }
    unit = exact[0, 0] / products[0, 0]
    assert all(products[i, j] * unit == products[j, i] * unit == exact[i, j] for i, j in exact)


@pytest.mark.parametrize("q", [127, -127])
def test_the_largest_products_do_not_round(q: int) -> None:
    """All of 4096 products of 127 x 127: 26 bits, where float32 has 24."""
    one = Quantised(np.full((1, CODEC_BLOCK), 127, np.int8), np.ones(1, np.float32))
    other = Quantised(np.full((1, CODEC_BLOCK), q, np.int8), np.ones(1, np.float32))
    own, across = inner_products([one, other])[0].tolist()
    assert own == abs(across) == 127 * abs(q) * CODEC_BLOCK << 46  # two mantissas of 24 bits


def test_the_mean_is_untouched_where_the_recipe_says_mean() -> None:
    terms = shards_of(honest_work(4, 1.0), [65535, 1000, 0, 30000])
    assert aggregate_shard(INT8, terms, "mean") == reduce_shard(INT8, terms)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_terms_have_their_mean(count: int) -> None:
    """Of two nobody is the majority; a third of factor 0 is not one either."""
    vectors = honest_work(3, 1.0)
    terms = shards_of(vectors, [65535, 20000, 9][:count] + [0] * (3 - count))
    assert aggregate_shard(INT8, terms, "centered-clip") == reduce_shard(INT8, terms)


@pytest.mark.parametrize("noise", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("times", [-1.0, -0.1, -30.0, 1e6], ids=lambda t: f"x{t:g}")
@pytest.mark.parametrize(("liars", "count"), [(1, 3), (1, 4), (3, 16), (5, 16)])
def test_a_minority_stays_within_the_honest_spread(
    count: int, liars: int, times: float, noise: float
) -> None:
    honest = honest_work(count - liars, noise)
    mean = np.mean(honest, axis=0)
    assert captured(honest, [times * mean] * liars) < 1


def test_a_liar_that_claims_twice_the_samples_moves_the_mean_no_further_than_the_spread() -> None:
    honest = honest_work(3, 0.5)
    wrong = -np.mean(honest, axis=0)
    assert captured(honest, [wrong], [30000] * 3 + [60000]) < 1


def test_all_of_a_norm_in_one_shard_is_clipped_in_that_shard() -> None:
    """A norm limit of whole vectors lets a liar put all its length into a single shard."""
    honest = honest_work(4, 0.3)
    wrong = 100 * np.random.default_rng(5).standard_normal(2 * CODEC_BLOCK)
    assert captured(honest, [wrong]) < 0.5


def test_the_plain_mean_is_captured_by_what_centring_clips() -> None:
    """The control: the measure does see an attack."""
    honest = honest_work(3, 0.1)
    mean = np.mean(honest, axis=0)
    terms = shards_of([*honest, -mean])
    wrong = np.linalg.norm(INT8.decode(reduce_shard(INT8, terms)) - mean)
    assert wrong > 0.4 * np.linalg.norm(mean)


def test_without_liars_the_result_is_near_the_mean() -> None:
    assert captured(honest_work(16, 1.0), []) < 0.1


def test_most_that_agree_to_the_bit_decide_alone() -> None:
    vectors = honest_work(3, 1.0)
    ours = clipped_mean(shards_of([vectors[0], vectors[0], vectors[0], vectors[1], vectors[2]]))
    assert np.allclose(ours, vectors[0], atol=0.05)


def test_it_settles_where_the_published_rule_does() -> None:
    """CenteredClip (2012.10333, eq. 4) in float64, step by step for long, with our last radius."""
    honest = honest_work(5, 0.5)
    points = np.stack([INT8.decode(t.shard) for t in shards_of([*honest, -honest[0]])])
    ours = canon.centred([FACTOR_MAX] * 6, list(points.astype(np.float64)))
    radius = np.sort(np.linalg.norm(points - ours, axis=1))[2]
    centre = np.zeros(points.shape[1])
    for _ in range(300):
        away = points - centre
        centre += (np.minimum(1, radius / np.linalg.norm(away, axis=1))[:, None] * away).mean(
            axis=0
        )
    assert np.linalg.norm(ours - centre) < 1e-3 * np.linalg.norm(centre)


@given(seed=st.integers(0, 2**32), count=st.integers(3, 7))
@settings(max_examples=15, deadline=None)
def test_integers_and_a_second_writing_agree(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = honest_work(count, 1.0, seed)
    vectors[0] *= -rng.integers(1, 20)
    factors = [int(f) for f in rng.integers(1000, FACTOR_MAX + 1, count)]
    terms = [
        WeightedShard(f, INT4.encode(v.astype(np.float32)))
        for f, v in zip(factors, vectors, strict=True)
    ]
    points = [INT4.decode(t.shard).astype(np.float64) for t in terms]
    reduced = aggregate_shard(INT4, terms, "centered-clip")
    step = INT8.quantised(reduced).scales.max()
    assert (
        np.abs(INT8.decode(reduced) - canon.centred(factors, points)).max() < 0.53 * step
    )  # 16 bits a factor
