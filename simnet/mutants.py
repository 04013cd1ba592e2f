"""`python -m simnet.mutants`: hand-made bugs, each of which one seed must find.

A simulator that finds nothing is either watching correct code or blind. So the code is broken on
purpose, one small error at a time, each one that a programmer might well make, and every such
mutant must be caught: who tests the tests are the errors that they let pass (DeMillo, Lipton and
Sayward, "Hints on Test Data Selection", IEEE Computer 1978). A mutant that no seed catches is a gap
in the scenarios or in the checkers, or no error at all: the same behaviour said otherwise.

The list is tests/mutations/*.toml. An entry has the text to replace, which must occur exactly once
in its file (so the list cannot rot in silence), what that breaks, and the seed and scenario that
catch it with the property that speaks. Each mutant runs in a process of its own: an import hook
gives the patched source to Python in place of the file's, and nothing on the disk changes.

    python -m simnet.mutants                the whole list, each with its seed
    python -m simnet.mutants NAME ...       some of it
    python -m simnet.mutants NAME --find 500 [--scenario S]   which of 500 seeds catch it

Where a change of the plans moves the draws, --find names new seeds. Nothing of p2ptrain may be
imported here before the hook is in place.
"""

# ruff: noqa: T201 (what a command says goes to the terminal)

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "mutations"
RUN_S_MAX = 120.0  # the slowest takes 3 s on an idle machine
CATCHES_WANTED = 3  # --find stops there: the cheapest of them is good enough


class ListError(Exception):
    """The list of mutations does not fit the code (any more)."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One bug.

    name      for people and commands
    file      module that it is in, relative to the repository
    old       text that occurs exactly once in it
    new       what takes its place
    breaks    what goes wrong then, in words
    scenario  kind of run that shows it, a key of simnet.scenarios.SCENARIOS
    seed      the run
    caught_by the property of simnet/checkers.py that speaks: "S1" .. "S7" are safety,
              "L1" .. "L4" liveness
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    scenario: str
    seed: int
    caught_by: str

    @property
    def module(self) -> str:
        """The module's name."""
        return ".".join(Path(self.file).with_suffix("").parts)

    def source(self) -> str:
        """The module with the bug; raises ListError if the old text is not there exactly once."""
        text = (ROOT / self.file).read_text()
        times = text.count(self.old)
        if times != 1:
            raise ListError(
                f"mutation {self.name!r}: its old text occurs {times} times in {self.file}, and "
                f"must once. The code has changed: bring tests/mutations/ up to date."
            )
        return text.replace(self.old, self.new)


def mutations() -> tuple[Mutation, ...]:
    """The list, in the order of its files."""
    found = tuple(
        Mutation(**entry)
        for file in sorted(LIST.glob("*.toml"))
        for entry in tomllib.loads(file.read_text())["mutation"]
    )
    names = [mutation.name for mutation in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ListError(f"mutations of one name: {', '.join(sorted(twice))}")
    return found


# --- in the process of one mutant -------------------------------------------------------------
class Patch(MetaPathFinder, Loader):
    """Gives one module another source."""

    def __init__(self, module: str, source: str, path: Path) -> None:
        """path: where the real source is, for tracebacks."""
        self._module, self._source, self._path = module, source, str(path)

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Only that module is ours."""
        mine = fullname == self._module
        return ModuleSpec(fullname, self, origin=self._path) if mine else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the other source."""
        exec(compile(self._source, self._path, "exec"), module.__dict__)


def put_in(mutation: Mutation) -> None:
    """From here on the module of a mutation is imported with the bug in it."""
    loaded = [name for name in sys.modules if name.startswith("p2ptrain.")]
    if loaded:
        raise ListError(f"too late for a mutation: {loaded[0]} is imported already")
    sys.meta_path.insert(0, Patch(mutation.module, mutation.source(), ROOT / mutation.file))


def violation(seed: int, scenario: str) -> str:
    """What a run breaks, beginning with the property; "" if all properties hold."""
    from simnet.scenarios import run_seed  # not earlier: this imports the machines

    return run_seed(seed, scenario).violation


def catches(scenario: str, seeds: int) -> Iterator[tuple[int, float, str]]:
    """Seeds of a scenario that break a property: seed, seconds it took, violation."""
    for seed in range(seeds):
        started = time.perf_counter()
        found = violation(seed, scenario)
        if found:
            yield seed, time.perf_counter() - started, found


# --- commands -----------------------------------------------------------------------------------
def tried(mutation: Mutation) -> str:
    """The violation that a mutant's seed shows, in a process of its own; "" if it survives.

    Raises ListError if the mutant could not be run at all.
    """
    command = [sys.executable, "-m", "simnet.mutants", "--alone", mutation.name]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=RUN_S_MAX
    )
    if run.returncode not in (0, 1) or run.stderr:
        raise ListError(f"mutation {mutation.name!r} did not run:\n{run.stderr}")
    return run.stdout.strip()


def caught(mutation: Mutation) -> bool:
    """Run one mutant with its seed, and say what came of it."""
    found = tried(mutation)
    kind = f"{mutation.scenario} {mutation.seed}"
    said = found.partition(":")[0]
    if said != mutation.caught_by:
        print(f"{mutation.name}: {kind} should break {mutation.caught_by}: {found or 'it holds'}")
        return False
    print(f"{mutation.name}: {kind} breaks {said}", flush=True)
    return True


def _find(mutation: Mutation, scenarios: Sequence[str], seeds: int) -> int:
    put_in(mutation)
    count = 0
    for scenario in scenarios:
        for seed, spent_s, found in catches(scenario, seeds):
            print(f"{mutation.name}: {scenario} {seed}, {spent_s:.2f} s: {found[:90]}", flush=True)
            count += 1
            if count >= CATCHES_WANTED:
                return 0
    print(f"{mutation.name}: {seeds} seeds of {', '.join(scenarios)} catch {count}")
    return 0 if count else 1


def main() -> int:
    """Exit status: 0 if every mutant was caught; with --alone, 1 if it was."""
    parser = argparse.ArgumentParser(prog="python -m simnet.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations; none: all")
    parser.add_argument("--find", type=int, metavar="SEEDS", help="which seeds catch the mutant")
    parser.add_argument("--scenario", action="append", help="with --find: kinds of runs")
    parser.add_argument("--alone", action="store_true", help="one mutant, in this very process")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args()
    known = {mutation.name: mutation for mutation in mutations()}
    strange = [name for name in options.names if name not in known]
    if strange:
        parser.error(f"no mutation of the name {strange[0]}; known: {', '.join(known)}")
    chosen = [known[name] for name in options.names] or list(known.values())
    if options.alone:
        put_in(chosen[0])
        found = violation(chosen[0].seed, chosen[0].scenario)
        print(found)
        return 1 if found else 0
    if options.find:
        return _find(chosen[0], options.scenario or [chosen[0].scenario], options.find)
    started = time.perf_counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(caught, chosen))
    spent = time.perf_counter() - started
    print(f"{sum(outcomes)} of {len(outcomes)} mutants caught in {spent:.0f} s")
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
