"""Peers on the local network: what is announced, what is believed, and what happens without one.

The tests that speak multicast do so on loopback only, with the real library; where the kernel does
not carry multicast there, they are skipped and say so.
"""

import gc
import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from typer.core import TyperGroup
from typer.main import get_command
from zeroconf import Zeroconf
from zeroconf.asyncio import AsyncServiceInfo

from p2ptrain.cli.main import app
from p2ptrain.net.identity import identity_of
from p2ptrain.net.mdns import (
    MARK_CHARS,
    SERVICE,
    LocalNetwork,
    hosts_to_announce,
    interfaces_with_multicast,
    mark_of,
    properties_of,
    read_announcement,
)
from p2ptrain.node.local_swarm import peer_environment
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.limits import ADDRESSES_MAX, MDNS_TOPICS_MAX
from p2ptrain.wire.peer_id import PeerId

RUN = os.getpid().to_bytes(4, "big")  # another run of these tests on this machine is not met
SWARM, OTHER_SWARM, DATA = (cid_of(name + RUN) for name in (b"swarm", b"other", b"data"))
ALICE, BOB, CAROL = (identity_of(bytes([n, 3]) * 14 + RUN).peer_id for n in range(3))
LOOPBACK = "127.0.0.1"
SOON_S = 10.0


def record(**changes: bytes | None) -> Mapping[bytes, bytes | None]:
    text = {"id": str(ALICE), "t": mark_of(SWARM)}
    good = {key.encode(): value.encode() for key, value in text.items()}
    return {**good, **{key.encode(): value for key, value in changes.items()}}


# --- what is said and believed ------------------------------------------------------------------
def test_what_is_announced_can_be_read_and_names_no_topic() -> None:
    said = {k.encode(): v.encode() for k, v in properties_of(ALICE, [SWARM, DATA]).items()}
    heard = read_announcement(said, ["192.0.2.2", "2001:db8::2"], 4001)
    assert heard.peer == ALICE
    assert heard.marks == {mark_of(SWARM), mark_of(DATA)}
    assert heard.addresses == (
        f"/ip4/192.0.2.2/tcp/4001/p2p/{ALICE}",
        f"/ip6/2001:db8::2/tcp/4001/p2p/{ALICE}",
    )
    assert SWARM.encode() not in b"".join(said.values())


def test_a_mark_is_the_hash_that_the_protocol_names() -> None:
    assert mark_of("topic") == "85ab53268bf61ac1"
    assert len(mark_of("")) == MARK_CHARS


def test_an_announcement_of_many_topics_fits_one_txt_string() -> None:
    said = properties_of(ALICE, [f"topic {n}" for n in range(100)])
    assert len(said["t"].split(",")) == MDNS_TOPICS_MAX
    assert all(len(f"{key}={value}") <= 255 for key, value in said.items())


@pytest.mark.parametrize(
    ("properties", "hosts", "port"),
    [
        ({}, ["192.0.2.2"], 4001),
        (record(id=None), ["192.0.2.2"], 4001),
        (record(id=b"12D3Koo"), ["192.0.2.2"], 4001),
        (record(id=b"\xff" * 52), ["192.0.2.2"], 4001),
        (record(id=str(ALICE).encode() + b"\n"), ["192.0.2.2"], 4001),
        (record(t=None), ["192.0.2.2"], 4001),
        (record(t=b"short"), ["192.0.2.2"], 4001),
        (record(t=b"\xc3" * MARK_CHARS), ["192.0.2.2"], 4001),
        (record(t=b",".join([b"0" * MARK_CHARS] * 13)), ["192.0.2.2"], 4001),
        (record(), [], 4001),
        (record(), ["0.0.0.0"], 4001),
        (record(), ["224.0.0.251"], 4001),
        (record(), ["fe80::1"], 4001),
        (record(), ["printer.local"], 4001),
        (record(), ["192.0.2.2"], None),
        (record(), ["192.0.2.2"], 0),
        (record(), ["192.0.2.2"], 65536),
    ],
)
def test_what_is_not_a_whole_announcement_is_refused(
    properties: Mapping[bytes, bytes | None], hosts: list[str], port: int | None
) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_announcement(properties, hosts, port)


