"""Wires in memory: streams of bytes with latency, a limit on every uplink, partitions and breaks.

A stream behaves as TCP does: what is sent arrives whole and in order or the stream breaks; a sender
waits when WINDOW_BYTES are on the way or unread; closing lets what was sent arrive, and what the
other side still sends vanishes; a partition only delays (pings notice it, nothing else does).

Nothing is drawn at random and nothing reads a clock but trio's: under MockClock with an
autojump_threshold of 0 hours pass in milliseconds. simnet/memnet.py puts the switchboard on these
wires, simnet/whole_carrier.py libp2p.
"""

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

import trio

from p2ptrain.net.link import LinkBroken

WINDOW_BYTES = 1 << 18  # what Yamux starts with
PIECE_BYTES = 1 << 16  # what one stream puts on the uplink before another has its turn


@dataclass(eq=False)
class Uplink:
    """What a machine can send, all its streams together, which take turns piece by piece."""

    bytes_per_s: float = math.inf
    turn: trio.Lock = field(default_factory=trio.Lock)


class Pipe:
    """Bytes in one direction, on their way from one machine to another."""

    def __init__(self, wires: "Wires", sender: str, receiver: str, uplink: Uplink) -> None:
        self.ends = {sender, receiver}
        self._wires = wires
        self._uplink = uplink
        self._pieces: deque[tuple[float, bytes]] = deque()  # (when it arrives, what)
        self._unread_bytes = 0
        self._finished_at: float | None = None  # when the sender's end arrives
        self._abandoned = False  # the receiver has closed
        self._broken = False
        self._changed = trio.Event()

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            await self._send_piece(data[start : start + PIECE_BYTES])

    async def _send_piece(self, piece: bytes) -> None:
        while self._unread_bytes >= WINDOW_BYTES and not (self._broken or self._abandoned):
            await self._changed.wait()
        async with self._uplink.turn:
            await trio.sleep(len(piece) / self._uplink.bytes_per_s)
        if self._broken or self._finished_at is not None:
            raise LinkBroken("the connection broke")
        if not self._abandoned:
            self._pieces.append((trio.current_time() + self._wires.latency_s, piece))
            self._unread_bytes += len(piece)
            self.change()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._broken:
                raise LinkBroken("the connection broke")
            if self._abandoned:
                return b""
            arrives_at = self._next_arrival_at()
            if arrives_at > trio.current_time():
                with trio.move_on_at(arrives_at):
                    await self._changed.wait()
            elif not self._pieces:
                return b""  # the sender's end
            else:
                _, piece = self._pieces.popleft()
                self._unread_bytes -= len(piece)
                self.change()
                return piece

    def _next_arrival_at(self) -> float:
        if not self._wires.joins(self.ends):
            return math.inf
        if self._pieces:
            return self._pieces[0][0]
        return math.inf if self._finished_at is None else self._finished_at

    def finish(self) -> None:
        if self._finished_at is None:
            self._finished_at = trio.current_time() + self._wires.latency_s
        self.change()

    def abandon(self) -> None:
        self._abandoned = True
        self._pieces.clear()
        self.change()

    def break_off(self) -> None:
        self._broken = True
        self.change()

    def change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Wires:
    """The streams between machines, which are known by any names.

    latency_s  one way, on every stream, seconds
    """

    def __init__(self, latency_s: float = 0.0) -> None:
        """Start with everyone joined to everyone."""
        self.latency_s = latency_s
        self._pipes: dict[Pipe, None] = {}  # in the order of laying, so that it is the same again
        self._groups: tuple[frozenset[str], ...] = ()

    def lay(self, *pipes: Pipe) -> None:
        """These pipes are in use."""
        self._pipes.update(dict.fromkeys(pipes))

    def take_up(self, *pipes: Pipe) -> None:
        """These are not any more."""
        for pipe in pipes:
            self._pipes.pop(pipe, None)

    def joins(self, machines: Collection[str]) -> bool:
        """Whether packets can pass between the machines."""
        return not self._groups or any(group.issuperset(machines) for group in self._groups)

    def partition(self, *groups: Collection[str]) -> None:
        """From now on packets pass only within a group; a machine in no group is alone."""
        self._groups = tuple(frozenset(group) for group in groups)
        self._wake()

    def heal(self) -> None:
        """Join everyone again; what was held back by a partition arrives now."""
        self._groups = ()
        self._wake()

    def cut(self, one: str, other: str) -> None:
        """Break every connection between two machines at once, as a router that forgets them."""
        for pipe in list(self._pipes):
            if pipe.ends == {one, other}:
                pipe.break_off()
                self.take_up(pipe)

    def _wake(self) -> None:
        for pipe in self._pipes:
            pipe.change()
