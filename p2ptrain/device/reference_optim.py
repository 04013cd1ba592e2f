"""kernels/optim.cl again in numpy, equal bit for bit.

Vectors are (n,) float32; `decays` is (n,) uint8. Each function returns new arrays.
"""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.reference_math import (
    QUIET,
    Floats,
    div,
    flush_denormal,
    flush_tiny,
    fma,
    lane_sum,
    polynomial,
    sqrt,
)

BLOCK = 4096
SQUARE_TINY = np.float32(2.0**-56)
ROOT_GUESS = np.uint32(0x5F600000)
ROOT_COEFFICIENTS = (-0.06135182, 0.41057897, -1.0897195, 1.7343353)
QUOTIENT_GUESS = np.uint32(0x7EF31000)
ZERO, ONE = np.float32(0), np.float32(1)


def sgd_step(
    w: Floats,
    g: Floats,
    m: Floats,
    decays: NDArray[np.uint8],
    scalars: tuple[np.float32, ...],
    nesterov: bool = False,
) -> tuple[Floats, Floats]:
    """One step of SGD.

    Args:
      g        gradient, times the factor of clipping
      scalars  rate, momentum, decay

    Returns:
      the new w and m
    """
    rate, momentum, decay = scalars
    push = fma(np.where(decays != 0, decay, ZERO), w, flush_tiny(g))
    moved = flush_tiny(fma(momentum, m, push))
    update = fma(momentum, moved, push) if nesterov else moved
    return flush_tiny(fma(-rate, update, w)), moved


def adamw_step(
    state: tuple[Floats, Floats, Floats],
    g: Floats,
    decays: NDArray[np.uint8],
    scalars: tuple[np.float32, ...],
) -> tuple[Floats, Floats, Floats]:
    """One step of AdamW.

    Args:
      state    w, m, v: parameters, first and second moment
      g        gradient, times the factor of clipping
      scalars  rate, shrink, beta1, rest1, beta2, rest2, epsilon, spread as in optim.cl

    Returns:
      the new w, m and v
    """
    w, m, v = state
    rate, shrink, beta1, rest1, beta2, rest2, epsilon, spread = scalars
    g = np.where(np.abs(g) < SQUARE_TINY, ZERO, g)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        m = flush_tiny(fma(beta1, m, rest1 * g))
        v = flush_denormal(fma(rest2 * g, g, beta2 * v))
        size = fma(root_of_moment(v), spread, epsilon)
        kept = fma(np.where(decays != 0, -shrink, ZERO), w, w)
        return flush_tiny(fma(-rate, quotient_by_positive(m, size), kept)), m, v


def root_of_moment(v: Floats) -> Floats:
    """Square root of 0 or normal numbers, within 11 ulp."""
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        guess = (ROOT_GUESS - (v.view(np.uint32) >> np.uint32(1))).view(np.float32)
        near = v * guess
        return near * polynomial(ROOT_COEFFICIENTS, near * guess)


def quotient_by_positive(a: Floats, d: Floats) -> Floats:
    """The quotient a / d for d between 2^-120 and 2^120, within 2 ulp."""
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        r = (QUOTIENT_GUESS - d.view(np.uint32)).view(np.float32)
        e = fma(-d, r, ONE)
        r = fma(r, fma(e, e, e), r)
        q = a * r
        return fma(q, fma(-d, r, ONE), q)


def clip_factor(g: Floats, most: np.float32) -> np.float32:
    """What makes the norm of g at most `most`: sums over blocks of 4096, and over the blocks."""
    lanes = flush_tiny(g).reshape(-1, BLOCK // 64, 64)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        by_lane = np.zeros((len(lanes), 64), np.float32)
        for row in range(lanes.shape[1]):
            by_lane = fma(lanes[:, row], lanes[:, row], by_lane)
        total = lane_sum(lane_sum(by_lane.T))
        norm = sqrt(np.asarray(total))
        return np.float32(div(np.asarray(most), norm) if norm > most else ONE)
