"""What must follow from a block, written again from protocol/averaging.md.

Peers that all compute the same wrong thing agree with one another, and no comparison between them
finds it. So the checkers compute it a second time, from the text and not from the machines' code:
whose votes it takes (sections 7 and 9), the next roster (section 1), the beacon (11), the norm
limit and the factors that contributions count with (10), and centred clipping (codecs.md 6.1).
Contexts and blocks are only read here; every rule is said anew, as plainly as can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ptrain.swarm.chain import Context, Settings
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.messages import BRANCH, ROUND, Block, Entry, Join
from p2ptrain.wire.peer_id import PeerId
from simnet.faults import quorum_of

Vector = NDArray[np.float64]


class Seat(NamedTuple):
    """What a roster says of one member."""

    peer: PeerId
    anchor: Digest | None
    voter: bool
    rounds: int
    absent: int
    local_steps: int


def needed(context: Context, block: Block) -> tuple[frozenset[PeerId], int]:
    """Whose votes certify a child of a context's block, and how many of them."""
    voters = entitled(context)
    if block.kind == BRANCH:
        living = frozenset(voters.intersection(block.living))
        return living, len(living)
    return voters, quorum_of(len(voters))


def entitled(context: Context) -> frozenset[PeerId]:
    """Who votes on children of a context's block."""
    seated = drawn(context).committee
    return frozenset(member.peer for member in context.roster if member.voter) & seated


class Drawn(NamedTuple):
    """What a block's beacon draws from a roster."""

    committee: frozenset[PeerId]
    called: tuple[PeerId, ...]


_KNOWN: dict[tuple[Digest, Digest, int], Drawn] = {}  # of large rosters: 40 ms each


def drawn(context: Context) -> Drawn:
    """Who sits on the committee, and who is called (section 1)."""
    if len(context.roster) <= 64:
        return Drawn(frozenset(member.peer for member in context.roster), ())
    key = (context.block, context.beacon, len(context.roster))
    if key not in _KNOWN:
        _KNOWN[key] = _draw(context)
    return _KNOWN[key]


def _draw(context: Context) -> Drawn:
    votes = {member.peer: member.voter for member in context.roster}
    seen = {peer for shown in context.seen for peer in shown} & set(votes)
    pool = seen or set(votes)
    if not any(votes[peer] for peer in pool):
        pool = pool | {peer for peer, voter in votes.items() if voter}

    def rank(domain: str, peers: set[PeerId]) -> list[PeerId]:
        return sorted(peers, key=lambda p: (digest(domain, context.beacon, p.encode("ascii")), p))

    first = rank("committee", {peer for peer in pool if votes[peer]})[:48]
    rest = rank("committee", pool - set(first))[: 64 - len(first)]
    seated = frozenset(first + rest)
    return Drawn(seated, tuple(rank("call", set(votes) - seen - seated)[:128]))


def seats(context: Context) -> tuple[Seat, ...]:
    """The roster of a context."""
    return tuple(
        Seat(m.peer, m.anchor, m.voter, m.rounds, m.absent, m.local_steps) for m in context.roster
    )


