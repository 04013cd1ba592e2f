"""Peers as processes over libp2p on loopback: killed, interrupted, refused, started again.

Nothing here sleeps: each step waits for an event of a peer's telemetry, and all of a test is
bounded by STORY_TIMEOUT_S.
"""

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from p2ptrain.config_local import SwarmLink, node_config, parse_link
from p2ptrain.data.shipped import recipe_path, seed_digits
from p2ptrain.node.local_swarm import Event, LocalSwarm, PeerProcess, share_kernels
from p2ptrain.node.telemetry import number
from p2ptrain.store.blocks import BlockStore
from p2ptrain.swarm.inputs import Timing
from p2ptrain.wire.cid import cid_of

STORY_TIMEOUT_S = 90.0  # several times what a quiet machine needs
EVENTS_SHOWN = 40
SOON_S = 5.0  # for what should happen at once, on a busy machine
EXIT_S = 20.0  # to start, do what there is, and end, beside another test of many processes
LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0")
ALONE = (*LISTEN, "--threads", "1")


@dataclass
class Story:
    """A swarm under test, and all that its peers have said."""

    folder: Path
    nursery: trio.Nursery
    swarm: LocalSwarm
    events: list[tuple[str, Event]] = field(default_factory=list)

    def home(self, name: str, *, with_data: bool = False) -> Path:
        """A peer's home; compiled kernels are shared with the user's own."""
        home = self.folder / name
        share_kernels(home, node_config().kernels_path)
        if with_data:
            seed_digits(BlockStore(node_config(home).blocks_path))
        return home

    async def found(self, recipe: Path, *arguments: str, name: str = "one") -> PeerProcess:
        """Start a founder that has the data."""
        home = self.home(name, with_data=True)
        return await self.start(name, home, "--swarm", str(recipe), *arguments)

    async def join(self, name: str, link: str, *arguments: str) -> PeerProcess:
        """Start a peer that has nothing but a link."""
        return await self.start(name, self.home(name), "--swarm", link, *arguments)

    async def start(self, name: str, home: Path, *arguments: str) -> PeerProcess:
        await self.swarm.start(self.nursery, name, home, *ALONE, *arguments)
        return self.swarm.peers[name]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for it; when all processes have ended it cannot come any more."""
        peers = self.swarm.peers.values()
        await self.swarm.wait_until(
            lambda: bool(condition()) or all(peer.exit_code is not None for peer in peers)
        )
        assert condition(), [(peer.name, peer.exit_code, *peer.stderr) for peer in peers]

    async def link_of(self, peer: PeerProcess) -> str:
        await self.until(lambda: "swarm" in peer.latest or peer.exit_code is not None)
        assert "swarm" in peer.latest, "\n".join(peer.stderr)
        return str(peer.latest["swarm"]["link"])

    async def end_of(self, *peers: PeerProcess) -> list[Event]:
        """Wait for peers to end by themselves; their sums."""
        await self.until(lambda: all(peer.exit_code is not None for peer in peers))
        for peer in peers:
            assert peer.exit_code == 0, f"{peer.name}: {peer.exit_code}\n" + "\n".join(peer.stderr)
        return [peer.latest["done"] for peer in peers]

    async def code_of(self, peer: PeerProcess) -> int:
        """Wait for a peer that should end at once."""
        with trio.fail_after(EXIT_S):
            await self.until(lambda: peer.exit_code is not None)
        assert peer.exit_code is not None
        return peer.exit_code

    def said(self, peer: PeerProcess, event: str) -> list[Event]:
        """All events of one kind of one peer."""
        return [e for name, e in self.events if name == peer.name and e["event"] == event]


@asynccontextmanager
async def story(folder: Path) -> AsyncIterator[Story]:
    events: list[tuple[str, Event]] = []
    swarm = LocalSwarm(lambda peer, event: events.append((peer.name, event)))
    try:
        with trio.fail_after(STORY_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                yield Story(folder, nursery, swarm, events)
                nursery.cancel_scope.cancel()
    finally:
        for name, event in events[-EVENTS_SHOWN:]:  # pytest shows them if the test has failed
            sys.stdout.write(f"{name:10} {event}\n")
        with trio.CancelScope(shield=True):
            for peer in swarm.peers.values():
                peer.process.kill()
                await peer.process.wait()


def recipe(folder: Path, rounds: int, local_steps: int = 5) -> Path:
    """The digits recipe with other numbers."""
    text = recipe_path("digits").read_text()
    for key, value in (("rounds", rounds), ("local_steps", local_steps)):
        text, found = re.subn(rf"(?m)^{key} = \d+", f"{key} = {value}", text)
        assert found == 1
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def contributions(peer: PeerProcess) -> int:
    """Rounds with its work in them; a newcomer follows a few before it contributes."""
    return sum(event["included"] is True for event in peer.rounds)


def compute_process_of(peer: PeerProcess) -> int:
    """The process id of a node's compute process: its only child."""
    threads = Path(f"/proc/{peer.process.pid}/task").glob("*/children")
    (child,) = "".join(thread.read_text() for thread in threads).split()
    return int(child)


# --- two peers, one of them killed ------------------------------------------------------------


