"""Learning rates: the same bits on every machine, and the curves that they should be."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.train.schedules import CYCLE_START, Schedule, half_turn_cosine, rate

# SHA-256 of the float32 rates of all steps. If one changes, the protocol's arithmetic has changed.
TABLES = {
    Schedule("constant", 0.1): "af379418a0ae5579d8c0f72c896420426700af3f541ce8cf2d985435abd4286b",
    Schedule(
        "constant", 0.1, warmup_steps=7
    ): "9d8ca4e9982e32de3fc44f0fb9483c677a574dd4b3e6c81343b8dcb53b2f0361",
    Schedule(
        "cosine", 1e-3, 1e-4, 100, 2000
    ): "13debb18efdd271d600cd18844f4f6e819ed18b5556af26f482cd7a5dc976239",
    Schedule(
        "cosine", 0.3, 0.0, 0, 997
    ): "a80c2de2b4057d2351718701661cd25fe3c528999dddcca7fb0cbf39748aaa6f",
    Schedule(
        "one-cycle", 0.4, 0.0, 300, 1000
    ): "bd8788f50d8b8a7dc10758f016f0e44dc29ea78bfa5a49a581f09d2f56267ab3",
    Schedule(
        "one-cycle", 0.02, 1e-5, 0, 777
    ): "5d8ca7a3b3f9131be2216030fae04d8e8fcf164751fbaab5342abff25a4724bd",
}
schedules = st.builds(
    Schedule,
    st.sampled_from(["constant", "cosine", "one-cycle"]),
    st.floats(1e-6, 100),
    st.just(1e-7),
    st.integers(0, 20),
    st.integers(21, 1000),
)


def table(schedule: Schedule) -> NDArray[np.float32]:
    return np.array([rate(schedule, step) for step in range(2100)], "<f4")


@pytest.mark.parametrize("schedule", TABLES, ids=str)
def test_the_rates_have_the_recorded_bits(schedule: Schedule) -> None:
    assert hashlib.sha256(table(schedule).tobytes()).hexdigest() == TABLES[schedule]


@given(st.floats(0, 1))
def test_the_cosine_is_one(x: float) -> None:
    assert half_turn_cosine(x) == pytest.approx(math.cos(math.pi * x), abs=2.0**-50)


def test_the_cosine_is_exact_where_it_must_be() -> None:
    assert half_turn_cosine(0) == 1
    assert half_turn_cosine(1) == -1


@given(schedules)
def test_a_rate_is_never_zero_before_the_end_nor_above_the_highest(schedule: Schedule) -> None:
    rates = [rate(schedule, step) for step in range(schedule.total_steps)]
    assert min(rates) > 0
    assert max(rates) <= np.float32(schedule.learning_rate)


@given(schedules)
def test_a_rate_rises_and_then_never_rises_again(schedule: Schedule) -> None:
    rates = np.array([rate(schedule, step) for step in range(schedule.total_steps + 3)])
    top = int(rates.argmax())
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) <= 0).all()
    assert rates[top] == np.float32(schedule.learning_rate)
    if schedule.kind != "constant":
        assert rates[-1] == np.float32(schedule.learning_rate_end)
    if schedule.kind == "one-cycle":
        assert rates[0] == np.float32(schedule.learning_rate / CYCLE_START)
        assert top == (schedule.warmup_steps or schedule.total_steps * 3 // 10)


def test_cosine_is_the_curve_of_the_paper() -> None:
    schedule = Schedule("cosine", 1e-3, 1e-4, 100, 2000)
    assert rate(schedule, 0) == np.float32(1e-3 / 101)
    assert rate(schedule, 100) == np.float32(1e-3)
    assert rate(schedule, 1050) == np.float32((1e-3 + 1e-4) / 2)
    for step in range(100, 2000, 37):
        part = (step - 100) / 1900
        exact = 1e-4 + (1e-3 - 1e-4) * (1 + math.cos(math.pi * part)) / 2
        assert rate(schedule, step) == pytest.approx(exact, rel=1e-7)
