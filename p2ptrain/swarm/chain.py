"""The chain of certified blocks: what follows from each, by pure functions.

A Context is all that the protocol needs to know of a chain at one block: who the members are, who
may vote, the beacon, the norm limits. It follows from the founding block and the certificates
alone, so every peer computes the same one, and a joiner can check the whole of it. The numbers in
errors are sections of protocol/averaging.md.

  genesis   the founding block: one member, no certificate
  advance   the context after one more block
  voters    who decides on children of a block; above COMMITTEE_MAX members, of those that sit on
            the committee which the block's beacon draws (swarm/committee.py)
  quorum    q = ceil(2M/3) of the M voters: any two quorums share a voter, and with floor((M-1)/3)
            liars still an honest one

A certificate's view is not part of its block: a block that was certified twice, in two views, is
one block. Context.view is the view of the certificate that we hold.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from p2ptrain.errors import LocalProtocolError
from p2ptrain.swarm import committee as draw
from p2ptrain.swarm.roster import Member, next_roster, next_seen
from p2ptrain.swarm.weights import limit2_of_round, norm2_max_of_round
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import (
    COMMITTEE_MAX,
    JOIN_AGE_BLOCKS_MAX,
    LIMIT_ROUNDS,
    LOCAL_STEPS_MAX,
    WARMUP_CODEC_NUMBER,
    WEIGHT_MAX,
)
from p2ptrain.wire.messages import BRANCH, ROUND, Block, Certificate, Norm2, Vote
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Settings:
    """What the recipe says about averaging; the same on all peers.

    codec               number of the codec of contributions (wire/limits.py: CODEC_NUMBERS)
    shard_bytes         the size of each shard of a contribution in that codec
    rounds              ROUND blocks in the run
    weight_max          the most samples that one contribution may claim
    norm_max2           limit of the squared norm in the first 8 rounds, units of 2**-64
    voter_after         certified contributions after which a member votes; 0: at once
    warmup_rounds       rounds at the start whose contributions are in int8
    warmup_shard_bytes  the size of each shard of those
    batch               samples in a local step; as it is by default, weight_max alone binds
    local_steps         steps of a round (H), where the link asks for no more
    local_steps_max     the most that H may grow to
    local_steps_min     the fewest that a slow peer takes
    """

    codec: int
    shard_bytes: tuple[int, ...]
    rounds: int
    weight_max: int
    norm_max2: int
    voter_after: int
    warmup_rounds: int = 0
    warmup_shard_bytes: tuple[int, ...] = ()
    batch: int = WEIGHT_MAX
    local_steps: int = 1
    local_steps_max: int = 1
    local_steps_min: int = 1

    def codec_after(self, rounds: int) -> int:
        """Number of the codec of contributions to the round after so many."""
        return WARMUP_CODEC_NUMBER if rounds < self.warmup_rounds else self.codec

    def shard_bytes_after(self, rounds: int) -> tuple[int, ...]:
        """The size of each shard of a contribution to the round after so many."""
        return self.warmup_shard_bytes if rounds < self.warmup_rounds else self.shard_bytes


@dataclass(frozen=True, slots=True)
class Context:
    """The chain as it stands after one block.

    block         digest of that block
    parent        digest of the block before it; the founding block is its own parent
    view          view of its certificate; 0: the founding block
    height        blocks since the founding block
    rounds        ROUND blocks among them
    state         digest of the state after the block
    beacon        the public random value that draws proposers and data
    roster        members, sorted by peer
    limits        squared norm limits of the last LIMIT_ROUNDS rounds, oldest first
    kind          kind of the block
    branch_depth  BRANCH blocks since the founding block
    recent        digests of the last JOIN_AGE_BLOCKS_MAX blocks, this one last
    unfinal       digests of the blocks up to this one that are not final yet, oldest first
    electors      who was entitled to certify this block, sorted; none: the founding block
    needed        how many of them it took
    seen          above COMMITTEE_MAX members: whom each of the last SEEN_BLOCKS rounds showed alive
    seats         who contributes to and decides on children of this block, and who is called; that
                  follows from beacon, roster and seen
    """

    block: Digest
    parent: Digest
    view: int
    height: int
    rounds: int
    state: Digest
    beacon: Digest
    roster: tuple[Member, ...]
    limits: tuple[Norm2, ...]
    kind: int
    branch_depth: int
    recent: tuple[Digest, ...]
    unfinal: tuple[Digest, ...]
    electors: tuple[PeerId, ...]
    needed: int
    seen: tuple[tuple[PeerId, ...], ...] = ()
    seats: draw.Seats = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        entitled = [m.peer for m in self.roster if m.voter]
        others = [m.peer for m in self.roster if not m.voter]
        seen = {peer for shown in self.seen for peer in shown}
        found = draw.seats(self.beacon, entitled, others, seen)
        object.__setattr__(self, "seats", found)

    def member(self, peer: PeerId) -> Member | None:
        """The member of that name, if there is one."""
        at = bisect_left(self.roster, peer, key=lambda m: m.peer)
        here = at < len(self.roster) and self.roster[at].peer == peer
        return self.roster[at] if here else None

    @property
    def is_large(self) -> bool:
        """Whether there are more members than one committee takes."""
        return len(self.roster) > COMMITTEE_MAX

    def at_view(self, view: int) -> Context:
        """The same block, certified in another view."""
        return replace(self, view=view)


def genesis(swarm: Digest, founder: PeerId, state: Digest) -> Context:
    """The founding block: the founder alone; first reveal and steps are taken as they come.

    swarm  what signatures name the swarm by (wire/envelope.py)
    state  digest of the initial state, which follows from the recipe
    """
    block = digest("genesis", swarm, founder.encode("ascii"))
    return Context(
        block=block,
        parent=block,
        view=0,
        height=0,
        rounds=0,
        state=state,
        beacon=digest("beacon", swarm),
        roster=(Member(founder, None, True, 0, 0, LOCAL_STEPS_MAX),),
        limits=(),
        kind=ROUND,
        branch_depth=0,
        recent=(block,),
        unfinal=(),
        electors=(),
        needed=0,
    )


# --- who decides -----------------------------------------------------------------------------
def quorum(voters: int) -> int:
    """Votes that certify: ceil(2M/3)."""
    return -(-2 * voters // 3)


def liars_max(voters: int) -> int:
    """Double signers that M voters tolerate: floor((M-1)/3)."""
    return (voters - 1) // 3


def committee(context: Context) -> tuple[PeerId, ...]:
    """The members that contribute to children of this block, sorted; of a small roster, all."""
    return context.seats.committee


def voters(context: Context) -> tuple[PeerId, ...]:
    """The peers that vote on children of this block, sorted."""
    return context.seats.voters


def sits(context: Context, peer: PeerId) -> bool:
    """Whether a peer is on the committee for children of this block."""
    return peer in context.seats.sitting


def proposer(context: Context, view: int) -> PeerId:
    """Whose proposal counts in a view: consecutive views pass through all voters in turn.

    An independent draw for each view could name one dead voter several times in a row; in turns, d
    dead voters cost d views at most.
    """
    peers = voters(context)
    return peers[(int.from_bytes(context.beacon, "big") + view) % len(peers)]


def shards_reduced_by(context: Context, peer: PeerId, shards: Collection[int]) -> tuple[int, ...]:
    """Which of these shards a peer reduces, ascending, and so is to be sent.

    k = M: a voter all of them, anybody else none. Where k < M the beacon will draw here.
    """
    return tuple(sorted(shards)) if peer in voters(context) else ()


def electorate(context: Context, block: Block) -> tuple[tuple[PeerId, ...], int]:
    """Whose votes count for a child, and how many certify it: a quorum, or all of the living."""
    peers = voters(context)
    if block.kind == BRANCH:
        peers = tuple(p for p in peers if p in block.living)
        return peers, len(peers)
    return peers, quorum(len(peers))


# --- what follows from a block ---------------------------------------------------------------
def next_beacon(beacon: Digest, block: Block) -> Digest:
    """The beacon after a block: no payload and no signature enters it, or it could be ground."""
    parts = [part for e in block.entries for part in (e.peer.encode("ascii"), e.reveal)]
    return digest("beacon", beacon, *parts)


def reveal_follows(member: Member, reveal: Digest) -> bool:
    """Whether a reveal is the preimage of the member's anchor."""
    return member.anchor is None or digest("reveal", reveal) == member.anchor


