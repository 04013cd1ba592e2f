"""Live a story: the production machines on a virtual clock, with links that have widths.

One Run builds the world from a Story, lets its faults happen, and stops once the rounds that were
asked for are certified and the peers that run have drawn level, or the time is over. What came of
it is told by story_report.py.
"""

import math
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import floor

from p2ptrain.swarm.chain import Context, Settings, genesis
from p2ptrain.swarm.inputs import AveragingConfig
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.wire.digest import digest
from p2ptrain.wire.limits import SHARD_VALUES_MAX, STATE_PIECE_BYTES
from p2ptrain.wire.messages import ROUND
from p2ptrain.wire.peer_id import PeerId
from simnet.arithmetic import state_digest
from simnet.faults import CRASH, FREEZE, PARTITION
from simnet.founders import with_members
from simnet.keys import KeyRing
from simnet.lies import LIES, TWINS
from simnet.process import Pace
from simnet.shell import Setup, Shell
from simnet.story import Fault, Group, Story, Task
from simnet.story_links import Access, Meter, StoryWorld
from simnet.story_training import Classroom, Pupil
from simnet.story_watch import Applied, Trouble, Watch, watch

SWARM = digest("swarm", b"story")
SETTLE_S = 120.0  # virtual time for the last ones to draw level
REDUCE_S_PER_TERM = 2e-8  # a value: measured, 2.4M values of 4 peers in 112 to 204 ms
APPLY_S_PER_VALUE = 5e-9  # a state of 10 MB to the disk in 50 ms
ITEM_TIMEOUT_S = 20.0  # as in swarm/download.py, for pieces of their real size
REVEALS_SPARE = 100  # views that were begun again use up a few more than there are rounds
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What may be shown while a story runs: rounds certified, virtual seconds, things done."""

    rounds: int
    virtual_s: float
    events: int


class Run:
    """One telling of a story."""

    def __init__(
        self, story: Story, task: Task, progress: Callable[[Progress], None] = lambda p: None
    ) -> None:
        """Build the world; nothing happens yet.

        progress  called now and then
        """
        self.story, self.task = story, task
        self._progress = progress
        self.classroom = Classroom(task, len(story.founders))
        ring = KeyRing(story.seed)
        signers = [ring.new_signer() for _ in story.everyone]
        self.peers = [signer.peer for signer in signers]
        accesses = {p: _access(g) for p, g in zip(self.peers, story.everyone, strict=True)}
        self.world = StoryWorld(story.seed, accesses, self.classroom.sizes)
        self.pupils = [Pupil(self.classroom, story.seed, i) for i in range(len(self.peers))]
        self.settings = self._settings()
        liars = frozenset(self.peers[i] for i in story.lies)
        self.watch: Watch = watch(liars, self.settings, lambda: self.world.now)
        self.world.liars = liars
        self.dead: set[int] = set()
        self.rounds = self._goal = 0
        self.ended_s = 0.0  # when the rounds that were asked for were certified, or time was over
        self.meters: dict[PeerId, Meter] = {}  # bytes until then
        chains = [
            Reveals(digest("reveal seed", p.encode()), story.rounds + REVEALS_SPARE)
            for p in self.peers
        ]
        context = self._genesis(chains)
        self.watch.genesis(context)
        self.shells: list[list[Shell]] = []
        pace = self._pace()
        for i, (signer, group) in enumerate(zip(signers, story.everyone, strict=True)):
            setup = Setup(self.world, self.watch, self.pupils[i], context, pace)
            config = AveragingConfig(signer.peer, SWARM, signer, ring, self.settings)
            lie = story.lies.get(i, "")
            kind = LIES[lie] if lie else Shell
            names = [f"p{i}a", f"p{i}b"] if lie in TWINS else [f"p{i}"]
            train_s = task.local_steps * task.batch / group.samples_s
            self.shells.append([kind(setup, config, chains[i], train_s, name) for name in names])
        self.watch.shells = {p: s[0] for p, s in zip(self.peers, self.shells, strict=True)}
        self.watch.on_block = self._on_block
        self.watch.on_banned = self.world.ban
        for pupil, shells in zip(self.pupils, self.shells, strict=True):
            pupil.share = lambda s=shells[0]: s.steps / task.local_steps  # type: ignore[misc]
        number = {peer: i for i, peer in enumerate(self.peers)}
        self.watch.on_counted = lambda peer: self.pupils[number[peer]].counted()

    # --- the world ------------------------------------------------------------------------------
    def _settings(self) -> Settings:
        task = self.task
        return Settings(
            codec=task.codec,
            shard_bytes=self.pupils[0].shard_bytes,
            rounds=max(task.rounds, self.story.rounds + 1),
            weight_max=task.batch * task.local_steps,
            batch=task.batch,
            local_steps=task.local_steps,
            local_steps_max=task.local_steps,
            norm_max2=floor(task.norm_max**2 * 2.0**64),
            voter_after=0,
        )

    def _pace(self) -> Pace:
        """How long a state takes; one simulated piece stands for several real ones."""
        task, room = self.task, self.classroom
        members = len(self.story.founders)
        shards = task.padded / room.shards / min(task.shard_values, SHARD_VALUES_MAX)
        pieces = 4 * task.padded * room.outer.vectors / room.pieces / STATE_PIECE_BYTES
        return Pace(
            reduce_s=0.01 + REDUCE_S_PER_TERM * task.padded * members,
            apply_s=0.03 + APPLY_S_PER_VALUE * task.padded,
            item_timeout_s=ITEM_TIMEOUT_S * max(1.0, shards, pieces),
            batch=task.batch,
            local_steps=task.local_steps,
        )

    def _genesis(self, chains: list[Reveals]) -> Context:
        """The founding block, with all founders in its roster as if they had joined before."""
        pupil, founders = self.pupils[0], self.story.founders
        state = state_digest(pupil, pupil.initial())
        context = genesis(SWARM, self.peers[founders[0]], state)
        if len(founders) == 1:
            return context
        anchors = {self.peers[i]: chains[i].anchor for i in founders}
        return with_members(context, anchors, self.task.local_steps)

    # --- the run --------------------------------------------------------------------------------
    def go(self) -> None:
        """Live it. Raises ViolationError."""
        world, story = self.world, self.story
        for i, group in enumerate(story.everyone):
            for shell in self.shells[i]:
                world.add(shell)
                world.at(group.join_s, "", shell.boot)
            if group.join_s:
                world.at(group.join_s, "", lambda i=i: self._joins(i))  # type: ignore[misc]
            if group.leave_s:
                world.at(group.leave_s, "", self.shells[i][0].leave)
        for fault in story.faults:
            world.at(fault.at_s, "", lambda f=fault: self._begin(f))  # type: ignore[misc]
        self._draw_crashes()
        world.run(self._reached, story.time_limit_s)
        self.ended_s, self.meters = world.now, deepcopy(world.meters)
        self._goal = self.rounds
        world.run(self._level, world.now + SETTLE_S)
        self.watch.check()

    def _reached(self) -> bool:
        self._show()
        return self.rounds >= self.story.rounds

    def _level(self) -> bool:
        """Whether all honest peers that run hold one and the same block of the last round."""
        self._show()
        everyone = self.watch.honest()
        tips = {s.storage.applied for s in everyone}
        return len(tips) == 1 and self._tip_rounds(everyone[0]) >= self._goal

    def _tip_rounds(self, shell: Shell) -> int:
        history = shell.storage.history
        height = history.height_of(shell.storage.applied)
        return 0 if height is None else history.context(height).rounds

    def _show(self) -> None:
        if self.world.events % 1000 == 0:
            self._progress(Progress(self.rounds, self.world.now, self.world.events))

    def _on_block(self, applied: Applied) -> None:
        context = applied.link.context
        if context.kind == ROUND and context.rounds > self.rounds:
            self.rounds = context.rounds
            self._churn()

    # --- what happens ---------------------------------------------------------------------------
    def _begin(self, fault: Fault) -> None:
        peers = ", ".join(str(i) for i in fault.peers)
        lasts = "for ever" if fault.end_s == math.inf else f"for {fault.for_s:g} s"
        self._happen(fault, f"{fault.kind} of {peers} {lasts}")

    def _happen(self, fault: Fault, what: str) -> None:
        """A fault begins now and, perhaps, ends."""
        world, for_ever = self.world, fault.end_s == math.inf
        concerned = tuple(self.peers[i] for i in fault.peers if i not in self.story.lies)
        if fault.kind == PARTITION or for_ever:
            hit = {self.peers[i] for i in fault.peers} if for_ever else set()
            concerned = tuple(s.peer for s in self.watch.honest() if s.peer not in hit)
        trouble = Trouble(what, world.now, world.now if for_ever else None, concerned)
        self.dead |= set(fault.peers) if for_ever else set()
        world.record(what)
        if fault.kind == PARTITION:
            world.cut = frozenset(self.peers[i] for i in fault.peers)
        for shell in (s for i in fault.peers for s in self.shells[i]):
            if fault.kind == FREEZE:
                world.frozen_until[shell.name] = fault.end_s
            elif fault.kind == CRASH and shell.running:
                shell.crash()
                world.lost(shell.peer)
        self.watch.begins(trouble)
        if not for_ever:
            world.at(fault.end_s, "", lambda: self._end(fault, trouble))

    def _end(self, fault: Fault, trouble: Trouble) -> None:
        self.world.record(f"end: {trouble.what}")
        if fault.kind == PARTITION:
            self.world.cut = frozenset()
        elif fault.kind == CRASH:
            for i in fault.peers:
                self._boot(i)
        self.watch.ends(trouble)

    def _boot(self, index: int) -> None:
        here = self.world.now >= self.story.everyone[index].join_s and index not in self.dead
        for shell in self.shells[index]:
            if here and not shell.running:
                shell.boot()

    def _joins(self, index: int) -> None:
        now = self.world.now
        self.watch.begins(Trouble(f"peer {index} joins", now, now, (self.peers[index],)))

    # --- churn ----------------------------------------------------------------------------------
    def _churn(self) -> None:
        """A round has ended: who crashes?"""
        ratio = self.story.churn.percent_a_round / 100
        if ratio:
            rng = random.Random(f"{self.story.seed} churn {self.rounds}")
            for index in range(len(self.peers)):
                if rng.random() < ratio:
                    self._crash(index, rng)

    def _draw_crashes(self) -> None:
        """The crashes of all peers on the clock, drawn one after the other."""
        rate = self.story.churn.crashes_an_hour / HOUR_S
        for index in range(len(self.peers)) if rate else ():
            rng = random.Random(f"{self.story.seed} crashes {index}")
            self._crash_later(index, rng, rate)

    def _crash_later(self, index: int, rng: random.Random, rate: float) -> None:
        def happen() -> None:
            self._crash(index, rng)
            self._crash_later(index, rng, rate)

        self.world.at(self.world.now + rng.expovariate(rate), "", happen)

    def _crash(self, index: int, rng: random.Random) -> None:
        away_s = rng.uniform(0.5, 1.5) * self.story.churn.away_s
        if self.shells[index][0].running:
            fault = Fault(kind="crash", peers=(index,), at_s=self.world.now, for_s=away_s)
            self._happen(fault, f"crash of {index} for {away_s:.0f} s")


def _access(group: Group) -> Access:
    return Access(
        up_bytes_s=group.uplink_mbit_s * 1e6 / 8,
        down_bytes_s=group.downlink_mbit_s * 1e6 / 8,
        latency_s=group.latency_ms / 1000,
        loss_ratio=group.loss_percent / 100,
    )
