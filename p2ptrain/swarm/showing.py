"""What can be read off the averaging machine, by its shell and for people who wonder.

Nothing here changes anything. Every silence has a name and a limit: `waits` says what the next
step needs, who owes it, and when the machine goes on without.
"""

from __future__ import annotations

from p2ptrain.swarm.chain import committee, proposer, quorum, round_steps
from p2ptrain.swarm.inputs import Wait
from p2ptrain.swarm.receiving import Receiving
from p2ptrain.wire.peer_id import PeerId


class Showing(Receiving):
    """The readable side of Averaging."""

    @property
    def view(self) -> int:
        """The view that this peer is in."""
        return self._views.view

    @property
    def quorum_lost(self) -> bool:
        """Whether fewer than a quorum of voters were heard for T_branch."""
        return self._quorum_lost(self._now)

    @property
    def contributed(self) -> bool:
        """Whether a contribution of ours to context.block stands."""
        return self._exchange.own is not None

    @property
    def may_contribute(self) -> bool:
        """Whether local work on context.block would be taken."""
        rounds_left = self.context.rounds < self.config.settings.rounds
        inside = self._sits and not self._sitting.asking
        if self._sitting.withholds and len(self._voters) > 1:
            return False
        return inside and rounds_left and self.context.block not in self._committed

    def local_steps(self, most: int) -> int:
        """Local steps to take on context.block; most: what the user allows."""
        return self._pace.steps_now(self.context, most)

    @property
    def round_steps(self) -> int:
        """H: local steps of whoever is not too slow for them."""
        return round_steps(self.context, self.config.settings)

    @property
    def slow_because(self) -> str:
        """Why this peer takes fewer steps, in words; "": it does not."""
        return self._pace.why

    @property
    def joiners(self) -> tuple[PeerId, ...]:
        """Peers that have asked to enter the roster and wait for the next block."""
        return self._admissions.joiners()

    @property
    def phase(self) -> str:
        """What the machine is about, in one word for people."""
        if self.finished:
            return "finished"
        if self.context.member(self.config.me) is None:
            return "outside"
        if self._sitting.active:
            return "sitting out"
        if not self._sits:
            return "following"
        if self._lost:
            return "alone"
        if self._votes.of(self.config.me, self._views.view) is not None:
            return "votes"
        if self._proposal is not None:
            return "reducing"
        return "contributions" if self.contributed or self._closing else self._idle

    @property
    def rests(self) -> bool:
        """Whether we wish to take part and nobody is here who could let us in."""
        outside = self.phase == "outside" and self._admissions.wish.join
        return outside and (self._connected or frozenset()).isdisjoint(self._voters)

    @property
    def waits(self) -> tuple[Wait, ...]:
        """What the machine waits for, and until when; empty: for the local work, or nothing."""
        since, limit = self._views.entered_at, self._views.deadline - self._views.entered_at
        if self._sitting.active:
            since, limit = self._sitting.since, self._sitting.ends_at - self._sitting.since
        return tuple(Wait(what, since, limit) for what in self._waits())

    def _waits(self) -> list[str]:
        view = self._views.view
        turn = proposer(self.context, view)
        match self.phase:
            case "votes":
                return [f"votes: {self._votes.count(view)} of {quorum(len(self._voters))}"]
            case "reducing" if self._proposal is not None:
                lacking = self._exchange.lacking(self._proposal.proposal.block)
                return [f"contribution of {peer}" for peer in lacking] or ["reduction"]
            case "contributions":
                held = self._exchange.held
                late = [p for p in committee(self.context) if held.first_of(p) is None]
                return [f"commit of {peer}" for peer in late] or [f"proposal of {turn}"]
            case "outside" if self._admissions.wish.join:
                if self.rests:
                    return [f"a member of the run: none of its {len(self._voters)} is connected"]
                return ["admission to the roster"]
            case "sitting out":
                told = "to hear what the others have seen of us"
                return [told if self._sitting.asking else "a block that the others certify"]
            case "diverged":
                return ["somebody whose training has not diverged"]
            case "alone":
                return [f"a quorum: {quorum(len(self._voters))} of {len(self._voters)} voters"]
            case _:
                return []
