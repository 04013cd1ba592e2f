"""Processes killed with SIGKILL and started again: nothing that was certified is lost.

A short version of `python -m soak pair` and `python -m soak crashes`, which say what is checked.
"""

from pathlib import Path

from p2ptrain.swarm.inputs import Timing
from soak.crashes import Kill, run_story
from soak.pair import SLACK_S, Reunion, run_pair

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
