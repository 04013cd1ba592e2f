"""The list of hand-made bugs (tests/mutations/, simnet/mutants.py): each is caught by its seed.

Who tests the tests? The errors that they let pass (DeMillo, Lipton and Sayward, 1978). The same
seeds hold in the code as it is, so it is the bug that is caught and not the run.
"""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from simnet.mutants import ListError, Mutation, mutations, put_in, tried
from simnet.scenarios import SCENARIOS, run_seed

ROOT = Path(__file__).parents[1]
MUTATIONS = mutations()
LEAST = 24  # of them, or the list has been thinned out


@cache
def unharmed(scenario: str, seed: int) -> str:
    return run_seed(seed, scenario).violation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_bug_is_caught_by_its_seed_and_nothing_is_without_it(mutation: Mutation) -> None:
    found = tried(mutation)
    assert found.partition(":")[0] == mutation.caught_by, f"{mutation.breaks}; said: {found!r}"
    assert unharmed(mutation.scenario, mutation.seed) == ""


def test_the_list_is_long_and_has_bugs_of_safety_and_of_liveness() -> None:
    safety = {m.caught_by for m in MUTATIONS if m.caught_by.startswith("S")}
    liveness = {m.caught_by for m in MUTATIONS if m.caught_by.startswith("L")}
    assert len(MUTATIONS) >= LEAST
    assert safety == {f"S{n}" for n in range(1, 8)}
    assert {"L1", "L2", "L4"} <= liveness
    assert {m.scenario for m in MUTATIONS} <= SCENARIOS.keys()


def test_a_mutation_that_the_code_has_outgrown_is_named() -> None:
    gone = replace(MUTATIONS[0], old="no such text")
    with pytest.raises(ListError, match=f"{gone.name}.* 0 times in {gone.file}"):
        gone.source()


def test_a_mutation_whose_place_is_not_the_only_one_is_named() -> None:
    twice = replace(MUTATIONS[0], old="return")
    with pytest.raises(ListError, match=r"occurs \d\d times"):
        twice.source()


def test_a_mutation_comes_too_late_where_the_code_is_imported_already() -> None:
    before = list(sys.meta_path)
    with pytest.raises(ListError, match="imported already"):
        put_in(MUTATIONS[0])
    assert sys.meta_path == before


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "simnet.mutants", *arguments]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_runs_a_part_of_the_list() -> None:
    run = command("free-list", "--jobs", "1")
    assert (run.returncode, run.stderr) == (0, "")
    assert "1 of 1 mutants caught" in run.stdout


def test_the_command_finds_seeds() -> None:
    run = command("beacon-without-reveals", "--find", "2", "--scenario", "int8")
    assert run.returncode == 0
    assert run.stdout.startswith("beacon-without-reveals: int8 0, ")


def test_the_command_names_what_it_does_not_know() -> None:
    run = command("no-such-bug")
    assert run.returncode == 2
    assert "no mutation of the name no-such-bug" in run.stderr
