"""What a machine asks its shell to do. Machines return these; only shells carry them out.

The shell carries effects out in the order of the list. That order is a promise: a Persist is on
disk (fsync) before any Send that follows it in the same list leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.swarm.chain import Context
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import Block, Certificate, Message, Piece, Signed
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Send:
    """Put one message into a peer's outbox. It may be lost: machines never rely on delivery."""

    to: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """What must survive a crash before a vote or a promise may be sent.

    promised    no vote in this view or below may be given again
    last_view   view of the last vote, 0 if none
    last_block  the block voted for then
    """

    promised: int
    last_view: int
    last_block: Block | None


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """Our own contribution to one parent: after a restart the same one is sent again."""

    signed: Signed
    shards: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Persist:
    """Write a record durably; a newer record of the same type replaces it."""

    record: VoteRecord | CommitRecord


@dataclass(frozen=True, slots=True)
class CheckPiece:
    """Decode the piece, and call piece_checked(now, sender, piece, norm2) with its squared norm.

    norm2 is None if the bytes are malformed or not finite (protocol/codecs.md section 4).

    codec  number of the piece's codec
    """

    sender: PeerId
    piece: Piece
    codec: int


@dataclass(frozen=True, slots=True)
class Term:
    """One contribution to reduce: factor is clip x weight, the set's largest being 65535."""

    peer: PeerId
    factor: int
    shards: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Reduce:
    """Reduce a block's set on its parent's state, and call reduced(now, block, root, state).

    If that state is not here yet, do it once it is. A Reduce on another parent voids this one.

    block   digest of the block
    parent  digest of the block whose state the result is applied to
    terms   in the block's order
    codec   codec of the terms' shards
    """

    block: Digest
    parent: Digest
    terms: tuple[Term, ...]
    codec: int


@dataclass(frozen=True, slots=True)
class Apply:
    """A certificate was adopted: its block is the new base of the next contribution.

    The certificate must be durable before any effect that follows: a voter that forgets it could
    vote under an older parent. The state may come later: if the shell did not reduce the block
    itself, it fetches the reduced shards.

    certificate  the certificate
    context      the chain's context after the block
    finals       digests of the blocks that became final with it, oldest first
    """

    certificate: Certificate
    context: Context
    finals: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Behind:
    """A peer holds a verified-by-nobody certificate that does not follow from ours: catch up."""

    peer: PeerId
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Proof:
    """Two statements of one signer that exclude one another: double vote or double commit."""

    first: Signed
    second: Signed


@dataclass(frozen=True, slots=True)
class Diverged:
    """Our own work breaks rule 2.8, so it was not committed: everyone would refuse it.

    norm2      its squared norm, units of 2**-64
    norm2_max  the most that anyone would take
    """

    norm2: int
    norm2_max: int


@dataclass(frozen=True, slots=True)
class Certain:
    """What this peer remembers of its own signatures is complete from here on: write that down."""


@dataclass(frozen=True, slots=True)
class KeyElsewhere:
    """Somebody else signs with this peer's key, as this view shows: stop, and tell the user."""

    view: int


Effect = (
    Send
    | Persist
    | CheckPiece
    | Reduce
    | Apply
    | Behind
    | Proof
    | Diverged
    | Certain
    | KeyElsewhere
)
