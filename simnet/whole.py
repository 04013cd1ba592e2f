"""Whole nodes in one process: the code that `p2ptrain join` runs, on simulated machines.

N nodes train the digits: one founds the swarm and has the data, the others have a link. What is
real is all of node/, store/ (folders of their own), swarm/, train/, compress/, device/ (OpenCL in
this process) and net/ with libp2p above the byte streams: Noise, Yamux, our door and our frames.
What is not: the streams (simnet/wires.py), time and chance (simnet/whole_time.py), and the process
in which a node computes (simnet/whole_compute.py). Signals are not listened to. Keys of Noise are
drawn anew each time: what is sent differs from run to run, its length does not.

One seed draws keys, uplinks, when each node starts and who is cut off, and gives one trace: all
that the nodes report, with the virtual time, hashed. When the fourth part of the rounds is done, a
part of the nodes is cut off from the others; the longer of 10 s and two rounds later it heals.
"""

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from p2ptrain.config import Recipe
from p2ptrain.config_local import NodeConfig, SwarmLink, node_config, parse_link
from p2ptrain.data.shipped import recipe_path, seed_digits
from p2ptrain.errors import ConfigError
from p2ptrain.node.local_swarm import share_kernels
from p2ptrain.node.node import JoinOptions, join
from p2ptrain.node.platform import Platform
from p2ptrain.node.reporting import Summary
from p2ptrain.node.telemetry import Telemetry, Value, number
from p2ptrain.store.blocks import BlockStore
from simnet import whole_time
from simnet.whole_carrier import Ether
from simnet.whole_compute import Speed, TurnWorker
from simnet.wires import Uplink, Wires

