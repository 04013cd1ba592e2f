"""A bad message cannot exist: each rule of wire/statements.py and messages.py, broken once."""

from collections.abc import Callable
from typing import Any

import pytest
import wire_strategies as some

from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.codec import encode
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.limits import (
    CHANGES_PER_BLOCK_MAX,
    COMMITTEE_MAX,
    HEADERS_MAX,
    SHARDS_MAX,
    VIEW_MAX,
)
from p2ptrain.wire.messages import (
    BRANCH,
    CLOSE,
    ROUND,
    Ballot,
    Blob,
    Block,
    Certificate,
    Commit,
    Contact,
    Contacts,
    Entry,
    GetBlob,
    GetContribution,
    GetHeaders,
    GetReduced,
    GetState,
    GiveUp,
    Have,
    Headers,
    Join,
    Leave,
    Norm2,
    Piece,
    Proposal,
    Propose,
    ReducedPiece,
    Signed,
    Statement,
    StatePiece,
    Timeout,
    Vote,
)
from p2ptrain.wire.peer_id import peer_id_of

A, B = some.PEERS[:2]
D = digest("test")
VOTE = Vote(1, D, D, D, D)
TIMEOUT = Timeout(1, 0, D, 0, None)
ENTRY = Entry(A, D, 1, Norm2(1), D, 1)
CLOSING = Block(D, CLOSE, (), (), (), ())


def signed(peer: Any, statement: Any) -> Signed:
    return Signed(peer, bytes(64), statement)


def entry(peer: Any, weight: int = 1) -> Entry:
    return Entry(peer, D, weight, Norm2(1), D, 1)


def block(kind: int, **parts: Any) -> Block:
    fields = {"entries": (), "joins": (), "leaves": (), "living": (), **parts}
    return Block(D, kind, **fields)


def commit(**parts: Any) -> Commit:
    fields: dict[str, Any] = {"codec": 4, "weight": 1, "norms2": (Norm2(1),), "local_steps": 1}
    fields |= parts
    return Commit(parent=D, base_state=D, data=D, root=D, reveal=D, **fields)


