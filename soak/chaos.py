"""Four peers for minutes under random SIGKILL, SIGSTOP and restarts.

Every few seconds a fault is drawn and strikes one peer:

  kill     SIGKILL of the node; it is started again after up to 20 s (so some outlast T_branch)
  compute  SIGKILL of its compute process alone
  freeze   SIGSTOP of the node and its compute process for 1 to 30 s, then SIGCONT

The first peer is never killed, so that one node lives through all of it: on it memory and open
files must stay flat (watch.py). In the end everyone is started and left alone, and must come level
with the others within LEVEL_S_MAX: one block and one state of one round, told by all. Then all are
asked to leave, and what they told and wrote down must not contradict itself (record.py).
"""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from soak.ground import Ground, Plan, SoakFailed, ground
from soak.record import conflicts
from soak.watch import SAMPLE_S, Growth, Watch, is_alive

NAMES = ("one", "two", "three", "four")
ROUNDS = 200_000  # more than any soak comes to
LOCAL_STEPS = 40  # a round of the four then takes a tenth of a second or so
BEGIN_ROUND = 10  # one new voter a block: before that, the loss of one can be that of the quorum
BEGIN_S_MAX = 60.0
PAUSE_S = (1.0, 12.0)  # between two faults
AWAY_S = (0.0, 20.0)
FROZEN_S = (1.0, 30.0)
ORPHAN_S_MAX = 5.0  # a compute process ends when its node's pipes close
STRUCK_MAX = 3  # peers that are away at one time: one at least goes on
LEVEL_S_MAX = 90.0
LEAVE_S_MAX = 40.0
RSS_GROWTH_BYTES_MAX = 32 << 20
FILES_GROWTH_MAX = 8
TELL_S = 30.0


@dataclass(frozen=True, slots=True)
class Chaos:
    """What was asked for."""

    seconds: float
    seed: int
    faults: bool = True


@dataclass
class _Story:
    """A soak under way."""

    here: Ground
    rng: random.Random
    say: Callable[[str], None]
    watch: Watch
    began: float
    struck: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    calm: trio.Event = field(default_factory=trio.Event)


async def run_chaos(folder: Path, asked: Chaos, say: Callable[[str], None]) -> None:
    """One soak. Raises SoakFailed."""
    plan = Plan(NAMES, ROUNDS, LOCAL_STEPS)
    async with ground(folder, plan) as here:
        for name in NAMES:
            await here.start(name)
        await here.until(
            lambda: here.record.is_level(NAMES, 0), BEGIN_S_MAX, "a first round of all"
        )
        now = trio.current_time()
        rng = random.Random(f"chaos {asked.seed}")
        story = _Story(here, rng, say, Watch(), now)
        here.nursery.start_soon(_sample, story)
        here.nursery.start_soon(_tell, story)
        async with trio.open_nursery() as faults:  # ends when the last one struck is well again
            with trio.move_on_at(now + asked.seconds):
                if asked.faults:
                    await _strike(story, faults)
                await trio.sleep_forever()
            story.calm.set()
        level_s = await _come_level(story)
        say(f"level {level_s:.1f} s after the last fault, at round {here.record.highest}")
        await _leave(story)
        wrong = conflicts(here.transcript(name) for name in NAMES)
        wrong += here.record.wrong + _report(story)
        if wrong:
            raise SoakFailed("\n".join(wrong))


# --- faults -----------------------------------------------------------------------------------
async def _strike(story: _Story, faults: trio.Nursery) -> None:
    """Draw and begin one fault after the other, until cancelled."""
    while True:
        await trio.sleep(story.rng.uniform(*PAUSE_S))
        well = [name for name in NAMES if name not in story.struck]
        if len(NAMES) - len(well) >= STRUCK_MAX:
            continue
        name, kind = story.rng.choice(well), story.rng.choice(DRAWN)
        if kind == "kill" and name == NAMES[0]:
            kind = "freeze"
        if kind == "compute" and name not in story.here.record.since:
            continue  # while a node opens its device, a driver that dies is an error (exit code 5)
        story.counts[kind] += 1
        story.struck.add(name)
        faults.start_soon(_suffer, story, name, kind)


