"""`python -m simnet whole`: whole nodes on the real libp2p in memory, in virtual time.

Each number of nodes is a run of its own: they train the digits, a part of them is cut off for 10 s,
and all must end on one state (simnet/whole.py, simnet/whole_check.py). The same seed gives the same
trace, in every process.
"""

# ruff: noqa: T201 (what a command says goes to the terminal)

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from p2ptrain.errors import ConfigError
from simnet.whole import LIMIT_S, Plan, Story, simulate
from simnet.whole_check import violations


def whole(arguments: Sequence[str]) -> int:
    """The command. Exit status: 0 if all holds, 1 if something does not."""
    parser = argparse.ArgumentParser(
        prog="python -m simnet whole",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=_numbers, default=[2, 8, 32], metavar="2,8,32")
    parser.add_argument("--rounds", type=int, default=16, help="of the recipe (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--no-partition", action="store_true", help="nobody is cut off")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    parser.add_argument("--log", action="store_true", help="print what the nodes report")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("a run has at least one round")
    failed = False
    for nodes in options.nodes:
        plan = Plan(
            nodes=nodes,
            rounds=options.rounds,
            seed=options.seed,
            partition=not options.no_partition,
        )
        if not options.json:
            print(f"{nodes} nodes, {plan.rounds} rounds, seed {plan.seed} ...", file=sys.stderr)
        failed |= not _run(plan, options)
    return 1 if failed else 0


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if not all(2 <= each <= 64 for each in numbers):
        raise argparse.ArgumentTypeError("each number of nodes is 2 to 64")
    return numbers


def _run(plan: Plan, options: argparse.Namespace) -> bool:
    with TemporaryDirectory(prefix="p2ptrain-whole-") as folder:
        try:
            story = simulate(plan, Path(folder))
        except (trio.TooSlowError, ConfigError) as error:
            told: dict[str, Any] = {"nodes": plan.nodes, "seed": plan.seed}
            stalled = f"not over after {LIMIT_S:.0f} s of virtual time"
            told["violations"] = [str(error) if isinstance(error, ConfigError) else stalled]
            print(json.dumps(told) if options.json else told["violations"][0])
            return False
    if options.log:
        for at, node, event in story.events:
            print(f"{at:10.4f} node {node:<2} {json.dumps(dict(event))}")
    found = violations(story)
    print(json.dumps(_figures(story, found)) if options.json else _sentence(story, found))
    return not found


def _figures(story: Story, found: list[str]) -> dict[str, Any]:
    done = [summary for summary in story.summaries.values() if summary is not None]
    return {
        "nodes": story.plan.nodes,
        "rounds": story.plan.rounds,
        "seed": story.plan.seed,
        "states": len({summary.weights_sha256 for summary in done}),
        "accuracy": min((summary.accuracy or 0.0 for summary in done), default=0.0),
        "cut_off": sorted(story.cut_off),
        "cut_at_s": story.cut_at_s,
        "healed_at_s": story.healed_at_s,
        "virtual_s": story.virtual_s,
        "wall_s": round(story.wall_s, 1),
        "events": len(story.events),
        "trace": story.trace,
        "violations": found,
    }


def _sentence(story: Story, found: list[str]) -> str:
    figures = _figures(story, found)
    verdict = "; ".join(found) or "all holds"
    cut = f", {len(story.cut_off)} cut off for a while" if story.cut_off else ""
    return (
        f"{story.plan.nodes} nodes{cut}: accuracy {figures['accuracy']:.3f}, "
        f"{figures['states']} state, {story.virtual_s:.1f} s of virtual time in "
        f"{story.wall_s:.1f} s, {len(story.events)} events, trace {story.trace[:16]}: {verdict}"
    )
