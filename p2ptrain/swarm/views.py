"""Views: which one a peer is in, when it gives up, and the Timeouts that move everyone on.

A view number only grows, through the whole run. A peer enters the view after a certificate; the
view after one for which it holds a quorum of Timeouts; or the view of a legal proposal. It never
walks ahead alone: having given a view up it stays there, repeating its Timeout, until a quorum has
given it up too. So a peer that was cut off does not come back with a view that nobody can reach.

Two rules keep peers together (protocol/averaging.md section 8). If floor((M-1)/3) + 1 others have
given up our view or later ones, at least one of them is honest, and we give up too. And if one
voter is far ahead (it voted in a branch that has since been left), we jump to its view, but only
by a distance that grows fourfold with each failure: a liar cannot make the numbers run away.

The deadline of a view is a local duration: 4 times the median of the last views' durations, at
least 0.5 and at most 60 s, doubled each time that it passes in vain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from p2ptrain.swarm.chain import liars_max
from p2ptrain.swarm.inputs import Timing
from p2ptrain.wire.limits import DURATIONS_KEPT, TIMEOUTS_PER_VOTER_MAX, VIEW_MAX
from p2ptrain.wire.messages import Signed, Timeout
from p2ptrain.wire.peer_id import PeerId

DOUBLINGS_MAX = 6  # 64 times the first deadline; an hour is reached by no honest swarm
JUMP_AFTER = 2  # failures before a peer follows a voter that is far ahead


class Views:
    """The pacemaker of one peer."""

    def __init__(self, timing: Timing, view: int, promised: int, now: float) -> None:
        self._timing = timing
        self.view = view
        self.promised = promised  # no vote in this view or below
        self.gave_up = 0  # the last view that we sent a Timeout for
        self.entered_at = now
        self.failed = 0  # deadlines that passed in vain since the last certificate
        self.deadline = inf
        self._durations: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self._timeouts: dict[PeerId, dict[int, Signed]] = {}
        self._found: dict[tuple[int, tuple[PeerId, ...]], list[Signed]] = {}  # until they change

    # --- durations ----------------------------------------------------------------------------
    def _duration(self, parts: int) -> float | None:
        """The last views' durations' lower median (2 parts) or quartile (4); None: none known."""
        ordered = sorted(self._durations)
        return ordered[(len(ordered) - 1) // parts] if ordered else None

    @property
    def limit(self) -> float:
        """Seconds until this view is given up."""
        timing, median = self._timing, self._duration(2)
        first = timing.view_first_s if median is None else timing.view_factor * median
        clamped = min(max(first, timing.view_min_s), timing.view_max_s)
        return float(clamped * 2 ** min(self.failed, DOUBLINGS_MAX))

    @property
    def grace(self) -> float:
        """Seconds that a proposer waits for the last contributions.

        The quartile, not the median: durations have the grace in them that was waited in vain, so
        a member that never delivers, in most rounds, would make the grace grow with each.
        """
        timing, usual = self._timing, self._duration(4)
        if usual is None:
            return timing.grace_first_s
        return min(max(usual, timing.grace_min_s), timing.grace_max_s)

    @property
    def retry(self) -> float:
        """Seconds after which what may be lost is sent again."""
        return min(max(self.limit / 4, self._timing.grace_min_s), self._timing.view_first_s / 2)

    def arm(self, at: float) -> None:
        """Give this view up at `at`, or earlier if that was said before."""
        self.deadline = min(self.deadline, at)

    # --- moving on ----------------------------------------------------------------------------
    def enter(self, view: int, now: float) -> None:
        """Enter a higher view of the same parent."""
        self.view = view
        self.entered_at = now
        self.deadline = now + self.limit

    def base(self, view: int, now: float) -> None:
        """A block was adopted that was certified in `view`: begin on its children."""
        if self.failed == 0 or self.view <= view + 1:
            self._durations.append(now - self.entered_at)
        self.view = max(self.view, view + 1)
        self.entered_at = now
        self.failed = 0
        self.deadline = inf
        self._found.clear()
        for mine in self._timeouts.values():
            for old in [v for v in mine if v < self.view - 1]:
                del mine[old]
        self._timeouts = {peer: mine for peer, mine in self._timeouts.items() if mine}

    def fail(self, now: float) -> None:
        """The deadline passed in vain."""
        self.failed += 1
        self.deadline = now + self.limit

    # --- Timeouts -----------------------------------------------------------------------------
    def note(self, signed: Signed, timeout: Timeout) -> None:
        """Keep a checked Timeout; a later one for the same view says more and replaces it."""
        self._found.clear()
        mine = self._timeouts.setdefault(signed.signer, {})
        known = mine.get(timeout.view)
        if known is not None and _high(known) > timeout.high_view:
            return
        mine[timeout.view] = signed
        while len(mine) > TIMEOUTS_PER_VOTER_MAX:
            del mine[min(mine)]

    def retain(self, usable: Callable[[Timeout], bool]) -> None:
        """Forget the Timeouts that name a certificate of a chain that we have left."""
        self._found.clear()
        for peer, mine in self._timeouts.items():
            self._timeouts[peer] = {
                view: signed
                for view, signed in mine.items()
                if isinstance(signed.statement, Timeout) and usable(signed.statement)
            }

    @property
    def quiet(self) -> bool:
        """Whether nobody has given anything up, as nearly always."""
        return not self._timeouts

    def timeouts(self, view: int, voters: tuple[PeerId, ...]) -> list[Signed]:
        """The Timeouts of these voters for exactly this view, in their order."""
        key = view, voters  # asked after every message
        if key not in self._found:
            found = (self._timeouts.get(peer, {}).get(view) for peer in voters)
            self._found[key] = [signed for signed in found if signed is not None]
        return self._found[key]

    def newest_of(self, peer: PeerId) -> int:
        """The highest view that a peer has given up; 0: none."""
        mine = self._timeouts.get(peer)
        return max(mine) if mine else 0

    def given_up_by(self, others: list[PeerId]) -> int:
        """The highest view that floor((M-1)/3) + 1 of the other voters have given up; 0: none."""
        needed = liars_max(len(others) + 1) + 1
        newest = sorted((self.newest_of(peer) for peer in others), reverse=True)
        return newest[needed - 1] if len(newest) >= needed else 0

    def target(self, others: list[PeerId]) -> int:
        """The view to give up now: ours, or that of a voter who is far ahead."""
        ahead = max((self.newest_of(peer) for peer in others), default=0)
        reach = self.view + (1 << min(2 * self.failed, 62))
        if self.failed >= JUMP_AFTER and self.view < ahead <= min(reach, VIEW_MAX):
            return ahead
        return self.view


def _high(signed: Signed) -> int:
    timeout = signed.statement
    return timeout.high_view if isinstance(timeout, Timeout) else 0
