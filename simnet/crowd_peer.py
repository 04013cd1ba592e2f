"""One peer of a crowd: a Shell that is connected to its neighbours, and to its committee.

The machines are those of every other scenario, and a peer that does not sit on the committee runs
the very same ones. What differs is the shell's part: whom it is connected to, whom it asks where
the chain stands, and how often it says that it lives.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2ptrain.swarm import effects
from p2ptrain.swarm.chain import Settings, committee, sits
from p2ptrain.swarm.history import Link
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import (
    Certified,
    GetHeaders,
    GetReduced,
    GetTip,
    GetVotes,
    Headers,
    Message,
    NotHeld,
    ReducedPiece,
    Tip,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.checkers import Judge
from simnet.crowd_world import CrowdWorld
from simnet.shell import Shell

JUDGED_LATER = (Certified, Tip, GetTip, GetVotes, Headers, GetHeaders)
UNJUDGED = (ReducedPiece, GetReduced, NotHeld)
FAR_PING_S = 5.0  # of peers off the committee: nobody waits for them
ASKED_MAX = 2  # neighbours that are asked where the chain stands


class CrowdPeer(Shell):
    """One instance of a peer in a crowd."""

    @property
    def _near(self) -> tuple[PeerId, ...]:
        assert isinstance(self.world, CrowdWorld)
        return self.world.neighbours[self.peer]

    @property
    def _seated(self) -> bool:
        return sits(self.storage.history.tip, self.peer)

    def _learn_peers(self) -> None:
        now, world = self.world.now, self.world
        near = [p for p in self._near if world.answers(self.peer, p)]
        self.connected = near
        if self._seated:
            seated = committee(self.storage.history.tip)
            linked = {*near, *(p for p in seated if world.answers(self.peer, p))}
            self.connected = sorted(linked)
        first = self.life % max(1, len(near) - ASKED_MAX + 1)
        self._do(self.catchup.peers(now, near[first : first + ASKED_MAX]))
        self._do(self.sync.peers(now, near))
        if self.averaging:
            self._do(self.averaging.peers(now, self.connected))

    def _ping(self) -> None:
        self._learn_peers()
        if not self._seated:
            self.ping_at = self.world.now + FAR_PING_S
        if self.averaging is None or not self._seated:
            return
        seated = self.storage.history.tip.seats.sitting
        for peer in self.connected:
            if peer in seated:
                self._do(self.averaging.heard(self.world.now, peer))

    def _apply(self, effect: effects.Apply) -> None:
        super()._apply(effect)
        if sits(effect.context, self.peer):
            self.ping_at = self.world.now  # meet the others of the committee


class CrowdJudge(Judge):
    """The checkers, for thousands who adopt the same block: what is equal is judged once."""

    def __init__(self, liars: frozenset[PeerId], settings: Settings) -> None:
        super().__init__(liars, settings)
        self._judged: dict[tuple[int, int], tuple[object, object]] = {}
        self._contexts_judged: set[int] = set()

    def sent(self, sender: PeerId, message: Message, to: PeerId | None = None) -> None:
        """Certificates are judged when they are adopted; they are what is sent most."""
        if not isinstance(message, (*JUDGED_LATER, *UNJUDGED)):
            super().sent(sender, message, to)

    def applied(self, peer: PeerId, link: Link, finals: Iterable[Digest], now: float) -> None:
        """A peer adopted a block."""
        key = (id(link.certificate), id(link.context))
        mine = any(ballot.voter == peer for ballot in link.certificate.ballots)
        if key not in self._judged or mine:
            super().applied(peer, link, finals, now)
            self._judged[key] = (link.certificate, link.context)
            return
        if peer not in self.liars:
            for final in finals:
                self.finals.setdefault(final, peer)

    def _check_context(self, link: Link) -> None:
        if id(link.context) not in self._contexts_judged:
            super()._check_context(link)
            self._contexts_judged.add(id(link.context))