def norm2_max(context: Context, settings: Settings) -> int:
    """The squared norm above which a contribution to a child of this block is absurd."""
    return norm2_max_of_round(context.limits, settings.norm_max2)


def weight_max(member: Member, settings: Settings) -> int:
    """The most samples that a member's next contribution may claim: what it declared before."""
    return min(settings.weight_max, settings.batch * member.local_steps)


def round_steps(context: Context, settings: Settings) -> int:
    """H, the local steps of a round on this block, for whoever is fast enough.

    The upper median of what the committee declared, within the recipe's bounds: a minority of slow
    peers, or of liars, does not move it.
    """
    most = settings.local_steps_max
    members = (context.member(peer) for peer in committee(context))
    declared = sorted(min(m.local_steps, most) for m in members if m and m.anchor is not None)
    middle = declared[len(declared) // 2] if declared else settings.local_steps
    return max(middle, settings.local_steps)


def finals(context: Context, certificate: Certificate) -> tuple[Digest, ...]:
    """The blocks that become final with a child of this context's block, oldest first.

    A certified block is final, and its ancestors with it, when a child is certified in the very
    next view; a BRANCH makes nothing final, for no quorum signed it.
    """
    consecutive = certificate.view == context.view + 1 and certificate.block.kind != BRANCH
    return context.unfinal if consecutive else ()


def advance(context: Context, certificate: Certificate, settings: Settings) -> Context:
    """The context after a verified certificate for a child of this context's block."""
    block = certificate.block
    name = block_digest(block)
    if block.parent != context.block:
        raise LocalProtocolError("advance needs a certificate for a child of the context's block")
    limits = context.limits
    if block.kind == ROUND:
        limit2 = limit2_of_round([e.norm2 for e in block.entries], limits, settings.norm_max2)
        limits = (*limits, Norm2(limit2))[-LIMIT_ROUNDS:]
    done = finals(context, certificate)
    electors, needed = electorate(context, block)
    roster = next_roster(context, block, settings)
    return Context(
        block=name,
        parent=block.parent,
        view=certificate.view,
        height=context.height + 1,
        rounds=context.rounds + (block.kind == ROUND),
        state=certificate.state,
        beacon=next_beacon(context.beacon, block),
        roster=roster,
        limits=limits,
        kind=block.kind,
        branch_depth=context.branch_depth + (block.kind == BRANCH),
        recent=(*context.recent, name)[-JOIN_AGE_BLOCKS_MAX:],
        unfinal=(name,) if done else (*context.unfinal, name),
        electors=electors,
        needed=needed,
        seen=next_seen(context, block, roster),
    )


def vote_of(certificate: Certificate) -> Vote:
    """What each ballot of a certificate signs."""
    block = certificate.block
    return Vote(
        view=certificate.view,
        block=block_digest(block),
        parent=block.parent,
        reduced=certificate.reduced,
        state=certificate.state,
    )