async def _suffer(story: _Story, name: str, kind: str) -> None:
    length_s = story.rng.uniform(*(FROZEN_S if kind == "freeze" else AWAY_S))
    await FAULTS[kind](story, name, length_s)
    story.struck.discard(name)


async def _kill(story: _Story, name: str, length_s: float) -> None:
    orphans = story.here.peer(name).process_ids[1:]
    await story.here.kill([name])
    killed_at = trio.current_time()
    await _pause(story, length_s)
    alive = [process_id for process_id in orphans if is_alive(process_id)]
    if alive and trio.current_time() - killed_at > ORPHAN_S_MAX:
        story.here.record.wrong.append(f"the compute process {alive} of {name} outlived its node")
    await story.here.start(name)


async def _kill_compute(story: _Story, name: str, length_s: float) -> None:
    del length_s
    for process_id in story.here.peer(name).process_ids[1:]:
        os.kill(process_id, signal.SIGKILL)


async def _freeze(story: _Story, name: str, length_s: float) -> None:
    story.here.swarm.freeze(name)
    await _pause(story, length_s)
    story.here.swarm.thaw(name)


async def _pause(story: _Story, length_s: float) -> None:
    """Wait so long, or until the chaos is over."""
    with trio.move_on_after(length_s):
        await story.calm.wait()


FAULTS = {"kill": _kill, "compute": _kill_compute, "freeze": _freeze}
DRAWN = ("kill", "kill", "kill", "freeze", "freeze", "compute")


# --- the end ----------------------------------------------------------------------------------
async def _come_level(story: _Story) -> float:
    here = story.here
    after = here.record.highest
    return await here.until(
        lambda: here.record.is_level(NAMES, after), LEVEL_S_MAX, "a round told by all"
    )


async def _leave(story: _Story) -> None:
    here = story.here
    for name in NAMES:
        here.swarm.interrupt(name)
    await here.until(lambda: not any(map(here.is_running, NAMES)), LEAVE_S_MAX, "all to leave")
    for name in NAMES:
        peer = here.peer(name)
        if peer.exit_code != 0:
            raise SoakFailed(f"{name} left with {peer.exit_code}: {list(peer.stderr)}")


def _report(story: _Story) -> list[str]:
    """Print what became of the processes; what was too much, in words."""
    story.say("process           life s   rounds    RSS MB  grown MB  bytes a round   files  grown")
    wrong = []
    for growth in sorted(story.watch.growths(), key=lambda g: g.who):
        story.say(_line(growth))
        if growth.rss_growth_bytes > RSS_GROWTH_BYTES_MAX:
            wrong.append(
                f"the memory of {growth.who} grew by {growth.rss_growth_bytes / 1e6:.1f} MB"
            )
        if growth.files_growth > FILES_GROWTH_MAX:
            wrong.append(f"{growth.who} holds {growth.files_growth} files more than before")
    if not story.watch.growths():
        wrong.append("no process lived long enough to be judged")
    return wrong


def _line(growth: Growth) -> str:
    memory = f"{growth.rss_bytes_last / 1e6:9.1f} {growth.rss_growth_bytes / 1e6:9.1f}"
    return (
        f"{growth.who:16} {growth.life_s:7.0f} {growth.rounds:8} {memory} "
        f"{growth.bytes_a_round:14.0f} {growth.files_last:7} {growth.files_growth:6}"
    )


# --- looking on -------------------------------------------------------------------------------
async def _sample(story: _Story) -> None:
    while True:
        now = trio.current_time()
        for name in NAMES:
            peer = story.here.peer(name)
            for kind, process_id in zip(("node", "compute"), peer.process_ids, strict=False):
                who = f"{name} {kind} {process_id}"
                story.watch.look(who, process_id, now, peer.round)
        await trio.sleep(SAMPLE_S)


async def _tell(story: _Story) -> None:
    """Where everyone is, now and then: a soak takes minutes."""
    while True:
        await trio.sleep(TELL_S)
        rounds = " ".join(f"{n} {story.here.peer(n).round}" for n in NAMES)
        faults = " ".join(f"{kind} {count}" for kind, count in story.counts.items())
        passed = trio.current_time() - story.began
        story.say(f"{passed:5.0f} s: rounds {rounds}; faults {faults}; away {sorted(story.struck)}")
