"""A network in memory for whole transports: the production switchboard over simulated links.

Everything above the lanes is what runs over libp2p; only the streams are simulated, with latency,
bandwidth, partitions and broken connections. Nothing is drawn at random and nothing reads a clock
but trio's: under trio.testing.MockClock(autojump_threshold=0) hours pass in milliseconds.

A stream behaves as TCP does: what is sent arrives whole and in order or the stream breaks; a sender
waits when WINDOW_BYTES are on the way or unread; closing lets what was sent arrive, and what the
other side still sends vanishes; a partition only delays (pings notice it, nothing else does).

    net = MemNet(latency_s=0.05, uplink_bytes_per_s=1e6)
    async with net.open(identity, etiquette) as transport: ...
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2ptrain.net.identity import Identity
from p2ptrain.net.link import Link, LinkBroken
from p2ptrain.net.switchboard import Switchboard
from p2ptrain.net.transport import Etiquette
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.wire.peer_id import PeerId, peer_id_in

WINDOW_BYTES = 1 << 18  # what Yamux starts with
PIECE_BYTES = 1 << 16  # what one lane puts on the uplink before another lane has its turn


@dataclass(eq=False)
class _Host:
    switchboard: Switchboard
    nursery: trio.Nursery
    reachable: bool
    uplink: trio.Lock = field(default_factory=trio.Lock)


class _Pipe:
    """One lane in one direction."""

    def __init__(self, net: "MemNet", sender: PeerId, receiver: PeerId, uplink: trio.Lock) -> None:
        self.ends = {sender, receiver}
        self._net = net
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
        async with self._uplink:
            await trio.sleep(len(piece) / self._net.uplink_bytes_per_s)
        if self._broken or self._finished_at is not None:
            raise LinkBroken("the connection broke")
        if not self._abandoned:
            self._pieces.append((trio.current_time() + self._net.latency_s, piece))
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
        if not self._net.joins(self.ends):
            return math.inf
        if self._pieces:
            return self._pieces[0][0]
        return math.inf if self._finished_at is None else self._finished_at

    def finish(self) -> None:
        if self._finished_at is None:
            self._finished_at = trio.current_time() + self._net.latency_s
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


@dataclass(frozen=True, slots=True)
class _MemLane:
    outward: _Pipe
    inward: _Pipe

    async def send_all(self, data: bytes) -> None:
        await self.outward.send(data)

    async def receive_some(self) -> bytes:
        return await self.inward.receive()


class MemNet:
    """Hosts and the links between them.

    latency_s            one way, on every link, seconds
    uplink_bytes_per_s   what a host can send, all its lanes together
    """

    def __init__(self, *, latency_s: float = 0.0, uplink_bytes_per_s: float = math.inf) -> None:
        """Start with no hosts and everyone joined to everyone."""
        self.latency_s = latency_s
        self.uplink_bytes_per_s = uplink_bytes_per_s
        self._hosts: dict[PeerId, _Host] = {}
        self._pipes: set[_Pipe] = set()
        self._groups: tuple[frozenset[PeerId], ...] = ()

    @asynccontextmanager
    async def open(
        self, identity: Identity, etiquette: Etiquette, *, reachable: bool = True
    ) -> AsyncIterator[Switchboard]:
        """A Transport on this network; if not reachable, it can dial but not be dialled."""
        me = identity.peer_id
        with lone_exception():
            async with trio.open_nursery() as nursery:
                switchboard = Switchboard(me, etiquette, lambda a: self.connect(me, a), nursery)
                if reachable:
                    switchboard.addresses = (f"/memory/1/p2p/{me}",)
                self._hosts[me] = _Host(switchboard, nursery, reachable)
                try:
                    yield switchboard
                finally:
                    with trio.CancelScope(shield=True):  # bounded by GOODBYE_TIMEOUT_S
                        await switchboard.leave("it is stopping")
                    del self._hosts[me]
                    nursery.cancel_scope.cancel()

    async def connect(self, me: PeerId, address: str) -> Link:
        """A link from a peer, which need not have a transport here. Raises LinkBroken."""
        peer = peer_id_in(address)
        if not self.joins({me, peer}):
            await trio.sleep_forever()  # packets vanish; whoever dials has a deadline
        await trio.sleep(4 * self.latency_s)  # TCP's handshake, and Noise's
        host = self._hosts.get(peer)
        if host is None or not host.reachable:
            raise LinkBroken("connection refused")
        mine = self._hosts.get(me)
        uplink = trio.Lock() if mine is None else mine.uplink
        out = [_Pipe(self, me, peer, uplink) for _ in range(2)]
        back = [_Pipe(self, peer, me, host.uplink) for _ in range(2)]
        self._pipes.update(out, back)
        host.nursery.start_soon(host.switchboard.accept, self._link(me, "", back, out))
        return self._link(peer, address, out, back)

    def _link(self, peer: PeerId, address: str, out: list[_Pipe], back: list[_Pipe]) -> Link:
        async def close() -> None:
            await trio.lowlevel.checkpoint()
            for pipe in out:
                pipe.finish()
            for pipe in back:
                pipe.abandon()
            self._pipes.difference_update(back)

        control, bulk = (_MemLane(*pipes) for pipes in zip(out, back, strict=True))
        return Link(peer, address, bool(address), control, bulk, close)

    def joins(self, peers: Collection[PeerId]) -> bool:
        """Whether packets can pass between the peers."""
        return not self._groups or any(group.issuperset(peers) for group in self._groups)

    def partition(self, *groups: Collection[PeerId]) -> None:
        """From now on packets pass only within a group; a peer in no group is alone."""
        self._groups = tuple(frozenset(group) for group in groups)
        self._wake()

    def heal(self) -> None:
        """Join everyone again; what was held back by a partition arrives now."""
        self._groups = ()
        self._wake()

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Break every connection between two peers at once, as a router that forgets them."""
        for pipe in list(self._pipes):
            if pipe.ends == {one, other}:
                pipe.break_off()
                self._pipes.discard(pipe)

    def _wake(self) -> None:
        for pipe in self._pipes:
            pipe.change()
