"""`python -m simnet`: run one seed and say what happened, or many and say which failed.

With a story, a TOML file or the name of a bundled one: what would that run do? (simnet/story.py)
`python -m simnet figures` computes published tables of averaging again (simnet/figures.py),
`python -m simnet whole` runs whole nodes on the real libp2p in memory (simnet/whole.py).
"""

# ruff: noqa: T201 (what a command says goes to the terminal)

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from simnet.crowd_command import crowds, is_crowd
from simnet.figures import figures
from simnet.scenarios import SCENARIOS, Outcome, run_seed
from simnet.story_command import tell


def main() -> int:
    """Exit status: 0 if every seed held, 1 if one did not; of a story see tell()."""
    if sys.argv[1:2] == ["figures"]:
        return figures(sys.argv[2:])
    if sys.argv[1:2] == ["whole"]:
        from simnet.whole_command import whole  # loads libp2p and OpenCL, which nothing else needs

        return whole(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m simnet", description=__doc__)
    parser.add_argument("story", nargs="?", help="a story: a TOML file, or a bundled one's name")
    parser.add_argument("--plot", type=Path, help="with a story: write its curve, a PNG file")
    parser.add_argument("--seed", type=int, help="run this seed alone; of a story: another seed")
    parser.add_argument("--seeds", type=int, help="run seeds FROM .. FROM + SEEDS - 1")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument(
        "--peers", type=int, default=0, help="founders, 1 to 7; 0: drawn; > 64: a crowd"
    )
    parser.add_argument("--rounds", type=int, default=0, help="of a crowd (simnet/crowd.py)")
    parser.add_argument("--churn", type=float, default=-1.0, help="of a crowd: share a round")
    parser.add_argument("--scenario", default="", choices=["", *SCENARIOS], help="kind of run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--log", action="store_true", help="with --seed: print every event")
    options = parser.parse_args()
    if options.story is not None:
        return tell(options)
    if is_crowd(options):
        return crowds(options)
    if options.seeds is None:
        return _one(options)
    return _many(options)


def _one(options: argparse.Namespace) -> int:
    seed = options.seed or 0
    outcome = run_seed(seed, options.scenario, options.peers, keep_log=options.log)
    if options.log:
        print(*outcome.log, sep="\n")
    if options.json:
        print(json.dumps({k: v for k, v in asdict(outcome).items() if k != "log"}))
    else:
        print(_summary(outcome))
    return 1 if outcome.violation else 0


def _many(options: argparse.Namespace) -> int:
    started, failed = time.perf_counter(), []
    for done in range(options.seeds):
        outcome = run_seed(options.first + done, options.scenario, options.peers)
        if outcome.violation:
            failed.append(outcome)
            print(f"\r{_summary(outcome)}", file=sys.stderr)
        if sys.stderr.isatty() or (done + 1) % 100 == 0:
            spent = time.perf_counter() - started
            line = f"\r{done + 1}/{options.seeds} seeds, {spent:.0f} s, {len(failed)} failed"
            print(line, end="", file=sys.stderr, flush=True)
    spent = time.perf_counter() - started
    print(file=sys.stderr)
    if options.json:
        names = [{"seed": o.seed, "violation": o.violation} for o in failed]
        print(json.dumps({"seeds": options.seeds, "wall_s": round(spent, 1), "failed": names}))
    else:
        print(f"{options.seeds} seeds in {spent:.1f} s: {len(failed)} failed")
        if failed:
            print(f"the first again: {_command(failed[0], options)}")
    return 1 if failed else 0


def _command(outcome: Outcome, options: argparse.Namespace) -> str:
    extra = f" --scenario {options.scenario}" if options.scenario else ""
    extra += f" --peers {options.peers}" if options.peers else ""
    return f"python -m simnet --seed {outcome.seed}{extra} --log"


def _summary(outcome: Outcome) -> str:
    verdict = outcome.violation or "all properties hold"
    return (
        f"seed {outcome.seed}: {outcome.scenario}, {outcome.members} founding members, "
        f"{outcome.blocks} blocks, {outcome.events} events in {outcome.virtual_s:.1f} s of "
        f"virtual time, trace {outcome.trace[:16]}: {verdict}"
    )


if __name__ == "__main__":
    sys.exit(main())
