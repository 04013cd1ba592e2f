"""Which peer is dialled when, and at which of its addresses first."""

import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import ConfigError
from p2ptrain.net.identity import identity_of
from p2ptrain.net.libp2p_host import open_host
from p2ptrain.net.transport import Etiquette
from p2ptrain.node.addresses import Reach, Source, check_given, peer_dialled_at, reach_of
from p2ptrain.node.dialling import REDIAL_S_MAX, REDIAL_S_MIN, STEADY_S, Dial, Dialling
from p2ptrain.node.greeting import judge_hello, make_hello
from p2ptrain.node.peers import Peers
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.limits import (
    ADDRESS_CHARS_MAX,
    ADDRESSES_A_TURN,
    ADDRESSES_MAX,
    CONNECTIONS_MAX,
    DIALS_HEARSAY_MAX,
    DIALS_MAX,
)
from p2ptrain.wire.peer_id import PeerId

SWARM = cid_of(b"swarm")
IDENTITIES = [identity_of(bytes([n, 7]) * 16) for n in range(4)]
PEER, OTHER = IDENTITIES[0].peer_id, IDENTITIES[1].peer_id
OURS = ("/ip4/192.168.7.20/tcp/4001", "/ip6/2001:db8:1::20/tcp/4001", "/ip4/127.0.0.1/tcp/4001")


def at(host: str, peer: PeerId = PEER, port: int = 4001) -> str:
    return f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}/p2p/{peer}"


def know(dialling: Dialling, source: Source, *texts: str) -> bool:
    addresses = [dialling.address(text, source) for text in texts]
    return dialling.know([address for address in addresses if address is not None])


def order(dialling: Dialling, peer: PeerId = PEER) -> list[str]:
    (state,) = [state for state in dialling.states(0.0) if state.peer == peer]
    return [text for text, _, _ in state.addresses]


def many_peers(count: int) -> list[PeerId]:
    return [identity_of(n.to_bytes(4, "big") * 8).peer_id for n in range(count)]


def take_turn(dialling: Dialling, now: float, *, reached: bool = False) -> Dial:
    """One turn of the only peer, in which every address that is tried fails."""
    (dial,) = dialling.due(now)
    for address in dialling.turn(dial):
        dialling.failed(dial, address, "nobody there")
    dialling.finished(dial, now, reached=reached)
    return dial


# --- which address first ------------------------------------------------------------------------
def test_the_address_that_worked_last_is_tried_first() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.TOLD, at("1.1.1.1"), at("1.1.1.2"), at("1.1.1.3"))
    dialling.worked(PEER, at("1.1.1.2"), 100.0)
    dialling.worked(PEER, at("1.1.1.3"), 200.0)
    assert order(dialling) == [at("1.1.1.3"), at("1.1.1.2"), at("1.1.1.1")]


def test_an_address_that_fails_goes_behind_what_was_not_tried_until_it_works() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.TOLD, at("1.1.1.1"), at("1.1.1.2"))
    dialling.worked(PEER, at("1.1.1.1"), 100.0)
    (dial,) = dialling.due(0.0)
    dialling.failed(dial, dialling.turn(dial)[0], "connection refused")
    assert [address.text for address in dialling.turn(dial)] == [at("1.1.1.2"), at("1.1.1.1")]
    dialling.worked(PEER, at("1.1.1.1"), 300.0)
    assert order(dialling)[0] == at("1.1.1.1")


def test_our_own_network_comes_before_public_then_private_then_loopback_addresses() -> None:
    dialling = Dialling(OURS)
    hosts = ["127.0.0.1", "10.0.0.1", "1.1.1.1", "192.168.7.9", "192.168.8.9", "2001:db8:1::1"]
    know(dialling, Source.TOLD, *map(at, hosts))
    reaches = [reach_of(text, OURS) for text in order(dialling)]
    assert reaches == sorted(reaches)
    assert [reach_of(at(host), OURS) for host in hosts] == [
        Reach.LOOPBACK,
        Reach.PRIVATE,
        Reach.PUBLIC,
        Reach.OWN_NETWORK,
        Reach.PRIVATE,
        Reach.OWN_NETWORK,
    ]


