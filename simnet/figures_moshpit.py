"""Table A: rounds that averaging takes while peers fail, of Moshpit SGD beside four baselines.

Each peer starts with a number from N(0, 1). In each round a peer is away with probability p: it
neither sends nor receives, and keeps its number. A run ends when the variance over all peers is
below a target, or after 50 rounds; the figure is the mean over ten seeds. Three habits of the
published experiment are kept, for the figures follow from them: the variance is taken about the
mean of the moment, peers that are away count in it, and a run that has ended stays in the mean of
the curves with 2.2e-16. Numbers and failures come from numpy's old generator with seeds 0 to 9, as
there; so all columns but the last are the published ones to the last digit.

The grid of the last column is swarm/grid.py; its seats were drawn without a seed in the published
run, and here by a seed of ours. "Seated" is the same grid as p2ptrain fills it: cell by cell, so
that of 1024 cells 512 peers fill one half instead of every other one.

Ryabinin et al., Moshpit SGD, 2021, arXiv:2103.03239, and the notebook published with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from p2ptrain.swarm.grid import Grid
from simnet.figures_table import Curve, Figure, Table

Values = NDArray[np.float64]
Alive = NDArray[np.bool_]
Average = Callable[[Values, Alive, int, np.random.RandomState], Values]

ROUNDS_MAX = 50
TARGET, NEAR = 1e-9, 1e-4
PADDING = float(np.finfo(np.float64).eps)
SEEDS = 10
SEAT_SEED = 10_000  # of the seats of seed 0; the published run had none
SCHEMES = ("all-reduce", "ring gossip", "PushSum", "random groups", "Moshpit")
GRID_32, GRID_8 = Grid((32, 32)), Grid((8, 8, 8))


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table.

    peers, away  how many, and the probability that one is away
    grid         of Moshpit averaging; the random groups have as many members as its rows
    rounds       published, of each scheme: to 1e-9
    near         published, of the last three schemes: to 1e-4; none where they were not printed
    """

    peers: int
    away: float
    grid: Grid
    rounds: tuple[float, ...]
    near: tuple[float, ...] = ()


SETTINGS = (
    Setting(512, 0.0, GRID_32, (1.0, 50, 47.6, 6.1, 8.2), (15.6, 3.0, 3.6)),
    Setting(512, 0.001, GRID_32, (1.6, 50, 47.6, 6.3, 8.5), (15.6, 3.0, 3.3)),
    Setting(512, 0.005, GRID_32, (10.9, 50, 47.8, 6.3, 8.8), (15.6, 3.0, 3.9)),
    Setting(512, 0.01, GRID_32, (41.7, 50, 47.8, 6.6, 8.8), (15.6, 3.0, 3.9)),
    Setting(1024, 0.0, GRID_32, (1.0, 50, 49.0, 6.2, 2.0), (16.2, 3.0, 2.0)),
    Setting(1024, 0.001, GRID_32, (2.0, 50, 49.0, 6.5, 3.5), (16.3, 3.0, 2.3)),
    Setting(1024, 0.005, GRID_32, (42.6, 50, 49.5, 6.7, 5.6), (16.3, 3.0, 3.0)),
    Setting(1024, 0.01, GRID_32, (50.0, 50, 49.5, 6.9, 5.8), (16.3, 3.1, 3.0)),
    Setting(512, 0.0, GRID_8, (1.0, 50, 47.6, 10.2, 3.0)),
    Setting(512, 0.005, GRID_8, (10.9, 50, 47.8, 10.7, 7.5)),
    Setting(512, 0.01, GRID_8, (41.7, 50, 47.8, 10.6, 8.4)),
)
# Variance after 0 .. 6 rounds, 1024 peers: (probability, scheme) -> published.
CURVES = {
    (0.0, "random groups"): (0.98, 3.5e-2, 1.0e-3, 2.8e-5, 7.8e-7, 2.2e-8, 7e-10),
    (0.0, "Moshpit"): (0.98, 3.0e-2, 0.0),
    (0.0, "PushSum"): (0.98, 0.32, 0.15, 0.077, 0.040, 0.020, 0.0098),
    (0.0, "ring gossip"): (0.98, 0.32, 0.22, 0.18, 0.16, 0.14, 0.13),
    (0.005, "random groups"): (0.98, 3.6e-2, 1.3e-3, 4.5e-5, 1.7e-6, 6.2e-8, 2.0e-9),
    (0.005, "Moshpit"): (0.98, 3.6e-2, 3.3e-4, 7.5e-6, 1.3e-7, 2.3e-9, 7e-12),
}
CURVE_FACTOR, CURVE_FACTOR_GRID = 1.06, 2.0  # two digits are printed; the grid's seats differ
TAIL = 1e-8  # below it some of the ten runs have ended: what is left is the tail of one or two


