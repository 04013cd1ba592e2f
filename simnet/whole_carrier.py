"""libp2p over wires in memory: what TCP is to a node, for a whole node on a simulated machine.

A `Carrier` is a transport in libp2p's sense, given to a node as Platform.carrier. Above it all is
as in production: Noise, Yamux, our door, our frames. Below it are the streams of simnet/wires.py.
A machine has one address, whose host is its name on the wires; a connection takes three crossings
to stand, as TCP's does, of which the caller waits for two; a call into a partition is not answered.
"""

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import trio
from libp2p.abc import IListener, ITransport
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from p2ptrain.net.link import LinkBroken
from simnet.wires import Pipe, Uplink, Wires

FIRST_CALLING_PORT = 32_768  # where callers' own ports begin, as Linux has it

Endpoint = tuple[str, int]
Serve = Callable[[Any], Awaitable[None]]


def endpoint_of(address: Multiaddr) -> Endpoint:
    """Host and port of /ip4/HOST/tcp/PORT."""
    return str(address.value_for_protocol("ip4")), int(address.value_for_protocol("tcp"))


class MemoryStream(ReadWriteCloser):  # type: ignore[misc]
    """One end of a connection."""

    def __init__(self, outward: Pipe, inward: Pipe, remote: Endpoint) -> None:
        self._outward = outward
        self._inward = inward
        self._remote = remote
        self._unread = memoryview(b"")

    async def write(self, data: bytes) -> None:
        """Put bytes on the wire; waits for the uplink and for the other side to read."""
        try:
            await self._outward.send(bytes(data))
        except LinkBroken as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error

    async def read(self, n: int | None = None) -> bytes:
        """Up to n bytes that have come; b"" at the end."""
        if not self._unread:
            try:
                self._unread = memoryview(await self._inward.receive())
            except LinkBroken as error:
                raise ConnectionClosedError(str(error), transport="tcp") from error
        size = len(self._unread) if n is None else n
        data, self._unread = self._unread[:size], self._unread[size:]
        return bytes(data)

    async def close(self) -> None:
        """What was sent still arrives; what comes is thrown away."""
        self.hang_up()
        await trio.lowlevel.checkpoint()

    def hang_up(self) -> None:
        """The same, at once."""
        self._outward.finish()
        self._inward.abandon()

    def get_remote_address(self) -> Endpoint:
        """Host and port of the other side."""
        return self._remote


class Ether:
    """The machines by the names of their hosts, and the wires between them."""

    def __init__(self, wires: Wires) -> None:
        """Start with nobody."""
        self.wires = wires
        self.uplinks: dict[str, Uplink] = {}
        self.listeners: dict[Endpoint, _Listener] = {}
        self._calling_ports = count(FIRST_CALLING_PORT)

    def carrier(self, host: str, uplink: Uplink) -> "Carrier":
        """What a new machine calls and answers by."""
        self.uplinks[host] = uplink
        return Carrier(self, host)

    async def call(self, caller: str, to: Endpoint) -> MemoryStream:
        """The caller's end of a new connection. Raises OpenConnectionError."""
        if not self.wires.joins({caller, to[0]}):
            await trio.sleep_forever()  # packets vanish; whoever calls has a deadline
        await trio.sleep(2 * self.wires.latency_s)
        listener = self.listeners.get(to)
        if listener is None:
            raise OpenConnectionError(f"{to[0]} port {to[1]}: connection refused")
        out = Pipe(self.wires, caller, to[0], self.uplinks[caller])
        back = Pipe(self.wires, to[0], caller, self.uplinks[to[0]])
        self.wires.lay(out, back)
        listener.accept(MemoryStream(back, out, (caller, next(self._calling_ports))))
        return MemoryStream(out, back, to)


class _Listener(IListener):  # type: ignore[misc]
    """Answers calls to one address."""

    background_nursery: trio.Nursery  # libp2p's swarm sets it before listen

    def __init__(self, ether: Ether, serve: Serve) -> None:
        self._ether = ether
        self._serve = serve
        self._address: Multiaddr | None = None

    async def listen(self, maddr: Multiaddr) -> None:
        """Answer from now on."""
        await trio.lowlevel.checkpoint()
        self._address = maddr
        self._ether.listeners[endpoint_of(maddr)] = self

    def accept(self, stream: MemoryStream) -> None:
        """Serve a call in a task of its own."""
        self.background_nursery.start_soon(self._serve_and_close, stream)

    async def _serve_and_close(self, stream: MemoryStream) -> None:
        try:
            await self._serve(stream)
        finally:
            stream.hang_up()

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Where it listens."""
        return () if self._address is None else (self._address,)

    async def close(self) -> None:
        """Answer no more; the connections that stand are the swarm's to close."""
        await trio.lowlevel.checkpoint()
        if self._address is not None:
            del self._ether.listeners[endpoint_of(self._address)]
            self._address = None


class Carrier(ITransport):  # type: ignore[misc]
    """How one machine calls others, and answers."""

    def __init__(self, ether: Ether, host: str) -> None:
        self._ether = ether
        self._host = host

    async def dial(self, maddr: Multiaddr) -> RawConnection:
        """A connection to an address. Raises OpenConnectionError."""
        return RawConnection(await self._ether.call(self._host, endpoint_of(maddr)), True)

    def create_listener(self, handler_function: Serve) -> _Listener:
        """What answers calls, and has handler_function serve them."""
        return _Listener(self._ether, handler_function)

    def can_dial(self, maddr: Multiaddr) -> bool:
        """Whether this is an address of TCP over IPv4, which stands for ours."""
        return [protocol.name for protocol in maddr.protocols()][:2] == ["ip4", "tcp"]

    can_listen = can_dial

    def protocols(self) -> list[str]:
        """The protocol that it stands for."""
        return ["tcp"]
