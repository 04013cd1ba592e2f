"""What is known of the peers of a swarm: each one's newest announcement, and how old it is.

The newest is the one with the highest sequence, so that the table does not depend on the order in
which announcements arrive, nor on how often. An age is measured on this peer's own clock from when
the announcement came, and what the one who passed it on had measured is added: clocks of different
machines are never compared. Only the window of a day around our own clock is taken, or a recording
of last week would raise the dead.

Nothing here decides anything in averaging: an announcement is a peer's word about itself. What
comes of it: who is late (frozen, or gone), who is on which state, how fast the others are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import (
    ANNOUNCE_SKEW_MS_MAX,
    ANNOUNCED_PEERS_MAX,
    ANNOUNCED_SEQUENCES_MAX,
)
from p2ptrain.wire.messages import Announcement, Signed
from p2ptrain.wire.peer_id import PeerId

LATE_FACTOR = 1.75  # one may be slow; so a frozen peer is missed within 2 s, looks included
GONE_S = 60.0  # late for so long, and it is forgotten: people want to see who has just vanished
TRAIL_KEPT = 4  # states announced before: peers that are ahead of us are compared by these


class Worth(Enum):
    """What an announcement is to us, before its signature is checked."""

    NEWS = "news"
    OLD = "known, or older than what is known"
    SKEWED = "of another day by our clock"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One peer, as it was when it announced this.

    signed    the announcement, to be passed on
    told      what it says
    heard_at  on our clock, when it was told first, as far as we know
    trail     (height, state) of this announcement and those before it, newest first
    """

    signed: Signed
    told: Announcement
    heard_at: float
    trail: tuple[tuple[int, Digest], ...]

    def age_s(self, now: float) -> float:
        """Seconds since it was told."""
        return max(now - self.heard_at, 0.0)

    def is_late(self, now: float) -> bool:
        """Whether its successor is overdue: the peer is frozen, cut off, or gone."""
        return self.age_s(now) > LATE_FACTOR * self.told.every_ms / 1000

    def is_gone(self, now: float) -> bool:
        """Whether it need not be remembered."""
        return self.age_s(now) > GONE_S + self.told.every_ms / 1000


@dataclass(frozen=True, slots=True)
class StateGroup:
    """Peers that announced one state.

    height, state  which; of those that are on our chain: of no one block, and empty
    ours           whether it is a state of our chain
    peers          sorted
    """

    height: int
    state: Digest | None
    ours: bool
    peers: tuple[PeerId, ...]


class Sightings:
    """The newest announcement of each peer but this one."""

    def __init__(self, me: PeerId) -> None:
        """Know nobody."""
        self.me = me
        self.kept: frozenset[PeerId] = frozenset()  # these are never pushed out by strangers
        self._of: dict[PeerId, Sighting] = {}
        self._past: OrderedDict[PeerId, int] = OrderedDict()  # sequences of who was forgotten

    def __len__(self) -> int:
        """How many peers are known."""
        return len(self._of)

    def get(self, peer: PeerId) -> Sighting | None:
        """What is known of one peer."""
        return self._of.get(peer)

    def all(self) -> list[tuple[PeerId, Sighting]]:
        """All that are known, sorted by peer."""
        return sorted(self._of.items())

    def worth(self, signed: Signed, unix_ms: int) -> Worth:
        """Whether an announcement says anything new. unix_ms: now, by this machine's clock."""
        sequence = _told(signed).sequence
        if abs(sequence - unix_ms) > ANNOUNCE_SKEW_MS_MAX:
            return Worth.SKEWED
        known = self._of.get(signed.signer)
        newest = known.told.sequence if known else self._past.get(signed.signer, -1)
        return Worth.NEWS if sequence > newest else Worth.OLD

    def learn(self, signed: Signed, heard_at: float) -> None:
        """Take a checked announcement that is NEWS."""
        peer, told = signed.signer, _told(signed)
        known = self._of.get(peer)
        before = known.trail if known is not None else ()
        here = (told.height, told.state)
        trail = before if here in before[:1] else (here, *before)[:TRAIL_KEPT]
        self._past.pop(peer, None)
        self._of[peer] = Sighting(signed, told, heard_at, trail)
        while len(self._of) > ANNOUNCED_PEERS_MAX:
            self._forget(self._least_worth(peer))

    def forget_gone(self, now: float) -> list[PeerId]:
        """Forget those that were silent for too long; who they were."""
        gone = [peer for peer, sighting in self.all() if sighting.is_gone(now)]
        for peer in gone:
            self._forget(peer)
        return gone

    def states(
        self, state_at: Callable[[int], Digest | None], living: Collection[PeerId] | None = None
    ) -> tuple[StateGroup, ...]:
        """Who is on our chain, and who has another state; the largest group first.

        A peer is compared at the newest block that it has announced and we know; who has announced
        none of those is in no group.

        state_at  the state after the block of a height of our chain; None: not known
        living    only these; None: all that are known
        """
        groups: dict[tuple[int, Digest] | None, list[PeerId]] = {None: [self.me]}
        for peer, sighting in self.all():
            if living is not None and peer not in living:
                continue
            for height, state in sighting.trail:
                ours = state_at(height)
                if ours is not None:
                    key = None if state == ours else (height, state)
                    groups.setdefault(key, []).append(peer)
                    break
        found: list[StateGroup] = []
        for key, peers in groups.items():
            members = tuple(sorted(peers))
            if key is None:
                found.append(StateGroup(0, None, ours=True, peers=members))
            else:
                found.append(StateGroup(*key, ours=False, peers=members))
        return tuple(sorted(found, key=lambda g: (-len(g.peers), not g.ours, g.height, g.peers)))

    def _least_worth(self, newcomer: PeerId) -> PeerId:
        """Whom to forget first: of those that nobody needs, the one heard of longest ago."""
        others = [peer for peer in self._of if peer not in self.kept and peer != newcomer]
        return min(others, key=lambda peer: (self._of[peer].heard_at, peer), default=newcomer)

    def _forget(self, peer: PeerId) -> None:
        self._past[peer] = self._of.pop(peer).told.sequence
        self._past.move_to_end(peer)
        if len(self._past) > ANNOUNCED_SEQUENCES_MAX:
            self._past.popitem(last=False)


def distinct_states(groups: Collection[StateGroup]) -> int:
    """How many states there are at the least: ours, and those that differ at one height."""
    differing: dict[int, int] = {}
    for group in groups:
        if not group.ours:
            differing[group.height] = differing.get(group.height, 0) + 1
    return 1 + max(differing.values(), default=0)


def _told(signed: Signed) -> Announcement:
    assert isinstance(signed.statement, Announcement), "Heard lets nothing else in"
    return signed.statement
