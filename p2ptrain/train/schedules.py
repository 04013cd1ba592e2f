"""The learning rate of each step of a run, a pure function of the step.

Every peer must use the same bits, so the rate is computed in float64 by + - * / alone, which IEEE
754 defines, and rounded to float32 once. The cosine of the C library is not among these: it may
differ in the last bit from one machine to another.

With s the step, L the learning rate, E the last one, W the steps of warm-up and T those of the run:

    warm-up    L (s + 1) / (W + 1)                              s < W, but for one-cycle
    constant   L
    cosine     E + (L - E) fall((s - W) / (T - W))              E from step T on
    one-cycle  L/25 + (L - L/25) (1 - fall(s / W)) for s < W, and then as cosine

where fall(x) = (1 + cos(pi x)) / 2 goes from 1 to 0. Where W is 0, one-cycle rises for 3/10 of T.

Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017, arXiv:1608.03983.
Smith and Topin, Super-convergence, 2019, arXiv:1708.07120.
"""

from dataclasses import dataclass
from math import factorial

import numpy as np

SCHEDULES = ("constant", "cosine", "one-cycle")
CYCLE_START = 25.0  # one-cycle begins at this part of the learning rate, as in fast.ai's library
PI = 3.141592653589793
# Taylor's series of the cosine in x^2, the highest power first: up to pi / 2 the first term that
# is left out is under 2^-60.
COSINE_TERMS = 12
COSINE = tuple((1 - 2 * (k % 2)) / factorial(2 * k) for k in reversed(range(COSINE_TERMS)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The course of the learning rate.

    kind               "constant", "cosine" or "one-cycle"
    learning_rate      the highest rate
    learning_rate_end  the rate at the end of cosine and one-cycle
    warmup_steps       steps in which the rate rises; one-cycle: 0 is 3/10 of the run
    total_steps        steps of the run, above warmup_steps; "constant" does not ask
    """

    kind: str
    learning_rate: float
    learning_rate_end: float = 0.0
    warmup_steps: int = 0
    total_steps: int = 0


def rate(schedule: Schedule, step: int) -> np.float32:
    """The learning rate of a step of the run, counted from 0: round x local steps + local step."""
    assert schedule.kind in SCHEDULES, schedule.kind
    top, end = schedule.learning_rate, schedule.learning_rate_end
    rising, total = schedule.warmup_steps, schedule.total_steps
    if schedule.kind == "one-cycle":
        rising = rising or total * 3 // 10
    if step < rising:
        if schedule.kind == "one-cycle":
            start = top / CYCLE_START
            return np.float32(start + (top - start) * (1 - fall(step / rising)))
        return np.float32(top * ((step + 1) / (rising + 1)))
    if schedule.kind == "constant":
        return np.float32(top)
    if step >= total:
        return np.float32(end)
    return np.float32(end + (top - end) * fall((step - rising) / (total - rising)))


def fall(x: float) -> float:
    """(1 + cos(pi x)) / 2 for x in [0, 1], within 2^-51."""
    return 0.5 * (1 + half_turn_cosine(x))


def half_turn_cosine(x: float) -> float:
    """cos(pi x) for x in [0, 1], within 2^-50, by + - * alone."""
    if x > 0.5:
        return -half_turn_cosine(1 - x)  # 1 - x is exact
    square = (PI * x) * (PI * x)
    value = COSINE[0]
    for coefficient in COSINE[1:]:
        value = value * square + coefficient
    return value