def table_a(fast: bool = False) -> Iterator[str | Table]:
    """Says what it does, and at last gives the table; fast: its first and ninth row alone."""
    table = Table(
        "A",
        "rounds to a variance of 1e-9 (near: 1e-4), 10 seeds; Moshpit SGD, averaging experiments",
        "Groups of the grid: p2ptrain/swarm/grid.py. The baselines are not part of p2ptrain.",
        "log10 of the variance over peers, 1024 peers",
    )
    for setting in (SETTINGS[0], SETTINGS[8]) if fast else SETTINGS:
        yield f"table A, {_name(setting)}"
        _rows(table, setting)
    for away in () if fast else (0.0, 0.005):
        yield f"table A, curves at p = {away:g}"
        _curves(table, away)
    yield table


def _name(setting: Setting) -> str:
    sides = "x".join(str(side) for side in setting.grid.sides)
    return f"{setting.peers} peers, grid {sides}, p = {setting.away:g}"


def _rows(table: Table, setting: Setting) -> None:
    name = _name(setting)
    near = dict(zip(SCHEMES[2:], setting.near, strict=False))  # none, or all of them
    for scheme, published in zip(SCHEMES, setting.rounds, strict=True):
        histories = _histories(scheme, setting)
        ours = _mean_rounds(histories, TARGET)
        by = _tolerance(scheme, setting)
        table.within(f"{name}: {scheme}", published, ours, by)
        if scheme in near:
            ours = _mean_rounds(histories, NEAR)
            table.within(f"{name}: {scheme}, near", near[scheme], ours, by)
    seated = _mean_rounds(_histories("seated", setting), TARGET)
    # With nobody away, as many rounds as axes are enough.
    high = float(setting.grid.stages) if setting.away == 0 else inf
    table.note_figure(f"{name}: seated by p2ptrain", seated, high=high)


def _tolerance(scheme: str, setting: Setting) -> float:
    """0.3 for drawn groups, 1.0 for drawn seats; else exact to the digit that was printed."""
    if scheme == "Moshpit":
        return 0.0 if _is_full(setting) and setting.away == 0 else 1.0
    return 0.3 if scheme == "random groups" else 0.05


def _is_full(setting: Setting) -> bool:
    return setting.peers == setting.grid.cells


def _curves(table: Table, away: float) -> None:
    setting = Setting(1024, away, GRID_32, ())
    for scheme in SCHEMES:
        curve = _mean_curve(_histories(scheme, setting))
        shown = [(k, float(np.log10(v))) for k, v in enumerate(curve[:11])]
        table.curves.append(Curve(f"p = {away:g}", scheme, tuple(shown)))
        factor = CURVE_FACTOR_GRID if scheme == "Moshpit" else CURVE_FACTOR
        for k, published in enumerate(CURVES.get((away, scheme), ())):
            name = f"variance at p = {away:g} after {k} rounds: {scheme}"
            if published == 0:
                table.within(name, 0.0, float(curve[k]), 1e-15)
            elif scheme == "Moshpit" and published < TAIL:
                table.figures.append(Figure(name, published, float(curve[k])))
            else:
                table.about(name, published, float(curve[k]), factor)


# --- the experiment --------------------------------------------------------------------------
def _histories(scheme: str, setting: Setting) -> list[list[float]]:
    return [_run(seed, setting, _scheme(scheme, setting, seed)) for seed in range(SEEDS)]


def _run(seed: int, setting: Setting, average: Average) -> list[float]:
    """The variance before the first round and after each."""
    draws = np.random.RandomState(seed)
    values = draws.normal(0, 1, setting.peers)
    history = [float(values.var())]
    while len(history) <= ROUNDS_MAX and history[-1] >= TARGET:
        alive = draws.uniform(0, 1, setting.peers) >= setting.away
        values = average(values, alive, len(history), draws)
        history.append(float(values.var()))
    return history


