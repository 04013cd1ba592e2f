"""What peers sign, and the parts of it. The normative text is protocol/averaging.md.

  parts       Entry, Block, Ballot, Certificate, Signed: pieces of messages
  statements  Commit, Have, Proposal, Vote, Timeout, Join, Leave, Announcement: always inside a
              Signed, whose signature covers the swarm id, so none can be replayed in another swarm

All are frozen and encoded by wire/codec.py from their field types alone. Field types say what
may be on the wire: int is 0..2**63-1, Digest exactly 32 bytes, PeerId a base58 Ed25519 peer id,
Norm2 an integer below 2**128; wire/fields.py has the marks for the rest. The checks in
__post_init__ raise ValueError, which the decoder turns into a RemoteProtocolError: a bad part
cannot exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NewType

from p2ptrain.wire.digest import ZERO_DIGEST, Digest
from p2ptrain.wire.fields import AtMost, Each, Exactly, Only
from p2ptrain.wire.limits import (
    ADDRESSES_ANNOUNCED_MAX,
    AGENT_ANNOUNCED_CHARS_MAX,
    ANNOUNCE_EVERY_MS_MAX,
    ANNOUNCED_ADDRESS_CHARS_MAX,
    CHANGES_PER_BLOCK_MAX,
    CODEC_NUMBERS,
    COMMITTEE_MAX,
    LOCAL_STEPS_MAX,
    SHARDS_MAX,
    SIGNATURE_BYTES,
    VIEW_MAX,
    WEIGHT_MAX,
)
from p2ptrain.wire.peer_id import PeerId

Norm2 = NewType("Norm2", int)  # a squared norm in units of 2**-64, below 2**128

ROUND, CLOSE, BRANCH = 0, 1, 2  # Block.kind
REACH_UNKNOWN, DIALLED = 0, 1  # Announcement.reach


def check(holds: bool, otherwise: str) -> None:
    """Raise ValueError unless it holds."""
    if not holds:
        raise ValueError(otherwise)


def rising(items: Sequence[Any]) -> bool:
    """Whether items are sorted and none comes twice."""
    return all(items[i] < items[i + 1] for i in range(len(items) - 1))


# --- parts ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Signed:
    """One statement and its signature; may be relayed by anyone.

    signer     whose key signed it
    signature  64 bytes, Ed25519 over protocol/envelope.md section 2
    statement  what was signed
    """

    signer: PeerId
    signature: Annotated[bytes, Exactly(SIGNATURE_BYTES)]
    statement: Commit | Have | Proposal | Vote | Timeout | Join | Leave | Announcement

    def __post_init__(self) -> None:
        check(len(self.signature) == SIGNATURE_BYTES, "a signature has 64 bytes")


@dataclass(frozen=True, slots=True)
class Entry:
    """One contribution as a block lists it: all that later rosters, beacons and limits need.

    peer         the contributor
    commit       digest of its Commit
    weight       training samples behind it, >= 1
    norm2        squared norm of the whole contribution
    reveal       the next preimage of the peer's hash chain
    local_steps  steps that it declared for the next round
    """

    peer: PeerId
    commit: Digest
    weight: int
    norm2: Norm2
    reveal: Digest
    local_steps: int

    def __post_init__(self) -> None:
        check(1 <= self.weight <= WEIGHT_MAX, "an entry without a sensible weight")
        check(1 <= self.local_steps <= LOCAL_STEPS_MAX, "local steps outside 1..LOCAL_STEPS_MAX")


@dataclass(frozen=True, slots=True)
class Block:
    """What a certificate certifies, without view and signatures: (parent, list).

    parent   digest of the block before it
    kind     ROUND: entries are averaged; CLOSE: an empty block that makes its parent final;
             BRANCH: no entries, the committee becomes `living`
    entries  sorted by peer, one a peer; ROUND has at least one, the others none
    joins    ROUND only: signed Joins of the peers that enter the roster, sorted by signer
    leaves   ROUND only: signed Leaves of those that go, sorted by signer
    living   sorted; BRANCH: who of the committee stays in the roster, that is all of a small one;
             ROUND: members that were called and said that they live
    """

    parent: Digest
    kind: int
    entries: Annotated[tuple[Entry, ...], AtMost(COMMITTEE_MAX)]
    joins: Annotated[tuple[Signed, ...], AtMost(CHANGES_PER_BLOCK_MAX), Only(("Join",))]
    leaves: Annotated[tuple[Signed, ...], AtMost(CHANGES_PER_BLOCK_MAX), Only(("Leave",))]
    living: Annotated[tuple[PeerId, ...], AtMost(COMMITTEE_MAX)]

    def __post_init__(self) -> None:
        check(self.kind in (ROUND, CLOSE, BRANCH), f"a block of kind {self.kind}")
        check(bool(self.entries) == (self.kind == ROUND), "entries are what a ROUND has")
        named = bool(self.living)
        check(named or self.kind != BRANCH, "a BRANCH without the living")
        check(not named or self.kind != CLOSE, "the living are not what a CLOSE has")
        changes = bool(self.joins or self.leaves)
        check(not changes or self.kind == ROUND, "joins and leaves are what a ROUND has")
        check(rising([entry.peer for entry in self.entries]), "entries not sorted by peer")
        check(rising(self.living), "the living not sorted")
        for signed in self.joins:
            check(isinstance(signed.statement, Join), "a join that is no Join")
        for signed in self.leaves:
            check(isinstance(signed.statement, Leave), "a leave that is no Leave")
        check(rising([signed.signer for signed in self.joins]), "joins not sorted by signer")
        check(rising([signed.signer for signed in self.leaves]), "leaves not sorted by signer")


@dataclass(frozen=True, slots=True)
class Ballot:
    """One voter's signature under a certificate."""

    voter: PeerId
    signature: Annotated[bytes, Exactly(SIGNATURE_BYTES)]

    def __post_init__(self) -> None:
        check(len(self.signature) == SIGNATURE_BYTES, "a signature has 64 bytes")


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
    ballots: Annotated[tuple[Ballot, ...], AtMost(COMMITTEE_MAX)]

    def __post_init__(self) -> None:
        check(1 <= self.view <= VIEW_MAX, "a view begins at 1")
        check(rising([ballot.voter for ballot in self.ballots]), "ballots not sorted by voter")
        reduces = self.block.kind == ROUND
        check(
            reduces or self.reduced == ZERO_DIGEST,
            "a root of reduced shards where nothing was reduced",
        )


