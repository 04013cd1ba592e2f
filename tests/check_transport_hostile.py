"""What every Transport must do with peers that break the rules, flood, stall or are silent.

The second half of the suite of tests/check_transport.py.
"""

from dataclasses import replace

import pytest
import trio
from check_transport import (
    ALICE,
    BOB,
    CAROL,
    DIAL_TIMEOUT_S,
    MIB,
    Check,
    Net,
    ends,
    greet,
    join,
    next_end,
    polite,
)

from p2ptrain.net.framing import Kind, encode_frame
from p2ptrain.net.transport import Bounds, Connected, Disconnected, Frame, PeerRefused
from p2ptrain.wire.limits import FRAME_BYTES_MAX, FRAME_OVERHEAD_BYTES


async def frames_that_break_the_rules_drop_the_peer(net: Net) -> None:
    oversized = (FRAME_BYTES_MAX + 1).to_bytes(4, "big") + b"\x00"
    long_ping = b"\x00\x00\x00\x01\x02."
    unknown_kind = b"\x00\x00\x00\x00\x63"
    second_hello = encode_frame(Kind.HELLO, b"raw")
    async with net.open(ALICE, polite()) as alice:
        for evil in (oversized, long_ping, unknown_kind, second_hello):
            async with net.link(BOB, alice.addresses[0]) as link:
                await greet(link, alice)
                await link.control.send_all(evil)
                event = await alice.receive()
                assert isinstance(event, Disconnected)
                assert event.reason.startswith("it broke transport 2"), event.reason


async def a_stranger_that_does_not_greet_is_hung_up_on(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice:
        for first in (encode_frame(Kind.DATA, b"x"), encode_frame(Kind.PING), b"GET / HTTP/1.1"):
            async with net.link(BOB, alice.addresses[0]) as link:
                await link.control.send_all(first)
                await ends(link)
        assert alice.statistics() == {}


async def a_peer_that_never_reads_is_dropped_and_costs_a_bounded_outbox(net: Net) -> None:
    # More than a Yamux window can grow to (16 MiB), or all of it may leave the outbox.
    bounds = replace(Bounds(), outbox_bulk_bytes_max=20 * MIB, write_timeout_s=0.5)
    async with (
        net.open(ALICE, polite(bounds=bounds)) as alice,
        net.link(BOB, alice.addresses[0]) as link,
    ):
        await greet(link, alice)
        accepted = sum(alice.send(BOB.peer_id, bytes(MIB), bulk=True) for _ in range(100))
        assert accepted == 19  # each costs a little more than 1 MiB
        assert alice.statistics()[BOB.peer_id].outbox_bytes <= 20 * MIB
        assert alice.send(BOB.peer_id, b"the other lane is not full")
        assert await alice.receive() == Disconnected(
            BOB.peer_id, "it does not read what it is sent"
        )


async def a_flood_that_is_not_taken_drops_the_sender_at_the_bound(net: Net) -> None:
    bounds = replace(Bounds(), inbox_bytes_per_peer_max=2 * MIB)
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite(bounds=bounds)) as bob:
        await join(alice, bob)
        for _ in range(10):
            assert alice.send(bob.me, bytes(MIB), bulk=True)
        await next_end(alice)
        assert bob.statistics()[alice.me].inbox_bytes <= 3 * MIB + 4 * FRAME_OVERHEAD_BYTES
        with pytest.raises(PeerRefused, match="busy"):
            await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S)
        end = await next_end(bob)
        assert (end.reason, end.rule) == ("it sends faster than this peer works", "transport 5")
        await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S)


async def a_sender_beyond_its_byte_budget_is_dropped(net: Net) -> None:
    bounds = replace(Bounds(), bytes_per_peer_burst=float(MIB), bytes_per_peer_per_s=1.0)
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite(bounds=bounds)) as bob:
        await join(alice, bob)
        for _ in range(4):
            assert alice.send(bob.me, bytes(MIB), bulk=True)
        end = await next_end(bob)
        assert (end.reason, end.rule) == ("it sent more than its budget of bytes", "transport 5")
        await next_end(alice)  # and coming back buys no new budget
        await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S)
        assert isinstance(await bob.receive(), Connected)
        assert alice.send(bob.me, bytes(MIB), bulk=True)
        assert (await next_end(bob)).rule == "transport 5"


