"""Frames, budgets, outboxes and inboxes, each alone."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from p2ptrain.net.budget import Budget, Pool
from p2ptrain.net.framing import (
    PAYLOAD_BYTES_MAX,
    FrameDecoder,
    FramingError,
    Kind,
    RawFrame,
    decode_reason,
    encode_frame,
    encode_reason,
)
from p2ptrain.net.inbox import PEERS_REMEMBERED_MAX, Inbox
from p2ptrain.net.outbox import Outbox
from p2ptrain.net.transport import Bounds, Disconnected, Frame
from p2ptrain.wire.limits import FRAME_BYTES_MAX, FRAME_OVERHEAD_BYTES, REASON_BYTES_MAX
from p2ptrain.wire.peer_id import PeerId

PEER = PeerId("peer")


def decode_all(decoder: FrameDecoder) -> list[RawFrame]:
    return list(iter(decoder.next_frame, None))


# --- frames ----------------------------------------------------------------------------------


def test_a_frame_is_length_kind_payload() -> None:
    assert encode_frame(Kind.DATA, b"abc") == bytes.fromhex("00000003 00 616263")
    assert encode_frame(Kind.HELLO, b"") == bytes.fromhex("00000000 01")
    assert encode_frame(Kind.PING) == bytes.fromhex("00000000 02")
    assert encode_frame(Kind.PONG) == bytes.fromhex("00000000 03")
    assert encode_frame(Kind.REFUSED, b"no") == bytes.fromhex("00000002 04 6e6f")
    assert encode_frame(Kind.DUPLICATE) == bytes.fromhex("00000000 05")
    assert encode_frame(Kind.GOODBYE, b"x") == bytes.fromhex("00000001 06 78")


@given(st.lists(st.binary(max_size=300)), st.integers(1, 50))
def test_frames_survive_any_cutting_of_the_stream(payloads: list[bytes], cut: int) -> None:
    stream = b"".join(encode_frame(Kind.DATA, payload) for payload in payloads)
    decoder = FrameDecoder()
    frames: list[RawFrame] = []
    for start in range(0, len(stream), cut):
        decoder.feed(stream[start : start + cut])
        frames += decode_all(decoder)
    assert frames == [(Kind.DATA, payload) for payload in payloads]


@pytest.mark.parametrize("kind", Kind)
def test_the_bound_of_each_kind_is_kept_by_writer_and_reader(kind: Kind) -> None:
    bound = PAYLOAD_BYTES_MAX[kind]
    whole = encode_frame(kind, bytes(bound))
    decoder = FrameDecoder()
    decoder.feed(whole)
    assert decoder.next_frame() == (kind, bytes(bound))
    with pytest.raises(ValueError, match="at most"):
        encode_frame(kind, bytes(bound + 1))
    decoder.feed((bound + 1).to_bytes(4, "big") + bytes([kind]))  # the header alone is enough
    with pytest.raises(FramingError, match="at most"):
        decoder.next_frame()


@pytest.mark.parametrize("number", [7, 99, 255])
def test_an_unknown_kind_is_refused(number: int) -> None:
    decoder = FrameDecoder()
    decoder.feed(bytes(4) + bytes([number]))
    with pytest.raises(FramingError, match=f"unknown frame kind {number}"):
        decoder.next_frame()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(data)
    try:
        frames = decode_all(decoder)
    except FramingError:
        return
    assert sum(5 + len(payload) for _, payload in frames) <= len(data)


@given(st.text())
def test_a_reason_always_fits_and_is_never_cut_inside_a_character(reason: str) -> None:
    payload = encode_reason(reason)
    assert len(payload) <= REASON_BYTES_MAX
    assert reason.startswith(payload.decode())


def test_a_reason_cannot_write_to_the_terminal() -> None:
    assert decode_reason(b"a\x1b[2Jb\nc\xff") == "a [2Jb c\N{REPLACEMENT CHARACTER}"


# --- budgets ---------------------------------------------------------------------------------


def test_a_budget_lets_a_burst_through_and_then_its_rate() -> None:
    budget = Budget(rate_per_s=10, burst=100, now=5.0)
    assert budget.spend(100, 5.0)
    assert not budget.spend(1, 5.0)
    assert budget.spend(10, 6.0)
    assert not budget.spend(6, 6.5)
    assert budget.spend(5, 6.5)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 10)), max_size=30))
def test_no_pattern_of_spending_beats_burst_and_rate(steps: list[tuple[int, float]]) -> None:
    budget = Budget(rate_per_s=3, burst=40, now=0.0)
    now = spent = 0.0
    for amount, pause_s in steps:
        now += pause_s
        if budget.spend(amount, now):
            spent += amount
    assert spent <= 40 + 3 * now + 1e-6


@given(st.integers(1, 40), st.lists(st.integers(0, 39), max_size=200))
def test_a_pool_leaves_room_for_whoever_comes_next(count: int, turns: list[int]) -> None:
    pool, held = Pool(10_000), [0] * 41
    for turn in turns:
        if pool.has_room(held[turn % count], 300):
            held[turn % count] += 300
            pool.taken_bytes += 300
        assert sum(held) <= 10_000
    greediest = max(held)
    assert greediest <= 5_000
    assert pool.free_bytes >= greediest  # so the next one can come as far as this one


# --- outboxes and inboxes --------------------------------------------------------------------


async def test_an_outbox_is_bounded_and_empties_in_order() -> None:
    outbox = Outbox(2 * (10 + FRAME_OVERHEAD_BYTES), Pool(FRAME_BYTES_MAX))
    first, second = RawFrame(Kind.DATA, b"a" * 10), RawFrame(Kind.DATA, b"b" * 10)
    assert outbox.put(first)
    assert outbox.put(second)
    assert not outbox.put(RawFrame(Kind.DATA, b""))
    assert outbox.full_since is not None
    assert await outbox.take() == first
    assert outbox.full_since is None  # half of it is free again
    assert outbox.take_small(9) is None
    assert outbox.take_small(10) == second
    assert outbox.take_small(10) is None
    assert outbox.queued_bytes == 0


async def test_empty_frames_fill_an_outbox_too() -> None:
    outbox = Outbox(10 * FRAME_OVERHEAD_BYTES, Pool(FRAME_BYTES_MAX))
    assert sum(outbox.put(RawFrame(Kind.DATA, b"")) for _ in range(100)) == 10


async def test_an_inbox_charges_each_peer_for_what_waits() -> None:
    inbox = Inbox(Bounds(inbox_bytes_per_peer_max=1000))
    other = PeerId("other")
    inbox.put(Frame(PEER, bytes(700), bulk=True))
    assert not inbox.is_full_of(PEER)
    inbox.put(Disconnected(PEER, "gone"))
    assert inbox.is_full_of(PEER)
    assert not inbox.is_full_of(other)
    assert await inbox.take() == Frame(PEER, bytes(700), bulk=True)
    assert not inbox.is_full_of(PEER)
    assert await inbox.take() == Disconnected(PEER, "gone")
    assert inbox.meter(PEER).inbox_bytes == 0


async def test_a_peer_waits_for_one_event_of_each_other_peer_and_not_for_a_flood() -> None:
    inbox, flood = Inbox(Bounds()), PeerId("flood")
    for _ in range(1000):
        inbox.put(Frame(flood, b"", bulk=False))
    votes = [Frame(PEER, bytes([n]), bulk=False) for n in range(3)]
    for vote in votes:
        inbox.put(vote)
    taken = [await inbox.take() for _ in range(6)]
    assert [event for event in taken if event.peer == PEER] == votes


async def test_an_inbox_forgets_old_peers_but_never_what_waits() -> None:
    inbox = Inbox(Bounds())
    inbox.put(Disconnected(PEER, "the first"))
    for number in range(2 * PEERS_REMEMBERED_MAX):
        inbox.meter(PeerId(str(number)))
    assert len(inbox.meters) <= PEERS_REMEMBERED_MAX
    assert await inbox.take() == Disconnected(PEER, "the first")
    assert inbox.meter(PEER).inbox_bytes == 0


async def test_outboxes_share_a_pool_and_give_it_back() -> None:
    pool = Pool(10 * FRAME_OVERHEAD_BYTES)
    first, second = Outbox(1 << 20, pool), Outbox(1 << 20, pool)
    assert sum(first.put(RawFrame(Kind.DATA, b"")) for _ in range(100)) == 5
    assert sum(second.put(RawFrame(Kind.DATA, b"")) for _ in range(100)) == 2
    first.drop_all()
    assert first.queued_bytes == 0
    assert pool.taken_bytes == second.queued_bytes
    assert second.put(RawFrame(Kind.DATA, b""))


async def test_an_inbox_is_bounded_for_all_peers_together() -> None:
    inbox = Inbox(Bounds(inbox_bytes_max=1000 * FRAME_OVERHEAD_BYTES))
    peers = [PeerId(str(number)) for number in range(20)]
    for _ in range(100):
        for peer in peers:
            if not inbox.is_full_of(peer):
                inbox.put(Frame(peer, b"", bulk=False))
    waiting = [inbox.meter(peer).inbox_bytes for peer in peers]
    assert sum(waiting) <= 1000 * FRAME_OVERHEAD_BYTES
    assert min(waiting) >= 40 * FRAME_OVERHEAD_BYTES
    newcomer = PeerId("newcomer")
    inbox.put(Frame(newcomer, b"", bulk=False))
    assert not inbox.is_full_of(newcomer)


async def test_whoever_waits_for_room_goes_on_when_there_is_some(autojump_clock: MockClock) -> None:
    inbox = Inbox(Bounds(inbox_bytes_per_peer_max=1000))
    for _ in range(2):
        inbox.put(Frame(PEER, bytes(700), bulk=True))
    went_on: list[float] = []

    async def wait() -> None:
        await inbox.wait_for_room(PEER, 1.0)
        went_on.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not went_on
        await inbox.take()
        await wait_all_tasks_blocked()
        assert went_on