# --- statements ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Commit:
    """A contribution, bound to the block that it builds on.

    parent       digest of that block
    base_state   state digest that the local steps started from
    data         digest of the sample indices that were drawn
    codec        8: int8, 4: int4, 2: int2, 4096 + k: topk with k values of a block
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
    norms2: Annotated[tuple[Norm2, ...], AtMost(SHARDS_MAX)]
    reveal: Digest
    local_steps: int

    def __post_init__(self) -> None:
        check(self.codec in CODEC_NUMBERS, f"no codec has the number {self.codec}")
        check(1 <= self.weight <= WEIGHT_MAX, "a weight outside 1..WEIGHT_MAX")
        check(bool(self.norms2), "a contribution without shards")
        check(sum(self.norms2) < 1 << 128, "a squared norm of the whole above 2**128")
        check(1 <= self.local_steps <= LOCAL_STEPS_MAX, "local steps outside 1..LOCAL_STEPS_MAX")


@dataclass(frozen=True, slots=True)
class Have:
    """Contributions of which the signer holds and has checked all shards that it reduces.

    parent   the block they build on
    commits  digests of their Commits, sorted
    """

    parent: Digest
    commits: Annotated[tuple[Digest, ...], AtMost(COMMITTEE_MAX)]

    def __post_init__(self) -> None:
        check(rising(self.commits), "commits not sorted")


@dataclass(frozen=True, slots=True)
class Vote:
    """One voter's yes, at most one a view. `block` is the block's digest."""

    view: int
    block: Digest
    parent: Digest
    reduced: Digest
    state: Digest

    def __post_init__(self) -> None:
        check(1 <= self.view <= VIEW_MAX, "a view begins at 1")


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

    def __post_init__(self) -> None:
        check(1 <= self.view <= VIEW_MAX, "a view begins at 1")
        check(self.high_view <= self.view, "a certificate from after the view given up")
        check(self.last_view <= self.view, "a vote from after the view given up")
        check((self.last_view == 0) == (self.last_block is None), "a last vote goes with its view")


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
    timeouts: Annotated[tuple[Signed, ...], AtMost(COMMITTEE_MAX), Only(("Timeout",))]

    def __post_init__(self) -> None:
        check(1 <= self.view <= VIEW_MAX, "a view begins at 1")
        for signed in self.timeouts:
            check(isinstance(signed.statement, Timeout), "a timeout that is no Timeout")
        check(rising([signed.signer for signed in self.timeouts]), "timeouts not sorted by signer")


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

    def __post_init__(self) -> None:
        steps = self.local_steps
        check(1 <= steps <= LOCAL_STEPS_MAX, "local steps outside 1..LOCAL_STEPS_MAX")


@dataclass(frozen=True, slots=True)
class Leave:
    """A member asks to be let go; `tip` as in Join."""

    tip: Digest


@dataclass(frozen=True, slots=True)
class Announcement:
    """How the signer is doing, for all to know; no rule of averaging depends on it.

    sequence           grows with each of a peer's, restarts included: its Unix time in ms
    every_ms           the next one comes within so many ms, or the signer is in trouble
    rounds             ROUND blocks behind the state that it holds
    height             of the block that the state is after; 0: the founding block
    block, state       digests of that block and of that state
    samples            trained by it in this process
    samples_per_s      of its own training, lately; 0: it does not train
    uplink_per_s       bytes, the most it has sent in one second; 0: not known
    local_steps        it takes in the next round; 0: it only follows the run
    reach              REACH_UNKNOWN or DIALLED: somebody has made a connection to it
    agent              program and version, for people
    addresses          full multiaddrs at which it listens, the ones worth trying
    """

    sequence: int
    every_ms: int
    rounds: int
    height: int
    block: Digest
    state: Digest
    samples: int
    samples_per_s: int
    uplink_per_s: int
    local_steps: int
    reach: int
    agent: Annotated[str, AtMost(AGENT_ANNOUNCED_CHARS_MAX)]
    addresses: Annotated[
        tuple[str, ...], AtMost(ADDRESSES_ANNOUNCED_MAX), Each(ANNOUNCED_ADDRESS_CHARS_MAX)
    ]

    def __post_init__(self) -> None:
        check(1 <= self.every_ms <= ANNOUNCE_EVERY_MS_MAX, "a pace of 0, or too slow")
        check(self.rounds <= self.height, "more rounds than blocks")
        check(self.local_steps <= LOCAL_STEPS_MAX, "local steps above LOCAL_STEPS_MAX")
        check(self.reach in (REACH_UNKNOWN, DIALLED), f"a reach of {self.reach}")
