"""How much each contribution of a set counts: integer arithmetic, so all peers agree exactly.

Weights are samples, capped at twice the median: a peer that claims (or has) far more than the
others cannot take a round over. Norms above the round's limit are scaled down to it. The product
of both, scaled so that the largest of the set is FACTOR_MAX, is what the reducer multiplies with
(protocol/averaging.md section 10). All divisions round down.
"""

from collections.abc import Sequence
from math import isqrt

from p2ptrain.wire.limits import ABSURD_NORM2_RATIO, LIMIT_ROUNDS
from p2ptrain.wire.messages import Entry

CLIP_ONE = 1 << 16  # fixed-point one of the clip factor
FACTOR_MAX = (1 << 16) - 1  # 16 bits of the reducer's 54-bit terms
WEIGHT_CAP = 2  # times the median


def lower_median(values: Sequence[int]) -> int:
    """Element floor((n-1)/2) of the sorted values; one of them, never a mean of two."""
    return sorted(values)[(len(values) - 1) // 2]


def limit2_of_round(norms2: Sequence[int], limits2: Sequence[int], norm_max2: int) -> int:
    """The squared norm limit of a round.

    norms2     squared norms of the round's contributions, at least one
    limits2    squared limits of the certified rounds before it, at most the last 8
    norm_max2  the recipe's limit, which holds until there are 8

    Half of a norm is a quarter of its square.
    """
    if len(limits2) < LIMIT_ROUNDS:
        return norm_max2
    return max(lower_median(norms2), lower_median(limits2[-LIMIT_ROUNDS:]) // 4)


def norm2_max_of_round(limits2: Sequence[int], norm_max2: int) -> int:
    """The squared norm above which a contribution is refused: no local steps end there.

    limits2    squared limits of the certified rounds before it, at most the last 8
    norm_max2  the recipe's limit, which nobody is refused below: a swarm whose norms have shrunk to
               nothing may grow again
    """
    if len(limits2) < LIMIT_ROUNDS:
        return ABSURD_NORM2_RATIO * norm_max2
    return max(ABSURD_NORM2_RATIO * lower_median(limits2[-LIMIT_ROUNDS:]), norm_max2)


def clip_factor(norm2: int, limit2: int) -> int:
    """floor(2**16 sqrt(limit2 / norm2)), at most 2**16: what brings a norm down to its limit."""
    if norm2 <= limit2:
        return CLIP_ONE
    return isqrt((limit2 << 32) // norm2)


def factors(entries: Sequence[Entry], limit2: int) -> tuple[int, ...]:
    """The factor of each entry, in order: clip x capped weight, the largest being FACTOR_MAX.

    An entry whose share is under 1 / FACTOR_MAX gets 0. If every entry were clipped to nothing, all
    would get 0; the limit is never under the median of the norms, so that cannot be after round 8,
    and before it the recipe's limit is 1e-6 at the least.
    """
    cap = WEIGHT_CAP * lower_median([e.weight for e in entries])
    products = [min(e.weight, cap) * clip_factor(e.norm2, limit2) for e in entries]
    largest = max(products)
    if largest == 0:
        return tuple(0 for _ in products)
    return tuple(product * FACTOR_MAX // largest for product in products)