def test_of_many_addresses_a_few_are_read() -> None:
    heard = read_announcement(record(), [f"192.0.2.{n}" for n in range(200)], 4001)
    assert len(heard.addresses) == ADDRESSES_MAX


@given(
    st.dictionaries(
        st.sampled_from([b"id", b"t", b"x"]), st.none() | st.binary(max_size=80), max_size=3
    ),
    st.lists(st.ip_addresses().map(str) | st.text(max_size=20), max_size=3),
    st.none() | st.integers(-1, 70_000),
)
def test_any_bytes_of_a_stranger_are_read_or_refused(
    properties: dict[bytes, bytes | None], hosts: list[str], port: int | None
) -> None:
    try:
        heard = read_announcement({**record(), **properties}, hosts, port)
    except ValueError:
        return
    assert heard.peer == ALICE
    assert heard.addresses


def test_loopback_is_announced_only_by_who_listens_nowhere_else_and_one_port_only() -> None:
    def hosts(*places: tuple[str, int]) -> tuple[list[str], int]:
        return hosts_to_announce([(ip_address(host), port) for host, port in places])

    assert hosts((LOOPBACK, 1)) == ([LOOPBACK], 1)
    assert hosts((LOOPBACK, 1), ("192.0.2.2", 2)) == (["192.0.2.2"], 2)
    assert hosts(("192.0.2.2", 2), ("192.0.2.3", 3), ("2001:db8::2", 2)) == (
        ["192.0.2.2", "2001:db8::2"],
        2,
    )
    assert hosts(("fe80::1", 1)) == ([], 0)


def test_peers_of_the_demo_and_of_tests_do_not_announce_themselves() -> None:
    """`join` and `seed` announce unless told otherwise; the environment tells it to all of them."""
    commands = get_command(app)
    assert isinstance(commands, TyperGroup)
    seed = commands.commands["seed"]
    assert isinstance(seed, TyperGroup)
    for command in (commands.commands["join"], *seed.commands.values()):
        (option,) = [option for option in command.params if option.name == "no_mdns"]
        assert option.default is False
        assert option.envvar in peer_environment()


# --- on the network -----------------------------------------------------------------------------
class Heard:
    """What one peer has found, and what did not work."""

    def __init__(self) -> None:
        self.found: list[tuple[str, ...]] = []
        self.failed: list[str] = []
        self._news = trio.Event()

    def on_found(self, addresses: tuple[str, ...]) -> None:
        self.found.append(addresses)
        self._tell()

    def on_failed(self, why: str) -> None:
        self.failed.append(why)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def until(self, part: str) -> None:
        """Wait until an address with this in it is found: a peer id, a port."""
        with trio.fail_after(SOON_S):
            while not any(part in address for found in self.found for address in found):
                await self._news.wait()

    async def until_failed(self) -> None:
        with trio.fail_after(SOON_S):
            while not self.failed:
                await self._news.wait()


@asynccontextmanager
async def on_network(
    me: PeerId, *topics: str, host: str = LOOPBACK, port: int = 4001
) -> AsyncIterator[tuple[LocalNetwork, Heard]]:
    heard = Heard()
    places = [(ip_address(host), port)]
    network = LocalNetwork(me, places, topics, heard.on_found, heard.on_failed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.run)
        yield network, heard
        nursery.cancel_scope.cancel()


@pytest.fixture
def multicast() -> None:
    try:
        interfaces_with_multicast([LOOPBACK])
    except OSError as error:
        pytest.skip(f"no multicast on loopback here: {error}")


