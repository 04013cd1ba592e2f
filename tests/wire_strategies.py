"""Hypothesis strategies for every message: whatever an honest peer could send."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from p2ptrain.wire.announcing import Announced, GetAnnounced, Heard, Known
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.digest import ZERO_DIGEST
from p2ptrain.wire.messages import (
    BRANCH,
    CLOSE,
    ROUND,
    Announcement,
    Ballot,
    Blob,
    Block,
    Certificate,
    Certified,
    Commit,
    Contact,
    Contacts,
    Contradiction,
    Entry,
    GetBlob,
    GetContribution,
    GetHeaders,
    GetReduced,
    GetState,
    GetTip,
    GetVotes,
    GiveUp,
    Goodbye,
    Have,
    Headers,
    Hello,
    Join,
    Leave,
    Message,
    NotHeld,
    Piece,
    Proposal,
    Propose,
    ReducedPiece,
    Signed,
    Statement,
    StatePiece,
    Timeout,
    Tip,
    Vote,
)
from p2ptrain.wire.peer_id import peer_id_of

PEERS = sorted(peer_id_of(bytes([i]) * 32) for i in range(8))

ints = st.integers(0, 2**63 - 1) | st.integers(0, 300)
views = st.integers(1, 1 << 62) | st.integers(1, 200)
steps = st.integers(1, 10_000)
peers = st.sampled_from(PEERS)
digests: Any = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
norms2 = st.integers(0, 2**120)
contents = st.binary(max_size=400)
texts = st.text(max_size=20)
cids = contents.map(cid_of)
proofs: Any = st.lists(digests, max_size=4).map(tuple)

joins = st.builds(Join, digests, digests, steps)
leaves = st.builds(Leave, digests)
votes = st.builds(Vote, views, digests, digests, digests, digests)
commits = st.builds(
    Commit,
    digests,
    digests,
    digests,
    st.sampled_from([4, 8]),
    st.integers(1, 655_360_000),
    digests,
    st.lists(norms2, min_size=1, max_size=20).map(tuple),
    digests,
    steps,
)
haves = st.builds(Have, digests, st.sets(digests, max_size=20).map(lambda s: tuple(sorted(s))))


def signed(statements: st.SearchStrategy[Any]) -> st.SearchStrategy[Signed]:
    return st.builds(Signed, peers, signatures, statements)


def sorted_by(
    items: st.SearchStrategy[Any], key: Callable[[Any], Any], min_size: int = 0
) -> st.SearchStrategy[Any]:
    lists = st.lists(items, min_size=min_size, max_size=5, unique_by=key)
    return lists.map(lambda found: tuple(sorted(found, key=key)))


def signer(item: Signed) -> str:
    return item.signer


entries = st.builds(
    Entry, peers, digests, st.integers(1, 655_360_000), norms2, digests, st.integers(1, 10_000)
)
rounds = st.builds(
    Block,
    digests,
    st.just(ROUND),
    sorted_by(entries, lambda e: e.peer, 1),
    sorted_by(signed(joins), signer),
    sorted_by(signed(leaves), signer),
    st.just(()),
)
closes = st.builds(lambda parent: Block(parent, CLOSE, (), (), (), ()), digests)
branches = st.builds(
    lambda parent, living: Block(parent, BRANCH, (), (), (), living),
    digests,
    sorted_by(peers, str, 1),
)
blocks = rounds | closes | branches
ballots = sorted_by(st.builds(Ballot, peers, signatures), lambda b: b.voter)


@st.composite
def make_certificate(draw: st.DrawFn) -> Certificate:
    block = draw(blocks)
    reduced = draw(digests) if block.kind == ROUND else ZERO_DIGEST
    return Certificate(draw(views), block, reduced, draw(digests), draw(ballots))


@st.composite
def make_timeout(draw: st.DrawFn) -> Timeout:
    view = draw(views)
    last = draw(st.none() | blocks)
    last_view = 0 if last is None else draw(st.integers(1, view))
    return Timeout(view, draw(st.integers(0, view)), draw(digests), last_view, last)


certificates = make_certificate()
timeouts = make_timeout()
proposals = st.builds(Proposal, views, blocks, sorted_by(signed(timeouts), signer))
requests = (
    st.builds(GetState, digests, st.integers(0, 65_535))
    | st.builds(GetReduced, digests, st.integers(0, 4095))
    | st.builds(GetBlob, cids)
    | st.builds(
        GetContribution,
        digests,
        peers,
        st.sets(st.integers(0, 4095), max_size=20).map(lambda s: tuple(sorted(s))),
    )
    | st.builds(
        GetHeaders,
        st.lists(digests, min_size=1, max_size=5).map(tuple),
        st.integers(1, 32),
    )
)
statements = commits | haves | votes | joins | leaves
contacts = st.builds(Contact, peers, st.lists(texts, max_size=3).map(tuple))
hellos = st.builds(
    Hello,
    ints,
    ints,
    st.lists(cids, max_size=3).map(tuple),
    texts,
    st.lists(texts, max_size=3).map(tuple),
)
figures: Any = st.tuples(digests, digests, ints, ints, ints, steps, st.sampled_from([0, 1]))
announcements = st.builds(
    lambda sequence, every_ms, heights, values, agent, addresses: Announcement(  # type: ignore[call-arg]
        sequence, every_ms, min(heights), max(heights), *values, agent, addresses
    ),
    ints,
    st.integers(1, 60_000),
    st.tuples(ints, ints),
    figures,
    st.text("abc/0.", max_size=32),
    st.lists(st.text("abc/0.", max_size=128), max_size=4).map(tuple),
)
heard = sorted_by(
    st.builds(Heard, signed(announcements), ints), lambda each: each.signed.signer, min_size=1
)


@st.composite
def asked(draw: st.DrawFn) -> GetAnnounced:
    known = draw(sorted_by(st.builds(Known, ints, ints), lambda each: each.tag))
    low, high = sorted(draw(st.tuples(ints, ints)))
    tags = [each.tag for each in known]
    return GetAnnounced(min([low, *tags]), max([high, *tags]), known)


@st.composite
def contradictions(draw: st.DrawFn) -> Contradiction:
    one = draw(signed(draw(st.sampled_from([commits, votes]))))
    other: Any = draw(commits if isinstance(one.statement, Commit) else votes)
    return Contradiction(one, Signed(one.signer, draw(signatures), other))


messages: st.SearchStrategy[Message] = (
    st.builds(Statement, signed(statements))
    | st.builds(Propose, signed(proposals), st.none() | certificates)
    | st.builds(GiveUp, signed(timeouts), st.none() | certificates)
    | st.builds(Certified, certificates)
    | st.builds(Piece, digests, peers, st.integers(0, 4095), proofs, contents)
    | requests
    | st.builds(GetVotes, digests)
    | contradictions()
    | st.builds(GetTip, ints)
    | st.builds(Tip, st.none() | certificates, ints, proofs)
    | st.builds(Headers, digests, st.lists(certificates, max_size=3).map(tuple))
    | st.builds(StatePiece, digests, st.integers(0, 65_535), proofs, contents)
    | st.builds(ReducedPiece, digests, st.integers(0, 4095), proofs, contents)
    | st.builds(Blob, cids, contents)
    | st.builds(NotHeld, requests)
    | st.builds(Contacts, sorted_by(contacts, lambda c: c.peer))
    | st.builds(Goodbye, texts)
    | st.builds(Announced, heard)
    | asked()
)
