"""The transport over libp2p: TCP, Noise, Yamux. With
libp2p_yamux.py and libp2p_door.py the only module that imports libp2p.

py-libp2p 0.8.1 is good at what we ask of it when it is asked in one particular way; each setting
below was measured, or is the way around a bug, and is written down once, here:

- only Noise and Yamux are offered (the default also offers secio and PLAINTEXT);
- one address is dialled at a time, each on a connection of its own: with several addresses in its
  peerstore libp2p tries two, and gives up on a dead first one;
- its own retries, negative cache and auto-connector are not used: who dials knows better when to
  try again, and no setting keeps the auto-connector from dialling whomever it has heard of;
- _HAPPY_EYEBALLS_DELAY cuts each connect by libp2p's own paths from 251 ms to 10;
- streams stay open (a new one costs two round trips), two a connection;
- reads of 1 MiB (each read costs a window update), writes of session.WRITE_BYTES;
- its listeners share a port with anyone who asks to (SO_REUSEPORT), so that a second node on the
  same port would take half the calls of the first: the port is tried first without;
- close() must be called before its run() ends, or its listeners stay for ever;
- its Yamux can be flooded and can lock up: libp2p_yamux.py has our own;
- a call that it has answered takes one of 300 places for ever: libp2p_door.py answers instead;
- dead peers are noticed by session.py, and a connection that does not close in time loses its
  socket.

Who dials opens both streams, /p2ptrain/1/control and /p2ptrain/1/bulk, on its new connection.
"""

import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import libp2p.network.swarm
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key_pair
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from p2ptrain.errors import ConfigError
from p2ptrain.net.identity import Identity
from p2ptrain.net.libp2p_door import Door
from p2ptrain.net.libp2p_yamux import CONNECTION_ERRORS, BoundedYamux
from p2ptrain.net.link import Link, LinkBroken
from p2ptrain.net.switchboard import Switchboard
from p2ptrain.net.transport import Bounds, Etiquette
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.wire.limits import HANDSHAKE_TIMEOUT_S
from p2ptrain.wire.peer_id import PeerId, peer_id_in, public_key_of

CONTROL_PROTOCOL = "/p2ptrain/1/control"
BULK_PROTOCOL = "/p2ptrain/1/bulk"
READ_BYTES = 1 << 20
CLOSE_TIMEOUT_S = 1.0  # libp2p's own closing takes 0.2 s, and for ever when the socket is full

libp2p.network.swarm._HAPPY_EYEBALLS_DELAY = 0.001
# It logs each lost connection as an error; without a handler of the program's, say nothing.
logging.getLogger("libp2p").addHandler(logging.NullHandler())


@asynccontextmanager
async def open_host(
    identity: Identity, *, listen: Sequence[str], etiquette: Etiquette, carrier: Any = None
) -> AsyncIterator[Switchboard]:
    """A Transport over libp2p; listens while the block runs, says goodbye to all at its end.

    listen   multiaddrs, /ip4/ADDRESS/tcp/PORT or /ip6/...; port 0 takes a free one, address
             0.0.0.0 all of this machine's; none: this peer dials only.
    carrier  what connections are made of, a transport in libp2p's sense, which listens at the
             addresses as they are given; None: TCP

    Raises ConfigError for an address that is none, or is in use.
    """
    if carrier is None:
        addresses = [concrete for address in listen for concrete in _concrete(address)]
    else:
        addresses = [Multiaddr(address) for address in listen]
    with lone_exception():
        async with (
            running_host(identity, addresses, etiquette.bounds, carrier) as host,
            trio.open_nursery() as nursery,
        ):
            dialler = Dialler(host)
            switchboard = Switchboard(identity.peer_id, etiquette, dialler.connect, nursery)
            answerer = _Answerer(switchboard)
            for protocol in (CONTROL_PROTOCOL, BULK_PROTOCOL):
                host.set_stream_handler(protocol, partial(answerer.answer, protocol))
            switchboard.addresses = tuple(f"{a}/p2p/{identity.peer_id}" for a in addresses)
            try:
                yield switchboard
            finally:
                with trio.CancelScope(shield=True):  # bounded by GOODBYE and CLOSE_TIMEOUT_S
                    await switchboard.leave("it is stopping")
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def running_host(
    identity: Identity,
    addresses: Sequence[Multiaddr],
    bounds: Bounds | None = None,
    carrier: Any = None,
) -> AsyncIterator[Any]:
    """A libp2p host with our settings that listens on concrete addresses while the block runs."""
    host = _new_host(identity, carrier)
    host.door = Door(host.get_network(), bounds or Bounds())
    async with host.run(listen_addrs=addresses):
        try:
            listening = host.get_transport_addrs()
            known = {str(address) for address in listening}
            if missing := [str(a) for a in addresses if str(a) not in known]:
                raise ConfigError(f"cannot listen on {', '.join(missing)}: choose another address")
            # It would ask its sockets, also closed ones: identify does so while a host is closing.
            host.get_transport_addrs = lambda: list(listening)
            yield host
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT_S):
                await host.close()


def _new_host(identity: Identity, carrier: Any) -> Any:
    key_pair = create_new_key_pair(identity.private_key)
    noise = Noise(key_pair, noise_privkey=create_new_noise_key_pair().private_key)
    host = new_host(
        key_pair=key_pair,
        sec_opt={NOISE_ID: noise},
        muxer_opt={YAMUX_ID: BoundedYamux},
        connection_config=ConnectionConfig(min_connections=0, low_watermark=0),
        transports=None if carrier is None else [carrier],
    )
    swarm = host.get_network()
    swarm.retry_config = RetryConfig(max_retries=0)
    swarm.auto_connector.maybe_connect = trio.lowlevel.checkpoint
    return host