JOIN, LEAVE = Join(D, D, 1), Leave(D)
BROKEN: dict[str, Callable[[], object]] = {
    "a short signature": lambda: Signed(A, bytes(63), VOTE),
    "a short ballot": lambda: Ballot(A, b""),
    "no weight": lambda: entry(A, 0),
    "too much weight": lambda: entry(A, 655_360_001),
    "a kind that is none": lambda: block(3),
    "a round of nobody": lambda: block(ROUND),
    "a close with entries": lambda: block(CLOSE, entries=(ENTRY,)),
    "a close with leaves": lambda: block(CLOSE, leaves=(signed(A, LEAVE),)),
    "a close with living": lambda: block(CLOSE, living=(A,)),
    "a branch of nobody": lambda: block(BRANCH),
    "a branch with joins": lambda: block(BRANCH, living=(A,), joins=(signed(A, JOIN),)),
    "a branch not sorted": lambda: block(BRANCH, living=(B, A)),
    "a living peer twice": lambda: block(BRANCH, living=(A, A)),
    "entries not sorted": lambda: block(ROUND, entries=(entry(B), entry(A))),
    "a contributor twice": lambda: block(ROUND, entries=(entry(A), entry(A))),
    "a join that is a leave": lambda: block(ROUND, entries=(ENTRY,), joins=(signed(A, LEAVE),)),
    "a leave that is a join": lambda: block(ROUND, entries=(ENTRY,), leaves=(signed(A, JOIN),)),
    "a joiner twice": lambda: block(ROUND, entries=(ENTRY,), joins=2 * (signed(A, JOIN),)),
    "a leaver twice": lambda: block(ROUND, entries=(ENTRY,), leaves=2 * (signed(A, LEAVE),)),
    "a certificate in view 0": lambda: Certificate(0, CLOSING, ZERO_DIGEST, D, ()),
    "a close that reduces": lambda: Certificate(1, CLOSING, D, D, ()),
    "a voter twice": lambda: Certificate(1, CLOSING, ZERO_DIGEST, D, 2 * (Ballot(A, bytes(64)),)),
    "an unknown codec": lambda: commit(codec=3),
    "a topk of another k": lambda: commit(codec=4096 + 100),
    "a commit without weight": lambda: commit(weight=0),
    "a commit without shards": lambda: commit(norms2=()),
    "a norm beyond all bounds": lambda: commit(norms2=(2**127, 2**127)),
    "a commit of no steps": lambda: commit(local_steps=0),
    "haves not sorted": lambda: Have(D, (Digest(b"b" * 32), Digest(b"a" * 32))),
    "a vote in view 0": lambda: Vote(0, D, D, D, D),
    "a timeout of view 0": lambda: Timeout(0, 0, D, 0, None),
    "a timeout that knows a later view": lambda: Timeout(1, 2, D, 0, None),
    "a timeout after a later vote": lambda: Timeout(1, 0, D, 2, CLOSING),
    "a vote without its block": lambda: Timeout(1, 0, D, 1, None),
    "a block without its vote": lambda: Timeout(1, 0, D, 0, CLOSING),
    "a proposal in view 0": lambda: Proposal(0, CLOSING, ()),
    "a timeout that is a vote": lambda: Proposal(1, CLOSING, (signed(A, VOTE),)),
    "a timeout twice": lambda: Proposal(1, CLOSING, 2 * (signed(A, TIMEOUT),)),
    "a join of no steps": lambda: Join(D, D, 0),
    "a bare proposal": lambda: Statement(signed(A, Proposal(1, CLOSING, ()))),
    "a bare timeout": lambda: Statement(signed(A, TIMEOUT)),
    "a proposal that is a vote": lambda: Propose(signed(A, VOTE), None),
    "a giving up that is a vote": lambda: GiveUp(signed(A, VOTE), None),
    "a piece beyond all shards": lambda: Piece(D, A, 4096, (), b""),
    "a reduced piece beyond all shards": lambda: ReducedPiece(D, 4096, (), b""),
    "a request beyond all shards": lambda: GetReduced(D, 4096),
    "a contribution's shard beyond all": lambda: GetContribution(D, A, (4096,)),
    "shards asked twice": lambda: GetContribution(D, A, (1, 1)),
    "a state piece beyond all": lambda: StatePiece(D, 65_536, (), b""),
    "a request for it": lambda: GetState(D, 65_536),
    "headers after nothing": lambda: GetHeaders((), 1),
    "no headers": lambda: GetHeaders((D,), 0),
    "more headers than a page": lambda: GetHeaders((D,), 33),
    "a blob by another name": lambda: GetBlob("bafy"),
    "a blob in upper case": lambda: Blob(cid_of(b"").upper(), b""),
    "a contact twice": lambda: Contacts(2 * (Contact(A, ()),)),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_it_cannot_be_made(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        make()


def largest_block() -> Block:
    """64 contributors, and as many joins and leaves as a block may have."""
    peers = sorted(peer_id_of(bytes([i]) * 32) for i in range(COMMITTEE_MAX))
    wide = 655_360_000
    entries = tuple(Entry(peer, D, wide, Norm2(1), D, 1) for peer in peers)
    changing = peers[:CHANGES_PER_BLOCK_MAX]
    joins = tuple(signed(peer, Join(D, D, 10_000)) for peer in changing)
    return Block(D, ROUND, entries, joins, tuple(signed(peer, LEAVE) for peer in changing), ())


def largest_certificate() -> Certificate:
    block = largest_block()
    ballots = tuple(Ballot(entry.peer, bytes(64)) for entry in block.entries)
    return Certificate(VIEW_MAX, block, D, D, ballots)


def test_the_largest_messages_of_averaging_fit_one_frame() -> None:
    block, certificate = largest_block(), largest_certificate()
    timeout = Timeout(VIEW_MAX, VIEW_MAX, D, VIEW_MAX, block)
    timeouts = tuple(signed(entry.peer, timeout) for entry in block.entries)
    encode(Propose(signed(A, Proposal(VIEW_MAX, block, timeouts)), certificate))
    encode(Headers(D, HEADERS_MAX * (certificate,)))
    encode(Statement(signed(A, commit(norms2=SHARDS_MAX * (Norm2(1),)))))
