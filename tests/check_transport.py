"""What every Transport must keep: one suite, run over libp2p and over the simulated network.

Each check is a coroutine that takes a Net: a way to open transports, and raw links that speak
frames by hand, for peers that do not behave. tests/test_transport.py runs them all over each kind.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest
import trio

from p2ptrain.net.framing import FrameDecoder, Kind, RawFrame, encode_frame
from p2ptrain.net.identity import Identity, identity_of
from p2ptrain.net.link import Link, LinkBroken
from p2ptrain.net.transport import (
    Bounds,
    Connected,
    Disconnected,
    Etiquette,
    Event,
    Frame,
    PeerRefused,
    PeerUnreachable,
    Transport,
)
from p2ptrain.wire.limits import FRAME_BYTES_MAX
from p2ptrain.wire.peer_id import PeerId

MIB = 1 << 20
ALICE, BOB, CAROL = (identity_of(bytes([n]) * 32) for n in (1, 2, 3))
DIAL_TIMEOUT_S = 5.0
CHECK_TIMEOUT_S = 20.0  # no check may hang, whatever the transport does


class Net(Protocol):
    """One kind of network."""

    def open(
        self, identity: Identity, etiquette: Etiquette
    ) -> AbstractAsyncContextManager[Transport]:
        """A transport that listens."""
        ...

    def link(self, identity: Identity, address: str) -> AbstractAsyncContextManager[Link]:
        """A link to a transport, with nobody behind it."""
        ...

    def dead_address(self, peer: PeerId) -> str:
        """An address where nobody listens."""
        ...


def polite(name: bytes = b"hello", bounds: Bounds | None = None) -> Etiquette:
    """Says name and welcomes everyone."""
    return Etiquette(
        hello=lambda: name, judge_hello=lambda peer, hello: None, bounds=bounds or Bounds()
    )


def refusing(text: str) -> Etiquette:
    """Welcomes nobody."""
    return Etiquette(hello=lambda: b"hello", judge_hello=lambda peer, hello: text)


async def join(alice: Transport, bob: Transport) -> None:
    """Connect two transports and take the events that say so."""
    assert await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S) == bob.me
    assert isinstance(await alice.receive(), Connected)
    assert isinstance(await bob.receive(), Connected)


async def next_end(transport: Transport) -> Disconnected:
    """Skip frames up to the end of a connection."""
    while True:
        event = await transport.receive()
        if isinstance(event, Disconnected):
            return event
        assert isinstance(event, Frame)


async def next_frame(link: Link, decoder: FrameDecoder) -> RawFrame:
    """The next frame of a raw link's control lane that is not a ping."""
    while True:
        while frame := decoder.next_frame():
            if frame.kind is not Kind.PING:
                return frame
        data = await link.control.receive_some()
        assert data, "the transport hung up"
        decoder.feed(data)


async def greet(link: Link, transport: Transport) -> FrameDecoder:
    """Exchange hellos by hand."""
    decoder = FrameDecoder()
    await link.control.send_all(encode_frame(Kind.HELLO, b"raw"))
    assert await next_frame(link, decoder) == (Kind.HELLO, b"hello")
    assert isinstance(await transport.receive(), Connected)
    return decoder


# --- connecting ------------------------------------------------------------------------------


async def both_sides_learn_who_and_what_the_other_said(net: Net) -> None:
    async with net.open(ALICE, polite(b"a")) as alice, net.open(BOB, polite(b"b")) as bob:
        assert (alice.me, bob.me) == (ALICE.peer_id, BOB.peer_id)
        assert all(address.endswith(f"/p2p/{bob.me}") for address in bob.addresses)
        assert await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S) == bob.me
        at_alice, at_bob = await alice.receive(), await bob.receive()
        assert at_alice == Connected(bob.me, b"b", bob.addresses[0], outgoing=True)
        assert isinstance(at_bob, Connected)
        assert (at_bob.peer, at_bob.hello, at_bob.outgoing) == (alice.me, b"a", False)


async def dialling_a_connected_peer_changes_nothing(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        assert await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S) == bob.me
        assert await bob.dial(alice.addresses[0], DIAL_TIMEOUT_S) == alice.me
        assert alice.send(bob.me, b"still here")
        assert await bob.receive() == Frame(alice.me, b"still here", bulk=False)


