"""Clipping around a centre, in integers: CenteredClip and ClippedGossip, equal bits everywhere.

Both move a centre towards points, each of which pulls no harder than a limit allows:

    c' = c + sum_j w_j min(1, limit / |x_j - c|) (x_j - c) / sum_j w_j

CenteredClip (Karimireddy et al., Learning from history for Byzantine robust optimization, 2021,
arXiv:2012.10333, eq. 4) takes equal weights and repeats the step; here the limit of each pass is
the lower median of the distances, so a minority cannot choose it. ClippedGossip (He et al.,
Byzantine-robust decentralized learning via ClippedGossip, 2022, arXiv:2202.01545, eq. 8) is one
step from a peer's own vector, with the weights of its neighbours.

The canonical form has integers only, so neither the order of the points nor a device matters:

    values        integers below 2**30 in units of 2**unit, which the round's norm limit gives
    distances     squared, exactly
    coefficients  a_j = floor(2**30 w_j min(1, limit / |x_j - c|) / sum w), by an integer root
    step          (sum_j a_j (x_j - c)) / 2**30, rounded half to even: 2**61 at most before that

Norms are clipped to the round's limit first (swarm/weights.py), so one huge vector does not push
the bits of the others out of the unit. A reducer of one shard needs the distances of whole vectors:
they are sums over shards, as norms are. Rounds clip norms only so far (swarm/weights.py); this is
computed with by `python -m simnet figures --only B`.
"""

from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import NORM2_UNIT_EXPONENT
from p2ptrain.compress.reduce import round_half_even

Fixed = NDArray[np.int64]  # values in units of 2**unit, below 2**VALUE_BITS

VALUE_BITS = 30
COEFFICIENT_BITS = 30
CLIP_BITS = 16  # of a clip factor: swarm/weights.py
LOW_BITS = 16  # a difference is cut into halves, whose squares sum without overflow


def unit_of(limit2: int) -> int:
    """The exponent of the unit in which every vector of a norm up to a limit has 30-bit values.

    limit2  the limit, squared, in units of 2**-64, as norms are declared
    """
    assert limit2 > 0, "a limit of zero clips everything away"
    return isqrt(limit2).bit_length() + NORM2_UNIT_EXPONENT // 2 - VALUE_BITS


def fixed(values: NDArray[np.float32], clip: int, unit: int) -> Fixed:
    """Values times clip / 2**16, rounded half to even to multiples of 2**unit.

    The products have 41 bits, so float64 holds them exactly and rounds once.
    """
    scaled = np.ldexp(values.astype(np.float64) * clip, -CLIP_BITS - unit)
    rounded = np.rint(scaled).astype(np.int64)
    assert np.abs(rounded).max(initial=0) <= 1 << VALUE_BITS, "norms are clipped to the limit first"
    return rounded


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


def centred_clip(points: Sequence[Fixed], start: Fixed, passes: int) -> Fixed:
    """CenteredClip: that many steps from a start, each limited by the lower median distance.

    Args:
      points  contributions, each (n,); at least one
      start   (n,), such as the last round's mean, which a new liar had no part in
    """
    centre = start
    for _ in range(passes):
        distances2 = sorted(squared_distance(point, centre) for point in points)
        limit2 = distances2[(len(points) - 1) // 2]
        centre = clipped_step(centre, points, [1] * len(points), limit2)
    return centre
