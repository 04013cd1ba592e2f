"""Whole nodes on the real libp2p in memory end on one state, and one seed gives one trace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2ptrain.errors import ConfigError
from simnet.whole import Plan, Story, simulate
from simnet.whole_check import violations


def ends_well(story: Story) -> None:
    assert violations(story) == []
    assert len(story.cut_off) == max(1, (story.plan.nodes - 1) // 3)


def told(folder: Path, seed: int) -> Story:
    folder.mkdir()
    return simulate(Plan(nodes=2, rounds=6, seed=seed), folder)


def test_one_seed_gives_one_trace_and_another_seed_another(tmp_path: Path) -> None:
    story = told(tmp_path / "first", 0)
    ends_well(story)
    assert told(tmp_path / "again", 0).trace == story.trace
    assert told(tmp_path / "other", 1).trace != story.trace


def test_another_process_with_another_hash_seed_gives_the_same_trace(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "simnet", "whole", "--nodes", "2", "--rounds", "6", "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "5"},
        check=True,
        text=True,
    )
    there = json.loads(run.stdout)
    assert there["violations"] == []
    assert there["trace"] == told(tmp_path / "here", 0).trace


@pytest.mark.parametrize(("nodes", "rounds"), [(8, 16)])
def test_many_nodes_train_through_a_partition_to_one_state(
    nodes: int, rounds: int, tmp_path: Path
) -> None:
    ends_well(simulate(Plan(nodes=nodes, rounds=rounds), tmp_path))


def test_a_run_that_ends_before_the_partition_heals_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="before the partition healed, and left"):
        simulate(Plan(nodes=4, rounds=4), tmp_path)
