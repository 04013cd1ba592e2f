"""compress/clipping.py: ClippedGossip in integers."""

from math import sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.compress.clipping import (
    COEFFICIENT_BITS,
    VALUE_BITS,
    clipped_step,
    coefficient,
    squared_distance,
)

LARGEST = (1 << VALUE_BITS) - 1
VALUES = st.lists(st.integers(-LARGEST, LARGEST), min_size=3, max_size=3)


@given(VALUES, VALUES)
def test_squared_distances_are_exact(a: list[int], b: list[int]) -> None:
    expected = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    assert squared_distance(np.array(a, np.int64), np.array(b, np.int64)) == expected


@given(st.integers(1, 3000), st.integers(1, 2**80), st.integers(1, 2**80))
def test_coefficients_are_the_clipped_share_rounded_down(
    weight: int, distance2: int, limit2: int
) -> None:
    share = coefficient(weight, 3000, distance2, limit2)
    exact = weight / 3000 * min(1.0, sqrt(limit2 / distance2)) * 2**COEFFICIENT_BITS
    assert share == pytest.approx(exact, rel=1e-9, abs=1)
    assert share <= exact * (1 + 1e-9)


@given(st.lists(VALUES, min_size=1, max_size=6), VALUES, st.randoms(use_true_random=False))
def test_a_step_does_not_depend_on_the_order_of_the_points(
    values: list[list[int]], start: list[int], random: Random
) -> None:
    these = [np.array(v, np.int64) for v in values]
    centre = np.array(start, np.int64)
    limit2 = squared_distance(these[0], centre) // 4
    weights = list(range(1, len(these) + 1))
    order = list(range(len(these)))
    random.shuffle(order)
    step = clipped_step(centre, these, weights, limit2)
    again = clipped_step(centre, [these[i] for i in order], [weights[i] for i in order], limit2)
    assert np.array_equal(step, again)


@given(VALUES, VALUES)
def test_the_largest_values_do_not_overflow(a: list[int], b: list[int]) -> None:
    """Half of each of two points, unclipped: the mean, to within the rounding of a coefficient."""
    ends = [np.array(a, np.int64), np.array(b, np.int64)]
    middle = clipped_step(ends[0], ends, [1, 1], None)
    assert np.abs(2 * middle - ends[0] - ends[1]).max() <= 1


def test_a_step_moves_by_the_limit_at_most() -> None:
    centre, far = np.zeros(2, np.int64), np.array([3 << 20, 4 << 20], np.int64)
    step = clipped_step(centre, [far], [1], (1 << 20) ** 2)
    assert sqrt(squared_distance(step, centre)) == pytest.approx(1 << 20, rel=1e-6)
