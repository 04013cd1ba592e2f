"""compress/clipping.py: CenteredClip and ClippedGossip in integers."""

from math import sqrt
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.compress.clipping import (
    COEFFICIENT_BITS,
    VALUE_BITS,
    Fixed,
    centred_clip,
    clipped_step,
    coefficient,
    fixed,
    squared_distance,
    unit_of,
)

LARGEST = (1 << VALUE_BITS) - 1
VALUES = st.lists(st.integers(-LARGEST, LARGEST), min_size=3, max_size=3)


def points(rng: np.random.Generator, count: int, around: float) -> list[Fixed]:
    """Honest contributions: one direction, and noise as large as it in 4096 values."""
    return [np.rint(rng.normal(around, 1, 4096) * 2.0**20).astype(np.int64) for _ in range(count)]


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


def test_without_liars_the_centre_is_near_the_mean() -> None:
    honest = points(np.random.default_rng(1), 16, 0.5)
    mean = np.mean(honest, axis=0)
    ours = centred_clip(honest, np.zeros(4096, np.int64), 10)
    assert np.linalg.norm(ours - mean) < 0.2 * np.linalg.norm(mean)


def test_three_of_sixteen_that_multiply_by_minus_a_thousand_leave_the_direction() -> None:
    """Of clipped points three pull against thirteen: the centre stays on the honest side."""
    honest = points(np.random.default_rng(2), 13, 1.0)
    wrong = [np.clip(-1000 * point, -LARGEST, LARGEST) for point in honest[:3]]
    truth = np.mean(honest, axis=0)
    ours = centred_clip([*honest, *wrong], np.zeros(4096, np.int64), 10)
    captured = np.mean([*honest, *wrong], axis=0)
    assert cosine(captured, truth) < -0.9
    assert cosine(ours, truth) > 0.95


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@given(st.integers(1, 2**127))
def test_the_unit_gives_every_vector_within_the_limit_thirty_bits(limit2: int) -> None:
    largest = np.float32(sqrt(limit2) * 2.0**-32)  # all of the norm in one value
    assert abs(int(fixed(np.array([largest]), 1 << 16, unit_of(limit2))[0])) <= 1 << VALUE_BITS


def test_values_are_clipped_and_rounded_once_half_to_even() -> None:
    values = np.array([1.0, -3.0, 5.0, 0.5], np.float32)
    assert fixed(values, 1 << 15, 0).tolist() == [0, -2, 2, 0]  # 0.5, -1.5, 2.5, 0.25
