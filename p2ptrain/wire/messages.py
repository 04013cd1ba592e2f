"""What peers say to one another. The normative texts are protocol/averaging.md and catchup.md.

Three kinds of dataclass stand here, all frozen and all encoded by wire/codec.py from their field
types alone:

  parts       Entry, Block, Certificate, Signed: pieces of messages
  statements  Commit, Have, Proposal, Vote, Timeout, Join, Leave: always inside a Signed, whose
              signature covers the swarm id, so none can be replayed in another swarm
  messages    what one frame holds: a signed statement with what proves it, a request, an answer

Field types say what may be on the wire: int is 0..2**63-1, Digest exactly 32 bytes, PeerId a
base58 Ed25519 peer id, Norm2 an integer below 2**128. The checks in __post_init__ raise
ValueError, which the decoder turns into a RemoteProtocolError: a bad message cannot exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from p2ptrain.wire.digest import Digest
from p2ptrain.wire.peer_id import PeerId

Norm2 = NewType("Norm2", int)  # a squared norm in units of 2**-64, below 2**128

ROUND, CLOSE, BRANCH = 0, 1, 2  # Block.kind


# --- parts ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Signed:
    """One statement and its signature; may be relayed by anyone.

    signer     whose key signed it
    signature  64 bytes, Ed25519 over protocol/envelope.md section 2
    statement  what was signed
    """

    signer: PeerId
    signature: bytes
    statement: Commit | Have | Proposal | Vote | Timeout | Join | Leave


@dataclass(frozen=True, slots=True)
class Entry:
    """One contribution as a block lists it: all that later rosters, beacons and limits need.

    peer    the contributor
    commit  digest of its Commit
    weight  training samples behind it, >= 1
    norm2   squared norm of the whole contribution
    reveal  the next preimage of the peer's hash chain
    """

    peer: PeerId
    commit: Digest
    weight: int
    norm2: Norm2
    reveal: Digest


@dataclass(frozen=True, slots=True)
class Block:
    """What a certificate certifies, without view and signatures: (parent, list).

    parent   digest of the block before it
    kind     ROUND: entries are averaged; CLOSE: an empty block that makes its parent final;
             BRANCH: no entries, the roster becomes `living`
    entries  sorted by peer, one a peer; ROUND has at least one, the others none
    joins    signed Join statements of the peers that enter the roster, sorted by signer
    leaves   signed Leave statements of those that go, sorted by signer
    living   BRANCH only: the roster of the branch, sorted
    """

    parent: Digest
    kind: int
    entries: tuple[Entry, ...]
    joins: tuple[Signed, ...]
    leaves: tuple[Signed, ...]
    living: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Ballot:
    """One voter's signature under a certificate."""

    voter: PeerId
    signature: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A quorum's votes for one block in one view (for a BRANCH: the votes of all the living).

    view     the view of the votes
    block    the block
    reduced  Merkle root of the reduced shards; zeros if the block is not a ROUND
    state    digest of the state after the block
    ballots  sorted by voter; each signs Vote(view, digest of block, parent, reduced, state)
    """

    view: int
    block: Block
    reduced: Digest
    state: Digest
    ballots: tuple[Ballot, ...]


# --- statements ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Commit:
    """A contribution, bound to the block that it builds on.

    parent       digest of that block
    base_state   state digest that the local steps started from
    data         digest of the sample indices that were drawn
    codec        4: int4 blocks, 8: int8 blocks
    weight       samples = batch x steps done, >= 1
    root         Merkle root of the shards
    norms2       squared norm of each shard; its length is the number of shards
    reveal       next preimage of the signer's hash chain
    local_steps  steps declared for the next round
    """

    parent: Digest
    base_state: Digest
    data: Digest
    codec: int
    weight: int
    root: Digest
    norms2: tuple[Norm2, ...]
    reveal: Digest
    local_steps: int


@dataclass(frozen=True, slots=True)
class Have:
    """Contributions of which the signer holds and has checked all shards that it reduces.

    parent   the block they build on
    commits  digests of their Commits, sorted
    """

    parent: Digest
    commits: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """One voter's yes, at most one a view. `block` is the block's digest."""

    view: int
    block: Digest
    parent: Digest
    reduced: Digest
    state: Digest


@dataclass(frozen=True, slots=True)
class Timeout:
    """A promise not to vote in `view` or below, and what the signer knew when it gave it.

    view        the view given up
    high_view   view of the newest certificate that the signer holds (0: the founding block)
    high_block  its block's digest
    last_view   view of the signer's last vote; 0 if it never voted
    last_block  the block that it voted for then; None if it never voted
    """

    view: int
    high_view: int
    high_block: Digest
    last_view: int
    last_block: Block | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """The proposer's set for one view.

    view      the view
    block     the block to vote for
    timeouts  a quorum of signed Timeouts for view - 1, sorted by signer; empty when the parent's
              certificate has view - 1
    """

    view: int
    block: Block
    timeouts: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """A peer asks to enter the roster.

    tip          digest of the newest block it has applied: one of the last JOIN_AGE_BLOCKS_MAX
    anchor       end of its hash chain: digest("reveal", first preimage)
    local_steps  steps it declares for its first round
    """

    tip: Digest
    anchor: Digest
    local_steps: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A member asks to be let go; `tip` as in Join."""

    tip: Digest