async def a_sender_beyond_its_frame_budget_is_dropped(net: Net) -> None:
    bounds = replace(Bounds(), frames_per_peer_burst=100.0, frames_per_peer_per_s=1.0)
    async with (
        net.open(ALICE, polite(bounds=bounds)) as alice,
        net.link(BOB, alice.addresses[0]) as link,
    ):
        await greet(link, alice)
        await link.bulk.send_all(encode_frame(Kind.DATA) * 1000)
        end = await next_end(alice)
        assert (end.reason, end.rule) == ("it sent more than its budget of frames", "transport 5")
        assert alice.statistics()[BOB.peer_id].frames_received <= 100


async def a_fast_sender_is_slowed_and_not_dropped_while_it_is_taken(net: Net) -> None:
    bounds = replace(Bounds(), inbox_bytes_per_peer_max=2 * MIB)
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite(bounds=bounds)) as bob:
        await join(alice, bob)
        for _ in range(16):
            assert alice.send(bob.me, bytes(MIB), bulk=True)
        for _ in range(16):
            assert isinstance(await bob.receive(), Frame)
            assert bob.statistics()[alice.me].inbox_bytes <= 3 * MIB
            await trio.sleep(0.02)


async def a_peer_that_comes_and_goes_too_often_is_refused(net: Net) -> None:
    bounds = replace(Bounds(), greetings_per_peer_burst=3.0, greetings_per_peer_per_s=0.01)
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite(bounds=bounds)) as bob:
        for _ in range(3):
            await join(alice, bob)
            await alice.disconnect(bob.me, "and again")
            await next_end(alice)
            await next_end(bob)
        with pytest.raises(PeerRefused, match="too often"):
            await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S)


async def what_waits_for_a_peer_is_told_and_forgotten_with_it(net: Net) -> None:
    async with (
        net.open(ALICE, polite()) as alice,
        net.link(BOB, alice.addresses[0]) as link,
    ):
        assert alice.waiting_bytes(BOB.peer_id) == 0
        await greet(link, alice)
        for _ in range(40):
            alice.send(BOB.peer_id, bytes(MIB), bulk=True)
        assert alice.waiting_bytes(BOB.peer_id) > 39 * MIB
        await link.close()
        await next_end(alice)
        assert alice.waiting_bytes(BOB.peer_id) == 0


async def a_silent_peer_is_dropped(net: Net) -> None:
    bounds = replace(Bounds(), ping_interval_s=0.1, ping_timeout_s=0.4)
    async with (
        net.open(ALICE, polite(bounds=bounds)) as alice,
        net.link(BOB, alice.addresses[0]) as link,
    ):
        await greet(link, alice)
        assert (await next_end(alice)).reason.startswith("silent for")


async def an_idle_peer_that_answers_pings_stays(net: Net) -> None:
    bounds = replace(Bounds(), ping_interval_s=0.1, ping_timeout_s=0.4)
    async with net.open(ALICE, polite(bounds=bounds)) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        with trio.move_on_after(1.0):
            pytest.fail(f"{await alice.receive()}")
        assert alice.send(bob.me, b"still there")
        assert await bob.receive() == Frame(alice.me, b"still there", bulk=False)


async def strangers_beyond_the_bound_are_refused(net: Net) -> None:
    bounds = replace(Bounds(), connections_max=1)
    async with net.open(ALICE, polite(bounds=bounds)) as alice, net.open(BOB, polite()) as bob:
        await join(bob, alice)
        async with net.open(CAROL, polite()) as carol:
            with pytest.raises(PeerRefused, match="all its 1 connections"):
                await carol.dial(alice.addresses[0], DIAL_TIMEOUT_S)


async def a_stranger_that_says_nothing_is_hung_up_on(net: Net) -> None:
    bounds = replace(Bounds(), handshake_timeout_s=0.3)
    async with net.open(ALICE, polite(bounds=bounds)) as alice:
        async with net.link(BOB, alice.addresses[0]) as link:
            await ends(link)
        assert alice.statistics() == {}


HOSTILE_CHECKS: tuple[Check, ...] = (
    a_stranger_that_says_nothing_is_hung_up_on,
    strangers_beyond_the_bound_are_refused,
    frames_that_break_the_rules_drop_the_peer,
    a_stranger_that_does_not_greet_is_hung_up_on,
    a_peer_that_never_reads_is_dropped_and_costs_a_bounded_outbox,
    a_flood_that_is_not_taken_drops_the_sender_at_the_bound,
    a_sender_beyond_its_byte_budget_is_dropped,
    a_sender_beyond_its_frame_budget_is_dropped,
    a_fast_sender_is_slowed_and_not_dropped_while_it_is_taken,
    a_peer_that_comes_and_goes_too_often_is_refused,
    what_waits_for_a_peer_is_told_and_forgotten_with_it,
    a_silent_peer_is_dropped,
    an_idle_peer_that_answers_pings_stays,
)