MBIT = 1e6 / 8  # bytes a second
UPLINKS = (10 * MBIT, 50 * MBIT, 100 * MBIT)
LATENCY_S = 0.01
SPEED = Speed(look_s=0.1, answer_s=0.002)
START_S_MAX = 2.0  # the last node starts so much later than the second
PARTITION_S = 10.0
LIMIT_S = 600.0  # virtual: what is not over by then has stalled
# Of this machine, not of the run: its clock, its device, its folders, what it drew from the wall.
UNTRACED_EVENTS = {"device", "curve", "energy"}
UNTRACED_VALUES = {"t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated.

    nodes      2 or more, the founder among them
    rounds     of the recipe
    hidden     units of the network
    partition  whether a part of the nodes is cut off for a while
    """

    nodes: int
    rounds: int
    seed: int = 0
    hidden: int = 32
    partition: bool = True


@dataclass
class Story:
    """What happened. Events are (virtual seconds, node, event)."""

    plan: Plan
    events: list[tuple[float, int, Mapping[str, Value]]] = field(default_factory=list)
    summaries: dict[int, Summary | None] = field(default_factory=dict)
    cut_off: frozenset[int] = frozenset()
    cut_at_s: float | None = None
    healed_at_s: float | None = None
    virtual_s: float = 0.0
    wall_s: float = 0.0
    news: trio.Event = field(default_factory=trio.Event)

    def note(self, node: int, event: Mapping[str, Value]) -> None:
        """A node reports something."""
        self.events.append((trio.current_time(), node, event))
        news, self.news = self.news, trio.Event()
        news.set()

    def of(self, node: int, kind: str) -> list[tuple[float, Mapping[str, Value]]]:
        """The events of one kind of a node, with their times."""
        return [(at, e) for at, n, e in self.events if n == node and e["event"] == kind]

    @property
    def trace(self) -> str:
        """SHA-256 of all that the nodes reported, and when."""
        whole = sha256()
        for at, node, event in self.events:
            if event["event"] not in UNTRACED_EVENTS:
                kept = {k: v for k, v in event.items() if k not in UNTRACED_VALUES}
                whole.update(f"{at!r} {node} {json.dumps(kept, sort_keys=True)}\n".encode())
        return whole.hexdigest()


def simulate(plan: Plan, folder: Path) -> Story:
    """Run it; folder is empty and takes the nodes' homes.

    Raises trio.TooSlowError if it stalls, ConfigError if the others end while some are cut off.
    """
    began = time.perf_counter()
    story: Story = whole_time.run(_simulate, plan, folder, seed=plan.seed)
    story.wall_s = time.perf_counter() - began
    return story


async def _simulate(plan: Plan, folder: Path) -> Story:
    story, chance = Story(plan), random.Random(f"whole {plan.seed}")
    wires = Wires(LATENCY_S)
    swarm = _Swarm(story, folder, Ether(wires), chance)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            recipe = _recipe(plan, folder)
            nursery.start_soon(swarm.live, 0, recipe)
            link = await swarm.link()
            for node in range(1, plan.nodes):
                nursery.start_soon(swarm.live_later, node, link, START_S_MAX * chance.random())
            if plan.partition:
                nursery.start_soon(_cut_and_heal, story, wires, chance, nursery.cancel_scope)
    if story.healed_at_s is None and plan.partition:
        # They have gone home: whoever was cut off has nobody to fetch the end from.
        raise ConfigError(
            f"the others had done all {plan.rounds} rounds before the partition healed, and left; "
            "take more --rounds, or --no-partition"
        )
    story.virtual_s = trio.current_time()
    return story


@dataclass
class _Swarm:
    story: Story
    folder: Path
    ether: Ether
    chance: random.Random

    async def live(self, node: int, target: Recipe | SwarmLink) -> None:
        """One node from its start to its end."""
        config = self._home(node)
        carrier = self.ether.carrier(host_of(node), Uplink(self.chance.choice(UPLINKS)))
        options = JoinOptions(
            listen=(f"/ip4/{host_of(node)}/tcp/4001",),
            first_peers=self.story.plan.nodes - 1 if node == 0 else 0,
        )
        platform = Platform(
            carrier=carrier,
            start_worker=partial(TurnWorker.start, SPEED),
            stopper=_never,
        )
        telemetry = Telemetry(partial(self.story.note, node))
        self.story.summaries[node] = await join(config, target, options, telemetry, platform)

    async def live_later(self, node: int, link: SwarmLink, after_s: float) -> None:
        """The same, after a while."""
        await trio.sleep(after_s)
        await self.live(node, link)

    async def link(self) -> SwarmLink:
        """The founder's link, when it has one."""
        while not (said := self.story.of(0, "swarm")):
            await self.story.news.wait()
        return parse_link(str(said[0][1]["link"]))

    def _home(self, node: int) -> NodeConfig:
        home = self.folder / f"node-{node}"
        share_kernels(home, node_config().kernels_path)
        config = node_config(home)
        key = sha256(f"whole {self.story.plan.seed} {node}".encode()).digest()
        _write_key(config.identity_path, key)
        if node == 0:
            seed_digits(BlockStore(config.blocks_path))
        return config


def host_of(node: int) -> str:
    """The address of a simulated machine."""
    return f"10.0.{node >> 8}.{node & 255}"


def _write_key(path: Path, seed: bytes) -> None:
    path.parent.mkdir(parents=True)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _recipe(plan: Plan, folder: Path) -> Recipe:
    """The digits recipe with another number of rounds, and a smaller network."""
    text = recipe_path("digits").read_text()
    for old, new in (("rounds = 120", f"rounds = {plan.rounds}"), ("256", str(plan.hidden))):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / "digits.toml"
    path.write_text(text)
    return Recipe.from_file(path)


async def _never(stop: object) -> None:
    """Nobody stops a simulated node."""
    await trio.sleep_forever()


async def _cut_and_heal(
    story: Story, wires: Wires, chance: random.Random, run: trio.CancelScope
) -> None:
    """Cut off less than a half of the nodes, of two the second, and join them again."""
    nodes, first = story.plan.nodes, max(1, story.plan.rounds // 4)
    while not any(number(event["round"]) >= first for _, event in story.of(0, "round")):
        await story.news.wait()
    cut_off = chance.sample(range(1, nodes), max(1, (nodes - 1) // 3))
    story.cut_off, story.cut_at_s = frozenset(cut_off), trio.current_time()
    there = [host_of(node) for node in range(nodes) if node not in story.cut_off]
    wires.partition(there, [host_of(node) for node in cut_off])
    await trio.sleep(PARTITION_S)
    if story.cut_off | story.summaries.keys() == set(range(nodes)):
        run.cancel()
        return
    wires.heal()
    story.healed_at_s = trio.current_time()
