"""The node's part in announcements: its budget for each peer, and what it does with addresses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import trio
from test_announcing import announced, told
from test_peers import IDENTITIES, Member, dialled, pair
from trio.testing import MockClock

from p2ptrain.net.identity import identity_of
from p2ptrain.node.announcing import AnnouncingNode, words_for_states
from p2ptrain.node.drive import drive
from p2ptrain.swarm.sightings import StateGroup
from p2ptrain.wire.announcing import GetAnnounced
from p2ptrain.wire.digest import digest
from p2ptrain.wire.envelope import Ed25519Signer, Ed25519Verifier, sign_statement
from p2ptrain.wire.limits import ANNOUNCED_PER_PEER_BURST, ANNOUNCED_PER_PEER_PER_S, STRIKES_MAX
from p2ptrain.wire.messages import Signed
from simnet.keys import KeyRing
from simnet.memnet import MemNet

SWARM = digest("swarm", b"some")
FAR = identity_of(bytes([9]) * 32)
PLACE = f"/ip4/192.0.2.7/tcp/4001/p2p/{FAR.peer_id}"


def node_of(one: Member) -> AnnouncingNode:
    """The announcements of a peer that follows no run yet: it has no state to tell of."""
    return AnnouncingNode(
        peers=one.peers,
        telemetry=one.peers.telemetry,
        state=cast(Any, None),
        swarm=SWARM,
        signer=Ed25519Signer(IDENTITIES[0].private_key),
        verifier=Ed25519Verifier(),
    )


def signed(private_key: bytes, sequence: int, *addresses: str) -> Signed:
    words = told(sequence=sequence, addresses=addresses)
    return sign_statement(Ed25519Signer(private_key), SWARM, words)


@asynccontextmanager
async def listening(node: AnnouncingNode) -> AsyncIterator[None]:
    """The node takes what comes, and says nothing."""
    node.machine.members(0.0, [])
    async with trio.open_nursery() as nursery:
        node.machine._say_at = float("inf")
        nursery.start_soon(drive, node.machine, node._inbox, node._carry_out, node.peers.strike)
        yield
        nursery.cancel_scope.cancel()


async def test_a_flood_of_announcements_is_struck_and_not_read(autojump_clock: MockClock) -> None:
    async with pair(MemNet()) as (one, two):
        node = node_of(one)
        question = GetAnnounced(0, 1, ())
        for _ in range(ANNOUNCED_PER_PEER_BURST):
            node.deliver(two.me, question)
        assert one.peers.strikes == {}
        for _ in range(STRIKES_MAX):
            node.deliver(two.me, question)
        assert one.peers.strikes == {two.me: STRIKES_MAX}
        assert {e["rule"] for e in one.told("strike")} == {"announcements 3.1"}
        await trio.sleep(1)
        assert one.peers.connected == frozenset(), "it is let go"


async def test_an_honest_pace_is_never_struck(autojump_clock: MockClock) -> None:
    async with pair(MemNet()) as (one, two):
        node = node_of(one)
        for _ in range(30):
            for _ in range(ANNOUNCED_PER_PEER_PER_S):
                node.deliver(two.me, GetAnnounced(0, 1, ()))
            await trio.sleep(1.0)
        assert one.peers.strikes == {}


async def test_addresses_of_a_relayed_announcement_are_dialled_as_hearsay(
    autojump_clock: MockClock,
) -> None:
    async with pair(MemNet()) as (one, two):
        node = node_of(one)
        now_ms = node.machine.config.unix_ms()
        async with listening(node):
            liar = signed(IDENTITIES[2].private_key, now_ms, PLACE)  # an address of another peer
            node.deliver(two.me, announced(liar, signed(FAR.private_key, now_ms, PLACE)))
            await trio.sleep(0.1)
        assert dialled(one)[FAR.peer_id] == [PLACE]
        assert IDENTITIES[2].peer_id not in dialled(one)
        assert {peer for peer, _ in node.sightings} == {FAR.peer_id, IDENTITIES[2].peer_id}


async def test_a_bad_signature_is_a_strike_for_who_passed_it_on(autojump_clock: MockClock) -> None:
    async with pair(MemNet()) as (one, two):
        node = node_of(one)
        forged = Signed(FAR.peer_id, bytes(64), told(sequence=node.machine.config.unix_ms()))
        async with listening(node):
            node.deliver(two.me, announced(forged))
            await trio.sleep(0.1)
        assert [(e["peer"], e["rule"]) for e in one.told("strike")] == [(two.me, "envelope 3.1")]
        assert node.sightings == []


def test_states_are_told_in_words() -> None:
    keys = KeyRing(1)
    a, b, c = (keys.new_signer().peer for _ in range(3))
    ours = StateGroup(0, None, ours=True, peers=(a, b))
    assert words_for_states([ours]) == "1 state: 2 peers"
    other = StateGroup(7, digest("state", b"x"), ours=False, peers=(c,))
    name = digest("state", b"x")[:3].hex()
    assert words_for_states([ours, other]) == (f"2 states: 2 with us, 1 at {name} after block 7")
