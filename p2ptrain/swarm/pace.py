"""How many local steps to declare: so that a slow peer ends with the others, and H fits the link.

Two loops, both from this peer's own clock and from what blocks say (no message carries a time):

  fairness  A contribution that comes late is discarded, and waiting for it costs everyone. So a
            peer that would take longer than the group's median takes fewer steps, down to the
            recipe's local_steps_min; its weight is less by as much. Whoever is faster takes H: the
            median decides, so neither one fast machine nor a slow minority sets the pace.
  H         The rounds' own steps grow from the recipe's local_steps to local_steps_max while
            averaging takes more than COMMUNICATION_SHARE of a round, and shrink back to the least
            that keeps it below. H itself is chain.round_steps, a function of certificates: each
            peer only declares what it would like, a factor of H_STEP away at the most.

A peer's time for H steps is estimated as the time until its Commit was seen, divided by the steps
that the roster has of it, times H. So it does not depend on how far that peer has adapted already:
estimates from adapted times would make everybody follow the slowest, and then one another, down.

Why a share of 0.2: with the digits, samples to 97% grow as H**0.104 (4736 at H = 1, 6016 at 10),
and time as H**0.104 x (1 + c/(H s)) for c seconds of averaging and s of a step; that is least at a
share of 0.1 and 3% longer at 0.2, at H = 4c/s instead of 9c/s. Fewer steps learn better in the end
(DiLoCo: +2.9% perplexity from H = 50 to 1000), so the smaller H is worth the 3%.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from math import ceil, floor, inf

from p2ptrain.swarm.chain import Context, Settings, round_steps
from p2ptrain.wire.limits import LOCAL_STEPS_MAX, PACE_ROUNDS_KEPT
from p2ptrain.wire.messages import ROUND, Block
from p2ptrain.wire.peer_id import PeerId

COMMUNICATION_SHARE = 0.2  # of a round, at the most, where H may grow
SLOWER = 1.25  # than the group's median, and a peer takes fewer steps
LATE_S_MIN = 0.25  # nobody notices less: graces are no shorter
H_STEP = 1.5  # the most that H changes by in a round: estimates are of few rounds
H_BAND = 1.25  # nearer than that to the wish, H stays: a change for noise has a price too
MISSED_FACTOR = 4  # fewer steps after a round that was missed: how slow we are is not known


class Speed:
    """What was seen of one peer in the last rounds: seconds a step, newest last."""

    def __init__(self) -> None:
        self._step_s: deque[float] = deque(maxlen=PACE_ROUNDS_KEPT)

    def add(self, seconds: float, steps: int) -> None:
        """A round in which so many steps took so long."""
        self._step_s.append(seconds / max(1, steps))

    @property
    def step_s(self) -> float | None:
        """The median; None: nothing is known."""
        return _middle(self._step_s) if self._step_s else None

    @property
    def cautious_s(self) -> float | None:
        """The median, or the newest if that is longer: slow down at once, speed up later."""
        return None if self.step_s is None else max(self.step_s, self._step_s[-1])


def _middle(values: Collection[float]) -> float:
    """The upper median."""
    return sorted(values)[len(values) // 2]


class Pace:
    """What this peer knows of its own and the others' speed, through the whole run."""

    def __init__(self, me: PeerId, settings: Settings) -> None:
        self._me = me
        self._settings = settings
        self._speeds: dict[PeerId, Speed] = {}
        self._own = Speed()  # of local steps alone
        self._lags: deque[float] = deque(maxlen=PACE_ROUNDS_KEPT)  # before and after those
        self._averaging_s: deque[float] = deque(maxlen=PACE_ROUNDS_KEPT)
        self._cut = 1  # rounds missed in a row divide the steps
        self._stood_at = 0.0
        self._seen: dict[PeerId, float] = {}  # seconds until each Commit of this round
        self._began: int | None = None  # steps that we began to take on this block
        self.why = ""  # in words, why we take fewer than H; "": we do not

    # --- what is seen ---------------------------------------------------------------------------
    def began(self, steps: int) -> None:
        """Local steps on the newest block have begun."""
        self._began = steps

    def committed(self, peer: PeerId, now: float) -> None:
        """A member's Commit to the newest block came, or ours was made."""
        self._seen.setdefault(peer, now - self._stood_at)

    def trained(self, steps: int, seconds: float, now: float) -> None:
        """Our own steps are done."""
        self._own.add(seconds, steps)
        self._lags.append(max(0.0, now - self._stood_at - seconds))

    def stand(self, context: Context, block: Block | None, now: float) -> None:
        """A child of this context's block was adopted; None: we switched to another chain.

        context  before the adoption: the block that the seen Commits were made to
        """
        if block is not None and block.kind == ROUND:
            self._learn(context, block, now - self._stood_at)
        self._stood_at = now
        self._seen, self._began = {}, None

    def _learn(self, context: Context, block: Block, lasted_s: float) -> None:
        listed = {e.peer for e in block.entries}
        for peer, seconds in self._seen.items():
            member = context.member(peer)
            if member is not None and member.anchor is not None:
                self._speeds.setdefault(peer, Speed()).add(seconds, member.local_steps)
        last = max((s for p, s in self._seen.items() if p in listed), default=None)
        everyone = {m.peer for m in context.roster}
        if last is not None and everyone <= listed & self._seen.keys():  # no grace was waited
            self._averaging_s.append(lasted_s - last)
        if self._me in listed:
            self._cut = 1
        elif self._began is not None:
            self._cut = min(self._cut * MISSED_FACTOR, LOCAL_STEPS_MAX)
        self._speeds = {p: s for p, s in self._speeds.items() if p in everyone}

    # --- what follows ---------------------------------------------------------------------------
    def usual_s(self, context: Context, peer: PeerId) -> float:
        """Seconds after which a member's Commit can be expected on this block; inf: not known."""
        speed, member = self._speeds.get(peer), context.member(peer)
        if speed is None or speed.step_s is None or member is None:
            return inf
        return speed.step_s * member.local_steps

    def steps_now(self, context: Context, most: int) -> int:
        """The steps to take on this block: as declared, fewer if the last rounds were missed.

        most  what the user allows
        """
        member, settings = context.member(self._me), self._settings
        steps = min(round_steps(context, settings), most)
        if member is not None and member.anchor is not None:
            steps = min(member.local_steps, settings.local_steps_max, most)
        return self._at_least(steps // self._cut, most)

    def declared(self, context: Context, most: int) -> int:
        """The steps to declare for the round after this one."""
        wish = min(self._wish(context), most)
        own_s, usual_s = self._own.cautious_s, self._group_s(context, wish)
        self.why = "" if wish == self._wish(context) else "as --local-steps says"
        if own_s is None or usual_s is None:
            return self._at_least(wish // self._cut, most)
        lag_s = _middle(self._lags)
        slow_s = lag_s + own_s * wish
        if slow_s <= max(SLOWER * usual_s, usual_s + LATE_S_MIN):
            return self._at_least(wish, most)
        fitting = self._at_least(floor((usual_s - lag_s) / own_s), most)
        if fitting < wish:
            self.why = f"slower than the group: {slow_s:.1f} s for {wish} steps, not {usual_s:.1f}"
        return min(fitting, wish)

    def _at_least(self, steps: int, most: int) -> int:
        return max(1, min(self._settings.local_steps_min, most), steps)

    def _group_s(self, context: Context, steps: int) -> float | None:
        """The lower median of what so many steps take the members, ourselves included."""
        rates = (self._speeds[m.peer].step_s for m in context.roster if m.peer in self._speeds)
        known = [rate * steps for rate in rates if rate is not None]
        return sorted(known)[(len(known) - 1) // 2] if known else None

    def _wish(self, context: Context) -> int:
        """H that keeps averaging below its share of the round, near the one of now."""
        settings, now = self._settings, round_steps(context, self._settings)
        usual_s = self._group_s(context, 1)
        if settings.local_steps == settings.local_steps_max or not (self._averaging_s and usual_s):
            return now
        averaging_s = _middle(self._averaging_s)
        needed = averaging_s * (1 - COMMUNICATION_SHARE) / COMMUNICATION_SHARE / usual_s
        if now / H_BAND < needed < now * H_BAND:
            return now
        near = min(max(needed, now / H_STEP), now * H_STEP)
        wish = ceil(near) if near > now else floor(near)
        return min(max(wish, settings.local_steps), settings.local_steps_max)
