"""Table B: how far two liars push four honest peers apart, by ClippedGossip and by three rivals.

The honest peers are a chain 2-3-4-5 whose middle edge, the bridge, weighs beta, the others 1/3. The
liars 0 and 1 hang on its two middle peers by edges that weigh delta. The honest start from 0, 0,
200 and 200; each liar says what pulls its neighbour away from that one's neighbours, by a twentieth
of the way to them ("dissensus"). After 100 rounds the error is the mean of (x - 100)^2, which was
10,000 at first. Nothing is drawn, so every digit must come out again.

ClippedGossip is p2ptrain/compress/clipping.py, in integers: one unit is 2**-22, and weights are
multiples of 1/3000. Each peer's limit is the one that the paper proves with, which knows who lies:

    limit_i^2 = sum over its honest neighbours j of W_ij (x_i - x_j)^2, divided by delta_i

The medians and trimmed means are the paper's rivals; TM* counts a value as often as its weight has
hundredths, rounded down, and its weights are floating point as there.

He, Karimireddy and Jaggi, 2022, arXiv:2202.01545, figures 3 and 8, and the notebook beside them.
"""

from collections.abc import Callable, Iterator
from math import log10

import numpy as np

from p2ptrain.compress.clipping import clipped_step
from simnet.figures_table import Curve, Table

Numbers = dict[int, float]  # of a peer
Rule = Callable[[int, Numbers, "Chain"], float]

NEIGHBOURS = {2: (2, 3), 3: (0, 2, 3, 4), 4: (1, 3, 4, 5), 5: (4, 5)}  # with themselves
ATTACKED = {0: 3, 1: 4}
START = {2: 0.0, 3: 0.0, 4: 200.0, 5: 200.0}
MIDDLE = 100.0
ROUNDS = 100
DISSENSUS = 0.05
UNIT = 2.0**-22
WEIGHT_ONE = 3000
TOLERANCE = 0.1
DELTAS = (0.05, 0.1, 0.3, 0.5)
BETAS = (0.267, 0.12, 0.04, 0.001)
CURVE_BETAS = (0.267, 0.19, 0.12, 0.08, 0.06, 0.04, 0.02, 0.01, 0.005, 0.001)
# Errors: (delta, beta) -> ClippedGossip and TM*; a mean without weights stays at 10,000.
PUBLISHED = {
    (0.05, 0.267): (0.0, 0.0),
    (0.05, 0.12): (0.0, 0.0),
    (0.05, 0.04): (11.4, 10000.0),
    (0.05, 0.001): (9814.3, 10000.0),
    (0.1, 0.267): (0.0, 0.0),
    (0.1, 0.12): (0.0, 124.8),
    (0.1, 0.04): (91.5, 10000.0),
    (0.1, 0.001): (9898.0, 10000.0),
    (0.3, 0.267): (0.0, 10000.0),
    (0.3, 0.12): (0.0, 10000.0),
    (0.3, 0.04): (775.2, 10000.0),
    (0.3, 0.001): (9984.2, 10000.0),
    (0.5, 0.12): (0.3, 1.7e6),
    (0.5, 0.04): (1504.4, 5.7e4),
    (0.5, 0.001): (10010.8, 1.0e4),
}
DIVERGES_FACTOR = 1.05  # TM* at delta = 0.5 is printed with two digits


class Chain:
    """The weights of the six peers: delta of the liars' edges, beta of the bridge."""

    def __init__(self, delta: float, beta: float) -> None:
        edge = 1 / 3
        self.delta = delta
        self.weights = np.zeros((6, 6))
        self.weights[2:, 2:] = [
            [1 - edge, edge, 0, 0],
            [edge, 1 - edge - beta, beta, 0],
            [0, beta, 1 - edge - beta, edge],
            [0, 0, edge, 1 - edge],
        ]
        for liar, neighbour in ATTACKED.items():
            self.weights[liar, neighbour] = self.weights[neighbour, liar] = delta
            self.weights[neighbour, neighbour] -= delta

    def lies(self, honest: Numbers) -> Numbers:
        """What the liars say, seeing all."""
        said = {}
        for liar, neighbour in ATTACKED.items():
            here = honest[neighbour]
            to_others = sum(
                float(self.weights[neighbour, j]) * (honest[j] - here)
                for j in NEIGHBOURS[neighbour]
                if j in honest
            )
            said[liar] = here - DISSENSUS * to_others / self.delta
        return said


