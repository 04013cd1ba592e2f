"""Who sits on the committee of a large swarm, and who is called to say that it is there.

A roster of up to COMMITTEE_MAX members is its own committee, and nothing here matters. Above that
the beacon of the newest block draws COMMITTEE_MAX of the members: they contribute to its child and
certify it, and all others apply what was certified.

A committee of which a third is away cannot certify anything, and of a large roster many members are
away at any time. So only those are drawn of whom a block has shown lately that they live: they
contributed, entered, or answered a roll call. The beacon calls CALLED_MAX of all the others at each
block. Whoever is called tells the voters; the proposer of the child lists who did, COMMITTEE_MAX of
them at the most, in the order of the draw. What it costs a block does not grow with the swarm, and
everybody has a turn each roster / CALLED_MAX blocks. Whoever misses two turns in a row (a seat
or a call) is out, and asks to enter again when it is back. swarm/chain.py applies it; the text is
protocol/averaging.md section 1.

Weighed by arithmetic, not simulated: a committee drawn from the whole roster, the missing of which
are out at once. With 30% of the members away 26% of such draws have no quorum (22 or more of 64
away, binomial). And a signed sign of life of every member each few blocks, whose bytes grow with
the swarm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import CALLED_MAX, COMMITTEE_MAX, VOTER_SEATS
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Seats:
    """What one block's beacon draws from a roster.

    committee  who contributes to its children, sorted
    voters     those of the committee that vote, sorted
    called     who is to say that it is there, in the order of the draw
    sitting    the committee, to look up
    """

    committee: tuple[PeerId, ...]
    voters: tuple[PeerId, ...]
    called: tuple[PeerId, ...]
    sitting: frozenset[PeerId]


def drawn(domain: str, beacon: Digest, peers: Iterable[PeerId], count: int) -> tuple[PeerId, ...]:
    """The first `count` of the peers in the order of a beacon's draw; their order is no matter."""
    ranks = sorted((digest(domain, beacon, peer.encode("ascii")), peer) for peer in peers)
    return tuple(peer for _, peer in ranks[:count])


def committee(beacon: Digest, peers: Sequence[PeerId]) -> tuple[PeerId, ...]:
    """COMMITTEE_MAX of the peers, ascending, or all.

    beacon  of the newest block
    """
    if len(peers) <= COMMITTEE_MAX:
        return tuple(sorted(peers))
    return tuple(sorted(drawn("committee", beacon, peers, COMMITTEE_MAX)))


def seats(
    beacon: Digest, voters: Sequence[PeerId], others: Sequence[PeerId], seen: Collection[PeerId]
) -> Seats:
    """Draw from a roster.

    Args:
      beacon  of the newest block
      voters  members that vote when they sit
      others  members that do not vote yet
      seen    who was shown to live lately; nobody: all are taken to

    VOTER_SEATS go to voters as far as there are any, so that a crowd of newcomers cannot leave the
    committee without them; for the rest all are alike.
    """
    if len(voters) + len(others) <= COMMITTEE_MAX:
        everyone = tuple(sorted((*voters, *others)))
        return Seats(everyone, tuple(sorted(voters)), (), frozenset(everyone))
    fresh = [p for p in voters if p in seen] or voters
    newer = [p for p in others if p in seen or not seen]
    entitled = drawn("committee", beacon, fresh, COMMITTEE_MAX)
    first = entitled[:VOTER_SEATS]
    rest = drawn("committee", beacon, (*entitled[VOTER_SEATS:], *newer), COMMITTEE_MAX - len(first))
    sitting = frozenset((*first, *rest))
    absent = [p for p in (*voters, *others) if p not in seen and p not in sitting]
    return Seats(
        committee=tuple(sorted(sitting)),
        voters=tuple(sorted(sitting.intersection(entitled))),
        called=drawn("call", beacon, absent, CALLED_MAX),
        sitting=sitting,
    )


def missed(called: Sequence[PeerId], living: Collection[PeerId]) -> list[PeerId]:
    """The called that did not answer: a full list says nothing of those drawn after its last."""
    if len(living) < COMMITTEE_MAX:
        return [peer for peer in called if peer not in living]
    last = max(i for i, peer in enumerate(called) if peer in living)
    return [peer for peer in called[:last] if peer not in living]