def test_hearsay_is_tried_last_even_if_all_else_has_failed_until_it_has_worked() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.HEARSAY, at("192.168.7.9"), at("1.1.1.2"))
    know(dialling, Source.TOLD, at("10.0.0.1"))
    take_turn(dialling, 0.0)
    assert order(dialling)[0] == at("10.0.0.1")
    dialling.worked(PEER, at("1.1.1.2"), 1.0)
    assert order(dialling)[0] == at("1.1.1.2")


def test_what_a_peer_says_itself_lifts_hearsay_and_hearsay_lowers_nothing() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.HEARSAY, at("1.1.1.1"))
    know(dialling, Source.TOLD, at("1.1.1.1"))
    know(dialling, Source.HEARSAY, at("1.1.1.1"))
    (state,) = dialling.states(0.0)
    assert state.addresses == ((at("1.1.1.1"), "told", ""),)


@given(st.lists(st.tuples(st.sampled_from(Source), st.integers(0, 40)), max_size=60))
def test_whatever_is_said_addresses_are_bounded_and_hearsay_displaces_nothing(
    said: list[tuple[Source, int]],
) -> None:
    dialling = Dialling(OURS)
    for source, number in said:
        before = list(dialling.states(0.0)[0].addresses) if len(dialling) else []
        know(dialling, source, at(f"1.1.1.{number}"))
        kept = dialling.states(0.0)[0].addresses
        assert len(kept) <= ADDRESSES_MAX
        if source is Source.HEARSAY:
            assert {text for text, source, _ in before if source != "hearsay"} <= {
                text for text, _, _ in kept
            }
        is_hearsay = [source == "hearsay" for _, source, _ in kept]
        assert is_hearsay == sorted(is_hearsay)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/p2p/",
        "/ip4/1.1.1.1/tcp/1",
        "/ip4/1.1.1.1/tcp/1/p2p/12D3Koo",
        f"/ip4/1.1.1.999/tcp/1/p2p/{PEER}",
        f"/ip6/1.1.1.1/tcp/1/p2p/{PEER}",
        f"/ip4/0.0.0.0/tcp/1/p2p/{PEER}",
        f"/ip4/224.0.0.251/tcp/1/p2p/{PEER}",
        f"/ip4/1.1.1.1\n/tcp/1/p2p/{PEER}",
        f"/ip4/1.1.1.1/{'x' * ADDRESS_CHARS_MAX}/p2p/{PEER}",
    ],
)
def test_text_that_leads_to_no_peer_is_not_dialled_and_refused_from_users(text: str) -> None:
    assert peer_dialled_at(text) is None
    with pytest.raises(ConfigError, match="must look like"):
        check_given((text,))


@given(st.text(max_size=100), st.sampled_from(["", "/ip4/", "/ip6/", "/ip4/1.1.1.1/tcp/"]))
def test_no_text_of_a_stranger_harms_the_dialling(text: str, prefix: str) -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.HEARSAY, prefix + text, f"{prefix}{text}/p2p/{PEER}")
    assert len(dialling) <= 1


# --- when ---------------------------------------------------------------------------------------
def test_pauses_double_and_only_a_connection_that_lasted_sets_them_back() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.TOLD, at("1.1.1.1"))
    now, pauses = 0.0, []
    for _ in range(9):
        take_turn(dialling, now)
        pauses.append(dialling.next_at() - now)
        now = dialling.next_at()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    dialling.connected(PEER, now)
    assert dialling.next_at() == inf
    dialling.disconnected(PEER, now + STEADY_S - 1)
    assert dialling.next_at() == now + STEADY_S - 1 + REDIAL_S_MAX
    dialling.connected(PEER, now)
    dialling.disconnected(PEER, now + STEADY_S)
    assert dialling.next_at() == now + STEADY_S


