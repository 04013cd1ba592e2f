"""Whole runs: what a seed draws, how the run goes, and what must have come of it.

A run has two parts. Up to plan.heal_s anything may happen; then the network heals, crashed peers
come back (the dead stay away), and the run goes on until all that live agree again, which must
happen within SETTLE_S of virtual time.

  L1  with q live members, a certificate comes within (dead + liars + 3) views after the healing
  L2  a survivor of two goes on within T_branch and one round; when the other comes back, both end
      on one chain
  L3  joiners end on the chain and the state of the members
  L4  branches have merged: all live peers hold one chain and one state
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from p2ptrain.compress.centring import Aggregation
from p2ptrain.swarm.chain import Context, Settings, genesis
from p2ptrain.swarm.inputs import AveragingConfig, Timing
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.views import DOUBLINGS_MAX
from p2ptrain.wire.digest import Digest, digest
from simnet.arithmetic import arithmetic_of, state_digest
from simnet.checkers import Judge, ViolationError
from simnet.faults import CALM, CRASH, FREEZE, PARTITION, Outage, Plan
from simnet.founders import with_members
from simnet.keys import KeyRing
from simnet.lies import LIES, TWINS
from simnet.plans import (
    draw_blackout,
    draw_contest,
    draw_crash,
    draw_join,
    draw_liars,
    draw_pair,
    draw_quiet,
    draw_restored,
    draw_scheme,
    draw_slow,
    draw_split,
    draw_storm,
)
from simnet.shell import APPLY_S, REVEALS, Setup, Shell
from simnet.storage import Storage
from simnet.trace import short
from simnet.world import World

SWARM = digest("swarm", b"simulated")
SETTLE_S = 400.0  # views double their deadlines up to 60 s; a few of those may have to pass
BLOCKS_AFTER = 2  # blocks that must be certified after the healing, and held by all
BLOCKS_MAX = 400  # after the healing: more, and the others will never follow
ROUNDS = 10_000  # no run comes to its last round, but those of the scenario "finish"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of run.

    name     for people and for `--scenario`
    draw     the plan of a seed; the number is that of founding members, 0: draw it too
    rounds   rounds in the run's recipe
    codec    0: the stand-in for sums; else real vectors in the codec of that number
    encoded  put every message through the wire's codec
    rule     how a set of real vectors becomes one
    """

    name: str
    draw: Callable[[random.Random, int], Plan]
    rounds: int = ROUNDS
    codec: int = 0
    encoded: bool = False
    rule: Aggregation = "mean"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    seed, scenario, members  which run it was
    violation    the property that broke, and how; "" if none
    trace        hash of all that happened
    events       things that happened
    virtual_s    how long it took on the virtual clock
    blocks       height of the longest chain
    log          a line for every event, if it was asked for
    """

    seed: int
    scenario: str
    members: int
    violation: str
    trace: str
    events: int
    virtual_s: float
    blocks: int
    log: tuple[str, ...]


SCENARIOS = {
    s.name: s
    for s in (
        Scenario("crash", draw_crash),
        Scenario("contest", draw_contest),
        Scenario("storm", draw_storm),
        Scenario("pair", draw_pair),
        Scenario("split", draw_split),
        Scenario("join", draw_join),
        Scenario("liars", draw_liars),
        Scenario("scheme", draw_scheme),
        Scenario("encoded", draw_crash, encoded=True),
        Scenario("int4", draw_quiet, codec=4),
        Scenario("int8", draw_quiet, codec=8),
        Scenario("int2", draw_quiet, codec=2),
        Scenario("topk", draw_quiet, codec=4096 + 128),
        Scenario("clipped", draw_quiet, codec=4, rule="centered-clip"),
        Scenario("finish", draw_crash, rounds=6),
        Scenario("blackout", draw_blackout, rounds=6),
        Scenario("restored", draw_restored),
        Scenario("slow", draw_slow),
    )
}
DRAWN = (
    *("crash",) * 6,
    *("contest",) * 3,
    *("liars",) * 4,
    *("scheme",) * 2,
    *("join",) * 3,
    *("storm",) * 2,
    *("pair", "pair", "split", "split", "finish", "encoded", "int4", "int8"),
    *("int2", "topk"),
    *("blackout", "restored") * 2,
)


# --- runs -------------------------------------------------------------------------------------
class Run:
    """One seed's run."""

    def __init__(self, seed: int, scenario: Scenario, plan: Plan, *, keep_log: bool) -> None:
        """Build the world; nothing happens yet."""
        self.plan = plan
        self.scenario = scenario
        self.world = World(seed, plan.network, encoded=scenario.encoded, keep_log=keep_log)
        self.arithmetic = arithmetic_of(scenario.codec, scenario.rule)
        self.ring = KeyRing(seed)
        signers = [self.ring.new_signer() for _ in range(plan.peers)]
        self.peers = [signer.peer for signer in signers]
        settings = self._settings(scenario.rounds)
        self.judge = Judge(frozenset(self.peers[i] for i in plan.liars), settings)
        self.world.liars = self.judge.liars
        self.last_day: dict[int, int] = plan.last_day
        seeds = [digest("reveal seed", peer.encode()) for peer in self.peers]
        reveals = [Reveals(start, REVEALS) for start in seeds]
        context = self._genesis(reveals)
        self.judge.genesis(context)
        setup = Setup(self.world, self.judge, self.arithmetic, context)
        self.shells: list[list[Shell]] = []  # of each peer: one, or two if they are twins
        for i, signer in enumerate(signers):
            timing = Timing(
                view_first_s=plan.view_s,
                view_min_s=min(0.5, 0.5 * plan.view_s),
                grace_first_s=plan.grace_s,
            )
            config = AveragingConfig(signer.peer, SWARM, signer, self.ring, settings, timing)
            lie = plan.liars.get(i, "")
            kind = LIES[lie] if lie else Shell
            names = [f"p{i}a", f"p{i}b"] if lie in TWINS else [f"p{i}"]
            shells = [kind(setup, config, reveals[i], plan.train_s[i], name) for name in names]
            self.shells.append(shells)

    def _genesis(self, reveals: list[Reveals]) -> Context:
        """The founding block; with several founding members, as if they had joined before it."""
        state = state_digest(self.arithmetic, self.arithmetic.initial())
        context = genesis(SWARM, self.peers[0], state)
        if self.plan.members == 1:
            return context
        founders = zip(self.peers, reveals[: self.plan.members], strict=False)
        return with_members(context, {peer: chain.anchor for peer, chain in founders})

    def _settings(self, rounds: int) -> Settings:
        return Settings(
            codec=self.arithmetic.codec,
            shard_bytes=self.arithmetic.shard_bytes,
            rounds=rounds,
            weight_max=64,
            batch=64,
            norm_max2=1 << 80,
            voter_after=0,
            warmup_rounds=self.arithmetic.warmup_rounds,
            warmup_shard_bytes=self.arithmetic.warmup_shard_bytes,
        )

    def go(self) -> None:
        """Run the seed; raises ViolationError."""
        self._plan_events()
        self.world.run(lambda: False, self.plan.heal_s)
        self.judge.check()
        self._heal()
        over = self.world.run(self._over, self.plan.heal_s + SETTLE_S)
        self.judge.check()
        if not (over and self._settled()) and self.judge.tolerable():
            raise ViolationError(self._liveness(), self._standing())
        if over and self._settled():
            self.judge.together(self.live[0].storage.applied)
        self._check_survivor()
        self._check_views()

    def _light_fuses(self, rounds: int) -> None:
        """Somebody has the last round's certificate: all die soon, once."""
        if rounds < self.scenario.rounds or not self.last_day:
            return
        now, rng = self.world.now, self.world.rng
        die_at = now + rng.uniform(0.0, APPLY_S)
        for i, fuse in self.last_day.items():
            shell = self.shells[i][0]
            shell.fuse = fuse
            self.world.at(die_at, "", lambda s=shell: s.crash() if s.fuse is not None else None)  # type: ignore[misc]
            back = die_at + rng.uniform(0.1, 0.4)
            self.world.at(back, "", lambda i=i: self._boot_stopped(i))  # type: ignore[misc]
        self.last_day = {}

    def _copy(self, index: int, lost_at: float) -> None:
        """Make a copy of a peer's disk, and put it in the place of the disk later."""
        shell = self.shells[index][0]
        backup = shell.storage.copy()
        self.world.at(lost_at, "", lambda: shell.restore(backup))

    def _plan_events(self) -> None:
        world, plan = self.world, self.plan
        self.judge.on_round = self._light_fuses
        for i, shells in enumerate(self.shells):
            start = 0.0 if i < plan.members else plan.joiners[i - plan.members]
            for shell in shells:
                world.add(shell)
                world.at(start, "", shell.boot)
        for i, at in plan.leavers.items():
            world.at(at, "", self.shells[i][0].leave)
        for i, (copied_at, lost_at) in plan.copied.items():
            world.at(copied_at, "", lambda i=i, at=lost_at: self._copy(i, at))  # type: ignore[misc]
        for outage in plan.outages:
            world.at(outage.at_s, "", lambda o=outage: self._begin(o))  # type: ignore[misc]
            if outage.end_s < plan.heal_s:
                world.at(outage.end_s, "", lambda o=outage: self._end(o))  # type: ignore[misc]

    def _begin(self, outage: Outage) -> None:
        self.world.record(f"{outage.kind} {outage.peers} until {outage.end_s:.3f}")
        if outage.kind == PARTITION:
            self.world.cut = frozenset(self.peers[i] for i in outage.peers)
            return
        for shell in (shell for i in outage.peers for shell in self.shells[i]):
            if outage.kind == FREEZE:
                self.world.frozen_until[shell.name] = outage.end_s
            elif shell.running and outage.fuse:
                shell.fuse = outage.fuse
            elif shell.running:
                shell.crash()

    def _end(self, outage: Outage) -> None:
        self.world.record(f"end of {outage.kind} {outage.peers}")
        if outage.kind == PARTITION:
            self.world.cut = frozenset()
        elif outage.kind == CRASH:
            for i in outage.peers:
                if i not in self._dead_now():
                    self._boot_stopped(i)

    def _boot_stopped(self, index: int) -> None:
        for shell in self.shells[index]:
            shell.fuse = None
            if not shell.running:
                shell.boot()

    def _dead_now(self) -> set[int]:
        now = self.world.now
        dying = (o for o in self.plan.outages if o.end_s == inf and o.at_s <= now)
        return {i for o in dying for i in o.peers}

    # --- after the faults ---------------------------------------------------------------------
    def _heal(self) -> None:
        """From here on only the dead are away."""
        self.world.now = self.plan.heal_s
        self.world.record("healed")
        self.world.calm(self.plan.healed)
        staying = [i for i in range(self.plan.peers) if i not in self.plan.dead]
        for i in staying:
            self._boot_stopped(i)
        self.live = [self.shells[i][0] for i in staying if i not in self.plan.liars]
        self.high = max(shell.storage.history.height for shell in self.live)
        self.view = 0  # the highest when all that live take part again

    def _over(self) -> bool:
        """Whether to end the run: all is well, or one goes on alone for ever."""
        most = max(shell.storage.history.height for shell in self.live)
        return self._settled() or most > self.high + BLOCKS_MAX

    def _settled(self) -> bool:
        """All that live have applied the same new block."""
        if not self.view:
            views = [shell.averaging.view for shell in self.live if shell.averaging]
            self.view = max(views) if len(views) == len(self.live) else 0
            return False
        if self.scenario.rounds < ROUNDS:
            tips = {shell.storage.applied for shell in self.live}
            return len(tips) == 1 and all(s.averaging and s.averaging.finished for s in self.live)
        goal = self.high + BLOCKS_AFTER
        blocks = {self._applied_at(shell.storage, goal) for shell in self.live}
        return len(blocks) == 1 and None not in blocks and self._have_left()

    def _have_left(self) -> bool:
        """Whether those that asked to be let go are out of the roster."""
        rosters = [shell.storage.history.tip for shell in self.live]
        gone = [self.peers[i] for i in self.plan.leavers]
        return all(context.member(peer) is None for context in rosters for peer in gone)

    @staticmethod
    def _applied_at(storage: Storage, height: int) -> Digest | None:
        """The block of a height in a peer's chain, if the peer has applied its state."""
        applied = storage.history.height_of(storage.applied)
        there = applied is not None and applied >= height
        return storage.history.context(height).block if there else None

    def _liveness(self) -> str:
        if self.plan.joiners:
            return "L3"
        return "L4" if self.judge.branched() else "L1"

    def _check_views(self) -> None:
        """L1: how many views it took from when all were back to the next certificate."""
        history = self.live[0].storage.history
        if self.judge.branched() or self.plan.joiners or history.height <= self.high:
            return
        taken = history.link(self.high + 1).certificate.view - self.view
        allowed = len(self.plan.dead) + len(self.plan.liars) + 3
        if self.plan.copied or any(outage.fuse for outage in self.plan.outages):
            allowed += 3  # all have died, each in another view: first they must meet
        if self.plan.healed is not CALM:
            allowed += DOUBLINGS_MAX  # deadlines double until messages arrive in time
        if taken > allowed:
            raise ViolationError("L1", f"{taken} views to the next certificate, not {allowed}")

    def _check_survivor(self) -> None:
        """L2: what is left of two goes on within T_branch and one round."""
        if self.scenario.name != "pair":
            return
        outage = self.plan.outages[0]
        for i in {0, 1} - (set() if outage.kind == PARTITION else {*outage.peers}):
            by = outage.at_s + Timing().branch_s + 2.5 * self.plan.train_s[i] + 3.0
            times = self.judge.rounds_at.get(self.peers[i], [])
            if not any(outage.at_s + 1.0 < t <= by for t in times):
                raise ViolationError(
                    "L2", f"p{i} alone since {outage.at_s:.1f}: no round by {by:.1f}"
                )

    def _standing(self) -> str:
        """Where everyone is, for people."""
        lines = []
        for shell in self.live:
            history, machine = shell.storage.history, shell.averaging
            where = f"view {machine.view} {machine.phase}" if machine else "looking"
            lines.append(f"{shell.name} height {history.height} {short(history.tip.block)} {where}")
        return f"not level {SETTLE_S:.0f} s after the healing: " + "; ".join(lines)


def scenario_of(seed: int) -> Scenario:
    """The kind of run that a seed stands for when none is named."""
    return SCENARIOS[random.Random(f"scenario {seed}").choice(DRAWN)]


def run_seed(seed: int, scenario: str = "", members: int = 0, *, keep_log: bool = False) -> Outcome:
    """Run one seed and judge it.

    scenario  a key of SCENARIOS; "": the seed draws it
    members   founding members; 0: the seed draws them
    """
    kind = SCENARIOS[scenario] if scenario else scenario_of(seed)
    plan = kind.draw(random.Random(f"plan {seed}"), members)
    run = Run(seed, kind, plan, keep_log=keep_log)
    violation = ""
    try:
        run.go()
    except ViolationError as error:
        violation = str(error)
    world = run.world
    return Outcome(
        seed=seed,
        scenario=kind.name,
        members=plan.members,
        violation=violation,
        trace=world.digest(),
        events=world.events,
        virtual_s=world.now,
        blocks=max(shell.storage.history.height for shells in run.shells for shell in shells),
        log=tuple(world.log or ()),
    )
