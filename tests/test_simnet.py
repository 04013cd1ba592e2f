"""The simulator: seeds that must hold, seeds that once failed, and mutations that must be caught.

A few hundred seeds more run in `python -m simnet --seeds 200` (make check).
"""

import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from p2ptrain.swarm import chain, deciding, proposals, standing
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.history import Link
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import BRANCH, Block, Certificate, Timeout
from simnet.scenarios import SCENARIOS, run_seed
from simnet.storage import Storage

ROOT = Path(__file__).parents[1]
REGRESSIONS = tomllib.loads((ROOT / "simnet" / "regressions.toml").read_text())["seed"]
MUTATION_SEEDS = 24  # of so many, at least three catch each mutation


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


# --- mutations ------------------------------------------------------------------------------
def broken(scenario: str) -> str:
    """The property that the first seed to break one breaks; "" if all seeds hold."""
    for seed in range(MUTATION_SEEDS):
        violation = run_seed(seed, scenario).violation
        if violation:
            return violation.split(":")[0]
    return ""


def free_of_lists(context: Context, timeouts: Sequence[Timeout]) -> list[Block]:
    """Mutation: a proposer need not repeat what may have been certified unseen."""
    del context, timeouts
    return []


def final_by_any_child(context: Context, certificate: Certificate) -> tuple[Digest, ...]:
    """Mutation: a child certified in any later view makes its parent final."""
    return context.unfinal if certificate.block.kind != BRANCH else ()


def put(monkeypatch: pytest.MonkeyPatch, name: str, mutant: Callable[..., object]) -> None:
    """Replace a function wherever the machines have it."""
    for module in (chain, deciding, proposals, standing):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, mutant)


def test_without_re_proposal_two_lists_are_certified_on_one_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert broken("contest") == ""
    put(monkeypatch, "repeatable", free_of_lists)
    assert broken("contest") == "S1"


def test_finality_without_the_very_next_view_makes_two_chains_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert broken("scheme") == ""
    put(monkeypatch, "finals", final_by_any_child)
    assert broken("scheme") == "S2"


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


def test_without_sitting_out_a_restored_copy_contradicts_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Old votes, and nobody who says so: one seed in ten shows it."""
    assert all(run_seed(seed, "restored").violation == "" for seed in range(12))
    monkeypatch.setattr(Averaging, "doubt", lambda self: None)
    assert any(run_seed(seed, "restored").violation[:2] in ("S1", "S5") for seed in range(80))
