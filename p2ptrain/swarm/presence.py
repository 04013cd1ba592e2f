"""Who was heard lately, and whether a quorum is lost.

A quorum is lost when for T_branch (10 s of this peer's own running time) fewer than q voters, this
one included, gave a sign of life. Any message counts, and pings: training can be silent for long.
A peer that stood still (a laptop that slept) has heard nobody, but that says nothing about the
others: its clock starts again (protocol/averaging.md section 9).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from p2ptrain.swarm.chain import quorum
from p2ptrain.wire.peer_id import PeerId


class Presence:
    """When each peer was heard last."""

    def __init__(self, me: PeerId, branch_s: float, now: float) -> None:
        self._me = me
        self._branch_s = branch_s
        self._running_since = now
        self._heard: dict[PeerId, float] = {}
        self.elsewhere: frozenset[PeerId] = frozenset()  # voters that signed another branch
        self._known: tuple[tuple[PeerId, ...], frozenset[PeerId]] | None = None
        self._not_before = -inf  # what lost_at was for these voters: it only grows

    def heard(self, peer: PeerId, now: float) -> None:
        """A sign of life; those of peers outside the roster do not matter."""
        if peer in self._heard:
            self._heard[peer] = now

    def woke(self, now: float) -> None:
        """We stood still until now: nobody could be heard."""
        self._running_since = now

    def follow(self, members: Iterable[PeerId], now: float) -> None:
        """Watch these peers from now on; those that are new have just been heard of."""
        self._known = None
        self._heard = {peer: self._heard.get(peer, now) for peer in members if peer != self._me}
        self.elsewhere = frozenset()

    def is_heard(self, peer: PeerId, now: float) -> bool:
        """Whether a peer gave a sign of life within T_branch."""
        since = max(self._heard.get(peer, -inf), self._running_since)
        return peer == self._me or now < since + self._branch_s

    def living(self, members: Iterable[PeerId], now: float) -> tuple[PeerId, ...]:
        """Those of the members that live as far as we know, sorted."""
        return tuple(
            p for p in sorted(members) if p not in self.elsewhere and self.is_heard(p, now)
        )

    def is_lost(self, voters: tuple[PeerId, ...], now: float) -> bool:
        """Whether the quorum counts as lost: asked after every message, so it seldom looks."""
        return now >= self.not_lost_before(voters) and now >= self.lost_at(voters)

    def not_lost_before(self, voters: tuple[PeerId, ...]) -> float:
        """A time that lost_at does not come before, known without looking; -inf: none is."""
        known = self._known
        same = known is not None and known[0] is voters and known[1] is self.elsewhere
        return self._not_before if same else -inf

    def lost_at(self, voters: tuple[PeerId, ...]) -> float:
        """When the quorum will count as lost, or did, if nobody is heard until then; inf: never."""
        needed = quorum(len(voters)) - (self._me in voters)
        if needed <= 0:
            return inf
        others = [p for p in voters if p != self._me and p not in self.elsewhere]
        times = sorted((self._heard.get(p, -inf) for p in others), reverse=True)
        newest = times[needed - 1] if len(times) >= needed else -inf
        self._known = (voters, self.elsewhere)
        self._not_before = max(newest, self._running_since) + self._branch_s
        return max(newest, self._running_since) + self._branch_s
