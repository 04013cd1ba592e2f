"""All peers killed at once, at random moments, and started again: at most the round in flight goes.

A story is one swarm of three from its founding to its last round, with some kills on the way.
Every kill is `kill -9` of all of them, at once or within a tenth of a second, at a moment drawn
from the seed:

  start   while they start: before the network, in the handshakes, while they catch up
  round   some rounds later, at any point of a round: training, pieces, votes, checkpoint
  close   around the last round and the CLOSE block that makes it final

After each restart the swarm must tell of a new round within RESUME_S_MAX, and no round may be lost
that anyone had told of; at the end all are on one state, and the transcripts agree (record.py).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from soak.ground import Ground, Plan, SoakFailed, ground
from soak.record import Record, conflicts

NAMES = ("one", "two", "three")
KILLS_PER_STORY = 4
ROUNDS_A_KILL = (15, 30)
RESUME_S_MAX = 30.0  # starting takes 3 s on a busy machine, a lost view or two some more
END_S_MAX = 60.0
START_S = 4.0  # by then all take part
ROUND_S = 0.2  # a round or two
STAGGER_S = 0.1  # a power cut takes machines one after the other
LATE_S = 1.0  # between the first start and the last


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill of all, and what came after it.

    moment      what it was aimed at
    at_round    newest round told of until then
    resumed     round that the peer furthest on went on from
    resume_s    seconds from the restart of the last peer to the next round; -1: the run was over
    """

    moment: str
    at_round: int
    resumed: int
    resume_s: float


async def run_story(folder: Path, seed: int, kills: int, say: Callable[[Kill], None]) -> None:
    """One swarm, killed that often. Raises SoakFailed."""
    rng = random.Random(f"crashes {seed}")
    plan = Plan(
        NAMES, rounds=rng.randint(*ROUNDS_A_KILL) * kills, local_steps=rng.choice((1, 5, 40))
    )
    async with ground(folder, plan) as here:
        await _start_all(here, rng)
        for i in range(kills):
            moment = "close" if i == kills - 1 else rng.choice(("start", "round", "round"))
            await _wait_for(here, rng, moment)
            at_round = here.record.highest
            await _kill_all(here, rng)
            await _start_all(here, rng)
            seconds = await _next_round(here, at_round)
            say(Kill(moment, at_round, max(here.record.resumed.values(), default=0), seconds))
        await _end(here)


async def _start_all(here: Ground, rng: random.Random) -> None:
    late_s = rng.choice((0.0, 0.0, LATE_S))
    for name in rng.sample(NAMES, len(NAMES)):
        await here.start(name)
        await trio.sleep(rng.uniform(0, late_s))


async def _wait_for(here: Ground, rng: random.Random, moment: str) -> None:
    """Until the moment at which to kill. A run that is over before that is killed afterwards."""
    if moment == "start":
        await trio.sleep(rng.uniform(0.0, START_S))
        return
    rounds = here.plan.rounds
    more = rng.randint(1, ROUNDS_A_KILL[0]) if moment == "round" else rounds
    goal = min(here.record.highest + more, rounds - 1)
    await here.until(
        lambda: here.record.highest >= goal or not any(map(here.is_running, NAMES)),
        END_S_MAX,
        f"round {goal}",
    )
    await trio.sleep(rng.uniform(0.0, ROUND_S))


async def _kill_all(here: Ground, rng: random.Random) -> None:
    at_once = rng.random() < 0.5
    apart_s = [0.0 if at_once else rng.uniform(0, STAGGER_S) for _ in NAMES[1:]]
    await here.kill(rng.sample(NAMES, len(NAMES)), apart_s)


async def _next_round(here: Ground, before: int) -> float:
    """Until somebody tells of a round beyond those before the kill, or the run is over."""
    record, rounds = here.record, here.plan.rounds
    seconds = await here.until(
        lambda: has_gone_on(record, before) or is_over(record, rounds),
        RESUME_S_MAX,
        f"a round after {before}",
    )
    return -1.0 if is_over(record, rounds) else seconds


def has_gone_on(record: Record, before: int) -> bool:
    """Whether a peer started after the kill has told of a round beyond those told before it."""
    return record.highest > before and bool(record.since)


def is_over(record: Record, rounds: int) -> bool:
    """Whether a restarted peer found the last round on its disk: nobody needs to have told of it.

    The kill may come between the last round's certificate and the event that tells of it.
    """
    return max(record.resumed.values(), default=0) >= rounds


async def _end(here: Ground) -> None:
    """The run comes to its end on one state. Raises SoakFailed."""
    await here.until(lambda: not any(map(here.is_running, NAMES)), END_S_MAX, "the end of the run")
    done = {name: here.peer(name).latest.get("done", {}) for name in NAMES}
    codes = {name: here.peer(name).exit_code for name in NAMES}
    wrong = [f"{n} ended with {codes[n]} {list(here.peer(n).stderr)}" for n in NAMES if codes[n]]
    hashes = {event.get("weights_sha256") for event in done.values()}
    if len(hashes) != 1 or not all(event.get("finished") for event in done.values()):
        wrong.append(f"not one finished state: {done}")
    wrong += conflicts(here.transcript(name) for name in NAMES) + here.record.wrong
    if wrong:
        raise SoakFailed("\n".join(wrong))
