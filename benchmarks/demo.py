"""How long the demo takes, how well it learns, and what a round of it costs.

    python -m benchmarks.demo [--runs 5]

Each run is the whole story of `p2ptrain demo`, after the installation: four processes, one late,
one killed. Seconds are from the first process to the last exit, the seeding and the export not
left out. Rounds are sorted by how many members they had: a round alone is the floor of one with
others, for it has all but the others (training, disks, states, evaluation).
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import trio

from p2ptrain.config_local import node_config
from p2ptrain.data.shipped import recipe_path
from p2ptrain.node.local_swarm import Event
from p2ptrain.node.rehearsal import Outcome, rehearse
from p2ptrain.node.telemetry import number


class RoundTimes:
    """Seconds of each round that a peer reported, by the number of members."""

    def __init__(self) -> None:
        self.by_members: dict[int, list[float]] = defaultdict(list)

    def notice(self, name: str, event: Event) -> None:
        """Take one event of a peer in; only rounds with everybody's work are counted."""
        if name and event["event"] == "round" and event["contributions"] == event["members"]:
            self.by_members[int(number(event["members"]))].append(number(event["seconds"]))


def run_once(times: RoundTimes) -> Outcome:
    """One demo, with homes that are thrown away. Raises DemoFailed."""
    with tempfile.TemporaryDirectory(prefix="p2ptrain-demo-") as name:
        folder = Path(name)
        return trio.run(
            rehearse,
            recipe_path("digits"),
            folder,
            node_config().kernels_path,
            folder / "model.safetensors",
            times.notice,
        )


def say(line: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the demos and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    times, outcomes = RoundTimes(), []
    for run in range(parser.parse_args().runs):
        outcome = run_once(times)
        outcomes.append(outcome)
        same = "equal bits" if len(outcome.hashes) == 1 else "DIFFERENT BITS"
        say(f"run {run + 1}: {outcome.seconds:5.1f} s, accuracy {outcome.accuracy:.4f}, {same}")
    seconds = sorted(outcome.seconds for outcome in outcomes)
    accuracies = [outcome.accuracy for outcome in outcomes]
    say(f"seconds: {seconds[0]:.1f} / {statistics.median(seconds):.1f} / {seconds[-1]:.1f} "
        f"(least, median, most), accuracy from {min(accuracies):.4f}")  # fmt: skip
    say("members   rounds   median ms   9 in 10 under")
    for members, taken in sorted(times.by_members.items()):
        tail = sorted(taken)[int(0.9 * len(taken))]
        say(f"{members:7} {len(taken):8} {1e3 * statistics.median(taken):11.0f} {1e3 * tail:15.0f}")


if __name__ == "__main__":
    main()
