"""How long peers take to agree on an average, beside what their bytes and sums must cost.

    python -m benchmarks.averaging [--rounds 20] [--peers 2 4] [--values 20000 1000000 2500000]

Real peers: each is a process that joins a swarm over libp2p on loopback, trains a network of that
many parameters on one sample a round, and averages it with the others: disks, signatures and
compute processes included. Times are of the machine's one monotonic clock, so they can be compared
between processes.

  round    from the last peer's contribution to the last peer's new state: certified, applied,
           durable, evaluated on 8 samples; the median of the rounds in which all took part
  whole    from new state to new state: with training and its compression
  floor    what the round's bytes and sums cost at least, measured in the same run: every peer's
           (M - 1) S bytes at the transport's CPU seconds a byte, and its own reduction of M
           contributions, spread over the cores of this machine, which the peers share
  link     the floor where each peer has a machine of its own: (M - 1) S at the transport's rate,
           and one reduction
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import trio

from benchmarks.transport import receive_over_libp2p
from p2ptrain.compress.codecs import CODECS
from p2ptrain.compress.reduce import WeightedShard, reduce_shard
from p2ptrain.config import Recipe
from p2ptrain.config_local import NodeConfig, SwarmLink, node_config, parse_link
from p2ptrain.data.seeding import seed_dataset
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.net.identity import load_or_create
from p2ptrain.node.local_swarm import peer_environment, share_kernels
from p2ptrain.node.node import JoinOptions, join
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.limits import CHUNK_BYTES_MAX, CODEC_BLOCK, SHARD_VALUES_MAX

LAYERS = {
    20_000: (64, 256, 10),
    1_000_000: (64, 960, 960, 10),
    2_500_000: (64, 1536, 1536, 10),
}
RECIPE_ROUNDS = 1_000_000  # the swarm is stopped when enough rounds were seen
RUN_TIMEOUT_S = 180.0
POLL_S = 0.2
RATE_CHUNKS = 200
BITS = {"int4": 4, "int8": 8}

Event = dict[str, float | int | str | bool]


@dataclass(frozen=True, slots=True)
class Case:
    """One swarm to measure."""

    peers: int
    values: int
    codec: str
    rounds: int


@dataclass(frozen=True, slots=True)
class Rates:
    """What this machine's transport can do, measured in this run.

    bytes_s     one sender to one receiver
    cpu_byte_s  CPU seconds that a byte costs both sides together
    """

    bytes_s: float
    cpu_byte_s: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one case: seconds of each round, and payload bytes that a peer sent in it."""

    round_s: list[float]
    whole_s: list[float]
    sent: list[float]


# --- one peer ----------------------------------------------------------------------------------


def run_peer(home: Path, target: str, listen: str, first_peers: int) -> None:
    """Join, and write every event with the time on the machine's monotonic clock."""

    def write(event: Mapping[str, Value]) -> None:
        say(json.dumps({**event, "at": time.monotonic()}))

    options = JoinOptions(listen=(listen,), first_peers=first_peers, threads=1)
    is_recipe = target.endswith(".toml")
    swarm = Recipe.from_file(Path(target)) if is_recipe else parse_link(target)
    trio.run(join, node_config(home), swarm, options, Telemetry(write))


# --- one swarm ---------------------------------------------------------------------------------


def make_recipe(case: Case, config: NodeConfig, folder: Path) -> Recipe:
    """Put a small data set into the first peer's store; the recipe that learns from it."""
    rng = np.random.default_rng(1)
    path = folder / "noise.npz"
    x, y = rng.integers(0, 17, (72, 64), dtype=np.uint8), (np.arange(72) % 10).astype(np.uint8)
    np.savez(path, x_train=x[:64], y_train=y[:64], x_test=x[64:], y_test=y[64:])
    cid = seed_dataset(path, BlockStore(config.blocks_path), name="noise", licence="CC0-1.0").cid
    layers = LAYERS[case.values]
    shard_values = CODEC_BLOCK if case.values < SHARD_VALUES_MAX else SHARD_VALUES_MAX
    text = f"""
        name = "benchmark"
        rounds = {RECIPE_ROUNDS}
        data.cid = "{cid}"
        data.scale = 0.0625
        model.layers = {list(layers)}
        inner = {{optimizer = "sgd", learning_rate = 0.001, batch = 1, local_steps = 1}}
        averaging = {{codec = "{case.codec}", shard_values = {shard_values}}}
    """
    (folder / "recipe.toml").write_text(text)
    return Recipe.from_toml(text)


def run_swarm(case: Case, folder: Path, kernels: Path) -> list[list[Event]]:
    """The events of each peer, until there are rounds enough in which all took part."""
    homes = [folder / f"peer{number}" for number in range(case.peers)]
    for home in homes:
        share_kernels(home, kernels)
    founder = node_config(homes[0])
    recipe = make_recipe(case, founder, folder)
    identity = load_or_create(founder.identity_path)
    listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
    address = f"{listen}/p2p/{identity.peer_id}"
    link = SwarmLink(recipe.founded_by(identity.peer_id).swarm_id, (address,))
    targets = [str(folder / "recipe.toml")] + [str(link)] * (case.peers - 1)
    addresses = [listen] + ["/ip4/127.0.0.1/tcp/0"] * (case.peers - 1)
    outputs = [folder / f"events{number}" for number in range(case.peers)]
    processes = []
    try:
        for home, target, at, output in zip(homes, targets, addresses, outputs, strict=True):
            command = [sys.executable, "-m", "benchmarks.averaging", "--peer", str(home), target]
            command += [at, str(case.peers - 1)]
            with output.open("w") as file:
                processes.append(subprocess.Popen(command, stdout=file, env=peer_environment()))
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while len(figures_of(case, read_events(outputs)).round_s) < case.rounds:
            if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
                raise SystemExit(f"{case} did not get through its rounds")
            time.sleep(POLL_S)
    finally:
        for process in processes:
            process.kill()  # its compute process ends with it
            process.wait()
    return read_events(outputs)


