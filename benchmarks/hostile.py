"""What each hostile behaviour costs the honest: distance, time, memory, and what they say of it.

    python -m benchmarks.hostile [--rounds 60] [--only nan,flood_small]

A trial for each behaviour (tests/hostile.py): three honest processes and one hostile one train the
digits over libp2p on loopback. Then one peer more that is honest, but is killed (SIGKILL) in the
middle of a round, or stopped (SIGSTOP) for 30 s. Each line says

  hash      whether the honest peers ended on one
  distance  largest relative distance of an applied mean to that of the round's honest contributions
  exact     rounds whose mean has the very bits of the honest contributions alone, of all
  lies      contributions averaged that were lies; missing: honest contributions left out
  views     views that failed; start s: the longest of the first 8 rounds, in which the voters are
            admitted one by one and deadlines are long; round s: the longest of the others;
            late s: longest time past a stated deadline
  MiB       growth of the honest nodes' peak memory against the same run with nobody hostile
  said      rules that the liar was struck by, proofs against it, and why it was disconnected

"opposed" is the control: honest work negated, which no rule can see; its distance must be large.
"""

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from time import monotonic

import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hostile_members import MEMBERS
from hostile_strangers import STRANGERS
from hostile_swarm import WATCHED, Plan, Trial, trial

LIES_FROM = "honest:6,"  # when all four are voters: fewer than four bear no liar
FROZEN_S = 30.0
FIRST = 8  # rounds: so many durations are known then
LONG = 8  # times as many rounds where something takes half a minute to be noticed
HEADER = (
    "behaviour          | hash | accuracy | distance | exact   | lies | missing | views | start s "
    "| round s | late s |  MiB | said"
)


async def kill_in_the_middle(run: Trial) -> None:
    """SIGKILL a fourth peer when it has trained and its round is not certified."""
    run.excused.add("four")
    here = len(run.said("trained", by="four"))
    await run.swarm.wait_until(lambda: len(run.said("trained", by="four")) > here)
    run.swarm.kill("four")


async def freeze(run: Trial) -> None:
    """SIGSTOP a fourth peer, and wake it half a minute later."""
    run.swarm.freeze("four")
    await trio.sleep(FROZEN_S)
    run.swarm.thaw("four")


def plans(rounds: int) -> dict[str, Plan]:
    """Every trial by its name; the controls first."""
    short, long = Plan(rounds=rounds, timeout_s=150), Plan(rounds=LONG * rounds, timeout_s=280)
    found = {"nobody": short, "nobody, long": long}
    for name in MEMBERS:
        if name not in ("honest", "conspires"):
            found[name] = replace(short, hostile=(LIES_FROM + name,))
    for name in STRANGERS:
        plan = long if name == "never_drains" else short
        found[name] = replace(plan, hostile=(name,))
    found["conspires"] = replace(short, hostile=("honest:9,conspires#1", "honest:9,conspires#2"),
                                 honest=5)  # fmt: skip
    found["SIGKILL"] = replace(short, honest=4, during=kill_in_the_middle)
    found["SIGSTOP 30 s"] = replace(long, honest=4, during=freeze)
    return found


def row(name: str, run: Trial, alone_kib: int) -> str:
    """One line of the table."""
    rounds = run.judged
    failed = run.failures
    late = [r.late_s for r in rounds] + [f["late_s"] for f in failed]
    growth = (peak_node_kib(run) - alone_kib) / 1024 if alone_kib else 0.0
    return (
        f"{name:18} | {'one' if len(run.hashes) == 1 else 'MANY':4} | {run.accuracy:8.4f} "
        f"| {max(r.distance for r in rounds):8.4f} "
        f"| {sum(r.exact for r in rounds):3}/{len(rounds):3} | {sum(r.lies for r in rounds):4} "
        f"| {sum(r.missing for r in rounds):7} | {len(failed):5} "
        f"| {max((r.seconds for r in rounds if 1 < r.round <= FIRST), default=0.0):7.2f} "
        f"| {max(r.seconds for r in rounds if r.round > FIRST):7.2f} "
        f"| {max(late):6.3f} | {growth:4.0f} | {said(run)}"
    )


def said(run: Trial) -> str:
    """What honest peers held against the hostile ones."""
    words = []
    for liar in run.plan.hostile:
        rules = run.strikes_of(liar)
        words += [f"{rule} x {count}" for rule, count in sorted(rules.items())]
        if proofs := run.proofs_of(liar):
            words.append(f"proof x {proofs}")
    ends = Counter(str(e["reason"]).split(", the last")[0] for e in run.said("disconnected"))
    words += [f"'{reason}' x {count}" for reason, count in ends.most_common(3)]
    return "; ".join(words)


def peak_node_kib(run: Trial) -> int:
    """The largest peak of an honest node process."""
    peaks = run.peak_kib.items()
    return max(kib for (name, kind), kib in peaks if kind == "node" and name != WATCHED)


async def measure(wanted: list[str], rounds: int) -> None:
    """Run the trials and print a line for each."""
    alone: dict[int, int] = {}
    chosen = {n: p for n, p in plans(rounds).items() if not wanted or n in wanted}
    compared = {plan.rounds for plan in chosen.values()}
    controls = {n: p for n, p in plans(rounds).items() if n.startswith("nobody")}
    controls = {n: p for n, p in controls.items() if p.rounds in compared}
    for name, plan in (controls | chosen).items():
        began = monotonic()
        with tempfile.TemporaryDirectory(prefix="p2ptrain-hostile-") as folder:
            async with trial(Path(folder), plan) as run:
                if name.startswith("nobody"):
                    alone[plan.rounds] = peak_node_kib(run)
                say(f"{row(name, run, alone.get(plan.rounds, 0))}  ({monotonic() - began:.0f} s)")


def say(line: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", default="", help="names, with commas between them")
    options = parser.parse_args()
    say(HEADER)
    trio.run(measure, [name for name in options.only.split(",") if name], options.rounds)


if __name__ == "__main__":
    main()
