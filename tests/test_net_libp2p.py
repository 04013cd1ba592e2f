"""What is particular to libp2p: addresses, settings, and leaving nothing behind."""

import os
import socket
import struct
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from check_transport import ALICE, BOB, MIB, ends, greet, join, next_end, polite
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_PING, YAMUX_HEADER_FORMAT

from p2ptrain.errors import ConfigError
from p2ptrain.net.framing import Kind, encode_frame
from p2ptrain.net.libp2p_host import Dialler, _concrete, open_host, running_host
from p2ptrain.net.libp2p_yamux import UNREAD_BYTES_EACH_MAX
from p2ptrain.net.link import Link, LinkBroken
from p2ptrain.net.transport import Bounds, Frame, PeerUnreachable
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.wire.limits import HANDSHAKE_TIMEOUT_S

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


async def test_port_0_takes_a_free_port_and_announces_it() -> None:
    async with open_host(ALICE, listen=LOOPBACK * 2, etiquette=polite()) as alice:
        ports = {address.split("/")[4] for address in alice.addresses}
        assert len(ports) == 2
        assert "0" not in ports


async def test_all_interfaces_are_announced_one_by_one() -> None:
    listen = ["/ip4/0.0.0.0/tcp/0"]
    async with open_host(ALICE, listen=listen, etiquette=polite()) as alice:
        assert any(address.startswith("/ip4/127.0.0.1/") for address in alice.addresses)
        assert not any("/0.0.0.0/" in address for address in alice.addresses)
        async with open_host(BOB, listen=[], etiquette=polite()) as bob:
            assert bob.addresses == ()
            await join(bob, alice)


async def test_a_port_in_use_is_refused_with_what_to_do() -> None:
    async with open_host(ALICE, listen=LOOPBACK, etiquette=polite()) as alice:
        taken = alice.addresses[0].rpartition("/p2p/")[0]
        with pytest.raises(ConfigError, match=r"in use.*--listen"):
            async with open_host(BOB, listen=[taken], etiquette=polite()):
                pass


@pytest.mark.parametrize(
    "address", ["", "4001", "/ip4/1.2.3.4", "/ip4/127.0.0.1/udp/1", "/dns4/x/tcp/1", "/ip4/x/tcp/1"]
)
async def test_an_address_to_listen_on_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="must look like"):
        async with open_host(ALICE, listen=[address], etiquette=polite()):
            pass


async def test_a_port_that_is_no_libp2p_is_unreachable_within_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        async with open_host(ALICE, listen=[], etiquette=polite()) as alice:
            with trio.fail_after(2), pytest.raises(PeerUnreachable):
                await alice.dial(f"/ip4/127.0.0.1/tcp/{port}/p2p/{BOB.peer_id}", 0.5)


async def test_only_noise_and_yamux_are_offered() -> None:
    async with running_host(ALICE, []) as host:
        upgrader = host.get_network().upgrader
        assert list(upgrader.security_multistream.transports) == ["/noise"]
        assert list(upgrader.muxer_multistream.transports) == ["/yamux/1.0.0"]


async def test_a_host_opens_and_closes_quickly_and_leaves_no_tasks_and_no_sockets() -> None:
    async def open_and_use() -> None:
        async with (
            open_host(ALICE, listen=LOOPBACK, etiquette=polite()) as alice,
            open_host(BOB, listen=LOOPBACK, etiquette=polite()) as bob,
        ):
            await join(alice, bob)

    await open_and_use()  # what the first one leaves are caches
    tasks = trio.lowlevel.current_statistics().tasks_living
    sockets = len(os.listdir("/proc/self/fd"))
    started = time.monotonic()
    for _ in range(3):
        await open_and_use()
    assert time.monotonic() - started < 6
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert len(os.listdir("/proc/self/fd")) == sockets


async def test_a_frozen_peer_does_not_keep_its_socket() -> None:
    bounds = replace(Bounds(), write_timeout_s=0.3)
    with lone_exception():
        async with (
            open_host(ALICE, listen=LOOPBACK, etiquette=polite(bounds=bounds)) as alice,
            running_host(BOB, []) as host,
        ):
            link = await Dialler(host).connect(alice.addresses[0])
            await greet(link, alice)
            # Nothing of this connection is read any more, not even by Yamux.
            noise = link.control.stream.muxed_conn.secured_conn.conn  # type: ignore[attr-defined]
            tcp = noise.read_writer.read_write_closer.stream
            await tcp.read_lock.acquire()
            while alice.send(BOB.peer_id, bytes(MIB), bulk=True):
                await trio.lowlevel.checkpoint()
            assert (await next_end(alice)).reason == "it does not read what it is sent"
            tcp.read_lock.release()
            await ends(link)
            await link.close()


async def test_a_stranger_that_overruns_its_window_before_greeting_is_hung_up_on() -> None:
    async with (
        open_host(ALICE, listen=LOOPBACK, etiquette=polite()) as alice,
        running_host(BOB, []) as host,
    ):
        link = await Dialler(host).connect(alice.addresses[0])
        yamux_stream = link.bulk.stream.muxed_stream  # type: ignore[attr-defined]
        yamux_stream.send_window = 1 << 40  # a sender that does not care for windows
        with trio.fail_after(HANDSHAKE_TIMEOUT_S / 2), suppress(LinkBroken):
            for _ in range(2 * UNREAD_BYTES_EACH_MAX // MIB):
                await link.bulk.send_all(bytes(MIB))
            await ends(link)
        await link.close()


async def test_two_peers_that_send_much_at_once_do_not_lock_up_when_libp2p_pings() -> None:
    chunks = 30
    async with (
        open_host(ALICE, listen=LOOPBACK, etiquette=polite()) as alice,
        running_host(BOB, []) as host,
        trio.open_nursery() as nursery,
    ):
        link = await Dialler(host).connect(alice.addresses[0])
        await greet(link, alice)
        sessions = alice._sessions
        links = (link, sessions[BOB.peer_id].link)

        async def ping_all_the_time(end: Link) -> None:
            yamux = end.control.stream.muxed_conn  # type: ignore[attr-defined]
            ping = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 7)
            while True:
                await yamux._write_frame(ping)
                await trio.sleep(0.001)

        async def send_from_bob() -> None:
            for _ in range(chunks):
                await link.bulk.send_all(encode_frame(Kind.DATA, bytes(MIB)))

        async def read_at_bob() -> None:
            left = chunks * (MIB + 5)
            while left:
                left -= len(await link.bulk.receive_some())

        for end in links:
            nursery.start_soon(ping_all_the_time, end)
        for _ in range(chunks):
            assert alice.send(BOB.peer_id, bytes(MIB), bulk=True)
        with trio.fail_after(15):
            async with trio.open_nursery() as flows:
                flows.start_soon(send_from_bob)
                flows.start_soon(read_at_bob)
                for _ in range(chunks):
                    assert isinstance(await alice.receive(), Frame)
        nursery.cancel_scope.cancel()


async def test_a_host_that_is_stopping_can_still_be_asked_for_its_addresses() -> None:
    # libp2p's identify asks for them when somebody connects, also while the host is closing.
    async with running_host(ALICE, _concrete(LOOPBACK[0])) as host:
        listening = host.get_transport_addrs()
        for listener in host.get_network().listeners.values():
            await listener.close()
        assert host.get_transport_addrs() == listening
        assert [str(a).partition("/p2p/")[0] for a in host.get_addrs()] == [*map(str, listening)]