def read_events(outputs: Sequence[Path]) -> list[list[Event]]:
    """What the peers have written so far, without a line that is still being written."""
    texts = [output.read_text() for output in outputs]
    return [[json.loads(line) for line in text.split("\n")[:-1]] for text in texts]


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def figures_of(case: Case, events: Sequence[Sequence[Event]]) -> Figures:
    """What the rounds took in which every peer was a member and contributed."""
    trained: dict[int, list[float]] = {}
    applied: dict[int, list[Event]] = {}
    for of_peer in events:
        at = 0.0
        for event in of_peer:
            if event["event"] == "trained":
                at = float(event["at"])
            elif event["event"] == "round" and event["contributions"] == case.peers:
                trained.setdefault(int(event["round"]), []).append(at)
                applied.setdefault(int(event["round"]), []).append(event)
    full = sorted(number for number, seen in applied.items() if len(seen) == case.peers)
    pairs = [(a, b) for a, b in pairwise(full) if b == a + 1]
    ends = {number: max(float(e["at"]) for e in applied[number]) for number in full}
    sent = {number: sum(int(e["bytes_sent"]) for e in applied[number]) for number in full}
    return Figures(
        round_s=[ends[b] - max(trained[b]) for _, b in pairs],
        whole_s=[ends[b] - ends[a] for a, b in pairs],
        sent=[(sent[b] - sent[a]) / case.peers for a, b in pairs],
    )


# --- floors ------------------------------------------------------------------------------------


def measure_transport() -> Rates:
    """One megabyte after another over libp2p between two processes."""
    figures = trio.run(receive_over_libp2p, RATE_CHUNKS)
    size = RATE_CHUNKS * CHUNK_BYTES_MAX
    cpu_s = figures.cpu_receiver_s + figures.cpu_sender_s
    return Rates(size / figures.seconds, cpu_s / size)


def reduction_s(case: Case) -> tuple[float, int]:
    """Seconds to reduce the peers' contributions on one core, the best of 5; and S, bytes."""
    codec, size = CODECS[BITS[case.codec]], ModelSpec(LAYERS[case.values]).layout.padded_size
    values = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    shards = [
        codec.encode(values[start : start + SHARD_VALUES_MAX])
        for start in range(0, size, SHARD_VALUES_MAX)
    ]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for shard in shards:
            reduce_shard(codec, [WeightedShard(65535, shard)] * case.peers)
        times.append(time.perf_counter() - started)
    return min(times), sum(map(len, shards))


def report(case: Case, figures: Figures, rates: Rates) -> None:
    """Print one line."""
    reduce_s, size = reduction_s(case)
    others = case.peers - 1
    cores = len(os.sched_getaffinity(0))
    shared = case.peers * (others * size * rates.cpu_byte_s + reduce_s)
    floor_s = max(shared / cores, reduce_s)
    link_s = others * size / rates.bytes_s + reduce_s
    middle = statistics.median
    round_s = middle(figures.round_s)
    say(
        f"{case.peers:5} {case.values:9,} {case.codec:>5} {len(figures.round_s):6}"
        f" {1e3 * round_s:8.0f} {1e3 * min(figures.round_s):6.0f} {1e3 * max(figures.round_s):6.0f}"
        f" {1e3 * middle(figures.whole_s):7.0f} {middle(figures.sent) / 1e3:8.0f}"
        f" {others * size / 1e3:8.0f} {1e3 * floor_s:7.1f} {round_s / floor_s:6.1f}"
        f" {1e3 * link_s:7.1f}"
    )


def say(line: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure every case and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--values", type=int, nargs="+", default=list(LAYERS), choices=LAYERS)
    parser.add_argument("--codecs", nargs="+", default=list(BITS), choices=BITS)
    parser.add_argument("--peer", nargs=4, metavar=("HOME", "TARGET", "LISTEN", "FIRST_PEERS"))
    arguments = parser.parse_args()
    if arguments.peer:
        home, target, listen, first_peers = arguments.peer
        run_peer(Path(home), target, listen, int(first_peers))
        return
    rates = measure_transport()
    say(f"transport: {rates.bytes_s / 1e6:.0f} MB/s, {rates.cpu_byte_s * 1e8:.2f} CPU s / 100 MB")
    say("peers    values codec rounds round ms    min    max   whole  kB sent floor kB floor ms"
        "  ratio link ms")  # fmt: skip
    kernels = node_config().kernels_path
    for values in arguments.values:
        for peers in arguments.peers:
            for codec in arguments.codecs:
                case = Case(peers, values, codec, arguments.rounds)
                with tempfile.TemporaryDirectory(prefix="p2ptrain-averaging-") as folder:
                    figures = figures_of(case, run_swarm(case, Path(folder), kernels))
                report(case, figures, rates)


if __name__ == "__main__":
    main()
