"""The simulated network delays, limits, partitions and breaks as it says."""

from contextlib import AsyncExitStack

import pytest
import trio
from check_transport import ALICE, BOB, CAROL, MIB, join, next_end, polite
from trio.testing import MockClock

from p2ptrain.net.transport import Connected, Frame, PeerUnreachable, Transport
from p2ptrain.wire.limits import PING_TIMEOUT_S
from simnet.memnet import MemNet

IDENTITIES = (ALICE, BOB, CAROL)


async def enter(stack: AsyncExitStack, net: MemNet) -> tuple[Transport, Transport, Transport]:
    a, b, c = [await stack.enter_async_context(net.open(i, polite())) for i in IDENTITIES]
    return a, b, c


async def test_a_frame_takes_the_latency_and_its_time_on_the_uplink(
    autojump_clock: MockClock,
) -> None:
    net = MemNet(latency_s=0.1, uplink_bytes_per_s=1e6)
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        await trio.sleep(1)
        started = trio.current_time()
        assert alice.send(bob.me, bytes(500_000), bulk=True)
        assert isinstance(await bob.receive(), Frame)
        # 0.5 s on the uplink, 0.1 s on the way, and waits for the window in between
        assert 0.6 <= trio.current_time() - started <= 1.1


async def test_two_receivers_share_the_sender_s_uplink(autojump_clock: MockClock) -> None:
    net = MemNet(uplink_bytes_per_s=1e6)
    async with AsyncExitStack() as stack:
        alice, bob, carol = await enter(stack, net)
        await join(alice, bob)
        await join(alice, carol)
        started = trio.current_time()
        for peer in (bob.me, carol.me):
            assert alice.send(peer, bytes(MIB), bulk=True)
        assert isinstance(await bob.receive(), Frame)
        assert isinstance(await carol.receive(), Frame)
        assert trio.current_time() - started == pytest.approx(2 * MIB / 1e6, rel=0.1)


async def test_a_short_partition_only_delays(autojump_clock: MockClock) -> None:
    net = MemNet(latency_s=0.01)
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        net.partition({alice.me}, {bob.me})
        assert alice.send(bob.me, b"late")
        with trio.move_on_after(PING_TIMEOUT_S / 2):
            pytest.fail(f"{await bob.receive()}")
        net.heal()
        with trio.fail_after(0.1):
            assert await bob.receive() == Frame(alice.me, b"late", bulk=False)


async def test_a_long_partition_ends_connections_and_dials_fail_until_it_heals(
    autojump_clock: MockClock,
) -> None:
    net = MemNet(latency_s=0.01)
    async with AsyncExitStack() as stack:
        alice, bob, carol = await enter(stack, net)
        await join(alice, bob)
        await join(bob, carol)
        net.partition({alice.me, carol.me}, {bob.me})
        assert (await next_end(alice)).reason.startswith("silent for")
        assert (await next_end(carol)).reason.startswith("silent for")
        with pytest.raises(PeerUnreachable, match="no answer within 3 s"):
            await alice.dial(bob.addresses[0], 3)
        assert await alice.dial(carol.addresses[0], 3) == carol.me
        await next_end(bob)
        await next_end(bob)
        net.heal()
        assert await alice.dial(bob.addresses[0], 3) == bob.me


async def test_a_cut_is_seen_by_both_at_once(autojump_clock: MockClock) -> None:
    net = MemNet()
    async with AsyncExitStack() as stack:
        alice, bob, carol = await enter(stack, net)
        await join(alice, bob)
        await join(alice, carol)
        net.cut(alice.me, bob.me)
        assert (await next_end(alice)).peer == bob.me
        assert (await next_end(bob)).peer == alice.me
        assert alice.send(carol.me, b"not cut")
        assert isinstance(await carol.receive(), Frame)


async def test_an_unreachable_peer_can_dial_but_not_be_dialled(autojump_clock: MockClock) -> None:
    net = MemNet()
    async with (
        net.open(ALICE, polite(), reachable=False) as alice,
        net.open(BOB, polite()) as bob,
    ):
        assert alice.addresses == ()
        with pytest.raises(PeerUnreachable):
            await bob.dial(f"/memory/1/p2p/{alice.me}", 1)
        await alice.dial(bob.addresses[0], 1)
        assert isinstance(await bob.receive(), Connected)


async def test_an_hour_of_silence_passes_in_no_time_and_nobody_is_lost(
    autojump_clock: MockClock,
) -> None:
    net = MemNet(latency_s=0.2)
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        await trio.sleep(3600)
        assert alice.statistics()[bob.me].connected
        assert alice.statistics()[bob.me].connected_s == pytest.approx(3600, abs=5)
        assert alice.statistics()[bob.me].rtt_s == pytest.approx(0.4)