def roster_after(context: Context, block: Block, voter_after: int) -> tuple[Seat, ...]:
    """The roster after a block."""
    before = seats(context)
    if block.kind == BRANCH:
        left_out = drawn(context).committee - set(block.living)
        return tuple(
            seat._replace(absent=0) if seat.peer in block.living else seat
            for seat in before
            if seat.peer not in left_out
        )
    if block.kind != ROUND:
        return before
    revealed = {entry.peer: entry.reveal for entry in block.entries}
    declared = {entry.peer: entry.local_steps for entry in block.entries}
    left = {signed.signer for signed in block.leaves}
    seated, called = drawn(context)
    if len(block.living) == 64:
        called = called[: max(called.index(peer) for peer in block.living)]
    missed = seated | set(called)
    after: dict[PeerId, Seat] = {}
    for seat in before:
        if seat.peer in revealed:
            new = seat._replace(anchor=revealed[seat.peer], rounds=seat.rounds + 1, absent=0)
            new = new._replace(local_steps=declared[seat.peer])
        elif seat.peer in block.living:
            new = seat._replace(absent=0)
        else:
            new = seat._replace(absent=seat.absent + (seat.peer in missed))
        if seat.peer not in left and new.absent < 2:
            after[seat.peer] = new
    for signed in block.joins:
        assert isinstance(signed.statement, Join)
        join = signed.statement
        after[signed.signer] = Seat(signed.signer, join.anchor, False, 0, 0, join.local_steps)
    voters = sum(seat.voter for seat in after.values())
    waiting = [s for s in after.values() if not s.voter and s.rounds >= voter_after]
    if not voters and not waiting:
        waiting = list(after.values())
    by_rounds = sorted(sorted(waiting), key=lambda seat: seat.rounds, reverse=True)
    for seat in by_rounds[: max(1, voters // 8)]:
        after[seat.peer] = seat._replace(voter=True)
    return tuple(after[peer] for peer in sorted(after))


def beacon_after(context: Context, block: Block) -> Digest:
    """The beacon after a block."""
    parts: list[bytes] = [context.beacon]
    for entry in block.entries:
        parts += [entry.peer.encode("ascii"), entry.reveal]
    return digest("beacon", *parts)


def limits_after(context: Context, block: Block, norm_max2: int) -> tuple[int, ...]:
    """The squared norm limits after a block, oldest first."""
    if block.kind != ROUND:
        return tuple(context.limits)
    return (*context.limits, limit_of(context, block, norm_max2))[-8:]


def limit_of(context: Context, block: Block, norm_max2: int) -> int:
    """The squared norm limit of a ROUND block."""
    if len(context.limits) < 8:
        return norm_max2
    return max(_lower_median([e.norm2 for e in block.entries]), _lower_median(context.limits) // 4)


def factors(entries: Sequence[Entry], limit2: int) -> tuple[int, ...]:
    """What each entry counts with."""
    most = 2 * _lower_median([entry.weight for entry in entries])
    counts = []
    for entry in entries:
        clip = 65536 if entry.norm2 <= limit2 else isqrt(limit2 * 2**32 // entry.norm2)
        counts.append(clip * (entry.weight if entry.weight < most else most))
    return tuple(count * 65535 // (max(counts) or 1) for count in counts)


def centred(factors: Sequence[int], vectors: Sequence[Vector]) -> Vector:
    """The mean of one shard's vectors after centred clipping (codecs.md 6.1), in float64."""
    part = [(f, v) for f, v in zip(factors, vectors, strict=True) if f]
    counts = [float(f) for f, _ in part]
    for _ in range(16 if len(part) > 2 else 0):
        centre = mean(counts, [v for _, v in part])
        far = [float(np.linalg.norm(v - centre)) for _, v in part]
        radius = sorted(far)[(len(far) - 1) // 2]
        counts = [
            f * min(1.0, radius / d if d else 1.0) for (f, _), d in zip(part, far, strict=True)
        ]
    return mean(counts, [v for _, v in part])


def mean(counts: Sequence[float], vectors: Sequence[Vector]) -> Vector:
    """The mean of vectors that count so much, in float64."""
    shares = np.array(counts) / sum(counts)
    found: Vector = shares @ np.stack(vectors)
    return found


def _lower_median(values: Sequence[int]) -> int:
    """The value in the middle; of two in the middle the smaller one."""
    rising = sorted(values)
    while len(rising) > 2:
        rising = rising[1:-1]
    return rising[0]


def differs(context: Context, block: Block, after: Context, settings: Settings) -> str:
    """What does not follow from a block on its parent's context; "" if all of it does."""
    if block.kind == ROUND:
        for entry in block.entries:
            seat = next((s for s in seats(context) if s.peer == entry.peer), None)
            if seat is None:
                return "an entry of a peer outside"
            if seat.anchor is not None and digest("reveal", entry.reveal) != seat.anchor:
                return "a reveal"
            most = min(settings.weight_max, settings.batch * seat.local_steps)
            if not 1 <= entry.weight <= most:
                return "a weight"
    expected = {
        "roster": (seats(after), roster_after(context, block, settings.voter_after)),
        "beacon": (after.beacon, beacon_after(context, block)),
        "norm limits": (tuple(after.limits), limits_after(context, block, settings.norm_max2)),
    }
    return next((name for name, (got, must) in expected.items() if got != must), "")