def test_a_peer_that_takes_us_in_and_drops_us_over_and_over_is_dialled_ever_more_seldom() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.TOLD, at("1.1.1.1"))
    now, turns = 0.0, 0
    while now < 600:
        (dial,) = dialling.due(now)
        dialling.worked(PEER, at("1.1.1.1"), now)
        dialling.finished(dial, now, reached=True)
        dialling.connected(PEER, now)
        dialling.disconnected(PEER, now)
        know(dialling, Source.TOLD, at("1.1.1.1", port=5000 + turns))  # a new address each time
        now, turns = dialling.next_at(), turns + 1
    assert turns <= 6 + 600 / REDIAL_S_MAX


def test_who_refuses_is_asked_again_after_the_longest_pause_or_when_there_is_news() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.TOLD, at("1.1.1.1"))
    (dial,) = dialling.due(0.0)
    dialling.failed(dial, dialling.turn(dial)[0], "another swarm", refused=True)
    dialling.finished(dial, 0.0, reached=False)
    assert dialling.refusals == {at("1.1.1.1"): "another swarm"}
    assert dialling.refused_by_all
    assert dialling.next_at() == REDIAL_S_MAX
    dialling.ask_again()
    assert not dialling.refusals
    assert dialling.next_at() == 0.0


def test_peers_of_earlier_runs_that_are_gone_do_not_hide_that_all_others_refuse() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.REMEMBERED, at("1.1.1.2", OTHER))
    assert not dialling.refused_by_all
    know(dialling, Source.GIVEN, at("1.1.1.1"))
    for dial in dialling.due(0.0):
        dialling.failed(dial, dialling.turn(dial)[0], "no", refused=dial.peer == PEER)
    assert dialling.refused_by_all


def test_an_address_from_the_user_is_tried_at_once() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.TOLD, at("1.1.1.1"))
    for _ in range(8):
        take_turn(dialling, dialling.next_at())
    know(dialling, Source.GIVEN, at("1.1.1.2"))
    assert dialling.next_at() == 0.0
    assert order(dialling)[0] == at("1.1.1.2")


def test_a_turn_tries_a_few_addresses_and_the_next_turn_the_others() -> None:
    dialling = Dialling(OURS)
    texts = {at(f"1.1.1.{n}") for n in range(2 * ADDRESSES_A_TURN)}
    know(dialling, Source.TOLD, *texts)
    (dial,) = dialling.due(0.0)
    first = {address.text for address in dialling.turn(dial)}
    dialling.finished(dial, 0.0, reached=False)
    take_turn(dialling, 1.0)
    second = {address.text for address in dialling.turn(dial)}
    assert len(first) == len(second) == ADDRESSES_A_TURN
    assert first | second == texts


def test_turns_at_once_are_bounded_and_invented_peers_take_half_of_them() -> None:
    dialling = Dialling(OURS)
    invented, known = many_peers(40)[:20], many_peers(40)[20:]
    for peer in invented:
        know(dialling, Source.HEARSAY, at("1.1.1.1", peer))
    assert len(dialling.due(0.0)) == DIALS_HEARSAY_MAX
    assert dialling.next_at() == inf  # until a turn is over
    for peer in known:
        know(dialling, Source.TOLD, at("1.1.1.1", peer))
    started = dialling.due(0.0)
    assert len(started) == DIALS_MAX - DIALS_HEARSAY_MAX
    assert {dial.peer for dial in started} <= set(known)
    assert not dialling.due(0.0)
    dialling.finished(started[0], 0.0, reached=False)
    assert len(dialling.due(0.0)) == 1


def test_a_peer_that_spoke_for_itself_displaces_an_invented_one_and_never_the_reverse() -> None:
    dialling = Dialling(OURS)
    *invented, real = many_peers(CONNECTIONS_MAX + 1)
    for peer in invented:
        assert know(dialling, Source.HEARSAY, at("1.1.1.1", peer))
    assert know(dialling, Source.TOLD, at("1.1.1.1", real))
    assert len(dialling) == CONNECTIONS_MAX
    for peer in invented:
        know(dialling, Source.TOLD, at("1.1.1.1", peer))
    assert not know(dialling, Source.HEARSAY, at("1.1.1.1", PEER))
    assert real in dialling


