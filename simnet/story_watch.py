"""What is written down while a story runs: rounds, faults and how they heal.

A Watch is a Judge, so a story is judged for safety like every other run. Of a fault it notes

  waited_s  from its beginning to the next round that anybody applies
  healed_s  from its end until the peers that it concerned, and most of all that run, have applied
            one and the same block that was not there before that end. A crash for ever is over
            at once, and concerns all others

A peer that stops again before its fault has healed is no longer waited for.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.chain import Settings
from p2ptrain.swarm.history import Link
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import STRIKES_MAX
from p2ptrain.wire.messages import ROUND
from p2ptrain.wire.peer_id import PeerId
from simnet.checkers import Judge
from simnet.shell import Shell

GAP_SHARE = 0.5  # of the honest that run: more than these have applied a block that has healed


@dataclass(slots=True)
class Trouble:
    """One fault, as it went.

    what       for people
    at_s       when it began
    over_s     when it ended; for a crash for ever: when it began; None: it has not ended
    concerned  who must be back
    waited_s   until the next round; None: there was none
    healed_s   None: it did not heal
    """

    what: str
    at_s: float
    over_s: float | None
    concerned: tuple[PeerId, ...]
    waited_s: float | None = None
    healed_s: float | None = None


@dataclass(slots=True)
class Applied:
    """A block, as it was first applied by an honest peer.

    link  certificate and context
    at_s  when
    live  members of its parent's roster that were running then, liars too
    """

    link: Link
    at_s: float
    live: int


@dataclass(slots=True)
class Watch(Judge):
    """A judge that keeps a diary."""

    now: Callable[[], float] = lambda: 0.0
    shells: dict[PeerId, Shell] = field(default_factory=dict)
    first: dict[Digest, Applied] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    on_block: Callable[[Applied], None] = lambda applied: None
    on_counted: Callable[[PeerId], None] = lambda peer: None
    on_banned: Callable[[PeerId, PeerId], None] = lambda by, peer: None
    found: dict[tuple[PeerId, PeerId], int] = field(default_factory=dict)  # faults, by whom, whose
    _waiting: list[Trouble] = field(default_factory=list)
    _healing: list[Trouble] = field(default_factory=list)

    # --- what shells report ---------------------------------------------------------------------
    def applied(self, peer: PeerId, link: Link, finals: Iterable[Digest], now: float) -> None:
        """A peer adopted a block: its contribution in there counts."""
        Judge.applied(self, peer, link, finals, now)
        if any(entry.peer == peer for entry in link.certificate.block.entries):
            self.on_counted(peer)

    def state(self, peer: PeerId, link: Link, state: Digest) -> None:
        """A peer made the state after a block."""
        Judge.state(self, peer, link, state)
        if peer in self.liars:
            return
        block, now = link.context.block, self.now()
        if block not in self.first:
            parent = self.contexts[link.context.parent]
            live = sum(self.shells[m.peer].running for m in parent.roster)
            self.first[block] = Applied(link, now, live)
            if link.context.kind == ROUND:
                for trouble in self._waiting:
                    trouble.waited_s = now - trouble.at_s
                self._waiting.clear()
            self.on_block(self.first[block])
        self._look_for_healing(block, peer)

    def struck(self, by: PeerId, error: RemoteProtocolError) -> None:
        """A peer blames another; after STRIKES_MAX faults it lets it go, as a node does."""
        Judge.struck(self, by, error)
        pair = (by, PeerId(error.peer))
        self.found[pair] = self.found.get(pair, 0) + 1
        if self.found[pair] == STRIKES_MAX:
            self.on_banned(*pair)

    # --- faults ---------------------------------------------------------------------------------
    def begins(self, trouble: Trouble) -> None:
        """A fault begins."""
        self.troubles.append(trouble)
        self._waiting.append(trouble)
        if trouble.over_s is not None:
            self._healing.append(trouble)

    def ends(self, trouble: Trouble) -> None:
        """A fault ends: from now on it may heal."""
        trouble.over_s = self.now()
        self._healing.append(trouble)

    def honest(self) -> list[Shell]:
        """The honest peers that run now."""
        return [s for p, s in self.shells.items() if s.running and p not in self.liars]

    def _look_for_healing(self, block: Digest, peer: PeerId) -> None:
        """A peer applies a block (and will hold it in a moment): does that heal anything?"""
        for trouble in list(self._healing):
            over = trouble.over_s
            if over is None or self.first[block].at_s < over:
                continue
            waited_for = [p for p in trouble.concerned if self.shells[p].running]
            if not all(p == peer or holds(self.shells[p], block) for p in waited_for):
                continue
            everyone = self.honest()
            with_it = sum(s.peer == peer or holds(s, block) for s in everyone)
            if waited_for and with_it > GAP_SHARE * len(everyone):
                trouble.healed_s = self.now() - over
                self._healing.remove(trouble)

    # --- at the end -----------------------------------------------------------------------------
    def _check_finals(self) -> None:
        """Pairs of final blocks need no look if all are on one path."""
        deepest = max(self.finals, key=lambda b: self.contexts[b].height, default=None)
        if deepest is None or not set(self.finals) <= set(self._path(deepest)):
            Judge._check_finals(self)


def holds(shell: Shell, block: Digest) -> bool:
    """Whether a peer has applied a block or one that follows from it."""
    history = shell.storage.history
    height, applied = history.height_of(block), history.height_of(shell.storage.applied)
    return height is not None and applied is not None and height <= applied


def watch(liars: frozenset[PeerId], settings: Settings, now: Callable[[], float]) -> Watch:
    """A Watch of one story."""
    return Watch(liars, settings, now=now)
