"""Weights and norm limits: protocol/averaging.md section 10."""

from math import isqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.swarm.weights import (
    CLIP_ONE,
    FACTOR_MAX,
    clip_factor,
    factors,
    limit2_of_round,
    lower_median,
)
from p2ptrain.wire.digest import ZERO_DIGEST
from p2ptrain.wire.messages import Entry, Norm2
from p2ptrain.wire.peer_id import PeerId

norms2 = st.integers(0, (1 << 122) - 1)
entry = st.builds(
    lambda weight, norm2: Entry(PeerId("x"), ZERO_DIGEST, weight, Norm2(norm2), ZERO_DIGEST, 1),
    st.integers(1, 1 << 28),
    norms2,
)


@pytest.mark.parametrize(
    ("values", "median"), [([5], 5), ([2, 1], 1), ([3, 1, 2], 2), ([4, 1, 3, 2], 2)]
)
def test_the_lower_median_is_one_of_the_values(values: list[int], median: int) -> None:
    assert lower_median(values) == median


def test_the_recipes_limit_holds_until_eight_rounds_are_certified() -> None:
    assert limit2_of_round([1], [7] * 7, 1000) == 1000
    assert limit2_of_round([1], [8] * 8, 1000) == 2


def test_the_limit_follows_the_median_up_at_once_and_down_by_half_a_norm() -> None:
    assert limit2_of_round([900, 1000, 5], [100] * 8, 1) == 900
    assert limit2_of_round([1, 1, 1], [100] * 8, 1) == 25


@given(norms2, st.integers(1, (1 << 122) - 1))
def test_a_clip_brings_a_norm_to_its_limit_and_never_stretches_it(norm2: int, limit2: int) -> None:
    clip = clip_factor(norm2, limit2)
    assert 0 <= clip <= CLIP_ONE
    assert clip == CLIP_ONE or clip * clip * norm2 <= limit2 << 32
    if norm2 > limit2:
        assert (clip + 1) ** 2 * norm2 > limit2 << 32
        assert clip == isqrt((limit2 << 32) // norm2)


@given(st.lists(entry, min_size=1, max_size=64), st.integers(1, 1 << 122))
def test_factors_are_16_bits_the_largest_is_full_and_nobody_counts_over_twice_the_median(
    entries: list[Entry], limit2: int
) -> None:
    found = factors(entries, limit2)
    assert len(found) == len(entries)
    assert max(found) in (0, FACTOR_MAX)
    cap = 2 * lower_median([e.weight for e in entries])
    capped = [Entry(e.peer, e.commit, min(e.weight, cap), e.norm2, e.reveal, 1) for e in entries]
    assert factors(entries, limit2) == found
    assert all(f >= 0 for f in factors(capped, limit2))
    twins = [(a, b) for a in range(len(entries)) for b in range(a) if entries[a] == entries[b]]
    assert all(found[a] == found[b] for a, b in twins)


def test_a_liar_about_its_samples_gains_twice_the_median_and_no_more() -> None:
    def one(weight: int) -> Entry:
        return Entry(PeerId("x"), ZERO_DIGEST, weight, Norm2(1), ZERO_DIGEST, 1)

    honest, liar = factors([one(32), one(32), one(1 << 28)], 10)[1:]
    assert liar == FACTOR_MAX
    assert honest == FACTOR_MAX // 2
