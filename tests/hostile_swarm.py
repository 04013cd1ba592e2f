"""A trial: a real swarm of honest processes, hostile ones among them, and what came of it.

Honest peers are `p2ptrain join --json` in processes and homes of their own; the first of them, the
founder, is watched (swarm_watch.py). Hostile peers are tests/hostile.py. Everything goes over
libp2p on loopback; only the folder of compiled kernels is shared.

Used by test_hostile.py, in short, and by benchmarks/hostile.py, which prints the table.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import hostile_judge
import trio
from hostile_strangers import STRANGERS
from swarm_watch import Note

from p2ptrain.config_local import node_config, parse_link
from p2ptrain.data.shipped import recipe_path, seed_digits
from p2ptrain.node.local_swarm import Event, LocalSwarm, PeerProcess, share_kernels
from p2ptrain.node.telemetry import number
from p2ptrain.store.blocks import BlockStore

HERE = Path(__file__).parent
ALONE = ("--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1")
SAMPLE_EVERY_S = 0.2
NAMES = ("one", "two", "three", "four", "five")  # of honest peers; the first is watched
WATCHED = NAMES[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """A trial to be.

    hostile      behaviours, one process each
    honest       honest peers; the first is the founder
    rounds       of the run
    local_steps  of a round
    timeout_s    all of it
    during       done beside the run once all have contributed, such as killing somebody
    """

    hostile: tuple[str, ...] = ()
    honest: int = 3
    rounds: int = 40
    local_steps: int = 5
    timeout_s: float = 120.0
    during: Callable[[Trial], Awaitable[None]] | None = None

    @property
    def members(self) -> list[str]:
        """Behaviours of those that ask to be admitted."""
        return [name for name in self.hostile if kind_of(name) not in STRANGERS]


@dataclass
class Trial:
    """A swarm under attack, and what its peers have said and used.

    peak_kib  most resident memory since its first round: (peer's name, "node" or "compute")
    """

    folder: Path
    plan: Plan
    swarm: LocalSwarm
    events: list[tuple[str, Event]] = field(default_factory=list)
    peak_kib: Counter[tuple[str, str]] = field(default_factory=Counter)
    peak_files: Counter[str] = field(default_factory=Counter)
    excused: set[str] = field(default_factory=set)

    # --- who ----------------------------------------------------------------------------------
    @property
    def honest(self) -> list[PeerProcess]:
        """The honest peers that are to reach the end."""
        named = (f"{n}" for n in NAMES[: self.plan.honest])
        return [self.swarm.peers[n] for n in named if n not in self.excused]

    def id_of(self, name: str) -> str:
        """A peer's id, once it has told it."""
        return str(self.swarm.peers[name].latest.get("started", {}).get("peer", ""))

    @property
    def record(self) -> Path:
        """What the watched peer wrote down."""
        return self.folder / "record"

    # --- what they said -----------------------------------------------------------------------
    def said(self, event: str, *, by: str | None = None) -> list[Event]:
        """Events of one kind, of one peer or of all honest ones."""
        names = {by} if by else {peer.name for peer in self.honest}
        return [e for name, e in self.events if name in names and e["event"] == event]

    def strikes_of(self, name: str) -> Counter[str]:
        """Rules that honest peers struck a peer by, and how often."""
        peer = self.id_of(name)
        return Counter(str(e["rule"]) for e in self.said("strike") if e["peer"] == peer)

    def proofs_of(self, name: str) -> int:
        """Times that an honest peer held two statements of a peer that exclude each other."""
        return sum(e["peer"] == self.id_of(name) for e in self.said("proof"))

    def lies(self, name: str) -> dict[str, int]:
        """What a hostile peer says that it did, and how often."""
        return {str(e["what"]): int(number(e["count"])) for e in self.said("lied", by=name)}

    @property
    def hashes(self) -> set[str]:
        """SHA-256 of the honest peers' weights; one, if all is well."""
        return {str(peer.latest["done"]["weights_sha256"]) for peer in self.honest}

    @property
    def accuracy(self) -> float:
        """The lowest of the honest peers'."""
        return min(number(peer.latest["done"]["accuracy"]) for peer in self.honest)

    # --- what the watched peer measured -------------------------------------------------------
    @property
    def judged(self) -> list[hostile_judge.Judged]:
        """Every round that the watched peer reduced itself."""
        return self.judged_as(
            {
                (self.id_of(name), int(number(event["round"])))
                for name in self.plan.hostile
                for event in self.said("tampered", by=name)
            }
        )

    def judged_as(self, lies: hostile_judge.Lies) -> list[hostile_judge.Judged]:
        """The same, if these contributions (peer, round) were the lies."""
        named = NAMES[: self.plan.honest]
        return hostile_judge.read(self.record, lies, {self.id_of(name) for name in named})

    @property
    def failures(self) -> list[Note]:
        """Views that the watched peer saw fail."""
        return hostile_judge.failures(self.record)

    @property
    def waits(self) -> list[tuple[str, float, float]]:
        """All waits that honest peers told: what for, for how long, and until when at most."""
        told = [str(wait) for e in self.said("waiting") for wait in _texts(e["waits"])]
        found = (re.fullmatch(r"(.*) \((\d+) s of (\d+|inf)\)", wait) for wait in told)
        return [(m[1], float(m[2]), float(m[3])) for m in found if m]


def kind_of(name: str) -> str:
    """The behaviour of a hostile process: its name is behaviour or behaviour#2."""
    return name.partition("#")[0]


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


@asynccontextmanager
async def trial(folder: Path, plan: Plan) -> AsyncIterator[Trial]:
    """Run a trial; the block is entered when the honest peers have ended by themselves.

    Raises AssertionError with what the peers said if one of them ends otherwise, or too late.
    """
    events: list[tuple[str, Event]] = []
    swarm = LocalSwarm(lambda peer, event: events.append((peer.name, event)))
    running = Trial(folder, plan, swarm, events)
    try:
        with trio.move_on_after(plan.timeout_s) as clock:
            async with trio.open_nursery() as nursery:
                await _play(nursery, running)
                nursery.cancel_scope.cancel()
        assert not clock.cancelled_caught, f"not over in time: {where(running)}"
        yield running
    finally:
        with trio.CancelScope(shield=True):
            for peer in swarm.peers.values():
                with suppress(ProcessLookupError):
                    peer.process.kill()
                await peer.process.wait()


def where(running: Trial) -> str:
    """Where each peer stands, for whoever reads a failure."""
    return "\n".join(
        f"{peer.name}: round {peer.round}, exit {peer.exit_code}, "
        f"{peer.latest.get('waiting', {}).get('waits')}, {[*peer.stderr][-3:]}"
        for peer in running.swarm.peers.values()
    )


async def _play(nursery: trio.Nursery, running: Trial) -> None:
    plan, swarm = running.plan, running.swarm
    recipe = _recipe(running.folder, plan)
    expected = plan.honest - 1 + len(plan.members)
    watched = (sys.executable, str(HERE / "swarm_watch.py"), str(running.record))
    founder = _home(running, WATCHED)
    seed_digits(BlockStore(node_config(founder).blocks_path))
    join = ("join", "--json", "--home")
    await swarm._open(
        nursery,
        WATCHED,
        founder,
        (
            *watched,
            *join,
            str(founder),
            "--swarm",
            str(recipe),
            *ALONE,
            "--wait-for",
            f"{expected}",
        ),
    )
    await _until(running, lambda: "swarm" in swarm.peers[WATCHED].latest)
    link = str(swarm.peers[WATCHED].latest["swarm"]["link"])
    for name in NAMES[1 : plan.honest]:
        await swarm.start(nursery, name, _home(running, name), "--swarm", link, *ALONE)
    for name in plan.members:
        home = _home(running, name)
        liar = (sys.executable, str(HERE / "hostile.py"), kind_of(name))
        await swarm._open(nursery, name, home, (*liar, *join, str(home), "--swarm", link, *ALONE))
    await _until(running, lambda: all("started" in peer.latest for peer in running.honest))
    addresses = [_texts(p.latest["started"]["addresses"])[0] for p in running.honest]
    for name in plan.hostile:
        if kind_of(name) in STRANGERS:
            program = (sys.executable, str(HERE / "hostile.py"), kind_of(name))
            swarm_id = str(parse_link(link).swarm_id)
            await swarm._open(nursery, name, running.folder, (*program, swarm_id, *addresses))
    nursery.start_soon(_sample_memory, running)
    if plan.during is not None:
        await _until(running, lambda: all(peer.round >= 2 for peer in running.honest))
        await plan.during(running)
    await _until(running, lambda: all("done" in peer.latest for peer in running.honest))
    await _until(running, lambda: all(peer.exit_code == 0 for peer in running.honest))


async def _until(running: Trial, condition: Callable[[], bool]) -> None:
    """Wait for it; raise when an honest peer has ended that should not have."""

    def ended() -> list[PeerProcess]:
        peers = running.swarm.peers
        known = [peers[n] for n in NAMES if n in peers]
        mine = [peer for peer in known if peer.name not in running.excused]
        return [p for p in mine if p.exit_code not in (None, 0)]

    await running.swarm.wait_until(lambda: condition() or bool(ended()))
    assert not ended(), where(running)


def _home(running: Trial, name: str) -> Path:
    home = running.folder / re.sub("[^a-z0-9]", "-", name)[:60]
    share_kernels(home, node_config().kernels_path)
    return home


def _recipe(folder: Path, plan: Plan) -> Path:
    text = recipe_path("digits").read_text()
    for key, value in (("rounds", plan.rounds), ("local_steps", plan.local_steps)):
        text = re.sub(rf"(?m)^{key} = \d+", f"{key} = {value}", text)
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


# --- memory --------------------------------------------------------------------------------------
async def _sample_memory(running: Trial) -> None:
    """Keep the peak of each honest process, once its rounds have begun."""
    while True:
        for peer in running.honest:
            if peer.rounds and peer.exit_code is None:
                with suppress(OSError):  # it may end at any moment
                    _sample(running, peer)
        await trio.sleep(SAMPLE_EVERY_S)


def _sample(running: Trial, peer: PeerProcess) -> None:
    pid = peer.process.pid
    children = Path(f"/proc/{pid}/task").glob("*/children")
    compute = "".join(child.read_text() for child in children).split()
    for kind, each in (("node", pid), *(("compute", int(child)) for child in compute)):
        key = (peer.name, kind)
        running.peak_kib[key] = max(running.peak_kib[key], resident_kib(each))
    files = len(os.listdir(f"/proc/{pid}/fd"))
    running.peak_files[peer.name] = max(running.peak_files[peer.name], files)


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