def test_states_say_what_was_tried_and_when_the_next_try_comes() -> None:
    dialling = Dialling(OURS)
    know(dialling, Source.TOLD, at("1.1.1.1"))
    take_turn(dialling, 10.0)
    (state,) = dialling.states(10.1)
    assert state.addresses == ((at("1.1.1.1"), "told", "nobody there"),)
    assert state.next_try_s == pytest.approx(REDIAL_S_MIN - 0.1)
    assert (state.failures, state.last_error) == (1, "nobody there")
    assert not state.connected
    assert not state.under_way
    dialling.connected(PEER, 11.0)
    assert dialling.states(12.0)[0].next_try_s is None


# --- over libp2p --------------------------------------------------------------------------------
@dataclass
class Reports:
    """All that a peer has reported, and a way to wait for it."""

    seen: list[Mapping[str, Value]] = field(default_factory=list)
    news: trio.Event = field(default_factory=trio.Event)

    def sink(self, event: Mapping[str, Value]) -> None:
        self.seen.append(event)
        self.news.set()
        self.news = trio.Event()

    def of(self, event: str) -> list[Mapping[str, Value]]:
        return [report for report in self.seen if report["event"] == event]

    async def until(self, event: str, count: int = 1) -> None:
        """Wait for a report, and fail rather than wait for long."""
        with trio.fail_after(10):
            while len(self.of(event)) < count:
                await self.news.wait()


@asynccontextmanager
async def libp2p_peer(
    number: int, listen: Iterable[str] = ("/ip4/127.0.0.1/tcp/0",)
) -> AsyncIterator[tuple[Peers, Reports]]:
    reports = Reports()
    addresses: list[str] = []
    etiquette = Etiquette(
        hello=lambda: make_hello((SWARM,), tuple(addresses)),
        judge_hello=lambda peer, data: judge_hello((SWARM,), data),
    )
    async with (
        open_host(IDENTITIES[number], listen=list(listen), etiquette=etiquette) as transport,
        trio.open_nursery() as nursery,
    ):
        addresses += transport.addresses
        peers = Peers(transport, Telemetry(reports.sink), swarm=SWARM, dial_timeout_s=0.5)
        nursery.start_soon(_read, peers)
        nursery.start_soon(peers.keep_dialling)
        yield peers, reports
        nursery.cancel_scope.cancel()


async def _read(peers: Peers) -> None:
    async for _ in peers.events():
        pass


def listening(peers: Peers) -> str:
    return peers.transport.addresses[0]


async def test_dead_addresses_are_passed_over_one_by_one_each_within_its_timeout() -> None:
    """One never answers, one refuses, one is somebody else: the fourth is the peer."""
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with (
            libp2p_peer(0) as (alice, _),
            libp2p_peer(2) as (carol, _),
            libp2p_peer(1, listen=()) as (bob, reports),
        ):
            dead = [mute.getsockname()[1], closed.getsockname()[1]]
            dead.append(int(listening(carol).split("/")[4]))
            texts = [at("127.0.0.1", alice.me, port) for port in dead]
            bob.know([*texts, listening(alice)])
            await reports.until("connected")
            assert bob.connected == {alice.me}
            assert {report["address"] for report in reports.of("unreachable")} == set(texts)
            (state,) = bob.dial_states()
            assert state.addresses[0] == (listening(alice), "given", "")


async def test_the_new_port_of_a_restarted_peer_is_learned_from_its_hello() -> None:
    async with libp2p_peer(1) as (bob, reports):
        ports = []
        for count in (1, 2):
            async with libp2p_peer(0) as (alice, _):
                alice.know([listening(bob)])
                await reports.until("connected", count)
                ports.append(listening(alice))
            await reports.until("disconnected", count)
        (state,) = bob.dial_states()
        assert {text for text, _, _ in state.addresses} == set(ports)
