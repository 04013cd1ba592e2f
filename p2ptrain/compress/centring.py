"""Centred clipping of one shard's terms: new factors for the mean, from exact distances.

    c' = sum a_i r_i x_i / sum a_i r_i      r_i = min(1, radius / |x_i - c|)

x_i are the terms of one shard, a_i their factors (weight and norm limit: swarm/weights.py), c the
mean so far, and the radius the lower median of the distances |x_i - c|. The first c is the mean of
the factors as they are; PASSES of these follow. A term far from the others counts as if it were
moved along its own direction to the radius, so a minority moves the result by about as much as the
honest differ among themselves, however large and however well agreed its terms are. Where it
settles is where CenteredClip settles (Karimireddy et al., Learning from history for Byzantine
robust optimization, 2021, arXiv:2012.10333, eq. 4), sum a_i r_i (x_i - c) = 0; that rule divides a
step by sum a_i instead of sum a_i r_i, and so comes there more slowly.

Clipping a shard for itself is what reducers of single shards can do (Gorbunov et al., Secure
distributed training at scale, 2022, arXiv:2106.11257, clip part by part too).

Nothing is rounded on the way to a distance. Every c is a mean of the terms, so all distances follow
from the terms' inner products, which are integers: with F = sum f_i and K_ij = <x_i, x_j>

    F**2 |x_i - c|**2 = F**2 K_ii - 2 F sum_j f_j K_ij + sum_jk f_j f_k K_jk

So neither the order of the terms nor a device matters, and a pass costs no look at the values. The
result is a list of factors again: the mean of reduce.py is taken with them. protocol/codecs.md 6.1.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import Quantised, split_scales
from p2ptrain.compress.codecs import Codec
from p2ptrain.compress.reduce import FACTOR_MAX, WeightedShard, mean_of_blocks

Aggregation = Literal["mean", "centered-clip"]
Integers = NDArray[np.object_]  # Python's, exact at any size

PASSES = 16  # what a liar of four moves a mean by shrinks to a third in each
SHARE_BITS = 16  # of a clipped factor, below the point
PART = 1024  # values of a block whose products sum without rounding in float32: 2**24 / 127**2


def aggregate_shard(codec: Codec, terms: Sequence[WeightedShard], rule: Aggregation) -> bytes:
    """What becomes of the terms of one shard by the recipe's rule, as an int8 shard.

    It depends on nothing but these terms, so a reducer needs no other shard. Arguments and errors
    are those of reduce_shard.
    """
    blocks = [codec.quantised(term.shard) for term in terms]
    factors = [term.factor for term in terms]
    if rule == "centered-clip":
        factors = centred_factors(factors, blocks)
    return mean_of_blocks(factors, blocks)


def centred_factors(factors: Sequence[int], blocks: Sequence[Quantised]) -> list[int]:
    """The factors that a shard's terms count with after centred clipping, the largest FACTOR_MAX.

    factors  0..FACTOR_MAX, one a term; a term of factor 0 takes no part and keeps it
    blocks   of the terms, all of one shape
    """
    taking_part = [i for i, factor in enumerate(factors) if factor]
    if len(taking_part) <= 2:  # each is as far from their mean as the other, or nearer by its claim
        return list(factors)
    products = inner_products([blocks[i] for i in taking_part])
    given = [factors[i] for i in taking_part]
    now = given
    for _ in range(PASSES):
        before, now = now, _clipped(given, _squared_distances(now, products))
        if now == before:
            break
    after = dict(zip(taking_part, now, strict=True))
    return [after.get(i, 0) for i in range(len(factors))]


def inner_products(terms: Sequence[Quantised]) -> Integers:
    """<x_i, x_j> of all pairs of terms, (n, n), exactly, in a unit that is common to them."""
    split = [split_scales(term.scales) for term in terms]
    mantissas = np.stack([mantissa for mantissa, _ in split]).astype(object)
    exponents = np.stack([exponent for _, exponent in split])
    shifts = (exponents - exponents.min()).astype(object)
    scales = mantissas << shifts
    products: Any = np.zeros((len(terms), len(terms)), object)
    for block in range(scales.shape[1]):
        scale = scales[:, block]
        q = np.stack([term.q[block] for term in terms])
        products += np.outer(scale, scale) * _products_of_q(q).astype(object)
    return np.asarray(products)


def _products_of_q(q: NDArray[np.int8]) -> NDArray[np.int64]:
    """<q_i, q_j>, (n, n), of (n, CODEC_BLOCK): a product of matrices that no rounding touches.

    All partial sums within a part are integers of 24 bits at the most, whatever their order is.
    """
    parts = q.astype(np.float32).reshape(len(q), -1, PART).transpose(1, 0, 2)
    products: NDArray[np.int64] = (parts @ parts.transpose(0, 2, 1)).astype(np.int64).sum(axis=0)
    return products


def _squared_distances(factors: Sequence[int], products: Integers) -> list[int]:
    """F**2 |x_i - c|**2 of each term."""
    total = sum(factors)
    f = np.array(factors, object)
    along = products @ f
    distances2: list[int] = (
        total * total * products.diagonal() - 2 * total * along + f @ along
    ).tolist()
    return distances2


def _clipped(factors: Sequence[int], distances2: Sequence[int]) -> list[int]:
    """Each factor times min(1, radius / distance), the largest then brought to FACTOR_MAX."""
    radius2 = sorted(distances2)[(len(distances2) - 1) // 2]
    shares = [
        factor << SHARE_BITS
        if distance2 <= radius2
        else isqrt((factor * factor * radius2 << 2 * SHARE_BITS) // distance2)
        for factor, distance2 in zip(factors, distances2, strict=True)
    ]
    largest = max(shares)
    return [share * FACTOR_MAX // largest for share in shares]
