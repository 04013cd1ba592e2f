"""Sitting out: a peer that may have forgotten what it signed first learns where the others are.

Its votes file was damaged, or its home is the copy of another one. A second vote in one view would
convict it; a Timeout that leaves out a forgotten vote could let a rival of a certified block
through. So it says nothing that counts until nothing that it forgot can matter
(protocol/averaging.md section 12):

  asking   for T_branch it asks everyone and notes the highest view that anybody shows
  waiting  it has promised not to vote up to the view after that, and waits for a block that was
           certified later still: none of its forgotten votes can be for a child of that one

Where nobody could get further without it, it stops waiting: alone, at once; of two voters, too, for
any quorum of Timeouts then has the other's; else after PATIENCE more T_branch.
"""

from __future__ import annotations

from math import inf

from p2ptrain.swarm.chain import liars_max, quorum
from p2ptrain.wire.limits import SIT_OUT_VIEWS_MAX

PATIENCE = 3  # T_branch that it waits for the others' certificate


class SittingOut:
    """Whether this peer sits out, since when, and for how long.

    doubtful  what it remembers of its own signatures may be incomplete
    active    it sits out: no vote, Timeout or proposal
    until     it waits for a block certified in a later view than this; None: it still asks
    since     when asking began, or waiting did
    ends_at   when asking ends, or patience does; inf: it does not sit out
    """

    def __init__(self) -> None:
        self.doubtful = False
        self.active = False
        self.until: int | None = None
        self.since, self.ends_at = 0.0, inf
        self.withholds = False  # no contribution to the newest block: one may have been made
        self._more = 0  # blocks after the newest that get none either
        self._heard = 0
        self._again = 0

    def doubt(self) -> None:
        """What this peer remembers may be incomplete."""
        self.doubtful, self._again = True, 1

    def may_begin_again(self) -> bool:
        """Whether a forgotten vote may still turn up: once, if this life began in doubt."""
        self._again -= 1
        return self._again >= 0

    @property
    def asking(self) -> bool:
        """Whether it still asks."""
        return self.active and self.until is None

    def begin(self, now: float, branch_s: float) -> None:
        """Sit out from now on."""
        self.active = self.withholds = True
        self.since = now
        self.until = None
        self.ends_at = now + branch_s

    def hear(self, view: int) -> None:
        """A voter was in this view: it signed a vote, a Timeout or a proposal, or a quorum did."""
        if self.asking:
            self._heard = max(self._heard, view)

    def promise(self, now: float, view: int, branch_s: float) -> int:
        """Asking is over: the view to promise never to vote in, or below it.

        view  of the newest certificate; no honest peer is further above it than some failures
        """
        self.until = max(view, min(self._heard, view + SIT_OUT_VIEWS_MAX)) + 1
        self.since, self.ends_at = now, now + PATIENCE * branch_s
        return self.until

    def is_over(self, now: float, view: int, voters: int) -> bool:
        """Whether nothing forgotten can matter any more, or nobody gets further without us."""
        if self.until is None:
            return False
        # Any quorum that certified, and any that gave a view up, have two honest ones in common.
        harmless = 2 * quorum(voters) - voters - liars_max(voters) >= 2 or voters == 1
        return view > self.until or harmless or now >= self.ends_at

    def stand(self) -> None:
        """There is another newest block."""
        self.withholds = self.active or self._more > 0
        self._more = max(0, self._more - 1)

    def end(self, view: int) -> None:
        """Take part again; what is remembered from here on is complete.

        view  of the newest certificate. A block that is certified again was known to us once if it
              was certified before: the newest one, or where we did not wait, the next
        """
        waited = self.until is None or view > self.until
        self._more = 0 if waited else 1
        self.doubtful = self.active = False
        self.ends_at = inf