def _mean_rounds(histories: list[list[float]], target: float) -> float:
    """Rounds until the variance is below a target, ROUNDS_MAX where it never is."""
    rounds = [
        next((k for k, variance in enumerate(history) if variance < target), ROUNDS_MAX)
        for history in histories
    ]
    return float(np.mean(rounds))


def _mean_curve(histories: list[list[float]]) -> Values:
    padded = np.full((len(histories), ROUNDS_MAX + 1), PADDING)
    for row, history in zip(padded, histories, strict=True):
        row[: len(history)] = np.maximum(history, PADDING)
    mean: Values = padded.mean(axis=0)
    return mean


# --- the schemes -----------------------------------------------------------------------------
def _scheme(name: str, setting: Setting, seed: int) -> Average:
    seats = np.arange(setting.peers)
    if name == "Moshpit":
        draws = np.random.RandomState(SEAT_SEED + seed)
        seats = draws.choice(setting.grid.cells, setting.peers, replace=False)
    schemes: dict[str, Average] = {
        "all-reduce": all_reduce,
        "ring gossip": ring_gossip,
        "PushSum": push_sum,
        "random groups": random_groups(setting.grid.sides[0]),
        "Moshpit": on_grid(setting.grid, seats),
        "seated": on_grid(setting.grid, seats),
    }
    return schemes[name]


def all_reduce(values: Values, alive: Alive, _round: int, _draws: np.random.RandomState) -> Values:
    """The mean of all, if nobody is away."""
    return np.full_like(values, values.mean()) if alive.all() else values


def ring_gossip(values: Values, alive: Alive, _round: int, _draws: np.random.RandomState) -> Values:
    """The mean of a peer and of its two neighbours, of those that are there."""
    here = np.arange(len(values))
    sources = np.stack([here, here - 1, (here + 1) % len(values)])
    return _mean_of(values, alive, sources, np.broadcast_to(here, sources.shape))


def push_sum(values: Values, alive: Alive, number: int, _draws: np.random.RandomState) -> Values:
    """What the published experiment calls PushSum: the mean of a peer and of those 2^h, 2^(h+1) on.

    Three terms, so it never finishes exactly, as the one-peer graph of table C does. Its matrices
    were shifted as flat arrays: where an edge wraps round the end, the next peer receives it.
    """
    peers = len(values)
    here = np.arange(peers)
    hop = number % int(np.log2(peers - 1))
    ends = here[None, :] + np.array([[0], [2**hop], [2 ** (hop + 1)]])
    receivers = np.where(ends < peers, here, (here + 1) % peers)
    return _mean_of(values, alive, ends % peers, receivers)


def _mean_of(
    values: Values, alive: Alive, sources: NDArray[np.int64], receivers: NDArray[np.int64]
) -> Values:
    """The mean of the sources that are there, at each receiver that is there."""
    here = alive[sources].ravel()
    to, peers = receivers.ravel()[here], len(values)
    sums = np.bincount(to, values[sources.ravel()[here]], peers)
    counts = np.bincount(to, minlength=peers)
    return np.where(alive, sums / np.maximum(counts, 1), values)


def random_groups(size: int) -> Average:
    """Groups of the peers that are there, drawn anew in each round; the rest joins the first."""

    def average(values: Values, alive: Alive, _round: int, draws: np.random.RandomState) -> Values:
        present = np.nonzero(alive)[0]
        draws.shuffle(present)
        groups = len(present) // size
        number = np.arange(len(present))
        return _mean_in(
            values, present, np.where(number < groups * size, number // size, number % groups)
        )

    return average


def on_grid(grid: Grid, seats: NDArray[np.int64]) -> Average:
    """Moshpit averaging: in round k the means of the peers that are there, along axis k."""
    keys = [np.array([grid.group(int(c), stage) for c in seats]) for stage in range(grid.stages)]

    def average(values: Values, alive: Alive, number: int, _draws: np.random.RandomState) -> Values:
        present = np.nonzero(alive)[0]
        return _mean_in(values, present, keys[number % grid.stages][present])

    return average


def _mean_in(values: Values, present: NDArray[np.int64], groups: NDArray[np.int64]) -> Values:
    """The mean of each group at its members; whoever is not present keeps its value."""
    sums, counts = np.bincount(groups, values[present]), np.bincount(groups)
    averaged = values.copy()
    averaged[present] = sums[groups] / counts[groups]
    return averaged
