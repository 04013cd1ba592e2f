"""A swarm of processes on this machine whose peers come and go: one home, port and name each.

Ports and peer ids are fixed before anybody starts, so one link names everyone and whoever is
started again finds the others by it, as it would after a power cut at home. What the peers say is
kept: all of it in a file a peer (`logs/`), and of each round only what the checks need.

The checks of a whole story stand in record.py; which faults strike is drawn by crashes.py and
chaos.py.
"""

import json
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import trio

from p2ptrain.config import Recipe
from p2ptrain.config_local import SwarmLink, node_config
from p2ptrain.data.shipped import recipe_path, seed_digits
from p2ptrain.net.identity import load_or_create
from p2ptrain.node.local_swarm import Event, LocalSwarm, PeerProcess, share_kernels
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import Cid
from soak.record import Record

# Below the range from which the system takes ports for outgoing connections (32768 and up): the
# port of a peer that is down must still be free when it comes back.
PORTS = (20_000, 32_000)
JOIN = ("--threads", "1")


class SoakFailed(Exception):
    """A peer, or all of them, did not do what was expected; the words say what."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A swarm to be.

    names        of its peers, the founder first
    rounds       of its recipe
    local_steps  of its recipe: a step of a digits peer takes about half a millisecond
    """

    names: tuple[str, ...]
    rounds: int
    local_steps: int


@dataclass
class Ground:
    """The swarm: where it is kept, how its peers are started, and what they have said."""

    folder: Path
    plan: Plan
    swarm_id: Cid
    commands: dict[str, tuple[str, ...]]
    swarm: LocalSwarm
    nursery: trio.Nursery
    record: Record

    def home(self, name: str) -> Path:
        """The home folder of a peer."""
        return self.folder / name

    def transcript(self, name: str) -> Path:
        """The file with all that a peer has adopted."""
        return node_config(self.home(name)).transcript_path(self.swarm_id)

    async def start(self, name: str) -> None:
        """Start a peer, for the first time or once more."""
        self.record.starts(name, trio.current_time())
        await self.swarm.start(self.nursery, name, self.home(name), *self.commands[name])

    def peer(self, name: str) -> PeerProcess:
        """The newest process of a peer."""
        return self.swarm.peers[name]

    def is_running(self, name: str) -> bool:
        """Whether a peer was started and has not been seen to end."""
        return name in self.swarm.peers and self.peer(name).exit_code is None

    async def kill(self, names: Sequence[str], apart_s: Sequence[float] = ()) -> None:
        """SIGKILL these peers, in this order, so far apart; return when all have ended."""
        for i, name in enumerate(names):
            if i and apart_s:
                await trio.sleep(apart_s[i - 1])
            if self.is_running(name):
                self.swarm.kill(name)
        await self.swarm.wait_until(lambda: not any(self.is_running(name) for name in names))

    async def until(self, condition: Callable[[], bool], limit_s: float, what: str) -> float:
        """Wait for a condition; seconds that it took. Raises SoakFailed after limit_s."""
        began = trio.current_time()
        with trio.move_on_after(limit_s) as timer:
            await self.swarm.wait_until(lambda: condition() or bool(self._wrong()))
        if wrong := self._wrong():
            raise SoakFailed("\n".join(wrong))
        if timer.cancelled_caught:
            raise SoakFailed(f"not within {limit_s:.0f} s: {what}\n{self.standing()}")
        return trio.current_time() - began

    def _wrong(self) -> list[str]:
        """What must never happen and did."""
        ends = [(name, peer.exit_code, peer.stderr) for name, peer in self.swarm.peers.items()]
        failed = [
            f"{name} ended with {code}:\n" + "\n".join(words)
            for name, code, words in ends
            if code is not None and code > 0
        ]
        return self.record.wrong + failed

    def standing(self) -> str:
        """Where everyone is, for people."""
        lines = []
        for name, peer in self.swarm.peers.items():
            state = "runs" if peer.exit_code is None else f"ended with {peer.exit_code}"
            words = " ".join(list(peer.stderr)[-6:])
            newest = {kind: event["t"] for kind, event in peer.latest.items()}
            waits = peer.latest.get("waiting", {}).get("waits", "")
            lines.append(
                f"  {name} {state}, round {peer.round}, waits {waits} {words}\n    {newest}"
            )
        return "\n".join(lines)


@asynccontextmanager
async def ground(folder: Path, plan: Plan) -> AsyncIterator[Ground]:
    """Homes and identities in a new folder; at the end all processes are ended."""
    record, logs = Record(), _Logs(folder / "logs")

    def notice(peer: PeerProcess, event: Event) -> None:
        logs.write(peer.name, event)
        record.take(peer.name, trio.current_time(), event)

    swarm = LocalSwarm(notice)
    swarm_id, commands = await trio.to_thread.run_sync(_prepare, folder, plan)
    try:
        async with trio.open_nursery() as nursery:
            yield Ground(folder, plan, swarm_id, commands, swarm, nursery, record)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            for peer in swarm.peers.values():
                swarm.thaw(peer.name)
                peer.process.kill()
                await peer.process.wait()
        logs.close()


def _prepare(folder: Path, plan: Plan) -> tuple[Cid, dict[str, tuple[str, ...]]]:
    """Make the homes; returns the swarm's id and each peer's arguments."""
    addresses, ports = {}, _free_ports(len(plan.names))
    for name, port in zip(plan.names, ports, strict=True):
        home = folder / name
        share_kernels(home, node_config().kernels_path)
        config = node_config(home)
        seed_digits(BlockStore(config.blocks_path))
        identity = load_or_create(config.identity_path)
        addresses[name] = f"/ip4/127.0.0.1/tcp/{port}", f"/p2p/{identity.peer_id}"
    founder = node_config(folder / plan.names[0])
    recipe = _recipe(folder, plan).founded_by(load_or_create(founder.identity_path).peer_id)
    swarm_id = BlockStore(founder.blocks_path).put(recipe.canonical)
    link = SwarmLink(swarm_id, tuple(address + peer for address, peer in addresses.values()))
    commands: dict[str, tuple[str, ...]] = {
        name: ("--swarm", str(link), "--listen", address, *JOIN)
        for name, (address, _) in addresses.items()
    }
    commands[plan.names[0]] += ("--wait-for", str(len(plan.names) - 1))
    return swarm_id, commands


def _recipe(folder: Path, plan: Plan) -> Recipe:
    """The digits recipe with the plan's numbers."""
    text = recipe_path("digits").read_text()
    for key, value in (("rounds", plan.rounds), ("local_steps", plan.local_steps)):
        text, found = re.subn(rf"(?m)^{key} = \d+", f"{key} = {value}", text)
        assert found == 1
    path = folder / "recipe.toml"
    path.write_text(text)
    return Recipe.from_file(path)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now; which ones, is no part of a seed's story."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as probe:
            if port not in found and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


class _Logs:
    """A file for each peer with all that it said, a line of JSON each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._files: dict[str, TextIO] = {}

    def write(self, name: str, event: Event) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.jsonl").open("w")
        self._files[name].write(json.dumps({"at": round(trio.current_time(), 3), **event}) + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
