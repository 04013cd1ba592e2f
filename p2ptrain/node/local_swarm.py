"""Peers as processes of their own on this machine: what the demo shows and the tests use.

Each peer is `python -m p2ptrain.cli.main join ... --json`, or another command that goes on until it
is stopped, with a home folder of its own; its telemetry comes back as lines of JSON. Nothing is
shared but loopback and, to save compiling the kernels four times, the folder of compiled kernels.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from p2ptrain.errors import LocalProtocolError
from p2ptrain.node.telemetry import Value, number

STDERR_LINES_KEPT = 30  # enough for an error message and its advice
STOP_TIMEOUT_S = 10.0
EVENT_BYTES_MAX = 1 << 16

Event = dict[str, Value]


@dataclass
class PeerProcess:
    """One peer.

    name       for people
    home       its home folder
    command    what was started: a program and its arguments
    rounds     its "round" events
    latest     its newest event of each kind
    exit_code  None while it runs; negative: the signal that ended it
    killed     whether kill() was called
    """

    name: str
    home: Path
    process: trio.Process
    command: tuple[str, ...]
    rounds: list[Event] = field(default_factory=list)
    latest: dict[str, Event] = field(default_factory=dict)
    stderr: deque[str] = field(default_factory=lambda: deque(maxlen=STDERR_LINES_KEPT))
    exit_code: int | None = None
    killed: bool = False

    @property
    def round(self) -> int:
        """The newest round that it applied."""
        return int(number(self.rounds[-1]["round"])) if self.rounds else 0

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The node's process, and the compute process once it has started one; none when over."""
        if self.process.returncode is not None:
            return ()
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        started: list[int] = []
        with suppress(OSError):  # it has ended while we looked
            started += [int(child) for thread in threads for child in thread.read_text().split()]
        return (self.process.pid, *sorted(started))

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the node and what it started, as a machine that stands still would."""
        for process_id in self.process_ids:
            with suppress(ProcessLookupError):
                os.kill(process_id, number)


def share_kernels(home: Path, kernels: Path) -> None:
    """Let a home use a folder of compiled kernels outside it."""
    kernels.mkdir(parents=True, exist_ok=True)
    (home / "cache").mkdir(parents=True, exist_ok=True)
    link = home / "cache" / "kernels"
    if not link.exists():
        link.symlink_to(kernels, target_is_directory=True)


def peer_environment() -> dict[str, str]:
    """One thread a peer: several share this machine, and spinning threads would fight for it.

    No mDNS: they meet by their links alone, and this network hears nothing of them.
    """
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **one_thread, "P2PTRAIN_NO_MDNS": "1"}


@dataclass
class LocalSwarm:
    """Starts, watches and stops peers. `notice` is called with each peer and event as it comes."""

    notice: Callable[[PeerProcess, Event], None]
    peers: dict[str, PeerProcess] = field(default_factory=dict)
    _news: trio.Event = field(default_factory=trio.Event)

    async def start(
        self,
        nursery: trio.Nursery,
        name: str,
        home: Path,
        *arguments: str,
        command: tuple[str, ...] = ("join",),
    ) -> None:
        """Start a p2ptrain command with these arguments; nursery owns the tasks that read of it.

        A name that was used before stands for the new process from here on.
        """
        program = (sys.executable, "-m", "p2ptrain.cli.main", *command, "--json")
        await self._open(nursery, name, home, (*program, "--home", str(home), *arguments))

    async def restart(self, nursery: trio.Nursery, name: str) -> None:
        """Start a peer that has ended once more, by the command that it was started with."""
        peer = self.peers[name]
        await self._open(nursery, name, peer.home, peer.command)

    async def _open(
        self, nursery: trio.Nursery, name: str, home: Path, command: tuple[str, ...]
    ) -> None:
        process = await trio.lowlevel.open_process(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=peer_environment(),
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops its peers
        )
        peer = self.peers[name] = PeerProcess(name, home, process, command)
        nursery.start_soon(self._read_events, peer)
        nursery.start_soon(self._read_stderr, peer)

    def kill(self, name: str) -> None:
        """SIGKILL: the peer has no time for a last word."""
        self.peers[name].killed = True
        self.peers[name].process.kill()

    def freeze(self, name: str) -> None:
        """SIGSTOP: the peer stands still until thaw, as a laptop does that sleeps."""
        self.peers[name].signal_all(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT: the peer goes on where it stood."""
        self.peers[name].signal_all(signal.SIGCONT)

    def interrupt(self, name: str) -> None:
        """SIGINT, as Ctrl-C sends it."""
        self.peers[name].process.send_signal(signal.SIGINT)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the peers holds; looked at again after each event."""
        while not condition():
            await self._news.wait()

    async def stop_all(self) -> None:
        """Ask every peer that still runs to finish, then insist."""
        running = [peer for peer in self.peers.values() if peer.process.returncode is None]
        for peer in running:
            peer.process.send_signal(signal.SIGINT)
        with trio.move_on_after(STOP_TIMEOUT_S):
            for peer in running:
                await peer.process.wait()
        for peer in running:
            if peer.process.returncode is None:
                peer.process.kill()
            await peer.process.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _read_events(self, peer: PeerProcess) -> None:
        assert peer.process.stdout is not None
        async for line in _lines(peer.process.stdout):
            event = json.loads(line)
            peer.latest[str(event["event"])] = event
            if event["event"] == "round":
                peer.rounds.append(event)
            self.notice(peer, event)
            self._tell()
        peer.exit_code = await peer.process.wait()
        self.notice(peer, {"event": "exit", "code": peer.exit_code})
        self._tell()

    async def _read_stderr(self, peer: PeerProcess) -> None:
        assert peer.process.stderr is not None
        async for line in _lines(peer.process.stderr):
            peer.stderr.append(line.decode("utf-8", "replace"))


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    """The lines of a stream, without their ends; what follows the last end is dropped."""
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > EVENT_BYTES_MAX:
            raise LocalProtocolError("a peer printed a line without an end")