@pytest.mark.usefixtures("multicast")
async def test_two_peers_of_a_swarm_on_one_machine_find_each_other_and_no_others() -> None:
    async with (
        on_network(ALICE, SWARM, DATA, port=1001) as (_, alice),
        on_network(CAROL, OTHER_SWARM, port=1003) as (_, carol),
        on_network(BOB, SWARM, port=1002) as (_, bob),
    ):
        await alice.until(BOB)
        await bob.until(ALICE)
        assert bob.found[0] == (f"/ip4/{LOOPBACK}/tcp/1001/p2p/{ALICE}",)
        assert not carol.found
        assert not any(CAROL in a for found in alice.found + bob.found for a in found)
        assert not alice.failed + bob.failed + carol.failed


@pytest.mark.usefixtures("multicast")
async def test_peers_that_come_to_share_a_topic_hear_of_each_other_then() -> None:
    async with on_network(ALICE, DATA) as (_, alice), on_network(BOB, SWARM) as (network, bob):
        assert not alice.found + bob.found
        network.topics_changed([SWARM, DATA])
        await alice.until(BOB)
        await bob.until(ALICE)


@pytest.mark.usefixtures("multicast")
async def test_leaving_takes_less_than_two_seconds_and_leaves_no_thread_of_its_own() -> None:
    async with on_network(ALICE, SWARM), on_network(BOB, SWARM) as (_, bob):
        await bob.until(ALICE)
        began = trio.current_time()
    assert trio.current_time() - began < 2.0
    assert not [thread for thread in threading.enumerate() if "zeroconf" in thread.name]


async def test_leaving_in_the_middle_of_the_start_is_quick_and_leaves_no_socket() -> None:
    """A socket that stays open is a ResourceWarning, which is an error in these tests."""
    for step in range(40):
        began = trio.current_time()
        async with on_network(ALICE, SWARM) as (_, heard):
            with trio.move_on_after(step * 0.0005):
                await trio.sleep_forever()
        assert trio.current_time() - began < 2.0
        assert not heard.failed
    gc.collect()


async def test_without_multicast_it_says_so_once_and_nothing_else_happens() -> None:
    async with on_network(ALICE, SWARM, host="192.0.2.199") as (_, heard):
        await heard.until_failed()
        assert "no multicast here" in heard.failed[0]
    assert len(heard.failed) == 1


async def test_a_peer_that_does_not_listen_stays_silent() -> None:
    heard = Heard()
    with trio.fail_after(1):
        await LocalNetwork(ALICE, [], [SWARM], heard.on_found, heard.on_failed).run()
    assert not heard.failed


@pytest.mark.usefixtures("multicast")
async def test_a_liar_on_the_network_does_no_harm_and_the_next_honest_peer_is_found() -> None:
    lies: list[dict[str, str | bytes]] = [
        {},
        {"id": str(BOB)[:-1], "t": mark_of(SWARM)},
        {"id": str(BOB), "t": b"\xff" * 200},
        {"id": b"\xff" * 200, "t": mark_of(SWARM)},
        {"id": str(ALICE), "t": mark_of(SWARM)},  # ALICE's own id
    ]
    async with on_network(ALICE, SWARM) as (_, alice):
        liar = await trio.to_thread.run_sync(lambda: Zeroconf(interfaces=[LOOPBACK]))
        async with trio.open_nursery() as nursery:
            for number, properties in enumerate(lies):
                name = f"liar {number} of {os.getpid()}.{SERVICE}"
                info = AsyncServiceInfo(
                    SERVICE, name, port=9, parsed_addresses=[LOOPBACK], properties=properties
                )
                nursery.start_soon(trio.to_thread.run_sync, liar.register_service, info)
        async with on_network(CAROL, SWARM):
            await alice.until(CAROL)
        assert all(CAROL in address for found in alice.found for address in found)
        await trio.to_thread.run_sync(liar.close)


@pytest.mark.usefixtures("multicast")
async def test_one_identity_announced_by_two_processes_is_said_and_both_are_found() -> None:
    async with on_network(ALICE, SWARM) as _, on_network(BOB, SWARM) as (_, bob):
        await bob.until(ALICE)
        async with on_network(ALICE, SWARM, port=2000) as (_, copy):
            await copy.until_failed()
            assert "never run one identity twice" in copy.failed[0]
            await bob.until("/tcp/2000/")  # it is announced all the same