async def several_dials_of_one_peer_make_one_connection(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(alice.dial, bob.addresses[0], DIAL_TIMEOUT_S)
        assert isinstance(await alice.receive(), Connected)
        await alice.disconnect(bob.me, "done")
        assert await alice.receive() == Disconnected(bob.me, "done")
        assert isinstance(await bob.receive(), Connected)
        assert isinstance(await bob.receive(), Disconnected)


async def simultaneous_dials_make_one_connection(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        for turn in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.dial, bob.addresses[0], DIAL_TIMEOUT_S)
                nursery.start_soon(bob.dial, alice.addresses[0], DIAL_TIMEOUT_S)
            assert isinstance(await alice.receive(), Connected)
            assert isinstance(await bob.receive(), Connected)
            word = b"turn %d" % turn
            assert alice.send(bob.me, word)
            assert bob.send(alice.me, word, bulk=True)
            assert await bob.receive() == Frame(alice.me, word, bulk=False)
            assert await alice.receive() == Frame(bob.me, word, bulk=True)
            await bob.disconnect(alice.me, "next")
            assert isinstance(await alice.receive(), Disconnected)
            assert isinstance(await bob.receive(), Disconnected)


async def a_dead_address_fails_within_its_timeout(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice:
        with trio.fail_after(2.0), pytest.raises(PeerUnreachable):
            await alice.dial(net.dead_address(BOB.peer_id), 1.0)


async def an_address_without_a_peer_id_or_of_oneself_is_unreachable(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice:
        for address in ("", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1/p2p/Qm", "/p2p/"):
            with pytest.raises(PeerUnreachable):
                await alice.dial(address, 1.0)
        with pytest.raises(PeerUnreachable, match="this peer itself"):
            await alice.dial(alice.addresses[0], 1.0)


async def another_peer_at_the_address_is_not_taken_for_the_one_dialled(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        wrong = bob.addresses[0].replace(bob.me, CAROL.peer_id)
        with pytest.raises(PeerUnreachable):
            await alice.dial(wrong, 2.0)
        assert not alice.send(CAROL.peer_id, b"")


async def a_refused_hello_tells_the_dialler_why(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, refusing("version 2")) as bob:
        with pytest.raises(PeerRefused, match="version 2"):
            await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S)
        assert not alice.send(bob.me, b"")
        assert not bob.send(alice.me, b"")


async def a_dialler_that_refuses_the_answer_tells_the_other(net: Net) -> None:
    async with net.open(ALICE, refusing("no")) as alice, net.open(BOB, polite()) as bob:
        with pytest.raises(PeerRefused, match="no"):
            await alice.dial(bob.addresses[0], DIAL_TIMEOUT_S)
        assert isinstance(await bob.receive(), Connected)
        assert await bob.receive() == Disconnected(alice.me, "it refused us: no")


async def a_new_connection_of_a_peer_replaces_its_old_one(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.link(BOB, alice.addresses[0]) as first:
        await greet(first, alice)
        async with net.link(BOB, alice.addresses[0]) as second:
            await second.control.send_all(encode_frame(Kind.HELLO, b"again"))
            assert await alice.receive() == Disconnected(BOB.peer_id, "it made a new connection")
            event = await alice.receive()
            assert isinstance(event, Connected)
            assert event.hello == b"again"
            assert alice.send(BOB.peer_id, b"to the second")
            decoder = FrameDecoder()
            assert (await next_frame(second, decoder)).kind is Kind.HELLO
            assert await next_frame(second, decoder) == (Kind.DATA, b"to the second")


async def ends(link: Link) -> None:
    """Wait for the other side to close the link."""
    try:
        while await link.control.receive_some():
            pass
    except LinkBroken:
        pass


# --- frames ----------------------------------------------------------------------------------


async def frames_of_all_sizes_arrive_whole_and_in_order(net: Net) -> None:
    sizes = (0, 1, 2, 65_502, 65_503, 65_507, 65_508, MIB, FRAME_BYTES_MAX, 0, 3)
    frames = [bytes([n]) * size for n, size in enumerate(sizes)]
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        for frame in frames:
            assert alice.send(bob.me, frame)
            assert alice.send(bob.me, frame, bulk=True)
        arrived: dict[bool, list[bytes]] = {False: [], True: []}
        for _ in range(2 * len(frames)):
            event = await bob.receive()
            assert isinstance(event, Frame)
            arrived[event.bulk].append(event.data)
        assert arrived == {False: frames, True: frames}


async def many_small_frames_arrive_in_order(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        for number in range(2000):
            assert alice.send(bob.me, b"%d" % number)
        for number in range(2000):
            assert await bob.receive() == Frame(alice.me, b"%d" % number, bulk=False)


async def twenty_megabytes_each_way_pass(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)

        async def flow(sender: Transport, receiver: Transport, fill: int) -> None:
            for _ in range(20):
                assert sender.send(receiver.me, bytes([fill]) * MIB, bulk=True)
            for _ in range(20):
                event = await receiver.receive()
                assert event == Frame(sender.me, bytes([fill]) * MIB, bulk=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flow, alice, bob, 7)
            nursery.start_soon(flow, bob, alice, 9)


async def bulk_does_not_hold_up_control(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        for _ in range(20):
            assert alice.send(bob.me, bytes(MIB), bulk=True)
        event: Event = await bob.receive()  # the flood is under way
        assert alice.send(bob.me, b"vote")
        before = 0
        while event != Frame(alice.me, b"vote", bulk=False):
            event = await bob.receive()
            before += 1
        assert before < 10, f"{before} MiB came before the vote"


async def an_oversized_frame_is_a_bug_of_ours(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice:
        with pytest.raises(ValueError, match="at most"):
            alice.send(BOB.peer_id, bytes(FRAME_BYTES_MAX + 1))


async def sending_to_a_stranger_says_so(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice:
        assert not alice.send(BOB.peer_id, b"hello?")


# --- the end ---------------------------------------------------------------------------------


async def both_sides_see_a_disconnect_and_its_reason(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        await join(alice, bob)
        assert alice.send(bob.me, b"last words")
        await alice.disconnect(bob.me, "see you")
        assert await alice.receive() == Disconnected(bob.me, "see you")
        assert await bob.receive() == Frame(alice.me, b"last words", bulk=False)
        assert await bob.receive() == Disconnected(alice.me, "it said: see you")
        assert not alice.send(bob.me, b"")
        await alice.disconnect(bob.me, "twice does nothing")


async def a_peer_can_be_dialled_again_after_a_disconnect(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        for dialler, dialled in ((alice, bob), (bob, alice), (alice, bob)):
            await join(dialler, dialled)
            assert dialled.send(dialler.me, b"hi")
            assert await dialler.receive() == Frame(dialled.me, b"hi", bulk=False)
            await alice.disconnect(bob.me, "again")
            assert isinstance(await alice.receive(), Disconnected)
            assert isinstance(await bob.receive(), Disconnected)


async def closing_a_transport_tells_its_peers_and_frees_its_place(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice:
        for _ in range(2):
            async with net.open(BOB, polite()) as bob:
                await join(alice, bob)
            assert await alice.receive() == Disconnected(BOB.peer_id, "it said: it is stopping")


async def a_broken_link_is_seen(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice:
        async with net.link(BOB, alice.addresses[0]) as link:
            await greet(link, alice)
        event = await alice.receive()
        assert isinstance(event, Disconnected)
        assert event.reason


async def what_a_block_raises_leaves_it_unchanged(net: Net) -> None:
    with pytest.raises(KeyError):
        async with net.open(ALICE, polite()):
            raise KeyError


async def statistics_count_frames_and_bytes(net: Net) -> None:
    async with net.open(ALICE, polite()) as alice, net.open(BOB, polite()) as bob:
        assert alice.statistics() == {}
        await join(alice, bob)
        for size in (0, 10, 1000):
            assert alice.send(bob.me, bytes(size), bulk=size > 10)
        for _ in range(3):
            assert isinstance(await bob.receive(), Frame)
        sent, received = alice.statistics()[bob.me], bob.statistics()[alice.me]
        assert (sent.frames_sent, sent.bytes_sent) == (3, 1010)
        assert (received.frames_received, received.bytes_received) == (3, 1010)
        assert sent.connected
        assert sent.connected_s >= 0
        assert sent.outbox_bytes == received.inbox_bytes == 0
        for _ in range(2):  # a ping goes out with the first of these at the latest
            assert alice.send(bob.me, b"")
            assert isinstance(await bob.receive(), Frame)
            assert bob.send(alice.me, b"")
            assert isinstance(await alice.receive(), Frame)
        rtt_s = alice.statistics()[bob.me].rtt_s
        assert rtt_s is not None
        assert 0 <= rtt_s < 1
        await alice.disconnect(bob.me, "done")
        ended = alice.statistics()[bob.me]
        assert not ended.connected
        assert ended.bytes_sent == 1010


Check = Callable[[Net], Awaitable[None]]
CHECKS: tuple[Check, ...] = (
    both_sides_learn_who_and_what_the_other_said,
    dialling_a_connected_peer_changes_nothing,
    several_dials_of_one_peer_make_one_connection,
    simultaneous_dials_make_one_connection,
    a_dead_address_fails_within_its_timeout,
    an_address_without_a_peer_id_or_of_oneself_is_unreachable,
    another_peer_at_the_address_is_not_taken_for_the_one_dialled,
    a_refused_hello_tells_the_dialler_why,
    a_dialler_that_refuses_the_answer_tells_the_other,
    a_new_connection_of_a_peer_replaces_its_old_one,
    frames_of_all_sizes_arrive_whole_and_in_order,
    many_small_frames_arrive_in_order,
    twenty_megabytes_each_way_pass,
    bulk_does_not_hold_up_control,
    an_oversized_frame_is_a_bug_of_ours,
    sending_to_a_stranger_says_so,
    both_sides_see_a_disconnect_and_its_reason,
    a_peer_can_be_dialled_again_after_a_disconnect,
    closing_a_transport_tells_its_peers_and_frees_its_place,
    a_broken_link_is_seen,
    what_a_block_raises_leaves_it_unchanged,
    statistics_count_frames_and_bytes,
)


async def check_transport(net: Net, check: Check) -> None:
    """Run one check; it fails rather than hangs."""
    with trio.fail_after(CHECK_TIMEOUT_S):
        await check(net)
