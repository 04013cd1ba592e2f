"""The canonical integer mean of contributions: equal inputs, equal bits. protocol/codecs.md 6.

A contribution's term in a block is factor x scale x q. Scales are floating point, so the terms of
a block are first brought to one unit, the largest that still gives the largest weight its 40 bits:

    w_i = factor_i x scale_i                    exactly
    u   : the largest w_i lies in [2**39, 2**40) x 2**u
    W_i = floor(w_i / 2**u)                     an integer below 2**40
    T   = sum of W_i x q_i                      |T| <= 64 x 2**40 x 127 < 2**53
    the mean is the rational number T x 2**u / A, with A the sum of all factors

Sums of integers do not depend on their order. The unit is that of factor x scale, not of the
scale alone: a contribution with a huge scale is clipped by a small factor, and so it cannot push
the bits of the others out of the sum.

The mean is encoded as an int8 block without rounding in between: with P = max |T|, q = 127 T / P
rounded half to even, and scale = P x 2**u / (127 A) rounded to float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import INT8, Quantised, split_scales
from p2ptrain.compress.codecs import Codec
from p2ptrain.wire.limits import COMMITTEE_MAX

FACTOR_MAX = 65535
WEIGHT_BITS = 40
MANTISSA_BITS = 24
NO_EXPONENT = -10_000  # of a weight of zero: below that of any float32
TINY_EXPONENT = -63  # a block whose peak is below 2**-63 is zero, as in blocks.TINY


@dataclass(frozen=True, slots=True)
class WeightedShard:
    """One contribution's shard and the integer factor (0..65535) that it counts with."""

    factor: int
    shard: bytes


def reduce_shard(codec: Codec, terms: Sequence[WeightedShard]) -> bytes:
    """The mean of shards, weighted by their factors, as an int8 shard.

    Args:
      codec  of the terms
      terms  1 to COMMITTEE_MAX of them, of equal length; if all factors are 0 the mean is zero

    Raises MalformedShard if a term is no shard of the codec.
    """
    blocks = [codec.quantised(term.shard) for term in terms]
    return mean_of_blocks([term.factor for term in terms], blocks)


def mean_of_blocks(factors: Sequence[int], terms: Sequence[Quantised]) -> bytes:
    """As reduce_shard, of terms that are decoded."""
    assert 1 <= len(terms) <= COMMITTEE_MAX, "64 terms of 47 bits are what the sums are proven for"
    assert all(0 <= factor <= FACTOR_MAX for factor in factors), "factors are 16-bit integers"
    scales = np.stack([term.scales for term in terms])
    weights, units = _weights(np.array(factors, np.int64), scales)
    sums = _sums(weights, [term.q for term in terms])
    return INT8.join(_encode(sums, units, sum(factors)))


def _weights(
    factors: NDArray[np.int64], scales: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """W, (n_terms, n_blocks), and u, (n_blocks,).

    Args:
      factors  (n_terms,)
      scales   (n_terms, n_blocks)
    """
    mantissas, exponents = split_scales(scales)
    products = mantissas * factors[:, None]  # 40 bits
    lengths = np.frexp(products.astype(np.float64))[1].astype(np.int64)
    tops = np.where(products > 0, exponents + lengths, NO_EXPONENT).max(axis=0)
    units = tops - WEIGHT_BITS
    shifts = exponents - units
    left = products << np.clip(shifts, 0, WEIGHT_BITS)
    right = products >> np.clip(-shifts, 0, 63)
    return np.where(products == 0, 0, np.where(shifts >= 0, left, right)), units


def _sums(weights: NDArray[np.int64], q: Sequence[NDArray[np.int8]]) -> NDArray[np.int64]:
    """T (n_blocks, CODEC_BLOCK) of W (n_terms, n_blocks) and q (n_blocks, CODEC_BLOCK) each."""
    sums = np.zeros(q[0].shape, np.int64)
    term = np.empty_like(sums)
    for weight, values in zip(weights, q, strict=True):
        sums += np.multiply(values, weight[:, None], out=term)
    return sums


def _encode(sums: NDArray[np.int64], units: NDArray[np.int64], total: int) -> Quantised:
    """int8 blocks of the rational numbers sums x 2**units / total."""
    peaks = np.abs(sums).max(axis=1)
    scales = np.zeros(len(sums), np.float32)
    q = np.zeros(sums.shape, np.int8)
    for block, (peak, unit) in enumerate(zip(peaks.tolist(), units.tolist(), strict=True)):
        if peak and not _is_below(peak, total, unit, TINY_EXPONENT):
            scales[block] = round_to_float32(peak, 127 * total, unit)
            q[block] = round_half_even(127 * sums[block], peak)
    return Quantised(q, scales)


def round_half_even(numerators: NDArray[np.int64], divisor: int) -> NDArray[np.int64]:
    """Quotients of integers below 2**61 by a positive one, rounded to nearest, ties to even."""
    quotients, remainders = np.divmod(numerators, divisor)
    twice = 2 * remainders
    up = (twice > divisor) | ((twice == divisor) & (quotients & 1 == 1))
    rounded: NDArray[np.int64] = quotients + up
    return rounded


def _is_below(numerator: int, denominator: int, unit: int, exponent: int) -> bool:
    """Whether numerator / denominator * 2**unit < 2**exponent."""
    shift = unit - exponent
    return numerator << max(shift, 0) < denominator << max(-shift, 0)


def round_to_float32(numerator: int, denominator: int, unit: int) -> np.float32:
    """The rational number numerator / denominator * 2**unit as float32, half to even.

    The result must be a normal number, which the caller has made sure of.
    """
    shift = MANTISSA_BITS - (numerator.bit_length() - denominator.bit_length())
    numerator <<= max(shift, 0)
    denominator <<= max(-shift, 0)
    # The quotient now lies between 2**23 and 2**25.
    if numerator >> MANTISSA_BITS >= denominator:
        denominator <<= 1
        shift -= 1
    mantissa, remainder = divmod(numerator, denominator)
    if 2 * remainder > denominator or (2 * remainder == denominator and mantissa % 2 == 1):
        mantissa += 1
    return np.float32(np.ldexp(float(mantissa), unit - shift))
