"""A node fetches content from whoever is there: liars and the dead only cost time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from test_peers import IDENTITIES, Member, member
from trio.testing import MockClock

from p2ptrain.node.fetch import NOBODY_TIMEOUT_S, Fetcher, PeersMissing
from p2ptrain.node.peers import Arrived, Departed, Received
from p2ptrain.node.serve import Server
from p2ptrain.store.blocks import BlockStore
from p2ptrain.swarm.download import TIMEOUT_S
from p2ptrain.wire.cid import Cid, cid_of
from p2ptrain.wire.limits import STRIKES_MAX
from p2ptrain.wire.messages import Blob, GetBlob, Message
from simnet.memnet import MemNet

CHUNKS = [bytes([n]) * 1000 for n in range(30)]
CIDS = [cid_of(chunk) for chunk in CHUNKS]
Answers = Callable[[Server, GetBlob], Message | None]


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time does not wait for threads, so what would run on one runs here and now."""

    async def run_sync(function: Callable[[bytes], Cid], data: bytes) -> Cid:
        return function(data)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


def honest(server: Server, request: GetBlob) -> Message | None:
    return server.answer(request)


def lying(server: Server, request: GetBlob) -> Message | None:
    return Blob(request.cid, b"not that")


def silent(server: Server, request: GetBlob) -> Message | None:
    return None


@asynccontextmanager
async def donor(
    net: MemNet, number: int, folder: Path, chunks: list[bytes], answers: Answers = honest
) -> AsyncIterator[Member]:
    """A peer with some chunks."""
    store = BlockStore(folder / f"donor {number}")
    for chunk in chunks:
        store.put(chunk, durable=False)
    async with member(net, IDENTITIES[number]) as one:
        server = Server(store, one.peers.telemetry)

        async def serve() -> None:
            while True:
                for event in one.events[:]:
                    one.events.remove(event)
                    if isinstance(event, Received) and isinstance(event.message, GetBlob):
                        answer = answers(server, event.message)
                        if answer is not None:
                            one.peers.send(event.peer, answer)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield one
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def fetcher(net: MemNet, folder: Path, *donors: Member) -> AsyncIterator[Fetcher]:
    """A peer without any chunk that knows these donors."""
    async with member(net, IDENTITIES[0]) as me, trio.open_nursery() as nursery:
        one = Fetcher(me.peers, BlockStore(folder / "mine"), me.peers.telemetry)

        async def route() -> None:
            while True:
                for event in me.events[:]:
                    me.events.remove(event)
                    if isinstance(event, Arrived | Departed):
                        one.peers_changed()
                    else:
                        one.deliver(event.peer, event.message)
                await trio.sleep(0.01)

        nursery.start_soon(route)
        for peer in donors:
            me.peers.know((peer.address,))
        yield one
        nursery.cancel_scope.cancel()


async def test_what_is_here_is_not_asked_for(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fetcher(MemNet(), tmp_path) as one:
        one.blocks.put(CHUNKS[0])
        await one.fetch("recipe", [CIDS[0]])


async def test_content_comes_from_several_peers(autojump_clock: MockClock, tmp_path: Path) -> None:
    net = MemNet(latency_s=0.02)
    async with (
        donor(net, 1, tmp_path, CHUNKS[:20]) as first,
        donor(net, 2, tmp_path, CHUNKS[10:]) as second,
        fetcher(net, tmp_path, first, second) as one,
    ):
        with trio.fail_after(30):
            await one.fetch("data set", [*CIDS, *CIDS])
        assert [one.blocks.get(cid) for cid in CIDS] == CHUNKS


@pytest.mark.parametrize("answers", [lying, silent])
async def test_a_peer_that_lies_or_sleeps_only_costs_time(
    autojump_clock: MockClock, tmp_path: Path, answers: Answers
) -> None:
    net = MemNet(latency_s=0.02)
    async with (
        donor(net, 1, tmp_path, [], answers) as bad,
        donor(net, 2, tmp_path, CHUNKS) as good,
        fetcher(net, tmp_path, bad, good) as one,
    ):
        with trio.fail_after(3 * TIMEOUT_S):
            await one.fetch("data set", CIDS)
        assert [one.blocks.get(cid) for cid in CIDS] == CHUNKS
        assert bool(one.telemetry.strikes) == (answers is lying)


async def test_a_peer_that_dies_is_replaced(autojump_clock: MockClock, tmp_path: Path) -> None:
    net = MemNet(latency_s=0.02)
    async with (
        donor(net, 1, tmp_path, CHUNKS, silent) as dead,
        donor(net, 2, tmp_path, CHUNKS) as good,
        fetcher(net, tmp_path, dead, good) as one,
        trio.open_nursery() as nursery,
    ):

        async def die() -> None:
            await trio.sleep(1)
            net.partition({one.peers.me, good.me}, {dead.me})
            net.cut(one.peers.me, dead.me)

        nursery.start_soon(die)
        with trio.fail_after(TIMEOUT_S / 2):  # sooner than its requests would time out
            await one.fetch("data set", CIDS)
        assert [one.blocks.get(cid) for cid in CIDS] == CHUNKS


async def test_a_fetch_that_was_broken_off_goes_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    net = MemNet(latency_s=0.02)
    asked: list[str] = []

    def counting(server: Server, request: GetBlob) -> Message | None:
        asked.append(request.cid)
        return server.answer(request)

    async with donor(net, 1, tmp_path, CHUNKS, counting) as peer:
        async with fetcher(net, tmp_path, peer) as one:
            with trio.move_on_after(0.5):
                await one.fetch("data set", CIDS)
            have = [cid for cid in CIDS if one.blocks.has(cid)]
            assert 0 < len(have) < len(CIDS)
        asked.clear()
        async with fetcher(net, tmp_path, peer) as again:
            await again.fetch("data set", CIDS)
        assert not set(asked) & set(have)


async def test_a_missing_peer_is_told_in_words(autojump_clock: MockClock, tmp_path: Path) -> None:
    net = MemNet()
    nobody = f"/memory/1/p2p/{IDENTITIES[3].peer_id}"
    async with fetcher(net, tmp_path) as one:
        one.peers.know((nobody,))
        began = trio.current_time()
        with pytest.raises(PeersMissing, match="the recipe could not be fetched"):
            await one.fetch("recipe", CIDS[:1])
        assert trio.current_time() - began <= NOBODY_TIMEOUT_S + 5


async def test_a_lone_liar_is_let_go_and_the_fetch_ends_in_words(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It was asked once and never again, and the fetch waited for ever."""
    net = MemNet()
    async with (
        donor(net, 1, tmp_path, [], lying) as liar,
        fetcher(net, tmp_path, liar) as one,
    ):
        with trio.fail_after(3 * NOBODY_TIMEOUT_S), pytest.raises(PeersMissing):
            await one.fetch("recipe", CIDS[:1])
        assert one.telemetry.strikes == STRIKES_MAX


async def test_messages_are_not_kept_while_nothing_is_fetched(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """All that a run receives comes by here: it once filled the inbox and stayed there."""
    async with fetcher(MemNet(), tmp_path) as one:
        for _ in range(10):
            one.deliver(IDENTITIES[1].peer_id, Blob(CIDS[0], CHUNKS[0]))
            one.peers_changed()
        assert not one._inbox._steps
