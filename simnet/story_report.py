"""What came of a story: as numbers, as a page of text, as a picture.

The chain of the run is that of the honest peer with the most rounds. Bytes are those on the wire
(story_links.py). The floor is DESIGN's formula for averaging in which nobody is trusted: each of M
voters sends its contribution of S bytes to the M - 1 others.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, nan
from statistics import mean, median
from typing import Any

from p2ptrain.swarm.chain import voters
from p2ptrain.train.curve import Point, chart
from p2ptrain.wire.messages import BRANCH, ROUND
from simnet.shell import Shell
from simnet.story_run import Run
from simnet.story_training import BATCH_SIMULATED_MAX, STEPS_SIMULATED_MAX, Marks
from simnet.story_watch import Applied, Trouble, holds

CURVE_LINES = 10  # of the table that people read; the rest is in --json
FAULT_LINES = 20
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The shared state after a round."""

    round: int
    virtual_s: float
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class FaultLine:
    """A fault: seconds to the next round, and from its end until it had healed; None: never.

    over  whether it ended before the story did
    """

    what: str
    at_s: float
    over: bool
    waited_s: float | None
    healed_s: float | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes on the wire of the honest peers, for each round that was certified.

    up_median, up_max, down_median, down_max  a peer and round
    contributions_median  of the upload, pieces of contributions
    floor                 what averaging without trust takes at least: contribution x (voters - 1)
    """

    up_median: float
    up_max: float
    down_median: float
    down_max: float
    contributions_median: float
    floor: float


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a story.

    name, seed, trace   which run it was; the hash of all that happened
    peers, members      in the story; in its founding roster
    virtual_s           until the last round, on the virtual clock
    events              things that happened
    rounds, rounds_asked certified, and what the story asked for
    views_failed        views that ended without a block
    blocks_dropped      blocks that somebody applied and that are not in the chain
    branches            BRANCH blocks in the chain
    missed_ratio        of the contributions that running members could have made
    round_median_s, round_p90_s  from one certified round to the next
    traffic             bytes
    curve               a point for each round
    faults              in the order of their beginnings
    distinct_states     of honest peers that run, at the end
    behind              such peers that have not applied the last round
    strikes             faults that honest peers found in others' messages
    whole_run_h         what the rounds of the recipe would take, hours
    whole_run_up_bytes  and what they would upload, the median peer
    reduced             what was simulated smaller than it is, in words
    """

    name: str
    seed: int
    trace: str
    peers: int
    members: int
    virtual_s: float
    events: int
    rounds: int
    rounds_asked: int
    views_failed: int
    blocks_dropped: int
    branches: int
    missed_ratio: float
    round_median_s: float
    round_p90_s: float
    traffic: Traffic
    curve: tuple[CurvePoint, ...]
    faults: tuple[FaultLine, ...]
    distinct_states: int
    behind: int
    strikes: int
    whole_run_h: float
    whole_run_up_bytes: float
    reduced: tuple[str, ...]

    @property
    def values(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


# --- from a run to its numbers ------------------------------------------------------------------
def report_of(run: Run) -> Report:
    """What came of a run that has ended."""
    path, honest = _path(run), run.watch.honest()
    rounds = [a for a in path if _counts(run, a)]
    times = [a.at_s for a in rounds]
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    last = path.index(rounds[-1]) if rounds else -1
    views = path[last].link.certificate.view if rounds else 0
    states = {s.storage.history.context(_height(s)).state for s in honest}
    traffic = _traffic(run, rounds)
    a_round_s = mean(gaps) if gaps else nan
    return Report(
        name=run.story.name,
        seed=run.story.seed,
        trace=run.world.digest(),
        peers=len(run.peers),
        members=len(run.story.founders),
        virtual_s=times[-1] if times else run.ended_s,
        events=run.world.events,
        rounds=len(rounds),
        rounds_asked=run.story.rounds,
        views_failed=views - last - 1,
        blocks_dropped=len(run.watch.first) - len(path),
        branches=sum(a.link.context.kind == BRANCH for a in path),
        missed_ratio=_missed(rounds),
        round_median_s=median(gaps) if gaps else nan,
        round_p90_s=sorted(gaps)[ceil(0.9 * len(gaps)) - 1] if gaps else nan,
        traffic=traffic,
        curve=tuple(_curve(run, rounds)),
        faults=tuple(
            FaultLine(t.what, t.at_s, _is_over(run, t), t.waited_s, t.healed_s)
            for t in run.watch.troubles
            if t.at_s <= run.ended_s
        ),
        distinct_states=len(states),
        behind=sum(not rounds or not holds(s, rounds[-1].link.context.block) for s in honest),
        strikes=sum(by not in run.watch.liars for by, _, _ in run.watch.strikes),
        whole_run_h=run.task.rounds * a_round_s / HOUR_S,
        whole_run_up_bytes=run.task.rounds * traffic.up_median,
        reduced=_reduced(run),
    )


def _path(run: Run) -> list[Applied]:
    """The blocks of the run's chain as far as they were applied, oldest first."""
    honest = [s[0] for s in run.shells if s[0].peer not in run.watch.liars]
    longest = max(honest, key=lambda s: (s.storage.history.context(_height(s)).rounds, s.name))
    history = longest.storage.history
    blocks = [history.context(h).block for h in range(1, _height(longest) + 1)]
    return [run.watch.first[block] for block in blocks if block in run.watch.first]


def _counts(run: Run, applied: Applied) -> bool:
    """Whether it is one of the rounds that were asked for, and came in time."""
    context = applied.link.context
    asked = context.kind == ROUND and context.rounds <= run.story.rounds
    return asked and applied.at_s <= run.ended_s


def _height(shell: Shell) -> int:
    return shell.storage.history.height_of(shell.storage.applied) or 0


def _is_over(run: Run, trouble: Trouble) -> bool:
    return trouble.over_s is not None and trouble.over_s <= run.ended_s


def _missed(rounds: Sequence[Applied]) -> float:
    could = sum(a.live for a in rounds)
    did = sum(min(len(a.link.certificate.block.entries), a.live) for a in rounds)
    return 1 - did / could if could else 0.0


def _traffic(run: Run, rounds: Sequence[Applied]) -> Traffic:
    meters = [run.meters[p] for p in run.peers if p not in run.watch.liars]
    each = max(1, len(rounds))
    ups = [sum(meter.up.values()) / each for meter in meters]
    downs = [sum(meter.down.values()) / each for meter in meters]
    counts = [len(voters(a.link.context)) for a in rounds] or [1]
    contribution = run.classroom.codec.shard_bytes(run.task.padded)
    return Traffic(
        up_median=median(ups),
        up_max=max(ups),
        down_median=median(downs),
        down_max=max(downs),
        contributions_median=median(m.up.get("Piece", 0.0) / each for m in meters),
        floor=contribution * (mean(counts) - 1),
    )


def _curve(run: Run, rounds: Sequence[Applied]) -> list[CurvePoint]:
    marks = run.classroom.marks_of
    points = []
    for number, applied in enumerate(rounds, 1):
        known: Marks | None = marks.get(applied.link.certificate.state)
        if known is not None:
            points.append(CurvePoint(number, applied.at_s, known.loss, known.accuracy))
    return points


def _reduced(run: Run) -> tuple[str, ...]:
    """What is smaller here than in the story, in sentences."""
    task, room = run.task, run.classroom
    lines = [
        f"a network of {room.learned:,} parameters learns the digits in place of the recipe's "
        f"{task.values:,}; bytes on the wire are those of the recipe",
    ]
    if room.shards < task.shards:
        lines.append(f"a contribution travels in {room.shards} pieces instead of {task.shards}")
    if room.batch < task.batch:
        lines.append(f"{BATCH_SIMULATED_MAX} samples a local step are computed of {task.batch}")
    if room.steps < task.local_steps:
        lines.append(f"{STEPS_SIMULATED_MAX} local steps are computed of {task.local_steps}")
    return tuple(lines)


# --- for people ---------------------------------------------------------------------------------
def text_of(report: Report) -> str:
    """A page."""
    traffic = report.traffic
    fold = f", {traffic.up_median / traffic.floor:.2f} times the floor" if traffic.floor else ""
    lines = [
        f"{report.name}: {report.rounds} of {report.rounds_asked} rounds by {report.peers} peers "
        f"in {_seconds(report.virtual_s)} of virtual time",
        f"  a round        {report.round_median_s:.2f} s (median), {report.round_p90_s:.2f} s "
        f"(9 of 10); {report.views_failed} views failed",
        f"  contributions  {100 * report.missed_ratio:.1f}% of the running members' missed their "
        f"round; {report.blocks_dropped} blocks dropped, {report.branches} branches",
        f"  upload         {_bytes(traffic.up_median)} a peer and round (median), "
        f"{_bytes(traffic.up_max)} (most){fold}",
        f"  download       {_bytes(traffic.down_median)} (median), "
        f"{_bytes(traffic.down_max)} (most)",
        f"  floor          {_bytes(traffic.floor)}: a contribution to every other voter; "
        f"contributions sent {_bytes(traffic.contributions_median)}",
        f"  at the end     distinct states: {report.distinct_states}, peers behind: "
        f"{report.behind}, faults found in messages: {report.strikes}",
        f"  the whole run  {report.whole_run_h:.1f} h, {_bytes(report.whole_run_up_bytes)} "
        "uploaded by each peer",
        *_curve_lines(report.curve),
        *_fault_lines(report.faults),
        *(f"  simulated smaller: {line}" for line in report.reduced),
        f"  seed {report.seed}, {report.events} events, trace {report.trace[:16]}",
    ]
    return "\n".join(lines)


def _curve_lines(curve: Sequence[CurvePoint]) -> list[str]:
    step = max(1, -(-len(curve) // CURVE_LINES))
    shown = [p for p in curve if p.round % step == 0 or p is curve[-1]]
    lines = [
        f"  {p.round:8d}  {p.virtual_s:10.1f}  {p.loss:8.4f}  {100 * p.accuracy:7.1f}%"
        for p in shown
    ]
    return ["     round      time, s      loss  accuracy", *lines] if lines else []


def _fault_lines(faults: Sequence[FaultLine]) -> list[str]:
    if not faults:
        return []
    lines = [
        f"  {f.at_s:8.1f}  {_after(f.waited_s):>10}  {_healed(f):>9}  {f.what}"
        for f in faults[:FAULT_LINES]
    ]
    if len(faults) > FAULT_LINES:
        healed = [f.healed_s for f in faults if f.healed_s is not None]
        typical = f"; healed after {median(healed):.1f} s (median)" if healed else ""
        lines.append(f"  and {len(faults) - FAULT_LINES} more; {len(faults)} in all{typical}")
    return ["     at, s  next round  healed in  fault", *lines]


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


def _healed(fault: FaultLine) -> str:
    return _after(fault.healed_s) if fault.over else "not over"


def _seconds(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def picture_of(report: Report) -> bytes:
    """The curve, as the bytes of a PNG."""
    points = [Point(p.round, p.virtual_s, nan, p.loss, p.accuracy) for p in report.curve]
    return chart(report.name, points)
