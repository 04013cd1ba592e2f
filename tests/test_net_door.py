"""What strangers cost before they are greeted: connections, handshakes, streams."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from check_transport import ALICE, BOB, greet, polite
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2ptrain.net.libp2p_door import network_of
from p2ptrain.net.libp2p_host import Dialler, running_host
from p2ptrain.net.libp2p_host import open_host as open_transport
from p2ptrain.net.link import LinkBroken
from p2ptrain.net.transport import Bounds, Connected, Disconnected
from p2ptrain.wire.limits import STREAMS_MAX

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


def port_of(address: str) -> int:
    return int(address.split("/")[4])


async def hung_up(stream: trio.SocketStream) -> bytes:
    """Everything that comes until the other side closes."""
    came = b""
    with suppress(trio.BrokenResourceError):
        while data := await stream.receive_some():
            came += data
    return came


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "20010db800010002/64"),
        ("2001:db8:1:2:ffff::", "20010db800010002/64"),
        ("fe80::1%eth0", "fe80000000000000/64"),
        ("nowhere", "nowhere"),
    ],
)
def test_an_address_is_counted_as_its_network(host: str, network: str) -> None:
    assert network_of(host) == network


async def test_a_caller_that_says_nothing_is_hung_up_on_in_time() -> None:
    bounds = replace(Bounds(), handshake_timeout_s=0.3)
    async with open_transport(ALICE, listen=LOOPBACK, etiquette=polite(bounds=bounds)) as alice:
        with trio.fail_after(3):
            async with await trio.open_tcp_stream("127.0.0.1", port_of(alice.addresses[0])) as mute:
                await hung_up(mute)


async def test_a_caller_that_opens_no_stream_is_hung_up_on_in_time() -> None:
    bounds = replace(Bounds(), handshake_timeout_s=0.3)
    async with (
        open_transport(ALICE, listen=LOOPBACK, etiquette=polite(bounds=bounds)) as alice,
        running_host(BOB, []) as host,
    ):
        connection = await connect(host, alice.addresses[0])
        with trio.fail_after(3):
            await connection.event_closed.wait()


async def connect(host: Any, address: str) -> Any:
    target, _, peer = address.rpartition("/p2p/")
    return await host.get_network().dial_addr(Multiaddr(target), ID.from_base58(peer))


async def test_callers_of_one_address_beyond_the_bound_are_hung_up_on_at_once() -> None:
    bounds = replace(Bounds(), knocking_per_address_max=4)
    async with open_transport(ALICE, listen=LOOPBACK, etiquette=polite(bounds=bounds)) as alice:
        streams = [
            await trio.open_tcp_stream("127.0.0.1", port_of(alice.addresses[0])) for _ in range(8)
        ]
        with trio.fail_after(1):  # far from the handshake's timeout
            assert [await hung_up(stream) for stream in streams[4:]] == [b""] * 4
        for stream in streams:
            await stream.aclose()


async def test_callers_beyond_their_address_s_rate_are_hung_up_on_at_once() -> None:
    bounds = replace(Bounds(), knocks_per_address_burst=3.0, knocks_per_address_per_s=0.01)
    async with open_transport(ALICE, listen=LOOPBACK, etiquette=polite(bounds=bounds)) as alice:
        for number in range(6):
            stream = await trio.open_tcp_stream("127.0.0.1", port_of(alice.addresses[0]))
            with trio.move_on_after(0.2) as waiting:
                assert await hung_up(stream) == b""
            assert waiting.cancelled_caught == (number < 3)
            await stream.aclose()


async def test_a_call_that_is_over_takes_no_place_any_more() -> None:
    async with running_host(ALICE, []) as host, trio.open_nursery() as nursery:
        probe = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = probe[0].socket.getsockname()[1]
        await probe[0].aclose()
        address = f"/ip4/127.0.0.1/tcp/{port}"
        assert await host.get_network().listen(Multiaddr(address))
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await stream.aclose()
        async with running_host(BOB, []) as caller:
            for _ in range(5):
                connection = await connect(caller, f"{address}/p2p/{ALICE.peer_id}")
                await connection.close()
        with trio.fail_after(3):
            while host.door.open or host.door.knocking:  # noqa: ASYNC110  nobody tells
                await trio.sleep(0.01)
        assert host.get_network()._inbound_limiter.borrowed_tokens == 0
        with trio.fail_after(3):
            while trio.lowlevel.current_statistics().tasks_living > tasks:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_opens_streams_without_end_is_hung_up_on() -> None:
    async with (
        open_transport(ALICE, listen=LOOPBACK, etiquette=polite()) as alice,
        running_host(BOB, []) as host,
    ):
        link = await Dialler(host).connect(alice.addresses[0])
        await greet(link, alice)
        connection = link.control.stream.swarm_conn  # type: ignore[attr-defined]
        with trio.fail_after(5):
            try:
                for _ in range(4 * STREAMS_MAX):
                    stream = await connection.new_stream()
                    await stream.write(b"\x13/multistream/1.0.0\n")
            except Exception:  # libp2p raises a dozen kinds when it is hung up on
                pass
            event = await alice.receive()
            if isinstance(event, Connected):
                event = await alice.receive()
            assert isinstance(event, Disconnected)
        with suppress(LinkBroken):
            await link.close()
