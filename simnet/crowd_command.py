"""`python -m simnet --peers N` with more than 64 peers: crowds by seed, and what came of them."""

# ruff: noqa: T201 (what a command says goes to the terminal)

import argparse
import json
import sys
import time
from dataclasses import asdict
from statistics import mean

from p2ptrain.wire.limits import COMMITTEE_MAX, ROSTER_MAX
from simnet.crowd import CORE_ROUNDS, Report, draw_crowd, run_crowd

ROUNDS = 5


def is_crowd(options: argparse.Namespace) -> bool:
    """Whether so many peers were asked for that a committee is drawn from them."""
    return bool(options.peers > COMMITTEE_MAX)


def crowds(options: argparse.Namespace) -> int:
    """Exit status: 0 if every crowd held, 1 if one did not, 2 if the options make no sense."""
    rounds = options.rounds or ROUNDS
    if options.peers > ROSTER_MAX or rounds <= CORE_ROUNDS:
        print(f"--peers is at most {ROSTER_MAX}, --rounds more than {CORE_ROUNDS}", file=sys.stderr)
        return 2
    if options.seeds is None:
        seeds = range(options.seed or 0, (options.seed or 0) + 1)
    else:
        seeds = range(options.first, options.first + options.seeds)
    failed, found, started = 0, list[Report](), time.perf_counter()
    for seed in seeds:
        report = _one(seed, options, rounds)
        found.append(report)
        failed += bool(report.violation)
        if options.json:
            print(json.dumps(asdict(report)))
        else:
            print(told(report))
    if len(seeds) > 1 and not options.json:
        print(f"{len(seeds)} seeds in {time.perf_counter() - started:.0f} s: {failed} failed")
        print(_together(found))
    return 1 if failed else 0


def _one(seed: int, options: argparse.Namespace, rounds: int) -> Report:
    started = time.perf_counter()

    def progress(done: int) -> None:
        spent = time.perf_counter() - started
        line = f"\rseed {seed}: {done} rounds, {spent:.0f} s "
        print(line, end="", file=sys.stderr, flush=True)

    crowd = draw_crowd(seed, options.peers, rounds, options.churn)
    report = run_crowd(seed, crowd, progress if sys.stderr.isatty() else lambda done: None)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return report


def told(report: Report) -> str:
    """One paragraph for people."""
    r = report
    per_round = r.virtual_s / max(1, r.rounds)
    return (
        f"seed {r.seed}: {r.peers} peers, churn {r.churn:.0%} a round, {r.faults}: "
        f"{r.rounds} rounds of {per_round:.1f} s, {r.views_lost} views lost, "
        f"{r.branches} branches, {r.failures} failures; {r.progress:.0%} of the seats "
        f"contributed, {r.bytes_a_peer / 1e6:.2f} MB sent a peer and round; "
        f"at most {r.states_most} states at once, one again {r.rounds_to_one} rounds "
        f"after the last failure; healed in {r.heal_s:.0f} s; {r.members} members; "
        f"{r.events} events, trace {r.trace[:16]}: {r.violation or 'all properties hold'}"
    )


def _together(found: list[Report]) -> str:
    good = [r for r in found if not r.violation]
    if not good:
        return "none held"
    return (
        f"of those that held: {mean(r.progress for r in good):.1%} of the seats contributed, "
        f"{mean(r.bytes_a_peer for r in good) / 1e6:.2f} MB a peer and round, "
        f"{max(r.states_most for r in good)} states at once at most, one state again at most "
        f"{max(r.rounds_to_one for r in good)} rounds after the last failure, "
        f"healed in {mean(r.heal_s for r in good):.0f} s, "
        f"at most {max(r.heal_s for r in good):.0f} s"
    )
