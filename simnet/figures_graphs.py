"""Table C: how fast averaging on a graph forgets where its peers started.

p2ptrain does not gossip over a graph, so nothing here is its code: the figures are what the grid
and the committee are measured against. All these graphs are circulant: peer i hears from i + s for
some shifts s. So a round multiplies each Fourier component of the peers' values by

    l_w = sum over the shifts of weight x exp(2 pi i w s / n)          w = 1 .. n - 1

and what a graph leaves after one round is at most rho = max |l_w|.

Ying et al., Exponential graph is provably efficient, 2021, arXiv:2110.13363; Song et al.,
Communication-efficient topologies for decentralized learning (EquiTopo), 2022, arXiv:2210.07881.
"""

from collections.abc import Callable, Iterator
from math import ceil, log, log2

import numpy as np
from numpy.typing import NDArray

from simnet.figures_table import Curve, Table

Values = NDArray[np.float64]
Step = Callable[[Values, int, np.random.RandomState], Values]

STATIC = (
    (8, 0.5),
    (16, 0.6),
    (32, 0.6667),
    (64, 0.7143),
    (100, 0.75),
    (128, 0.75),
    (300, 0.8),
    (1024, 0.8182),
    (4096, 0.8462),
    (10000, 0.8667),
)
FINISHED = (16, 256, 1024, 2048)  # powers of two: a one-peer graph ends exactly
RESIDUALS = ((300, 9.5e-5), (1000, 2.3e-5), (10000, 7.1e-6))
RESIDUAL_DRAWS = 200  # the published figure is one draw: it must lie among nearly all of these
RESIDUAL_SHARE = 0.01
CONSENSUS_PEERS, CONSENSUS_STARTS = 300, 10
CONSENSUS_ROUNDS = (10, 20, 40, 60)
CONSENSUS_FACTOR = 1.2
CONSENSUS = {
    "one-peer exponential": (0.28, 3.3e-2, 6.6e-4, 1.3e-5),
    "ring": (5.6, 4.8, 4.1, 3.7),
}
EQUIDYN = (0.53, 9.2e-3, 8.5e-6, 2.9e-12)
EQUIDYN_BITS_BY = 0.25  # of the squared norm, a round: one sequence of shifts was published
CIRCULANT = ((300, 0.44), (1000, 0.44), (5000, 0.44))
CIRCULANT_9 = ((300, 0.75), (1000, 0.78), (5000, 0.86))
CIRCULANT_DRAWS = 5
CIRCULANT_BY, CIRCULANT_9_BY = 0.03, 0.05


def table_c(fast: bool = False) -> Iterator[str | Table]:
    """Says what it does, and at last gives the table; fast: without sizes of 1000 and more."""
    table = Table(
        "C",
        "graphs: rho of a round, and what is left; arXiv:2110.13363, arXiv:2210.07881",
        "None of these graphs is part of p2ptrain: its groups average exactly.",
        "log10 of the distance to the mean, 300 peers",
    )
    largest = 999 if fast else 10**9
    yield "table C, exponential graphs"
    for peers, published in STATIC:
        if peers <= largest:
            table.within(f"static exponential, {peers}: rho", published, _rho_static(peers), 5e-5)
    for peers in FINISHED:
        table.note_figure(f"one-peer, {peers}: left of the variance", _left(peers)[0], 0, 1e-27)
    for peers, published in RESIDUALS:
        if peers <= largest:
            _residual(table, peers, published)
    yield "table C, consensus of 300 peers"
    _consensus(table)
    yield "table C, random circulant graphs"
    _circulants(table, largest)
    yield table


# --- exponential graphs ----------------------------------------------------------------------
def powers_below(peers: int) -> list[int]:
    """1, 2, 4, .. below the number of peers."""
    return [2**k for k in range(ceil(log2(peers)))]


def components(peers: int, shift: int) -> NDArray[np.complex128]:
    """exp(2 pi i w s / n) for w = 1 .. n - 1."""
    turns = np.arange(1, peers) * shift % peers
    phases: NDArray[np.complex128] = np.exp(2j * np.pi * turns / peers)
    return phases


def _rho_static(peers: int) -> float:
    shifts = powers_below(peers)
    total = 1 + sum(components(peers, shift) for shift in shifts)
    return float(np.abs(total).max()) / (1 + len(shifts))


