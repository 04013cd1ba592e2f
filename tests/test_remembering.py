"""Nodes that start again without a link: found by memory, or by multicast; over real libp2p."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from p2ptrain.config_local import node_config
from p2ptrain.errors import ConfigError, RemoteProtocolError
from p2ptrain.net.identity import load_or_create
from p2ptrain.net.mdns import interfaces_with_multicast
from p2ptrain.node.node import JoinOptions, Node, open_node
from p2ptrain.node.remembering import open_memory
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.store.address_book import Listening, Met
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.limits import STRIKES_MAX

RUN = os.getpid().to_bytes(4, "big")  # another run of these tests on this machine is not met
SWARM, DATA = cid_of(b"swarm" + RUN), cid_of(b"data" + RUN)
LISTEN = ("/ip4/127.0.0.1/tcp/0",)
SOON_S = 10.0


@dataclass
class Running:
    """A node, and all that it has reported."""

    node: Node
    reports: list[Mapping[str, Value]]
    news: list[trio.Event] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.node.peers.transport.addresses[0]

    def told(self, event: str) -> list[Mapping[str, Value]]:
        return [report for report in self.reports if report["event"] == event]

    async def until(self, event: str, count: int = 1) -> None:
        with trio.fail_after(SOON_S):
            while len(self.told(event)) < count:
                self.news.append(trio.Event())
                await self.news[-1].wait()


@asynccontextmanager
async def running(home: Path, options: JoinOptions, *topics: str) -> AsyncIterator[Running]:
    """A node that serves and dials but does not train; its home outlives it."""
    config = node_config(home)
    reports: list[Mapping[str, Value]] = []
    waiting: list[trio.Event] = []

    def sink(event: Mapping[str, Value]) -> None:
        reports.append(event)
        while waiting:
            waiting.pop().set()

    identity, blocks = load_or_create(config.identity_path), BlockStore(config.blocks_path)
    async with open_node(
        config, identity, blocks, list(topics or [SWARM]), options, Telemetry(sink)
    ) as node:
        yield Running(node, reports, waiting)


def dialling(*peers: str, mdns: bool = False) -> JoinOptions:
    return JoinOptions(listen=LISTEN, peers=peers, mdns=mdns)


async def test_a_peer_that_starts_again_without_a_link_finds_whom_it_met(tmp_path: Path) -> None:
    async with running(tmp_path / "one", dialling()) as one:
        async with running(tmp_path / "two", dialling(one.address)) as two:
            await two.until("connected")
        async with running(tmp_path / "two", dialling()) as two:
            await two.until("connected")
            await one.until("connected", 2)
            (state,) = two.node.peers.dial_states()
            assert state.addresses == ((one.address, "told", ""),)


async def test_when_all_start_again_they_listen_where_they_did_and_find_each_other(
    tmp_path: Path,
) -> None:
    async with (
        running(tmp_path / "one", dialling()) as one,
        running(tmp_path / "two", dialling(one.address)) as two,
    ):
        before = one.address, two.address
        await one.until("connected")
    async with (
        running(tmp_path / "one", dialling()) as one,
        running(tmp_path / "two", dialling()) as two,
    ):
        await one.until("connected")
        await two.until("connected")
        assert (one.address, two.address) == before


async def test_a_remembered_port_that_is_taken_is_given_up_for_any_other(tmp_path: Path) -> None:
    async with running(tmp_path / "one", dialling()) as one:
        taken = one.address
        path = node_config(tmp_path / "two").address_book_path
        async with open_memory(path, [SWARM], Telemetry(lambda event: None)) as memory:
            memory.note(Listening(LISTEN[0], int(taken.split("/")[4])))
        async with running(tmp_path / "two", dialling()) as two:
            assert two.address.split("/")[4] != taken.split("/")[4]


async def test_two_listen_addresses_never_get_one_remembered_port(tmp_path: Path) -> None:
    options = JoinOptions(listen=LISTEN * 2)
    for _ in range(2):
        async with running(tmp_path / "one", options) as one:
            addresses = one.node.peers.transport.addresses
            assert len({address.split("/")[4] for address in addresses}) == 2


async def test_who_broke_the_rules_is_not_remembered(tmp_path: Path) -> None:
    async with running(tmp_path / "one", dialling()) as one:
        async with running(tmp_path / "two", dialling(one.address)) as two:
            await two.until("connected")
            peer = one.node.identity.peer_id
            for _ in range(STRIKES_MAX):
                two.node.peers.strike(RemoteProtocolError(peer, "encoding 1.1", "garbage"))
            await two.until("disconnected")
        async with running(tmp_path / "two", dialling()) as two:
            assert not two.node.peers.anybody


async def test_a_seeder_is_recalled_when_its_data_set_becomes_known(tmp_path: Path) -> None:
    async with running(tmp_path / "seeder", dialling(), DATA) as seeder:
        async with running(tmp_path / "one", dialling(seeder.address), SWARM, DATA) as one:
            await one.until("connected")
        async with running(tmp_path / "one", dialling(), SWARM) as one:
            assert not one.node.peers.anybody
            await one.node.add_topic(DATA)
            await one.until("connected")


async def test_a_damaged_book_is_said_and_the_node_runs_without_its_memories(
    tmp_path: Path,
) -> None:
    path = node_config(tmp_path / "one").address_book_path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"garbage" * 1000)
    async with running(tmp_path / "one", dialling()) as one:
        assert "set aside" in str(one.told("warning")[0]["text"])
        assert not one.node.peers.anybody


async def test_a_book_that_cannot_be_opened_is_said_and_the_node_runs_all_the_same(
    tmp_path: Path,
) -> None:
    node_config(tmp_path / "two").address_book_path.mkdir(parents=True)
    async with (
        running(tmp_path / "one", dialling()) as one,
        running(tmp_path / "two", dialling(one.address)) as two,
    ):
        await two.until("connected")
        (warning,) = two.told("warning")
        assert "cannot open the address book" in str(warning["text"])


async def test_members_are_written_down_by_their_swarm_and_seeders_by_their_data_set(
    tmp_path: Path,
) -> None:
    """Members of another swarm that learns from the same data would only refuse us."""
    reports: list[Mapping[str, Value]] = []
    member, seeder = (load_or_create(tmp_path / name).peer_id for name in ("one", "two"))
    address = "/ip4/192.0.2.1/tcp/4001/p2p/"
    async with open_memory(tmp_path / "book", [SWARM, DATA], Telemetry(reports.append)) as memory:
        memory.note(Met(member, ("other", SWARM, DATA), (address + member,), 1e9))
        memory.note(Met(seeder, (DATA,), (address + seeder,), 1e9))
        await memory.flush()
        assert await memory.recall(["other"]) == []
        assert [each.peer for each in await memory.recall([SWARM])] == [member]
        assert [each.peer for each in await memory.recall([DATA])] == [seeder]
    assert not reports


async def test_an_address_of_the_user_that_leads_to_no_peer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must look like"):
        async with running(tmp_path / "one", dialling("/ip4/192.0.2.1/tcp/4001")):
            pass


async def test_nodes_on_one_network_meet_without_a_link_and_without_memories(
    tmp_path: Path,
) -> None:
    try:
        interfaces_with_multicast(["127.0.0.1"])
    except OSError as error:
        pytest.skip(f"no multicast on loopback here: {error}")
    async with (
        running(tmp_path / "one", dialling(mdns=True)) as one,
        running(tmp_path / "two", dialling(mdns=True)) as two,
        running(tmp_path / "three", dialling()) as three,
    ):
        await one.until("connected")
        await two.until("connected")
        assert not three.told("connected")
        assert not one.told("warning")
