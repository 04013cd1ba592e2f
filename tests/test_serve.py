"""What a node answers: what it holds, with proofs that lead to what was certified, and no more."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from node_chain import chain_on, genesis_of, shards_of
from swarm_router import SETTINGS

from p2ptrain.node.costs import Costs
from p2ptrain.node.ledger import Ledger
from p2ptrain.node.serve import Server, cut_state
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.checkpoint import CheckpointStore
from p2ptrain.store.transcript import Transcript
from p2ptrain.swarm.history import History
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.codec import encode
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import (
    CHUNK_BYTES_MAX,
    FRAME_BYTES_MAX,
    SERVED_BYTES_BURST,
    SERVED_BYTES_PER_S,
    SERVED_BYTES_WAITING_MAX,
    SIGNATURES_PER_PEER_BURST,
    SIGNATURES_PER_PEER_PER_S,
    STATE_PIECE_BYTES,
    STATE_READS_BURST,
    STATE_READS_PER_S,
    STATES_CACHED,
    STATES_CACHED_BYTES,
)
from p2ptrain.wire.messages import (
    Blob,
    GetBlob,
    GetHeaders,
    GetReduced,
    GetState,
    GetTip,
    Headers,
    Message,
    NotHeld,
    ReducedPiece,
    StatePiece,
    Tip,
)
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_check, merkle_proofs, merkle_root

GENESIS = genesis_of()
CHAIN = chain_on(GENESIS, 4)
UNHEARD_OF = digest("test", b"unheard of")


def state_of(height: int) -> bytes:
    """Two whole pieces and a bit."""
    return bytes([height]) * (2 * STATE_PIECE_BYTES + 7)


@pytest.fixture
def reports() -> list[Mapping[str, Value]]:
    return []


@pytest.fixture
def bare(tmp_path: Path, reports: list[Mapping[str, Value]]) -> Server:
    """A seeder: blocks and no run."""
    telemetry = Telemetry(reports.append)
    return Server(BlockStore(tmp_path / "blocks"), telemetry, costs=Costs(clock=lambda: 0.0))


@pytest.fixture
def server(bare: Server, tmp_path: Path) -> Iterator[Server]:
    """A member with four rounds behind it."""
    with Transcript(tmp_path / "transcript.sqlite") as transcript:
        checkpoints = CheckpointStore(tmp_path / "checkpoints")
        bare.ledger = Ledger(History(GENESIS), SETTINGS, transcript, checkpoints)
        for height, link in enumerate(CHAIN, 1):
            bare.ledger.history.append(link)
            bare.ledger.record(height, state_of(height), shards_of(str(height - 1)))
        yield bare


def test_the_tip_names_the_newest_certificate_and_the_states_that_are_held(server: Server) -> None:
    blocks = tuple(link.context.block for link in reversed(CHAIN))
    assert server.answer(GetTip(1)) == Tip(CHAIN[-1].certificate, 4, blocks)


def test_headers_follow_what_the_asker_knows(server: Server) -> None:
    request = GetHeaders((UNHEARD_OF, CHAIN[1].context.block, GENESIS.block), 32)
    expected = tuple(link.certificate for link in CHAIN[2:])
    assert server.answer(request) == Headers(CHAIN[1].context.block, expected)


def test_a_state_comes_in_pieces_that_lead_to_its_digest(server: Server) -> None:
    for height in (4, 2, 4):
        state, block = state_of(height), CHAIN[height - 1].context.block
        root, joined = merkle_root(cut_state(state)), b""
        for index in range(3):
            piece = server.answer(GetState(block, index))
            assert isinstance(piece, StatePiece)
            assert merkle_check(root, 3, index, piece.data, piece.proof)
            joined += piece.data
        assert joined == state


def test_reduced_shards_lead_to_what_was_certified(server: Server) -> None:
    for link in CHAIN:
        for shard in range(2):
            piece = server.answer(GetReduced(link.context.block, shard))
            assert isinstance(piece, ReducedPiece)
            assert merkle_check(link.certificate.reduced, 2, shard, piece.data, piece.proof)


@pytest.mark.parametrize(
    "request_",
    [
        GetState(UNHEARD_OF, 0),
        GetState(CHAIN[3].context.block, 3),
        GetState(GENESIS.block, 0),
        GetReduced(UNHEARD_OF, 0),
        GetReduced(CHAIN[3].context.block, 2),
        GetBlob(cid_of(b"not here")),
        GetHeaders((UNHEARD_OF,), 1),
    ],
)
def test_what_is_not_held_is_said_so_at_once(
    server: Server, request_: GetState | GetReduced | GetBlob | GetHeaders
) -> None:
    assert server.answer(request_) == NotHeld(request_)


def test_a_seeder_has_blobs_and_no_run(bare: Server) -> None:
    cid = bare.blocks.put(b"chunk")
    assert bare.answer(GetBlob(cid)) == Blob(cid, b"chunk")
    assert bare.answer(GetTip(1)) is None
    for request in (
        GetState(UNHEARD_OF, 0), GetReduced(UNHEARD_OF, 0), GetHeaders((UNHEARD_OF,), 1)
    ):  # fmt: skip
        assert bare.answer(request) == NotHeld(request)


def test_a_damaged_block_is_not_served_and_the_user_is_told(
    bare: Server, tmp_path: Path, reports: list[Mapping[str, Value]]
) -> None:
    cid = bare.blocks.put(b"chunk")
    (file,) = (tmp_path / "blocks").rglob(cid)
    file.write_bytes(b"chunky")
    assert bare.answer(GetBlob(cid)) == NotHeld(GetBlob(cid))
    assert reports[-1]["event"] == "warning"
    assert cid in str(reports[-1]["text"])
    assert not bare.blocks.has(cid)


def test_a_state_is_read_and_hashed_once_however_many_pieces_are_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def counted(leaves: Sequence[bytes]) -> list[tuple[Digest, ...]]:
        hashed.append(len(leaves))
        return merkle_proofs(leaves)

    monkeypatch.setattr("p2ptrain.node.serve.merkle_proofs", counted)
    for _ in range(5):
        for index in range(3):
            server.answer(GetState(CHAIN[-1].context.block, index))
        for shard in range(2):
            server.answer(GetReduced(CHAIN[-1].context.block, shard))
    assert hashed == [3, 2]


def test_states_are_remembered_all_if_they_are_small_else_two(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bytes_max, kept in ((STATES_CACHED_BYTES, len(CHAIN)), (1, STATES_CACHED)):
        monkeypatch.setattr("p2ptrain.node.serve.STATES_CACHED_BYTES", bytes_max)
        server._states.clear()
        for link in CHAIN:
            assert isinstance(server.answer(GetState(link.context.block, 0)), StatePiece)
        assert len(server._states) == kept


def test_a_peer_cannot_have_states_read_and_hashed_again_and_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2ptrain.node.serve.STATES_CACHED_BYTES", 1)  # as if they were large
    asker, other, now = PeerId("asker"), PeerId("other"), 0.0
    server.costs = Costs(clock=lambda: now)
    reads: list[Digest] = []
    assert server.ledger is not None
    state_of_block = server.ledger.state_of

    def counted(block: Digest) -> bytes | None:
        reads.append(block)
        return state_of_block(block)

    monkeypatch.setattr(server.ledger, "state_of", counted)
    requests = [GetState(link.context.block, 0) for link in CHAIN]
    for _ in range(100):
        for request in requests:
            server.answer(request, asker)
    assert len(reads) <= STATE_READS_BURST + 1
    refused = [r for r in requests if server.answer(r, asker) == NotHeld(r)]
    assert len(refused) == 2
    assert isinstance(server.answer(refused[0], other), StatePiece)
    now = 3 / STATE_READS_PER_S
    assert isinstance(server.answer(refused[1], asker), StatePiece)


def test_asking_for_what_is_not_held_costs_no_budget(server: Server) -> None:
    asker = PeerId("asker")
    for _ in range(3 * STATE_READS_BURST):
        server.answer(GetState(UNHEARD_OF, 0), asker)
    assert isinstance(server.answer(GetState(CHAIN[-1].context.block, 0), asker), StatePiece)


class Outboxes:
    """A stand-in for connected peers that read nothing."""

    def __init__(self) -> None:
        self.sent: dict[PeerId, int] = {}
        self.transport = self

    def waiting_bytes(self, peer: PeerId) -> int:
        return self.sent.get(peer, 0)

    def send(self, peer: PeerId, message: Message) -> bool:
        self.sent[peer] = self.sent.get(peer, 0) + len(encode(message))
        return True


def test_an_asker_that_never_reads_costs_a_bound_and_delays_nobody(bare: Server) -> None:
    cid = bare.blocks.put(bytes(CHUNK_BYTES_MAX))
    peers: Any = Outboxes()
    asker, other = PeerId("asker"), PeerId("other")
    for _ in range(100):
        bare.serve(peers, asker, GetBlob(cid))
    assert peers.sent[asker] <= SERVED_BYTES_WAITING_MAX + FRAME_BYTES_MAX
    bare.serve(peers, other, GetBlob(cid))
    assert peers.sent[other] > CHUNK_BYTES_MAX


def test_an_asker_beyond_its_budget_is_not_answered_until_it_has_one_again(bare: Server) -> None:
    now = 0.0
    bare.costs = Costs(clock=lambda: now)
    cid = bare.blocks.put(b"chunk")
    peers: Any = Outboxes()
    asker = PeerId("asker")
    bare.serve(peers, asker, GetBlob(cid))
    sent = peers.sent[asker]
    bare.costs.serve(asker, SERVED_BYTES_BURST + SERVED_BYTES_PER_S)
    bare.serve(peers, asker, GetBlob(cid))
    assert peers.sent[asker] == sent
    now = 1.5
    bare.serve(peers, asker, GetBlob(cid))
    assert peers.sent[asker] == 2 * sent


def test_who_asks_for_the_tip_while_the_run_is_being_opened_hears_when_it_is(
    server: Server,
) -> None:
    peers: Any = Outboxes()
    ledger, server.ledger = server.ledger, None
    assert ledger is not None
    server.serve(peers, PeerId("asker"), GetTip(1))
    assert not peers.sent
    for _ in range(2):
        server.open(peers, ledger)
        assert peers.sent == {"asker": len(encode(server.answer(GetTip(1)) or GetTip(1)))}


def test_signatures_are_charged_by_the_peer_and_by_the_second() -> None:
    now = 0.0
    costs = Costs(clock=lambda: now)
    asker = PeerId("asker")
    assert costs.may_check(asker, SIGNATURES_PER_PEER_BURST)
    assert costs.may_check(asker, 0)  # what is remembered costs nothing
    assert not costs.may_check(asker, 1)
    assert costs.may_check(PeerId("other"), 64)
    now = 1.0
    assert costs.may_check(asker, SIGNATURES_PER_PEER_PER_S)


def test_paths_of_reduced_shards_are_kept_while_the_ledger_holds_them(server: Server) -> None:
    for link in CHAIN:
        server.answer(GetReduced(link.context.block, 0))
    assert len(server._reduced) == len(CHAIN)
    assert server.ledger is not None
    server.ledger._reduced.clear()
    branch = chain_on(CHAIN[3].context, 1, "more")
    server.ledger._reduced[branch[0].context.block] = shards_of("more0")
    server.answer(GetReduced(branch[0].context.block, 0))
    assert len(server._reduced) == 1


def test_after_a_switch_the_new_branch_is_served(server: Server) -> None:
    assert server.ledger is not None
    branch = chain_on(CHAIN[1].context, 1, "new")
    server.ledger.switch(2)
    server.ledger.history.switch(2, branch)
    server.ledger.record(3, state_of(9), shards_of("new0"))
    tip = server.answer(GetTip(1))
    assert isinstance(tip, Tip)
    assert tip.states == tuple(link.context.block for link in (branch[0], CHAIN[1], CHAIN[0]))
    gone = GetReduced(CHAIN[3].context.block, 0)
    assert server.answer(gone) == NotHeld(gone)
