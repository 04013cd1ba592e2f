"""What is particular to libp2p: addresses, settings, and leaving nothing behind."""

import os
import socket
import time
from dataclasses import replace

import pytest
import trio
from check_transport import ALICE, BOB, MIB, ends, greet, join, next_end, polite

from p2ptrain.errors import ConfigError
from p2ptrain.net.libp2p_host import Dialler, new_libp2p_host, open_host
from p2ptrain.net.transport import Bounds, PeerUnreachable
from p2ptrain.net.unwrapping import lone_exception

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
    upgrader = new_libp2p_host(ALICE).get_network().upgrader
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
    host = new_libp2p_host(BOB)
    with lone_exception():
        async with (
            open_host(ALICE, listen=LOOPBACK, etiquette=polite(bounds=bounds)) as alice,
            host.run(listen_addrs=[]),
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