async def test_a_survivor_goes_on_alone_and_the_other_comes_back_to_the_same_bits(
    tmp_path: Path,
) -> None:
    async with story(tmp_path) as s:
        # Long rounds: the survivor alone must not be through before the other is back.
        one = await s.found(recipe(tmp_path, rounds=60, local_steps=600), "--wait-for", "1")
        link = await s.link_of(one)
        two = await s.join("two", link)
        await s.until(lambda: contributions(two) >= 3)
        s.swarm.kill("two")
        killed_at, round_then = trio.current_time(), one.round
        await s.until(lambda: one.rounds[-1]["branch"])
        waited = trio.current_time() - killed_at
        assert waited < Timing().branch_s + SOON_S
        assert one.round > round_then
        two = await s.join("two", link)
        await s.until(lambda: "resumed" in two.latest)
        assert number(two.latest["resumed"]["round"]) >= 3
        fetched = [event["what"] for event in s.said(two, "fetched")]
        assert fetched == ["recipe", "manifest", "data set"], "the second time from its own store"
        first, second = await s.end_of(one, two)
        assert first["weights_sha256"] == second["weights_sha256"]
        assert first["rounds"] == second["rounds"] == 60
        assert any(event["included"] for event in two.rounds)


# --- three peers: a compute process dies, one leaves -------------------------------------------


async def test_a_lost_compute_process_and_a_peer_that_leaves_hold_nobody_up(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        one = await s.found(recipe(tmp_path, rounds=120, local_steps=5), "--wait-for", "2")
        link = await s.link_of(one)
        two, three = await s.join("two", link), await s.join("three", link)
        await s.until(lambda: min(map(contributions, (one, two, three))) >= 3)

        os.kill(compute_process_of(two), signal.SIGKILL)
        await s.until(lambda: any("SIGKILL" in str(e["text"]) for e in s.said(two, "warning")))
        dead_at = two.round
        await s.until(
            lambda: any(e["included"] for e in two.rounds if number(e["round"]) > dead_at + 1)
        )

        s.swarm.interrupt("three")
        assert await s.code_of(three) == 0
        left = three.latest["done"]
        assert not left["finished"]
        assert left["contributed"]
        first, second = await s.end_of(one, two)
        assert first["weights_sha256"] == second["weights_sha256"]
        assert first["finished"]
        assert second["finished"]
        assert left["peer"] in [event["peer"] for event in s.said(one, "goodbye")]
        assert [event for event in one.rounds if event["members"] == 2]
        since = [event for event in one.rounds if number(event["round"]) >= number(left["rounds"])]
        # A block that is applied again after catching up is told again.
        views = sorted({int(number(event["view"])) for event in since})
        assert views == list(range(views[0], views[0] + len(views))), "no view failed"


# --- Ctrl-C ------------------------------------------------------------------------------------


async def test_a_second_interrupt_stops_a_peer_that_waits_for_another_one(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        one = await s.found(recipe(tmp_path, rounds=200), "--wait-for", "1")
        two = await s.join("two", await s.link_of(one))
        await s.until(lambda: contributions(two) >= 1)
        two.process.send_signal(signal.SIGSTOP)  # the round cannot be finished without it
        await s.until(lambda: "waiting" in one.latest)
        s.swarm.interrupt("one")
        await s.until(lambda: one.latest["phase"]["phase"] == "leaving")
        s.swarm.interrupt("one")
        assert await s.code_of(one) == 130
        assert "done" not in one.latest


async def test_interrupts_before_training_end_a_peer_and_strangers_are_refused_with_words(
    tmp_path: Path,
) -> None:
    async with story(tmp_path) as s:
        founder = await s.found(recipe(tmp_path, rounds=9), "--wait-for", "1")
        (address, *_) = parse_link(await s.link_of(founder)).peers
        other_swarm = SwarmLink(cid_of(b"another recipe"), (address,))
        stranger = await s.join("stranger", str(other_swarm))
        lonely = await s.join("lonely", cid_of(b"a recipe that nobody has"))

        await s.until(lambda: stranger.exit_code is not None)
        words = "\n".join(stranger.stderr)
        assert stranger.exit_code == 6, words
        assert f"this peer is in {founder.latest['swarm']['swarm']}" in words
        assert f"not in {other_swarm.swarm_id}" in words

        await s.until(lambda: "fetching" in lonely.latest)
        s.swarm.interrupt("lonely")
        assert await s.code_of(lonely) == 0
        await s.until(lambda: founder.latest.get("phase", {}).get("phase") == "training")
        s.swarm.interrupt("one")
        assert await s.code_of(founder) == 0


# --- seeders, and how long a peer stays -----------------------------------------------------------


async def test_a_founder_gets_its_data_from_a_seeder_and_leaves_after_its_rounds(
    tmp_path: Path,
) -> None:
    async with story(tmp_path) as s:
        await s.swarm.start(
            s.nursery,
            "seeder",
            s.home("seeder"),
            "digits",
            *LISTEN,
            command=("seed", "dataset"),
        )
        seeder = s.swarm.peers["seeder"]
        await s.until(lambda: "started" in seeder.latest)
        addresses = seeder.latest["started"]["addresses"]
        assert isinstance(addresses, list)
        founder = await s.start(
            "founder",
            s.home("founder"),
            "--swarm",
            str(recipe(tmp_path, rounds=30)),
            "--peer",
            addresses[0],
            "--rounds",
            "3",
        )
        (done,) = await s.end_of(founder)
        assert [e["what"] for e in s.said(founder, "fetched")] == ["manifest", "data set"]
        assert done["contributed"] == done["rounds"] == 3
        assert not done["finished"]
        s.swarm.interrupt("seeder")
        assert await s.code_of(seeder) == 0


async def test_a_founder_without_data_and_peers_is_told_at_once_what_to_do(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        founder = await s.start(
            "founder", s.home("founder"), "--swarm", str(recipe(tmp_path, rounds=3))
        )
        await s.until(lambda: founder.exit_code is not None)
        words = "\n".join(founder.stderr)
        assert founder.exit_code == 3, words
        assert "p2ptrain seed dataset PATH --once" in words
        assert not s.said(founder, "fetching")
