"""The simulator: seeds that must hold, seeds that once failed, and a disk that must be noticed.

A few hundred seeds more run in `python -m simnet --seeds 200` (make check); bugs in the machines
that seeds must find are in tests/test_mutations.py.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from p2ptrain.swarm.history import Link
from p2ptrain.wire.digest import Digest
from simnet.scenarios import SCENARIOS, run_seed
from simnet.storage import Storage

ROOT = Path(__file__).parents[1]
REGRESSIONS = tomllib.loads((ROOT / "simnet" / "regressions.toml").read_text())["seed"]


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_every_property_holds_in_seeds(first: int) -> None:
    outcomes = [run_seed(seed) for seed in range(first, first + 10)]
    assert [o for o in outcomes if o.violation] == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_property_holds_in_each_scenario(scenario: str) -> None:
    outcomes = [run_seed(seed, scenario) for seed in range(1000, 1002)]
    assert [o for o in outcomes if o.violation] == []


@pytest.mark.parametrize("entry", REGRESSIONS, ids=lambda e: f"{e['scenario']}-{e['seed']}")
def test_a_seed_that_once_failed_holds(entry: dict[str, object]) -> None:
    outcome = run_seed(int(str(entry["seed"])), str(entry["scenario"]))
    assert outcome.violation == "", entry["found"]


@pytest.mark.parametrize("members", range(1, 8))
def test_any_number_of_members_from_one_to_seven_may_found(members: int) -> None:
    outcome = run_seed(2000 + members, "crash", members)
    assert (outcome.members, outcome.violation) == (members, "")


# --- determinism ----------------------------------------------------------------------------
def test_one_seed_is_one_run() -> None:
    assert run_seed(7) == run_seed(7)


def test_two_seeds_are_two_runs() -> None:
    assert run_seed(7).trace != run_seed(8).trace


def test_a_seed_is_the_same_run_in_another_process() -> None:
    """Nothing depends on the order of sets of strings or on addresses in memory."""
    code = "from simnet.scenarios import run_seed; print(run_seed(3, 'crash').trace)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {run_seed(3, "crash").trace}


def test_the_command_says_what_failed_as_json() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "simnet", "--seeds", "1", "--json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    assert '"failed": []' in run.stdout


# --- durability -----------------------------------------------------------------------------
def _nothing_before_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: a certificate is written only when its block's state is."""

    def extend(self: Storage, link: Link) -> None:
        self.history.append(link)

    def apply(self: Storage, block: Digest, state: bytes, shards: tuple[bytes, ...]) -> None:
        whole(self, block, state, shards)
        height = self.history.height_of(block) or 0
        if height > len(self.logged):
            self.logged = self.history.after(0)[:height]

    whole = Storage.apply
    monkeypatch.setattr(Storage, "extend", extend)
    monkeypatch.setattr(Storage, "apply", apply)


def test_a_certificate_that_is_written_too_late_is_contradicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All die around the CLOSE block: votes for it need no state. One seed in twenty shows it."""
    assert all(run_seed(seed, "blackout", 3).violation == "" for seed in range(12))
    _nothing_before_its_state(monkeypatch)
    assert any(run_seed(seed, "blackout", 3).violation for seed in range(200))
