"""What one frame holds: a signed statement with what proves it, a request, or an answer.

The normative texts are protocol/averaging.md, catchup.md and encoding.md. Messages are frozen
dataclasses, encoded by wire/codec.py from their field types alone; what peers sign and the parts
of it stand in wire/statements.py and can be imported from here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from p2ptrain.wire.announcing import Announced, GetAnnounced
from p2ptrain.wire.cid import CID_CHARS, parse_cid
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.fields import AtMost, Each, Only
from p2ptrain.wire.limits import (
    ADDRESS_CHARS_MAX,
    ADDRESSES_MAX,
    CHUNK_BYTES_MAX,
    CONTACTS_MAX,
    HEADERS_MAX,
    KNOWN_MAX,
    PROOF_MAX,
    REASON_BYTES_MAX,
    SHARDS_ASKED_MAX,
    SHARDS_MAX,
    STATE_PIECE_BYTES,
    STATE_PIECES_MAX,
    STATES_MAX,
    TOPICS_MAX,
)
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.statements import (
    BRANCH,
    CLOSE,
    ROUND,
    Announcement,
    Ballot,
    Block,
    Certificate,
    Commit,
    Entry,
    Have,
    Join,
    Leave,
    Norm2,
    Proposal,
    Signed,
    Timeout,
    Vote,
    check,
    rising,
)

__all__ = [  # and all that is defined below
    "BRANCH",
    "CLOSE",
    "ROUND",
    "Announced",
    "Announcement",
    "Ballot",
    "Block",
    "Certificate",
    "Commit",
    "Entry",
    "GetAnnounced",
    "Have",
    "Join",
    "Leave",
    "Norm2",
    "Proposal",
    "Signed",
    "Timeout",
    "Vote",
]


# --- messages: averaging -------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Statement:
    """A signed Commit, Have, Vote, Join or Leave by itself."""

    signed: Annotated[Signed, Only(("Commit", "Have", "Vote", "Join", "Leave"))]

    def __post_init__(self) -> None:
        kind = type(self.signed.statement)
        check(kind not in (Proposal, Timeout), f"a {kind.__name__} comes with its certificate")


@dataclass(frozen=True, slots=True)
class Propose:
    """A signed Proposal and its parent's certificate (None: the parent is the founding block)."""

    signed: Annotated[Signed, Only(("Proposal",))]
    certificate: Certificate | None

    def __post_init__(self) -> None:
        check(isinstance(self.signed.statement, Proposal), "not a Proposal")


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A signed Timeout and the newest certificate that it names (None: the founding block)."""

    signed: Annotated[Signed, Only(("Timeout",))]
    certificate: Certificate | None

    def __post_init__(self) -> None:
        check(isinstance(self.signed.statement, Timeout), "not a Timeout")


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate, to all, before its sender applies it."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Piece:
    """One shard of one contribution.

    parent       the block it builds on
    contributor  whose contribution
    shard        index, 0 <= shard < number of shards
    proof        Merkle path from the shard to the Commit's root, leaf to root
    data         the shard's bytes in the Commit's codec
    """

    parent: Digest
    contributor: PeerId
    shard: int
    proof: Annotated[tuple[Digest, ...], AtMost(PROOF_MAX)]
    data: Annotated[bytes, AtMost(CHUNK_BYTES_MAX)]

    def __post_init__(self) -> None:
        check(self.shard < SHARDS_MAX, "a shard index above SHARDS_MAX")


@dataclass(frozen=True, slots=True)
class GetContribution:
    """Asks for a contributor's signed Commit and the named shards (none: the Commit alone)."""

    parent: Digest
    contributor: PeerId
    shards: Annotated[tuple[int, ...], AtMost(SHARDS_ASKED_MAX)]

    def __post_init__(self) -> None:
        check(rising(self.shards), "shards not sorted")
        check(not self.shards or self.shards[-1] < SHARDS_MAX, "a shard index above SHARDS_MAX")


