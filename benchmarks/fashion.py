"""Fashion-MNIST by three peers: how well, how long, how many bytes, how much CPU.

    python -m benchmarks.fashion [--data /usr/share/datasets/fashion-mnist] [--peers 3]

What README's second example does, with its commands: the recipe is written by `p2ptrain init`, the
data set seeded into the first home, and each peer is a process with a home of its own. Exits with
1 unless all end on equal weights with at least 87 % of the test pictures right.

Floors: each peer sends its contribution of a round to every other one, S bytes each, and fetches
the data set once; the arithmetic of training is 6 flops a weight and sample.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from p2ptrain.compress.codecs import CODECS
from p2ptrain.config import Recipe
from p2ptrain.config_local import node_config
from p2ptrain.model.networks import network_of
from p2ptrain.node.local_swarm import LocalSwarm, PeerProcess, share_kernels
from p2ptrain.node.telemetry import number

DATA = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
ACCURACY_MIN = 0.87
TIMEOUT_S = 1200.0
PROGRAM = (sys.executable, "-m", "p2ptrain.cli.main")
ARGUMENTS = ("--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1")


@dataclass(frozen=True, slots=True)
class Run:
    """How it went.

    seeding_s   cutting the data set into chunks
    seconds     from the first peer's start to the last one's exit
    training_s  from the first certified round to the last
    cpu_s       of all processes, user and system
    memory_mb   the most that one process held, MB
    """

    peers: list[PeerProcess]
    seeding_s: float
    seconds: float
    training_s: float
    cpu_s: float
    memory_mb: float


def p2ptrain(*arguments: str) -> str:
    """Run a command to its end and return what it printed."""
    return subprocess.run([*PROGRAM, *arguments], check=True, capture_output=True, text=True).stdout


async def train(folder: Path, data: Path, count: int) -> Run:
    """Seed the data set, found the swarm, join it, and wait for the end of the run."""
    recipe = folder / "fashion.toml"
    p2ptrain("init", "fashion", "-o", str(recipe))
    homes = {f"peer {number + 1}": folder / f"home{number + 1}" for number in range(count)}
    founder = next(iter(homes))
    seeding = trio.current_time()
    p2ptrain("seed", "dataset", str(data), "--licence", "MIT", "--once", "--home",
             str(homes[founder]))  # fmt: skip
    began = trio.current_time()
    swarm = LocalSwarm(lambda peer, event: None)
    for home in homes.values():
        share_kernels(home, node_config().kernels_path)
    async with trio.open_nursery() as nursery:
        start = partial(swarm.start, nursery)
        names = iter(homes.items())
        await start(*next(names), *ARGUMENTS, "--wait-for", str(count - 1), "--swarm", str(recipe))
        one = swarm.peers[founder]
        await swarm.wait_until(lambda: "swarm" in one.latest or one.exit_code is not None)
        for name, home in names:
            await start(name, home, *ARGUMENTS, "--swarm", str(one.latest["swarm"]["link"]))
        await swarm.wait_until(lambda: all(p.exit_code is not None for p in swarm.peers.values()))
    seconds = trio.current_time() - began
    rounds = one.rounds
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(
        peers=list(swarm.peers.values()),
        seeding_s=began - seeding,
        seconds=seconds,
        training_s=number(rounds[-1]["t"]) - number(rounds[0]["t"]) if rounds else 0.0,
        cpu_s=used.ru_utime + used.ru_stime,
        memory_mb=used.ru_maxrss / 1024,
    )


def report(run: Run, recipe: Recipe) -> bool:
    """Print the figures; whether they are good enough."""
    done = [peer.latest.get("done", {}) for peer in run.peers]
    hashes = {str(end.get("weights_sha256")) for end in done}
    lowest = min(number(end.get("accuracy")) for end in done)
    count = len(run.peers)
    say(f"accuracy {lowest:.4f}, {len(hashes)} different weights: {', '.join(sorted(hashes))}")
    say(f"seeding {run.seeding_s:.1f} s; all {run.seconds:.1f} s, of which rounds "
        f"{run.training_s:.1f} s ({1e3 * run.training_s / recipe.rounds:.0f} ms each)")  # fmt: skip
    say(f"CPU {run.cpu_s:.0f} s, {run.cpu_s / count:.0f} s a peer; "
        f"the largest process held {run.memory_mb:.0f} MB")  # fmt: skip
    codec = CODECS[recipe.averaging.number]
    values = network_of(recipe).layout.padded_size
    floor = recipe.rounds * (count - 1) * codec.shard_bytes(values) / 1e6
    for peer, end in zip(run.peers, done, strict=True):
        sent, received = (number(end.get(f"bytes_{way}")) / 1e6 for way in ("sent", "received"))
        say(f"{peer.name}: sent {sent:.0f} MB, received {received:.0f} MB, "
            f"contributed to {end.get('contributed')} of {end.get('rounds')} rounds")  # fmt: skip
    say(f"floor of the contributions: {floor:.0f} MB each way; of the data set 55 MB for who joins")
    return len(hashes) == 1 and lowest >= ACCURACY_MIN


def say(line: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Train, print, and say by the exit code whether it was good enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--peers", type=int, default=3)
    asked = parser.parse_args()
    if not asked.data.is_dir():
        say(f"{asked.data} is not here: apt-get install dataset-fashion-mnist, or name it: --data")
        return 1
    with tempfile.TemporaryDirectory(prefix="p2ptrain-fashion-") as folder:
        run = trio.run(bounded, Path(folder), asked.data, asked.peers)
        recipe = Recipe.from_file(Path(folder) / "fashion.toml")
        for peer in run.peers:
            if peer.exit_code != 0:
                say(json.dumps({"peer": peer.name, "exit": peer.exit_code, "says": [*peer.stderr]}))
        return 0 if report(run, recipe) else 1


async def bounded(folder: Path, data: Path, count: int) -> Run:
    """The same, within TIMEOUT_S."""
    with trio.fail_after(TIMEOUT_S):
        return await train(folder, data, count)


if __name__ == "__main__":
    sys.exit(main())