def _left(peers: int, draws: int = 1) -> list[float]:
    """Variance after one round of each shift, as a share of that before; of several starts."""
    left = []
    for seed in range(draws):
        start = np.random.RandomState(seed).normal(0, 1, peers)
        values = start
        for shift in powers_below(peers):
            values = (values + np.roll(values, -shift)) / 2
        left.append(float(values.var() / start.var()))
    return left


def _residual(table: Table, peers: int, published: float) -> None:
    """Depends on the start: the published draw must not be among the outermost of ours."""
    ours = np.array(_left(peers, RESIDUAL_DRAWS))
    name = f"one-peer, {peers}: left of the variance"
    table.note_figure(f"{name}, median of {RESIDUAL_DRAWS} starts", float(np.median(ours)))
    share = float((ours <= published).mean())
    name = f"{name}: share of starts below the published {published:g}"
    table.note_figure(name, share, RESIDUAL_SHARE, 1 - RESIDUAL_SHARE)


# --- consensus -------------------------------------------------------------------------------
def _consensus(table: Table) -> None:
    shifts = powers_below(CONSENSUS_PEERS)
    steps: dict[str, Step] = {
        "one-peer exponential": lambda x, t, _: (x + np.roll(x, -shifts[t % len(shifts)])) / 2,
        "ring": lambda x, _t, _d: (x + np.roll(x, 1) + np.roll(x, -1)) / 3,
        "OD-EquiDyn": equidyn,
    }
    distances = {name: _distances(step) for name, step in steps.items()}
    for name, published in CONSENSUS.items():
        for t, value in zip(CONSENSUS_ROUNDS, published, strict=True):
            ours = float(distances[name][t])
            table.about(f"{name}, 300: distance after {t}", value, ours, CONSENSUS_FACTOR)
    start = distances["OD-EquiDyn"][0]
    for t, value in zip(CONSENSUS_ROUNDS, EQUIDYN, strict=True):
        published_bits = 2 * float(log2(17.2 / value)) / t
        ours = 2 * float(np.log2(start / distances["OD-EquiDyn"][t])) / t
        name = f"OD-EquiDyn, 300: bits of the squared distance lost a round, over {t}"
        table.within(name, published_bits, ours, EQUIDYN_BITS_BY)
    for name, curve in distances.items():
        points = tuple((t, float(np.log10(value))) for t, value in enumerate(curve))
        table.curves.append(Curve("consensus as in EquiTopo", name, points))


def equidyn(values: Values, _round: int, draws: np.random.RandomState) -> Values:
    """OD-EquiDyn, eta 1/2: half of a peer's value, half of that of one peer, the shift drawn."""
    peers = len(values)
    heard = np.roll(values, -draws.randint(1, peers))
    mixed: Values = values / 2 + (values / peers + heard * (peers - 1) / peers) / 2
    return mixed


def _distances(step: Step) -> Values:
    """|x - mean| after 0, 1, .. rounds, the mean over the starts."""
    curves = []
    for seed in range(CONSENSUS_STARTS):
        draws = np.random.RandomState(seed)
        values = draws.normal(0, 1, CONSENSUS_PEERS)
        curve = []
        for t in range(CONSENSUS_ROUNDS[-1] + 1):
            curve.append(float(np.linalg.norm(values - values.mean())))
            values = step(values, t, draws)
        curves.append(curve)
    mean: Values = np.array(curves).mean(axis=0)
    return mean


# --- random circulant graphs -----------------------------------------------------------------
def _circulants(table: Table, largest: int) -> None:
    for peers, published in CIRCULANT:
        if peers <= largest:
            degree = int(5 * log(peers))
            name = f"random circulant, {peers}, degree 5 ln n = {degree}: rho"
            table.within(name, published, _rho_random(peers, degree), CIRCULANT_BY)
    for peers, published in CIRCULANT_9:
        if peers <= largest:
            name = f"random circulant, {peers}, degree 9: rho"
            table.within(name, published, _rho_random(peers, 9), CIRCULANT_9_BY)


def _rho_random(peers: int, degree: int) -> float:
    """EquiTopo's directed graph: 1/n of a peer's own value, the rest by shifts that are drawn."""
    rhos = []
    for seed in range(CIRCULANT_DRAWS):
        shifts = np.random.RandomState(seed).choice(np.arange(1, peers), degree)
        mean = sum(components(peers, int(shift)) for shift in shifts) / degree
        rhos.append(float(np.abs(1 / peers + mean * (peers - 1) / peers).max()))
    return float(np.mean(rhos))
