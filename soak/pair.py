"""Two peers, one killed (SIGKILL) and started again: how long the other waits, and when all is one.

Of two voters both are a quorum, so the survivor can do nothing without the other for T_branch; then
it goes on alone, on a branch. Who comes back before that must be waited for no longer than it takes
to start; who comes back later finds the branch, and is taken in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.swarm.inputs import Timing
from soak.ground import Plan, SoakFailed, ground
from soak.record import conflicts

NAMES = ("one", "two")
ROUNDS = 100_000
LOCAL_STEPS = 40
BEGIN_ROUND = 5
BEGIN_S_MAX = 60.0
SLACK_S = 5.0  # for a round, and for what else the machine does
LEVEL_S_MAX = 30.0
LEAVE_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Reunion:
    """What a kill cost, in seconds.

    at_once       whether the killed peer was started again at once, or after the branch
    next_round_s  from the kill to the survivor's first round that the other had no part in before
    one_hash_s    from the restart to a round that both told, with one block and one state
    """

    at_once: bool
    next_round_s: float
    one_hash_s: float


async def run_pair(folder: Path, at_once: bool, say: Callable[[Reunion], None]) -> None:
    """One kill. Raises SoakFailed."""
    async with ground(folder, Plan(NAMES, ROUNDS, LOCAL_STEPS)) as here:
        record = here.record
        for name in NAMES:
            await here.start(name)
        await here.until(lambda: record.is_level(NAMES, BEGIN_ROUND), BEGIN_S_MAX, "rounds of both")
        await here.kill(["two"])
        goal = record.highest + 2  # the next one may have had its votes already
        if at_once:
            await here.start("two")
            restarted_at = record.highest
        next_round_s = await here.until(
            lambda: record.newest["one"].round >= goal,
            Timing().branch_s + SLACK_S,
            "the survivor's next round",
        )
        if not at_once:
            if not record.branched:
                raise SoakFailed("the survivor went on without a branch and without a quorum")
            await here.start("two")
            restarted_at = record.highest
        one_hash_s = await here.until(
            lambda: record.is_level(NAMES, restarted_at), LEVEL_S_MAX, "a round told by both"
        )
        if at_once:
            one_hash_s += next_round_s
        for name in NAMES:
            here.swarm.interrupt(name)
        await here.until(lambda: not any(map(here.is_running, NAMES)), LEAVE_S_MAX, "both to leave")
        if wrong := conflicts(here.transcript(name) for name in NAMES):
            raise SoakFailed("\n".join(wrong))
        say(Reunion(at_once, next_round_s, one_hash_s))
