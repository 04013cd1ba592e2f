"""Processes killed with SIGKILL and started again: nothing that was certified is lost.

A short version of `python -m soak pair` and `python -m soak crashes`, which say what is checked.
"""

from pathlib import Path

from p2ptrain.node.local_swarm import Event
from p2ptrain.swarm.inputs import Timing
from soak.crashes import Kill, has_gone_on, is_over, run_story
from soak.pair import SLACK_S, Reunion, run_pair
from soak.record import Record

TIMES = 3


async def test_all_peers_killed_at_once_go_on_where_they_were(tmp_path: Path) -> None:
    kills: list[Kill] = []
    await run_story(tmp_path, 1, TIMES, kills.append)
    assert len(kills) == TIMES
    for kill in kills:
        assert kill.resumed >= kill.at_round - 1, "at most the round in flight is lost"


async def test_a_peer_that_is_back_before_the_branch_is_taken_in_again(tmp_path: Path) -> None:
    told: list[Reunion] = []
    await run_pair(tmp_path, at_once=True, say=told.append)
    (reunion,) = told
    assert reunion.next_round_s < Timing().branch_s + SLACK_S


def test_a_run_whose_last_round_nobody_told_of_is_over_for_those_who_find_it_on_disk() -> None:
    """Killed after the last certificate, before the event: no further round can come."""
    record = Record()
    record.take("one", 1.0, round_event(53))
    record.starts("one", 2.0)
    record.take("one", 3.0, {"event": "resumed", "round": 53})
    assert not is_over(record, rounds=54)
    assert not has_gone_on(record, before=53)
    record.starts("one", 4.0)
    record.take("one", 5.0, {"event": "resumed", "round": 54})
    assert is_over(record, rounds=54)


def round_event(number: int) -> Event:
    """What a peer tells of a round."""
    block = f"block {number}"
    return {
        "event": "round",
        "round": number,
        "block": block,
        "state": block,
        "members": 3,
        "branch": False,
    }
