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
from dataclasses import dataclass, replace
from math import inf

from p2ptrain.swarm.chain import Context, Member, Settings, genesis
from p2ptrain.swarm.inputs import AveragingConfig, Timing
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.wire.digest import Digest, digest
from simnet.arithmetic import Arithmetic, Hashes, state_digest
from simnet.checkers import Judge, ViolationError
from simnet.faults import (
    CALM,
    CRASH,
    FREEZE,
    PARTITION,
    Outage,
    Plan,
    draw_crashes,
    draw_network,
    draw_partition,
    draw_train_s,
)
from simnet.keys import KeyRing
from simnet.shell import REVEALS, Setup, Shell
from simnet.trace import short
from simnet.world import World

SWARM = digest("swarm", b"simulated")
SETTLE_S = 400.0  # views double their deadlines up to 60 s; a few of those may have to pass
BLOCKS_AFTER = 2  # blocks that must be certified after the healing, and held by all
ROUNDS = 10_000  # no run comes to its last round, but those of the scenario "finish"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of run.

    name     for people and for `--scenario`
    draw     the plan of a seed; the number is that of founding members, 0: draw it too
    rounds   rounds in the run's recipe
    """

    name: str
    draw: Callable[[random.Random, int], Plan]
    rounds: int = ROUNDS


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


# --- plans ------------------------------------------------------------------------------------
def _members(rng: random.Random, members: int, least: int = 1) -> int:
    return members or rng.randint(least, 7)


def draw_crash(rng: random.Random, members: int) -> Plan:
    """No liars: a bad network, crashes, freezes, deaths and short partitions."""
    count = _members(rng, members)
    heal_s = rng.uniform(4.0, 12.0)
    outages = draw_crashes(rng, count, heal_s)
    if rng.random() < 0.3:
        outages += draw_partition(rng, count, heal_s, long=False)
    return Plan(
        members=count,
        joiners=(),
        liars={},
        train_s=draw_train_s(rng, count),
        network=draw_network(rng),
        outages=tuple(outages),
        heal_s=heal_s,
    )


def draw_pair(rng: random.Random, members: int) -> Plan:
    """Two members, one of which goes away for longer than T_branch, and comes back."""
    del members
    at = rng.uniform(0.5, 4.0)
    end = at + rng.uniform(15.0, 25.0)
    kind = rng.choice([CRASH, FREEZE, PARTITION])
    return Plan(
        members=2,
        joiners=(),
        liars={},
        train_s=draw_train_s(rng, 2),
        network=CALM,
        outages=(Outage(kind, (rng.randrange(2),), at, end),),
        heal_s=end,
    )


def draw_split(rng: random.Random, members: int) -> Plan:
    """A partition that lasts longer than T_branch."""
    count = _members(rng, members, least=2)
    heal_s = rng.uniform(20.0, 30.0)
    return Plan(
        members=count,
        joiners=(),
        liars={},
        train_s=draw_train_s(rng, count),
        network=replace(draw_network(rng), target="", target_ratio=0.0),
        outages=tuple(draw_partition(rng, count, heal_s, long=True)),
        heal_s=heal_s,
    )


def draw_join(rng: random.Random, members: int) -> Plan:
    """A founder alone, and peers that join it one after the other, some in a bad network."""
    joiners = tuple(sorted(rng.uniform(0.0, 8.0) for _ in range(max(members - 1, 0) or 3)))
    heal_s = 10.0
    count = 1 + len(joiners)
    network = draw_network(rng) if rng.random() < 0.5 else CALM
    outages = draw_crashes(rng, count, heal_s) if rng.random() < 0.3 else []
    return Plan(
        members=1,
        joiners=joiners,
        liars={},
        train_s=draw_train_s(rng, count),
        network=replace(network, loss_ratio=min(network.loss_ratio, 0.1)),
        outages=tuple(o for o in outages if o.end_s < inf),
        heal_s=heal_s,
    )


SCENARIOS = {
    s.name: s
    for s in (
        Scenario("crash", draw_crash),
        Scenario("pair", draw_pair),
        Scenario("split", draw_split),
        Scenario("join", draw_join),
    )
}
DRAWN = ("crash",) * 5 + ("pair", "split", "join", "join")


# --- runs -------------------------------------------------------------------------------------
class Run:
    """One seed's run."""

    def __init__(self, seed: int, scenario: Scenario, plan: Plan, *, keep_log: bool) -> None:
        """Build the world; nothing happens yet."""
        self.plan = plan
        self.world = World(seed, plan.network, keep_log=keep_log)
        self.arithmetic: Arithmetic = Hashes()
        self.ring = KeyRing(seed)
        signers = [self.ring.new_signer() for _ in range(plan.peers)]
        self.peers = [signer.peer for signer in signers]
        self.judge = Judge(frozenset(self.peers[i] for i in plan.liars))
        seeds = [digest("reveal seed", peer.encode()) for peer in self.peers]
        context = self._genesis(seeds)
        self.judge.genesis(context)
        setup = Setup(self.world, self.judge, self.arithmetic, context)
        settings = self._settings(scenario.rounds)
        self.shells: list[Shell] = []
        for i, signer in enumerate(signers):
            config = AveragingConfig(signer.peer, SWARM, signer, self.ring, settings, Timing())
            self.shells.append(Shell(setup, config, seeds[i], plan.train_s[i], f"p{i}"))

    def _genesis(self, seeds: list[Digest]) -> Context:
        """The founding block; with several founding members, as if they had joined before it."""
        state = state_digest(self.arithmetic, self.arithmetic.initial())
        context = genesis(SWARM, self.peers[0], state)
        if self.plan.members == 1:
            return context
        members = [
            Member(peer, Reveals(seed, REVEALS).anchor, True, 0, 0, 1)
            for peer, seed in zip(self.peers, seeds, strict=True)
        ][: self.plan.members]
        return replace(context, roster=tuple(sorted(members, key=lambda m: m.peer)))

    def _settings(self, rounds: int) -> Settings:
        return Settings(
            codec=self.arithmetic.codec,
            shard_bytes=self.arithmetic.shard_bytes,
            rounds=rounds,
            weight_max=64,
            norm_max2=100 << 64,
            voter_after=0,
        )

    def go(self) -> None:
        """Run the seed; raises ViolationError."""
        self._plan_events()
        self.world.run(lambda: False, self.plan.heal_s)
        self.judge.check()
        self._heal()
        settled = self.world.run(self._settled, self.plan.heal_s + SETTLE_S)
        self.judge.check()
        if not settled:
            raise ViolationError("L1", self._standing())

    def _plan_events(self) -> None:
        world, plan = self.world, self.plan
        for i, shell in enumerate(self.shells):
            start = 0.0 if i < plan.members else plan.joiners[i - plan.members]
            world.add(shell)
            world.at(start, "", shell.boot)
        for outage in plan.outages:
            world.at(outage.at_s, "", lambda o=outage: self._begin(o))  # type: ignore[misc]
            if outage.end_s < plan.heal_s:
                world.at(outage.end_s, "", lambda o=outage: self._end(o))  # type: ignore[misc]

    def _begin(self, outage: Outage) -> None:
        self.world.record(f"{outage.kind} {outage.peers} until {outage.end_s:.3f}")
        if outage.kind == PARTITION:
            self.world.cut = frozenset(self.peers[i] for i in outage.peers)
            return
        for i in outage.peers:
            if outage.kind == FREEZE:
                self.world.frozen_until[self.shells[i].name] = outage.end_s
            elif self.shells[i].running:
                self.shells[i].crash()

    def _end(self, outage: Outage) -> None:
        self.world.record(f"end of {outage.kind} {outage.peers}")
        if outage.kind == PARTITION:
            self.world.cut = frozenset()
        elif outage.kind == CRASH:
            for i in outage.peers:
                if not self.shells[i].running and i not in self._dead_now():
                    self.shells[i].boot()

    def _dead_now(self) -> set[int]:
        now = self.world.now
        dying = (o for o in self.plan.outages if o.end_s == inf and o.at_s <= now)
        return {i for o in dying for i in o.peers}

    def _heal(self) -> None:
        """From here on only the dead are away."""
        self.world.record("healed")
        self.world.now = self.plan.heal_s
        self.world.calm()
        for i, shell in enumerate(self.shells):
            if not shell.running and i not in self.plan.dead:
                shell.boot()
        self.high = max(shell.storage.history.height for shell in self.shells)
        self.live = [
            shell
            for i, shell in enumerate(self.shells)
            if i not in self.plan.dead and shell.peer not in self.judge.liars
        ]

    def _settled(self) -> bool:
        """All that live hold one chain with new blocks in it, and its state."""
        heights = [shell.storage.history.height for shell in self.live]
        low = min(heights)
        if low < self.high + BLOCKS_AFTER:
            return False
        block = self.live[0].storage.history.context(low).block
        return all(
            shell.storage.history.height_of(block) == low
            and (applied := shell.storage.history.height_of(shell.storage.applied)) is not None
            and applied >= low - 1
            for shell in self.live
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
        blocks=max(shell.storage.history.height for shell in run.shells),
        log=tuple(world.log or ()),
    )