def _concrete(address: str) -> list[Multiaddr]:
    """The addresses to listen on: a free port in place of 0, every interface in place of 0.0.0.0.

    Raises ConfigError if the address is none, or its port is taken.
    """
    try:
        given = Multiaddr(address)
        (ip, host), (tcp, port) = given.items()
        family = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}[ip.name]
        if tcp.name != "tcp":
            raise ValueError("not TCP")
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"cannot listen on {address}: it must look like /ip4/0.0.0.0/tcp/4001"
        ) from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {address}: {error.strerror}. Stop the program that uses the "
                "port, or give another with --listen (port 0 takes any that is free)"
            ) from error
        free_port = probe.getsockname()[1]
    fixed = Multiaddr(f"/{ip.name}/{host}/tcp/{free_port}")
    if host in ("0.0.0.0", "::"):
        loopback = Multiaddr(
            f"/{ip.name}/{'::1' if ip.name == 'ip6' else '127.0.0.1'}/tcp/{free_port}"
        )
        found = {str(each): each for each in [*expand_wildcard_address(fixed), loopback]}
        return list(found.values())
    return [fixed]


class _StreamLane:
    """A libp2p stream as a lane."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    async def send_all(self, data: bytes) -> None:
        try:
            await self.stream.write(data)
        except Exception as error:  # libp2p raises a dozen kinds, some of them bare
            raise LinkBroken(f"the connection broke ({_why(error)})") from error

    async def receive_some(self) -> bytes:
        try:
            return bytes(await self.stream.read(READ_BYTES))
        except EOFError:
            return b""
        except Exception as error:  # as above
            raise LinkBroken(f"the connection broke ({_why(error)})") from error


def _link(peer: PeerId, address: str, control: Any, bulk: Any, *, outgoing: bool) -> Link:
    connection = control.swarm_conn

    async def close() -> None:
        await _close(connection)

    return Link(peer, address, outgoing, _StreamLane(control), _StreamLane(bulk), close)


async def _close(connection: Any) -> None:
    with trio.move_on_after(CLOSE_TIMEOUT_S) as timer:
        await connection.close()
    if timer.cancelled_caught:  # it waits to write a last word to a full socket
        with suppress(*CONNECTION_ERRORS):
            await connection.muxed_conn.secured_conn.close()


class Dialler:
    """Makes links to addresses."""

    def __init__(self, host: Any) -> None:
        """Dial from a running libp2p host."""
        self._host = host

    async def connect(self, address: str) -> Link:
        """A new connection with both streams. Raises LinkBroken."""
        peer = peer_id_in(address)
        try:
            target = Multiaddr(address).decapsulate(Multiaddr(f"/p2p/{peer}"))
            connection = await self._host.get_network().dial_addr(target, ID.from_base58(peer))
        except Exception as error:  # libp2p raises many kinds; all mean: not connected
            raise LinkBroken(_why(error)) from error
        streams: dict[str, Any] = {}
        try:
            async with trio.open_nursery() as nursery:
                for protocol in (CONTROL_PROTOCOL, BULK_PROTOCOL):
                    nursery.start_soon(self._open_stream, connection, protocol, streams)
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await _close(connection)
            if isinstance(error, Exception):
                raise LinkBroken(f"it does not speak p2ptrain ({_why(error)})") from error
            raise
        control, bulk = streams[CONTROL_PROTOCOL], streams[BULK_PROTOCOL]
        return _link(peer, address, control, bulk, outgoing=True)

    async def _open_stream(self, connection: Any, protocol: str, streams: dict[str, Any]) -> None:
        stream = await connection.new_stream()
        communicator = MultiselectCommunicator(stream)
        await self._host.multiselect_client.select_one_of(
            [protocol], communicator, int(HANDSHAKE_TIMEOUT_S)
        )
        streams[protocol] = stream


class _Pair:
    """The two streams of a connection that somebody made to us."""

    def __init__(self) -> None:
        self.streams: dict[str, Any] = {}  # by protocol
        self.complete = trio.Event()
        self.over = trio.Event()


class _Answerer:
    """Joins the two streams that a caller opens into a link, and gives it to the switchboard."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._pairs: dict[int, _Pair] = {}  # by connection

    async def answer(self, protocol: str, stream: Any) -> None:
        """libp2p calls this in a task of its own for each new stream, which lives as long."""
        connection = stream.swarm_conn
        pair = self._pairs.setdefault(id(connection), _Pair())
        if protocol in pair.streams:
            return await _close(connection)  # one link a connection, and nobody needs two
        pair.streams[protocol] = stream
        if len(pair.streams) == 2:
            pair.complete.set()
            connection.muxed_conn.in_use.set()
        try:
            with trio.move_on_after(HANDSHAKE_TIMEOUT_S):
                await pair.complete.wait()
            if not pair.complete.is_set():
                await _close(connection)
            elif protocol == BULK_PROTOCOL:
                await pair.over.wait()
            else:
                await self._accept(pair)
        finally:
            pair.over.set()
            self._pairs.pop(id(connection), None)

    async def _accept(self, pair: _Pair) -> None:
        control, bulk = pair.streams[CONTROL_PROTOCOL], pair.streams[BULK_PROTOCOL]
        peer = PeerId(str(control.muxed_conn.peer_id))
        try:
            public_key_of(peer)
        except ValueError:  # another kind of key, with which nobody can sign here
            return await _close(control.swarm_conn)
        link = _link(peer, _remote_address(control), control, bulk, outgoing=False)
        await self._switchboard.accept(link)


def _remote_address(stream: Any) -> str:
    remote = stream.get_remote_address()
    if remote is None:
        return ""
    host, port = remote
    return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"


def _why(error: BaseException) -> str:
    """The first cause of an error of libp2p, as one line: its own messages wrap each other."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return first_line[:200]
