"""Peers of one swarm over simulated connections: who is welcome, dialled, let go and forgotten."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio
from trio.testing import MockClock

from p2ptrain.config import ARITHMETIC
from p2ptrain.errors import RemoteProtocolError
from p2ptrain.net.identity import Identity, identity_of
from p2ptrain.net.transport import Etiquette
from p2ptrain.node.addresses import Source
from p2ptrain.node.dialling import REDIAL_S_MAX
from p2ptrain.node.greeting import judge_hello, judge_peer, make_hello
from p2ptrain.node.lanes import travels_with_data
from p2ptrain.node.peers import (
    Arrived,
    Departed,
    Peers,
    Received,
)
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.codec import pack, unpack
from p2ptrain.wire.digest import digest
from p2ptrain.wire.limits import (
    CONNECTIONS_MAX,
    PING_INTERVAL_S,
    PROTOCOL_VERSION,
    SIGNATURE_BYTES,
    STRIKES_MAX,
    STRIKES_PEERS_MAX,
)
from p2ptrain.wire.messages import (
    Commit,
    Contact,
    Contacts,
    GetTip,
    Goodbye,
    Have,
    Hello,
    Norm2,
    Piece,
    Signed,
    Statement,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.memnet import MemNet

SWARM, OTHER_SWARM = cid_of(b"swarm"), cid_of(b"other")
IDENTITIES = [identity_of(bytes([n]) * 32) for n in range(1, 6)]


@dataclass
class Member:
    """One peer, and all that it saw."""

    peers: Peers
    reports: list[Mapping[str, Value]] = field(default_factory=list)
    events: list[Arrived | Departed | Received] = field(default_factory=list)

    @property
    def me(self) -> PeerId:
        return self.peers.me

    @property
    def address(self) -> str:
        return self.peers.transport.addresses[0]

    def told(self, event: str) -> list[Mapping[str, Value]]:
        return [report for report in self.reports if report["event"] == event]

    async def watch(self) -> None:
        async for event in self.peers.events():
            self.events.append(event)


@asynccontextmanager
async def member(
    net: MemNet, identity: Identity, *, topics: tuple[str, ...] = (SWARM,), named: bool = True
) -> AsyncIterator[Member]:
    """A peer that listens, dials and reads; named: its hello says where it can be dialled."""
    addresses = (f"/memory/1/p2p/{identity.peer_id}",) if named else ()
    strikes: dict[PeerId, int] = {}
    etiquette = Etiquette(
        hello=lambda: make_hello(topics, addresses),
        judge_hello=lambda peer, data: judge_peer(strikes, topics, peer, data),
    )
    reports: list[Mapping[str, Value]] = []
    async with net.open(identity, etiquette) as transport, trio.open_nursery() as nursery:
        one = Member(Peers(transport, Telemetry(reports.append), strikes=strikes), reports)
        nursery.start_soon(one.watch)
        nursery.start_soon(one.peers.keep_dialling)
        yield one
        nursery.cancel_scope.cancel()


def dialled(one: Member) -> dict[PeerId, list[str]]:
    """Whom a member could dial, and its addresses in the order of trying."""
    return {
        state.peer: [text for text, _, _ in state.addresses] for state in one.peers.dial_states()
    }


@asynccontextmanager
async def pair(net: MemNet) -> AsyncIterator[tuple[Member, Member]]:
    async with member(net, IDENTITIES[0]) as one, member(net, IDENTITIES[1]) as two:
        two.peers.know((one.address,))
        await trio.sleep(1)
        assert one.peers.connected == {two.me}
        assert two.peers.connected == {one.me}
        yield one, two


# --- hello ------------------------------------------------------------------------------------
def test_a_hello_of_the_same_swarm_is_welcome() -> None:
    assert judge_hello((SWARM,), make_hello((OTHER_SWARM, SWARM), ())) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": PROTOCOL_VERSION + 1}, "protocol 2"),
        ({"arithmetic": ARITHMETIC + 1}, f"arithmetic {ARITHMETIC + 1}"),
        ({"topics": (OTHER_SWARM,)}, OTHER_SWARM),
        ({"topics": ()}, "nothing"),
    ],
)
def test_a_hello_that_does_not_fit_is_refused_in_words(
    change: dict[str, int | tuple[str, ...]], words: str
) -> None:
    hello = unpack(Hello, make_hello((SWARM,), ()))
    refusal = judge_hello((SWARM,), pack(replace(hello, **change)))  # type: ignore[arg-type]
    assert refusal is not None
    assert words in refusal


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 100, bytes(1000)])
def test_garbage_instead_of_a_hello_is_refused(data: bytes) -> None:
    assert "cannot be read" in str(judge_hello((SWARM,), data))


async def test_who_is_refused_is_told_why(autojump_clock: MockClock) -> None:
    net = MemNet()
    async with (
        member(net, IDENTITIES[0]) as one,
        member(net, IDENTITIES[1], topics=(OTHER_SWARM,)) as two,
    ):
        two.peers.know((one.address,))
        await trio.sleep(1)
        assert SWARM in two.peers.refusals[one.address]
        assert not one.events


# --- messages ---------------------------------------------------------------------------------
async def test_messages_arrive_and_those_for_strangers_do_not_leave(
    autojump_clock: MockClock,
) -> None:
    async with pair(MemNet()) as (one, two):
        assert one.peers.send(two.me, GetTip(1))
        two.peers.broadcast(GetTip(2))
        assert not one.peers.send(IDENTITIES[4].peer_id, GetTip(3))
        await trio.sleep(1)
        assert two.events == [Arrived(one.me), Received(one.me, GetTip(1))]
        assert one.events == [Arrived(two.me), Received(two.me, GetTip(2))]


async def test_a_peer_that_is_silent_is_not_heard(autojump_clock: MockClock) -> None:
    net = MemNet()
    async with pair(net) as (one, two):
        await trio.sleep(100)
        assert one.peers.heard_within(PING_INTERVAL_S + 1) == [two.me]
        net.partition({one.me}, {two.me})
        await trio.sleep(PING_INTERVAL_S + 2)
        assert one.peers.heard_within(PING_INTERVAL_S + 1) == []
        assert one.peers.connected == {two.me}


async def test_a_lost_connection_is_dialled_again(autojump_clock: MockClock) -> None:
    net = MemNet()
    async with pair(net) as (one, two):
        net.cut(one.me, two.me)
        await trio.sleep(2)
        assert one.peers.connected == {two.me}
        assert one.events == [Arrived(two.me), Departed(two.me), Arrived(two.me)]


# --- strikes ----------------------------------------------------------------------------------
async def test_a_peer_that_sends_garbage_is_let_go_at_its_last_strike_and_not_dialled_again(
    autojump_clock: MockClock,
) -> None:
    async with pair(MemNet()) as (one, two):
        for _ in range(STRIKES_MAX - 1):
            two.peers.transport.send(one.me, b"garbage")
        await trio.sleep(1)
        assert one.peers.connected == {two.me}
        two.peers._forget(one.me)  # it does not come back by itself
        two.peers.transport.send(one.me, b"garbage")
        await trio.sleep(100)
        assert one.peers.connected == frozenset()
        assert one.events == [Arrived(two.me), Departed(two.me)]
        assert f"{STRIKES_MAX} faults" in str(two.told("disconnected")[0]["reason"])
        one.peers.know((two.address,))  # nor when somebody names it
        await trio.sleep(100)
        assert one.peers.connected == frozenset()


async def test_faults_that_a_machine_finds_count_as_well(autojump_clock: MockClock) -> None:
    async with pair(MemNet()) as (one, two):
        two.peers._forget(one.me)
        for _ in range(STRIKES_MAX):
            one.peers.strike(RemoteProtocolError(two.me, "averaging 5.1", "not its turn"))
        await trio.sleep(1)
        assert one.peers.connected == frozenset()
        assert one.peers.telemetry.strikes == STRIKES_MAX


async def test_a_peer_that_was_let_go_and_comes_back_is_refused_and_asks_ever_more_seldom(
    autojump_clock: MockClock,
) -> None:
    async with pair(MemNet()) as (one, two):
        for _ in range(STRIKES_MAX):
            two.peers.transport.send(one.me, b"garbage")
        await trio.sleep(100)
        assert one.events == [Arrived(two.me), Departed(two.me)]
        assert f"{STRIKES_MAX} faults" in str(two.peers.refusals[one.address])
        (state,) = two.peers.dial_states()
        assert 2 <= state.failures <= 2 + 100 / REDIAL_S_MAX
        assert len(two.told("refused")) == 1  # what a person knows already is not said again
        assert len(two.told("connected")) == 1


async def test_the_faults_of_ever_new_peers_take_no_more_memory_than_a_limit(
    autojump_clock: MockClock,
) -> None:
    async with member(MemNet(), IDENTITIES[0]) as one:
        for n in range(STRIKES_PEERS_MAX + 10):
            one.peers.strike(RemoteProtocolError(f"peer {n}", "encoding 1.1", "garbage"))
        assert len(one.peers.strikes) == STRIKES_PEERS_MAX


# --- contacts ---------------------------------------------------------------------------------
async def test_peers_that_know_only_one_end_up_connected_to_all(autojump_clock: MockClock) -> None:
    net = MemNet(latency_s=0.03)
    async with (
        member(net, IDENTITIES[0]) as hub,
        member(net, IDENTITIES[1]) as one,
        member(net, IDENTITIES[2]) as two,
        member(net, IDENTITIES[3]) as three,
    ):
        everyone = (hub, one, two, three)
        for spoke in everyone[1:]:
            spoke.peers.know((hub.address,))
        await trio.sleep(3)
        for peer in everyone:
            assert peer.peers.connected == {other.me for other in everyone} - {peer.me}
            assert sum(isinstance(event, Arrived) for event in peer.events) == 3


async def test_who_says_goodbye_is_not_dialled_again(autojump_clock: MockClock) -> None:
    net = MemNet()
    async with member(net, IDENTITIES[0]) as one:
        async with member(net, IDENTITIES[1]) as two:
            two.peers.know((one.address,))
            await trio.sleep(1)
            two.peers.broadcast(Goodbye("the run is over"))
            await trio.sleep(1)
        await trio.sleep(100)
        assert one.told("goodbye")[0]["reason"] == "the run is over"
        assert not one.told("unreachable")
        with trio.fail_after(1):
            await one.peers.wait_for_somebody()  # there is nobody to wait for any more


async def test_waiting_for_somebody_ends_when_the_last_one_to_dial_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    net = MemNet()
    async with member(net, IDENTITIES[0]) as one, trio.open_nursery() as nursery:
        one.peers.know((f"/memory/1/p2p/{IDENTITIES[1].peer_id}",))
        nursery.start_soon(one.peers.wait_for_somebody)
        await trio.sleep(1)
        for _ in range(STRIKES_MAX):
            one.peers.strike(RemoteProtocolError(IDENTITIES[1].peer_id, "encoding 1.1", "bad"))
        with trio.fail_after(1):
            await trio.sleep(0.5)
            assert not nursery.child_tasks


async def test_contacts_are_bounded_and_one_that_fails_for_long_makes_room(
    autojump_clock: MockClock,
) -> None:
    net = MemNet()
    everyone = [identity_of(bytes([n, 9]) * 16).peer_id for n in range(CONNECTIONS_MAX + 1)]
    *many, late = everyone
    async with member(net, IDENTITIES[0]) as one:
        for peer in everyone:
            one.peers.know((f"/memory/1/p2p/{peer}",), Source.HEARSAY)
        assert len(one.peers.dial_states()) == CONNECTIONS_MAX
        assert late not in dialled(one)
        await trio.sleep(200)
        one.peers.know((f"/memory/1/p2p/{late}",), Source.HEARSAY)
        assert late in dialled(one)
        assert len(dialled(one)) == len(many)


async def test_a_dead_address_does_not_hold_up_the_others(autojump_clock: MockClock) -> None:
    """A black hole takes the whole dial timeout; the next peer is dialled at once all the same."""
    net = MemNet()
    async with member(net, IDENTITIES[0]) as one, member(net, IDENTITIES[1]) as two:
        hole = IDENTITIES[2].peer_id
        net.partition({one.me, two.me}, {hole})
        two.peers.know((f"/memory/1/p2p/{hole}",))
        await trio.sleep(0.3)
        two.peers.know((one.address,))
        await trio.sleep(0.5)
        assert two.peers.connected == {one.me}


async def test_several_addresses_of_one_peer_are_all_tried(autojump_clock: MockClock) -> None:
    net = MemNet()
    async with member(net, IDENTITIES[0]) as one, member(net, IDENTITIES[1]) as two:
        two.peers.know((one.address,))
        two.peers.know((f"/nowhere/p2p/{one.me}",))
        assert dialled(two)[one.me] == [f"/nowhere/p2p/{one.me}", one.address]


async def test_what_others_say_of_a_peer_does_not_displace_what_it_said_itself(
    autojump_clock: MockClock,
) -> None:
    net = MemNet()
    async with member(net, IDENTITIES[2]) as liar, pair(net) as (one, two):
        liar.peers.know((one.address,))
        await trio.sleep(2)
        false = tuple(f"/false/{n}/p2p/{two.me}" for n in range(16))
        liar.peers.send(one.me, Contacts((Contact(two.me, false),)))
        await trio.sleep(1)
        assert dialled(one)[two.me][0] == two.address


async def test_a_hello_cannot_name_addresses_of_somebody_else(autojump_clock: MockClock) -> None:
    net, victim = MemNet(), IDENTITIES[4].peer_id
    hello = make_hello((SWARM,), (f"/memory/1/p2p/{victim}",))
    async with (
        net.open(
            IDENTITIES[1], Etiquette(hello=lambda: hello, judge_hello=lambda *_: None)
        ) as liar,
        member(net, IDENTITIES[0]) as one,
    ):
        await liar.dial(one.address, 5)
        await trio.sleep(1)
        assert victim not in dialled(one)


def test_pieces_cannot_overtake_the_commit_that_they_belong_to() -> None:
    me, anything = IDENTITIES[0].peer_id, digest("test")
    commit = Commit(anything, anything, anything, 4, 1, anything, (Norm2(1),), anything, 1)
    assert travels_with_data(Statement(Signed(me, bytes(SIGNATURE_BYTES), commit)))
    assert travels_with_data(Piece(anything, me, 0, (), b"shard"))
    have = Have(anything, (anything,))
    assert not travels_with_data(Statement(Signed(me, bytes(SIGNATURE_BYTES), have)))
