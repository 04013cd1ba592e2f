"""swarm/grid.py: who averages with whom past one group, and what whole rows leave."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.compress.blocks import INT8
from p2ptrain.compress.reduce import WeightedShard, reduce_shard
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
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import CODEC_BLOCK, COMMITTEE_MAX, GRID_ROW_MAX
from p2ptrain.wire.peer_id import PeerId

BEACON = digest("beacon", b"a test")


def peers(count: int) -> tuple[PeerId, ...]:
    return tuple(PeerId(f"peer{number}") for number in range(count))


def shard(values: float) -> bytes:
    return INT8.encode(np.full(CODEC_BLOCK, values, np.float32))


# --- cells -----------------------------------------------------------------------------------
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_a_group_is_the_cells_that_differ_in_its_coordinate_alone(sides: list[int]) -> None:
    grid = Grid(tuple(sides))
    for stage in range(grid.stages):
        for cell in range(grid.cells):
            others = [a for a in range(grid.stages) if a != stage]
            key = grid.group(cell, stage)
            assert grid.coordinate(key, stage) == 0
            assert all(grid.coordinate(key, a) == grid.coordinate(cell, a) for a in others)


@given(st.integers(1, 30_000))
def test_a_grid_has_a_cell_for_everyone_and_groups_of_a_size_that_is_safe(count: int) -> None:
    grid = grid_for(count)
    assert grid.cells >= count
    if count <= COMMITTEE_MAX:
        assert grid.sides == (count,)
    else:
        assert all(side <= GRID_ROW_MAX for side in grid.sides)
        assert grid.sides[0] >= 16, "a short row is easily captured"


@pytest.mark.parametrize(
    ("count", "sides"),
    [(64, (64,)), (65, (22, 3)), (256, (32, 8)), (1024, (32, 32)), (10_000, (32, 32, 10))],
)
def test_grids_of_some_swarms(count: int, sides: tuple[int, ...]) -> None:
    assert grid_for(count).sides == sides


@pytest.mark.parametrize("count", [65, 66, 100, 512, 1000, 1025, 3000])
def test_rows_hold_everyone_once_and_differ_by_one_member_at_most(count: int) -> None:
    seated = seating(BEACON, peers(count))
    of_all = rows(grid_for(count), seated)
    assert sorted(p for members in of_all.values() for p in members) == sorted(seated)
    sizes = {len(members) for members in of_all.values()}
    assert max(sizes) - min(sizes) <= 1


# --- seats -----------------------------------------------------------------------------------
def test_seats_follow_from_the_beacon_and_from_who_is_there_alone() -> None:
    everyone = peers(100)
    seated = seating(BEACON, everyone)
    assert seated == seating(BEACON, everyone[::-1])
    assert seated != seating(digest("beacon", b"another"), everyone)
    # A vector: what another implementation must draw.
    assert seating(Digest(bytes(32)), peers(5)) == tuple(
        sorted(peers(5), key=lambda p: digest("grid", bytes(32), p.encode("ascii")))
    )


def test_two_peers_share_a_row_as_often_as_chance_has_it() -> None:
    everyone, grid, together = peers(100), grid_for(100), 0
    for draw in range(200):
        of_all = rows(grid, seating(digest("beacon", bytes([draw])), everyone))
        together += any({everyone[0], everyone[1]} <= set(members) for members in of_all.values())
    assert together / 200 == pytest.approx(24 / 99, abs=0.09)  # 3 standard deviations


def test_a_committee_is_drawn_by_the_beacon_from_everyone() -> None:
    everyone = peers(200)
    drawn = committee(BEACON, everyone)
    assert len(set(drawn)) == COMMITTEE_MAX
    assert set(drawn) <= set(everyone)
    assert drawn == committee(BEACON, everyone[::-1])
    assert drawn != committee(digest("beacon", b"another"), everyone)
    assert committee(BEACON, everyone[:64]) == tuple(sorted(everyone[:64])), "one group: all"


# --- means of rows ---------------------------------------------------------------------------
@settings(max_examples=25, deadline=None)
@given(st.integers(65, 1500))
def test_whole_rows_leave_one_mean_and_it_is_that_of_all(count: int) -> None:
    """Whatever the rows' sizes: means carry the weight of what went into them."""
    grid = grid_for(count)
    values = np.random.default_rng(count).normal(0, 1, count)
    certified = {
        key: Row(len(members), shard(float(np.mean([values[cell] for cell in members]))))
        for key, members in cells_of(grid, count).items()
    }
    for stage in range(1, grid.stages):
        certified = average_rows(grid, stage, certified)
    (key, mean), *more = certified.items()
    assert (key, more) == (0, [])
    assert mean.weight == count
    # A block of equal values loses two roundings of the scale a stage, and 2**-16 of a weight.
    assert INT8.decode(mean.shard)[0] == pytest.approx(values.mean(), abs=1e-4)


def cells_of(grid: Grid, count: int) -> dict[int, list[int]]:
    cells: dict[int, list[int]] = {}
    for cell in range(count):
        cells.setdefault(grid.group(cell, 0), []).append(cell)
    return cells


def test_the_order_in_which_rows_arrive_changes_no_bit() -> None:
    grid, draws = grid_for(3000), np.random.default_rng(1)
    certified = {
        key: Row(
            int(draws.integers(1, 1000)),
            INT8.encode(draws.normal(0, 1, CODEC_BLOCK).astype(np.float32)),
        )
        for key in cells_of(grid, 3000)
    }
    again = dict(sorted(certified.items(), reverse=True))
    assert average_rows(grid, 1, certified) == average_rows(grid, 1, again)


def test_a_void_row_leaves_the_mean_of_the_others() -> None:
    grid = Grid((32, 3))
    certified = {0: Row(10, shard(1.0)), 2: Row(30, shard(2.0))}  # the row of key 1 failed
    mean = average_rows(grid, 1, certified)[0]
    terms = [WeightedShard(21845, shard(1.0)), WeightedShard(65535, shard(2.0))]
    assert mean == Row(40, reduce_shard(INT8, terms))
    assert Fraction(21845, 65535) == Fraction(10, 30)


def test_stages_in_turn_gather_what_shares_the_axes_that_are_left() -> None:
    grid = Grid((2, 2, 2))
    certified = {key: Row(1, shard(float(key))) for key in range(4)}
    first = average_rows(grid, 1, certified)
    assert {key: INT8.decode(row.shard)[0] for key, row in first.items()} == {0: 1.0, 1: 2.0}


@pytest.mark.parametrize(("members", "least"), [(16, 11), (31, 21), (32, 22)])
def test_a_row_without_a_quorum_is_void(members: int, least: int) -> None:
    assert is_void(members, least - 1)
    assert not is_void(members, least)
