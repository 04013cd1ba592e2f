"""Past one group: a committee of 64, the grid of certified rows, and Moshpit's grid, side by side.

Each peer contributes one int8 block, noise of variance 1 around a true mean of 0; so the variance
of what a round certifies is the noise that is left of the step, 1 / contributions at best. A peer
is away in each stage with the probability given, each time anew. Seats, committees, rows and means
are p2ptrain's own code, down to the bytes (swarm/grid.py, compress/reduce.py).

    committee  64 peers contribute once, all the others apply the mean
    grid       rows average, then means of certified rows; who is away in a later stage fetches the
               certified mean when it is back
    Moshpit    the same grid, but every peer carries its row's mean itself, as published; scalars

Bytes a peer uploads in a round, for each parameter, are the formula of averaging with k = 3
reducers a shard, contributions in int4 (S = 1/2 byte) and reduced shards in int8 (S2 = 1):

    (k S (M - 1) + S2 (M - k)) / M          of a stage with groups of M; k = M up to 6 members

A row's mean counts as a contribution of S = 1 in the later stages. Whoever is not on the committee
downloads one reduced vector, so another peer uploads it.

This is about noise and bytes. Nothing here trains, and no message is lost or late: who agrees on
which row is certified is what certificates are for (protocol/averaging.md), and not simulated here.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from p2ptrain.compress.blocks import INT8
from p2ptrain.compress.reduce import FACTOR_MAX, WeightedShard, reduce_shard
from p2ptrain.swarm.committee import committee
from p2ptrain.swarm.grid import (
    Grid,
    Row,
    average_rows,
    grid_for,
    is_void,
    rows,
    seating,
)
from p2ptrain.wire.digest import digest
from p2ptrain.wire.limits import CODEC_BLOCK
from p2ptrain.wire.peer_id import PeerId
from simnet.figures_moshpit import on_grid
from simnet.figures_table import Table

SIZES = (256, 1024, 10_000)
AWAY = (0.01, 0.03, 0.1)
REDUCERS, REDUCERS_ALL = 3, 6  # k of large groups; groups up to this size have k = M
INT4_BYTES, INT8_BYTES = 0.5, 1.0  # of a parameter
BEACON = digest("beacon", b"simnet figures")
SAMPLING = 0.12  # of a variance over one block of 4096, and what int8 adds in each stage


def table_scale(sizes: Sequence[int] = SIZES) -> Iterator[str | Table]:
    """Says what it does, and at last gives the table."""
    table = Table(
        "scale",
        "a round of 256 to 10,000 peers: contributions in the mean, noise left, bytes, states",
        "Committee, seats, rows and means: p2ptrain/swarm/grid.py and compress/reduce.py.",
    )
    for peers in sizes:
        yield f"{peers} peers: contributions"
        everyone = tuple(PeerId(f"peer{number}") for number in range(peers))
        shards = _contributions(everyone)
        for away in AWAY:
            yield f"{peers} peers, {away:.0%} away"
            draws = np.random.default_rng(peers + round(1000 * away))
            here = {peer: bool(draws.random() >= away) for peer in everyone}
            name = f"{peers} peers, {away:.0%} away"
            _committee(table, name, shards, here)
            _grid(table, name, shards, here)
            _moshpit(table, name, peers, away)
    yield table


def _contributions(everyone: tuple[PeerId, ...]) -> dict[PeerId, bytes]:
    draws = np.random.default_rng(len(everyone))
    return {
        peer: INT8.encode(draws.normal(0, 1, CODEC_BLOCK).astype(np.float32)) for peer in everyone
    }


def _mean(shards: list[bytes]) -> bytes:
    return reduce_shard(INT8, [WeightedShard(FACTOR_MAX, shard) for shard in shards])


def _committee(
    table: Table, name: str, shards: dict[PeerId, bytes], here: dict[PeerId, bool]
) -> None:
    members = committee(BEACON, tuple(shards))
    present = [peer for peer in members if here[peer]]
    mean = _mean([shards[peer] for peer in present])
    share = len(members) / len(shards)
    upload = share * upload_bytes(len(members), INT4_BYTES) + (1 - share) * INT8_BYTES
    _note(table, f"{name}: committee", (len(present), mean), upload)


def _grid(table: Table, name: str, shards: dict[PeerId, bytes], here: dict[PeerId, bool]) -> None:
    grid = grid_for(len(shards))
    means: dict[int, Row] = {}
    for key, members in rows(grid, seating(BEACON, tuple(shards))).items():
        present = [peer for peer in members if here[peer]]
        if not is_void(len(members), len(present)):
            means[key] = Row(len(present), _mean([shards[peer] for peer in present]))
    for stage in range(1, grid.stages):
        means = average_rows(grid, stage, means)
    last = means[0]
    _note(table, f"{name}: grid {_sides(grid)}", (last.weight, last.shard), grid_upload(grid))


def _note(table: Table, name: str, result: tuple[int, bytes], upload: float) -> None:
    """What a certified mean is worth; the noise must be that of so many contributions."""
    contributions, mean = result
    noise = float(np.square(INT8.decode(mean).astype(np.float64)).mean())
    table.note_figure(f"{name}: contributions", contributions)
    least = 1 / contributions
    table.note_figure(f"{name}: noise left", noise, least * (1 - SAMPLING), least * (1 + SAMPLING))
    table.note_figure(f"{name}: bytes a parameter uploaded", upload)


def _moshpit(table: Table, name: str, peers: int, away: float) -> None:
    """How many different values peers end a round with, and their variance."""
    grid = grid_for(peers)
    average = on_grid(grid, np.arange(peers))
    draws = np.random.RandomState(peers)
    values = draws.normal(0, 1, peers)
    for stage in range(grid.stages):
        values = average(values, draws.uniform(0, 1, peers) >= away, stage, draws)
    states = len(np.unique(values.round(9)))
    table.note_figure(f"{name}: Moshpit's grid {_sides(grid)}: distinct states", states)
    table.note_figure(f"{name}: Moshpit's grid {_sides(grid)}: variance left", float(values.var()))


def upload_bytes(members: int, contribution: float) -> float:
    """Bytes that a member uploads in a stage, on average, for each parameter."""
    reducers = members if members <= REDUCERS_ALL else REDUCERS
    whole = reducers * contribution * (members - 1) + INT8_BYTES * (members - reducers)
    return whole / members


def grid_upload(grid: Grid) -> float:
    """The same of a whole round on a grid."""
    later = sum(upload_bytes(side, INT8_BYTES) for side in grid.sides[1:])
    return upload_bytes(grid.sides[0], INT4_BYTES) + later


def _sides(grid: Grid) -> str:
    return "x".join(str(side) for side in grid.sides)