# --- messages: averaging -------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Statement:
    """A signed Commit, Have, Vote, Join or Leave by itself."""

    signed: Signed


@dataclass(frozen=True, slots=True)
class Propose:
    """A signed Proposal and its parent's certificate (None: the parent is the founding block)."""

    signed: Signed
    certificate: Certificate | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A signed Timeout and the newest certificate that it names (None: the founding block)."""

    signed: Signed
    certificate: Certificate | None


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
    proof: tuple[Digest, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class GetContribution:
    """Asks for a contributor's signed Commit and the named shards (none: the Commit alone)."""

    parent: Digest
    contributor: PeerId
    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GetVotes:
    """Asks for the receiver's vote on, and any certificate above, the named block."""

    parent: Digest


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
    states: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class GetHeaders:
    """Asks for the certificates that follow the first of `known` that the receiver's chain has.

    known   block digests of the asker's chain, newest first; the founding block's is always last
    count   how many at most
    """

    known: tuple[Digest, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Headers:
    """Consecutive certificates after `after`, oldest first; empty: that is the tip."""

    after: Digest
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class GetState:
    """Asks for one piece of the state after a block."""

    block: Digest
    index: int


@dataclass(frozen=True, slots=True)
class StatePiece:
    """One piece of a state: STATE_PIECE_BYTES, the last may be shorter; proof as in Piece."""

    block: Digest
    index: int
    proof: tuple[Digest, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class GetReduced:
    """Asks for one reduced shard of a certified block."""

    block: Digest
    shard: int


@dataclass(frozen=True, slots=True)
class ReducedPiece:
    """One reduced shard (int8 blocks); the proof leads to the certificate's `reduced`."""

    block: Digest
    shard: int
    proof: tuple[Digest, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class GetBlob:
    """Asks for the bytes of a CID: a recipe, a manifest or a data chunk."""

    cid: str


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of a CID."""

    cid: str
    data: bytes


@dataclass(frozen=True, slots=True)
class NotHeld:
    """The answer to a request that cannot be met: the request itself, so that it is known."""

    request: GetState | GetReduced | GetBlob | GetContribution | GetHeaders


# --- messages: between nodes ---------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame on a connection, each way.

    protocol    PROTOCOL_VERSION
    arithmetic  version of the kernels' arithmetic; peers of another number are refused
    topics      swarm ids and data set CIDs that the sender takes part in or serves
    agent       program and version, for people
    addresses   full multiaddrs at which the sender listens
    """

    protocol: int
    arithmetic: int
    topics: tuple[str, ...]
    agent: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer and where it was reached last."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contacts:
    """Peers of this swarm that the sender is connected to."""

    contacts: tuple[Contact, ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender stops; why, for people."""

    reason: str


Averaging = Statement | Propose | GiveUp | Certified | Piece | GetContribution | GetVotes
CatchUp = (
    GetTip | Tip | GetHeaders | Headers | GetState | StatePiece | GetReduced | ReducedPiece
    | GetBlob | Blob | NotHeld
)  # fmt: skip
Message = Averaging | CatchUp | Contacts | Goodbye