def table_b(fast: bool = False) -> Iterator[str | Table]:
    """Says what it does, and at last gives the table; fast: without the picture's curves."""
    table = Table(
        "B",
        "ClippedGossip under dissensus: error after 100 rounds, 10,000 at first; arXiv:2202.01545",
        "ClippedGossip: p2ptrain/compress/clipping.py. The other rules are not part of p2ptrain.",
        "log10 of the error, over log10 of the weight of the bridge",
    )
    yield "table B"
    for (delta, beta), (clipped, weighted) in PUBLISHED.items():
        name = f"delta {delta:g}, bridge {beta:g}"
        chain = Chain(delta, beta)
        table.within(f"{name}: ClippedGossip", clipped, error_of(clipped_gossip, chain), TOLERANCE)
        for rule_name, rule in (("median", median), ("TM", trimmed_mean)):
            table.within(f"{name}: {rule_name}", 10000.0, error_of(rule, chain), TOLERANCE)
        ours = error_of(weighted_trimmed_mean, chain)
        if delta == 0.5:
            table.about(f"{name}: TM* (diverges)", weighted, ours, DIVERGES_FACTOR)
        else:
            table.within(f"{name}: TM*", weighted, ours, TOLERANCE)
    if not fast:
        yield "table B, curves"
        _curves(table)
    yield table


def _curves(table: Table) -> None:
    rules: dict[str, Rule] = {"ClippedGossip": clipped_gossip, "weighted TM": weighted_trimmed_mean}
    for rule_name, rule in rules.items():
        for delta in DELTAS[:3]:
            points = [
                (log10(beta), log10(max(error_of(rule, Chain(delta, beta)), 1e-4)))
                for beta in reversed(CURVE_BETAS)
            ]
            table.curves.append(Curve(rule_name, f"delta {delta:g}", tuple(points)))


def error_of(rule: Rule, chain: Chain) -> float:
    """The mean of (x - 100)^2 over the honest, after all rounds."""
    honest = dict(START)
    for _ in range(ROUNDS):
        said = honest | chain.lies(honest)
        honest = {peer: rule(peer, said, chain) for peer in START}
    return float(np.mean([(value - MIDDLE) ** 2 for value in honest.values()]))


# --- the rules -------------------------------------------------------------------------------
def clipped_gossip(peer: int, said: Numbers, chain: Chain) -> float:
    """One clipped step towards the neighbours, in the canonical integers."""
    near = NEIGHBOURS[peer]
    points = {j: np.array([round(said[j] / UNIT)], np.int64) for j in near}
    weights = {j: round(WEIGHT_ONE * float(chain.weights[peer, j])) for j in near}
    centre = points[peer]
    lying = sum(weights[j] for j in near if j in ATTACKED)
    limit2 = None
    if lying:
        limit2 = sum(
            weights[j] * int((points[j] - centre)[0]) ** 2 for j in near if j not in ATTACKED
        )
        limit2 //= lying
    step = clipped_step(centre, [points[j] for j in near], [weights[j] for j in near], limit2)
    return int(step[0]) * UNIT


def median(peer: int, said: Numbers, _chain: Chain) -> float:
    """The median of what is said, each value counting once."""
    return float(np.median([said[j] for j in NEIGHBOURS[peer]]))


def trimmed_mean(peer: int, said: Numbers, _chain: Chain) -> float:
    """The mean without the highest and the lowest, where a liar is near."""
    return _trimmed([said[j] for j in NEIGHBOURS[peer]], int(peer in ATTACKED.values()))


def weighted_trimmed_mean(peer: int, said: Numbers, chain: Chain) -> float:
    """TM*: values repeated by their weights, of which delta is cut at either end."""
    row = chain.weights[peer]
    values = [said[j] for j in NEIGHBOURS[peer] for _ in range(int(100 * row[j]))]
    return _trimmed(values, min(int(100 * (row[0] + row[1])), 49))


def _trimmed(values: list[float], cut: int) -> float:
    kept = sorted(values)[cut : len(values) - cut]
    return sum(kept) / len(kept)