@dataclass(frozen=True, slots=True)
class GetVotes:
    """Asks for the receiver's vote on, and any certificate above, the named block."""

    parent: Digest


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two statements of one signer that exclude one another: Votes of a view, or Commits."""

    first: Annotated[Signed, Only(("Commit", "Vote"))]
    second: Annotated[Signed, Only(("Commit", "Vote"))]

    def __post_init__(self) -> None:
        first, second = self.first, self.second
        check(first.signer == second.signer, "statements of two signers")
        kinds = {type(first.statement), type(second.statement)}
        check(kinds in ({Commit}, {Vote}), "two Commits or two Votes")


# --- messages: catch-up --------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class GetTip:
    """Asks for the receiver's Tip."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a peer stands.

    certificate  its newest applied certificate; None: the founding block
    rounds       ROUND blocks applied
    states       digests of the blocks whose state it can serve, newest first
    """

    certificate: Certificate | None
    rounds: int
    states: Annotated[tuple[Digest, ...], AtMost(STATES_MAX)]


@dataclass(frozen=True, slots=True)
class GetHeaders:
    """Asks for the certificates that follow the first of `known` that the receiver's chain has.

    known   block digests of the asker's chain, newest first; the founding block's is always last
    count   how many at most
    """

    known: Annotated[tuple[Digest, ...], AtMost(KNOWN_MAX)]
    count: int

    def __post_init__(self) -> None:
        check(bool(self.known), "the founding block is known to all")
        check(1 <= self.count <= HEADERS_MAX, "a count outside 1..HEADERS_MAX")


@dataclass(frozen=True, slots=True)
class Headers:
    """Consecutive certificates after `after`, oldest first; empty: that is the tip."""

    after: Digest
    certificates: Annotated[tuple[Certificate, ...], AtMost(HEADERS_MAX)]


@dataclass(frozen=True, slots=True)
class GetState:
    """Asks for one piece of the state after a block."""

    block: Digest
    index: int

    def __post_init__(self) -> None:
        check(self.index < STATE_PIECES_MAX, "an index above STATE_PIECES_MAX")


@dataclass(frozen=True, slots=True)
class StatePiece:
    """One piece of a state: STATE_PIECE_BYTES, the last may be shorter; proof as in Piece."""

    block: Digest
    index: int
    proof: Annotated[tuple[Digest, ...], AtMost(PROOF_MAX)]
    data: Annotated[bytes, AtMost(STATE_PIECE_BYTES)]

    def __post_init__(self) -> None:
        check(self.index < STATE_PIECES_MAX, "an index above STATE_PIECES_MAX")


@dataclass(frozen=True, slots=True)
class GetReduced:
    """Asks for one reduced shard of a certified block."""

    block: Digest
    shard: int

    def __post_init__(self) -> None:
        check(self.shard < SHARDS_MAX, "a shard index above SHARDS_MAX")


@dataclass(frozen=True, slots=True)
class ReducedPiece:
    """One reduced shard (int8 blocks); the proof leads to the certificate's `reduced`."""

    block: Digest
    shard: int
    proof: Annotated[tuple[Digest, ...], AtMost(PROOF_MAX)]
    data: Annotated[bytes, AtMost(CHUNK_BYTES_MAX)]

    def __post_init__(self) -> None:
        check(self.shard < SHARDS_MAX, "a shard index above SHARDS_MAX")


@dataclass(frozen=True, slots=True)
class GetBlob:
    """Asks for the bytes of a CID: a recipe, a manifest or a data chunk."""

    cid: Annotated[str, AtMost(CID_CHARS)]

    def __post_init__(self) -> None:
        parse_cid(self.cid)


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of a CID."""

    cid: Annotated[str, AtMost(CID_CHARS)]
    data: Annotated[bytes, AtMost(CHUNK_BYTES_MAX)]

    def __post_init__(self) -> None:
        parse_cid(self.cid)


@dataclass(frozen=True, slots=True)
class NotHeld:
    """The answer to a request that cannot be met: the request itself, so that it is known."""

    request: GetState | GetReduced | GetBlob | GetContribution | GetHeaders


# --- messages: between nodes ---------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame on a connection, each way, packed without a code.

    protocol    PROTOCOL_VERSION
    arithmetic  version of the kernels' arithmetic; peers of another number are refused
    topics      swarm ids and data set CIDs that the sender takes part in or serves
    agent       program and version, for people
    addresses   full multiaddrs at which the sender listens
    """

    protocol: int
    arithmetic: int
    topics: Annotated[tuple[str, ...], AtMost(TOPICS_MAX), Each(CID_CHARS)]
    agent: Annotated[str, AtMost(REASON_BYTES_MAX)]
    addresses: Annotated[tuple[str, ...], AtMost(ADDRESSES_MAX), Each(ADDRESS_CHARS_MAX)]


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer and where it was reached last."""

    peer: PeerId
    addresses: Annotated[tuple[str, ...], AtMost(ADDRESSES_MAX), Each(ADDRESS_CHARS_MAX)]


@dataclass(frozen=True, slots=True)
class Contacts:
    """Peers of this swarm that the sender is connected to, each once."""

    contacts: Annotated[tuple[Contact, ...], AtMost(CONTACTS_MAX)]

    def __post_init__(self) -> None:
        peers = {contact.peer for contact in self.contacts}
        check(len(peers) == len(self.contacts), "a peer named twice")


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender stops; why, for people."""

    reason: Annotated[str, AtMost(REASON_BYTES_MAX)]


Averaging = (
    Statement | Propose | GiveUp | Certified | Piece | GetContribution | GetVotes | Contradiction
)  # fmt: skip
CatchUp = (
    GetTip | Tip | GetHeaders | Headers | GetState | StatePiece | GetReduced | ReducedPiece
    | GetBlob | Blob | NotHeld
)  # fmt: skip
Announcing = Announced | GetAnnounced
Message = Averaging | CatchUp | Announcing | Contacts | Goodbye
