"""Swarms too large for one group: a committee for a round, or a grid and who averages with whom.

Of a committee alone the contributions count; the others apply what it certified. On a grid all
contribute, in a stage for each of its axes. First the peers that share all coordinates but the
first, a row, average their contributions and certify the mean. Then the means of whole rows are
averaged along the second axis, and so on: after the last stage one mean is left, and all peers have
it. A row's mean is certified, so it does not matter which of its members brings it; who leaves
between two stages is missed by nobody. A row of which fewer than a quorum contributed has no
certificate and is void for all.

    cell   c = (..(c_0 x s_1 + c_1) x s_2 + ..), coordinates c_0, c_1, .. on axes of s_0, s_1, ..
    stage  a, from 0: cells that differ in c_a alone are a group; its key is its cell with c_a = 0

Nobody picks a place: peers are sorted by digest("grid", beacon, peer id), and the i-th of them
sits in cell i. The first axis counts slowest, so the rows of the first stage differ by one member
at most. Means carry the weight of what went into them, so uneven rows change nothing.

The committee is drawn by swarm/committee.py, for rosters above COMMITTEE_MAX. Nobody averages on
the grid; `python -m simnet figures --only scale` computes with both.

Ryabinin et al., Moshpit SGD, 2021, arXiv:2103.03239, has the grid; there every peer carries its
row's mean itself, and who drops out in between leaves an error behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from p2ptrain.compress.blocks import INT8
from p2ptrain.compress.reduce import FACTOR_MAX, WeightedShard, reduce_shard
from p2ptrain.swarm.chain import quorum
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import COMMITTEE_MAX, GRID_ROW_MAX
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells, numbered as the module says.

    sides  cells along each axis, the first axis first; each at least 1
    """

    sides: tuple[int, ...]

    @property
    def stages(self) -> int:
        """Group averagings of a round."""
        return len(self.sides)

    @property
    def cells(self) -> int:
        """Places on the grid."""
        count = 1
        for side in self.sides:
            count *= side
        return count

    def coordinate(self, cell: int, axis: int) -> int:
        """Where a cell lies on an axis."""
        return cell // self._stride(axis) % self.sides[axis]

    def group(self, cell: int, stage: int) -> int:
        """The key of a cell's group in a stage: the group's lowest cell."""
        return cell - self.coordinate(cell, stage) * self._stride(stage)

    def subtree(self, cell: int, stage: int) -> int:
        """The key of all cells whose contributions are in the mean that a stage leaves in a cell.

        They are those with the same coordinates on the axes after the stage's.
        """
        return cell % self._stride(stage)

    def _stride(self, axis: int) -> int:
        stride = 1
        for side in self.sides[axis + 1 :]:
            stride *= side
        return stride


@dataclass(frozen=True, slots=True)
class Row:
    """A certified mean of a stage.

    weight  what went into it: sum of samples x clip factor, as swarm/weights.py reckons them,
            before they are scaled to factors; positive
    shard   the mean, an int8 shard
    """

    weight: int
    shard: bytes


def grid_for(peers: int) -> Grid:
    """The grid of a swarm: one group while that will do, else rows of 16 to GRID_ROW_MAX.

    Rows are as long as they may be, for a long row is hard to capture and cheap at k = 3, and as
    even as can be; the same holds for each later stage, whose units are the rows before it.
    """
    if peers <= COMMITTEE_MAX:
        return Grid((max(1, peers),))
    sides: list[int] = []
    units = peers
    while units > 1:
        groups = -(-units // GRID_ROW_MAX)
        sides.append(-(-units // groups))
        units = groups
    return Grid(tuple(sides))


def seating(beacon: Digest, peers: Sequence[PeerId]) -> tuple[PeerId, ...]:
    """The peers by cell: the i-th sits in cell i. The order of the argument does not matter.

    beacon  of the newest block: nobody could choose it, or join where it likes
    """
    return tuple(sorted(peers, key=lambda peer: (digest("grid", beacon, peer.encode()), peer)))


def rows(grid: Grid, seated: Sequence[PeerId]) -> dict[int, tuple[PeerId, ...]]:
    """The groups of the first stage: key -> members by cell. Each peer is in one of them."""
    members: dict[int, list[PeerId]] = {}
    for cell, peer in enumerate(seated):
        members.setdefault(grid.group(cell, 0), []).append(peer)
    return {key: tuple(of_key) for key, of_key in sorted(members.items())}


def is_void(members: int, contributed: int) -> bool:
    """Whether a row's mean has no certificate: fewer than a quorum of its members contributed."""
    return contributed < quorum(members)


def average_rows(grid: Grid, stage: int, certified: dict[int, Row]) -> dict[int, Row]:
    """The means of a later stage, from the certified ones of the stage before it.

    Args:
      stage      1 .. grid.stages - 1
      certified  mean by key: of rows, or of the last stage's subtrees; a void one is not there

    Returns:
      mean by key of the stage's subtree; the last stage leaves one, of key 0
    """
    assert 1 <= stage < grid.stages, "the first stage averages contributions"
    merged: dict[int, list[Row]] = {}
    for key in sorted(certified):
        merged.setdefault(grid.subtree(key, stage), []).append(certified[key])
    return {key: _mean(parts) for key, parts in merged.items()}


def _mean(parts: Sequence[Row]) -> Row:
    """The mean of means by their weights, of which the largest counts FACTOR_MAX."""
    largest = max(part.weight for part in parts)
    terms = [WeightedShard(part.weight * FACTOR_MAX // largest, part.shard) for part in parts]
    return Row(sum(part.weight for part in parts), reduce_shard(INT8, terms))
