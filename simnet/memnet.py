"""A network in memory for whole transports: the production switchboard over simulated links.

Everything above the lanes is what runs over libp2p; only the streams are simulated, with latency,
bandwidth, partitions and broken connections. Nothing is drawn at random and nothing reads a clock
but trio's: under trio.testing.MockClock(autojump_threshold=0) hours pass in milliseconds.
How the streams behave: simnet/wires.py.

    net = MemNet(latency_s=0.05, uplink_bytes_per_s=1e6)
    async with net.open(identity, etiquette) as transport: ...
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2ptrain.net.identity import Identity
from p2ptrain.net.link import Link, LinkBroken
from p2ptrain.net.switchboard import Switchboard
from p2ptrain.net.transport import Etiquette
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.wire.peer_id import PeerId, peer_id_in
from simnet.wires import Pipe, Uplink, Wires


@dataclass(eq=False)
class _Host:
    switchboard: Switchboard
    nursery: trio.Nursery
    reachable: bool
    uplink: Uplink


@dataclass(frozen=True, slots=True)
class _MemLane:
    outward: Pipe
    inward: Pipe

    async def send_all(self, data: bytes) -> None:
        await self.outward.send(data)

    async def receive_some(self) -> bytes:
        return await self.inward.receive()


class MemNet(Wires):
    """Hosts and the links between them.

    latency_s            one way, on every link, seconds
    uplink_bytes_per_s   what a host can send, all its lanes together
    """

    def __init__(self, *, latency_s: float = 0.0, uplink_bytes_per_s: float = math.inf) -> None:
        """Start with no hosts and everyone joined to everyone."""
        super().__init__(latency_s)
        self.uplink_bytes_per_s = uplink_bytes_per_s
        self._hosts: dict[PeerId, _Host] = {}

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
                self._hosts[me] = _Host(
                    switchboard, nursery, reachable, Uplink(self.uplink_bytes_per_s)
                )
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
        uplink = Uplink(self.uplink_bytes_per_s) if mine is None else mine.uplink
        out = [Pipe(self, me, peer, uplink) for _ in range(2)]
        back = [Pipe(self, peer, me, host.uplink) for _ in range(2)]
        self.lay(*out, *back)
        host.nursery.start_soon(host.switchboard.accept, self._link(me, "", back, out))
        return self._link(peer, address, out, back)

    def _link(self, peer: PeerId, address: str, out: list[Pipe], back: list[Pipe]) -> Link:
        async def close() -> None:
            await trio.lowlevel.checkpoint()
            for pipe in out:
                pipe.finish()
            for pipe in back:
                pipe.abandon()
            self.take_up(*back)

        control, bulk = (_MemLane(*pipes) for pipes in zip(out, back, strict=True))
        return Link(peer, address, bool(address), control, bulk, close)
