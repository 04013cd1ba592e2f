"""ClippedGossip in integers: a centre moved once towards points, none of which pulls too hard.

    c' = c + sum_j w_j min(1, limit / |x_j - c|) (x_j - c) / sum_j w_j

He et al., Byzantine-robust decentralized learning via ClippedGossip, 2022, arXiv:2202.01545, eq. 8:
one step from a peer's own vector, with the weights of its neighbours. Rounds do not gossip, and
clip as centring.py does; `python -m simnet figures --only B` makes the published table with this.

The canonical form has integers only, so neither the order of the points nor a device matters:

    values        integers below 2**30
    distances     squared, exactly
    coefficients  a_j = floor(2**30 w_j min(1, limit / |x_j - c|) / sum w), by an integer root
    step          (sum_j a_j (x_j - c)) / 2**30, rounded half to even: 2**61 at most before that
"""

from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.reduce import round_half_even

Fixed = NDArray[np.int64]  # values below 2**VALUE_BITS

VALUE_BITS = 30
COEFFICIENT_BITS = 30
LOW_BITS = 16  # a difference is cut into halves, whose squares sum without overflow


def squared_distance(a: Fixed, b: Fixed) -> int:
    """Sum of (a - b)**2, exactly, for up to 2**30 values."""
    differences = a - b
    high, low = differences >> LOW_BITS, differences & ((1 << LOW_BITS) - 1)
    squares = (int(high @ high) << 2 * LOW_BITS) + (int(high @ low) << LOW_BITS + 1)
    return squares + int(low @ low)


def coefficient(weight: int, weights: int, distance2: int, limit2: int | None) -> int:
    """floor(2**30 x weight / weights x min(1, limit / distance)).

    Args:
      weight, weights  of this point, and of all
      distance2        squared, from the centre
      limit2           squared, in the same unit; None: no clipping
    """
    if limit2 is None or distance2 <= limit2:
        return (weight << COEFFICIENT_BITS) // weights
    numerator = weight * weight * limit2 << 2 * COEFFICIENT_BITS
    return isqrt(numerator // (weights * weights * distance2))


def clipped_step(
    centre: Fixed, points: Sequence[Fixed], weights: Sequence[int], limit2: int | None
) -> Fixed:
    """The centre moved once towards the points, each of which is clipped to a limit.

    Args:
      centre   (n,)
      points   each (n,)
      weights  one a point; the centre's own goes into the sum only if it is among the points
      limit2   squared, in squared units; None: no clipping
    """
    total = sum(weights)
    pull = np.zeros_like(centre)
    for point, weight in zip(points, weights, strict=True):
        share = coefficient(weight, total, squared_distance(point, centre), limit2)
        pull += share * (point - centre)
    return centre + round_half_even(pull, 1 << COEFFICIENT_BITS)
