"""A crowd: 65 to 16,384 peers on the virtual clock, with a committee that each block draws anew.

    python -m simnet --peers 1000 --seeds 20
    python -m simnet --peers 10000 --seed 1 --rounds 5

A seed draws the network (loss, delay, duplication, uplinks), churn of 1 to 10% a round (crashes
with a restart, freezes, deaths; newcomers ask to join for those who died), a partition, and liars.
Clocks differ: every duration of a peer is stretched by a factor of its own. So it goes until
`rounds - CORE_ROUNDS` rounds are certified. Then the network heals, and those who live must all
come to one state within SETTLE_S, CORE_ROUNDS rounds further.

Safety (S1 to S7 of simnet/checkers.py) is judged all the time; what is equal for thousands of peers
is judged once. Liveness: L5, the crowd comes to one state after the healing. What a peer computes
is a stand-in (simnet/arithmetic.py, Hashes), and what is pure and equal is computed once
(simnet/memo.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from p2ptrain.swarm.chain import Settings, committee, genesis
from p2ptrain.swarm.inputs import AveragingConfig, Timing
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.wire.digest import digest
from p2ptrain.wire.messages import BRANCH, ROUND
from p2ptrain.wire.peer_id import PeerId
from simnet.arithmetic import Hashes, state_digest
from simnet.checkers import ViolationError
from simnet.crowd_peer import CrowdJudge, CrowdPeer
from simnet.crowd_world import UPLINKS_MBIT_S, CrowdWorld
from simnet.faults import CALM, Network
from simnet.founders import with_members
from simnet.keys import KeyRing
from simnet.lies import LIES
from simnet.memo import shared_work
from simnet.process import Pace
from simnet.shell import Setup, Shell

SWARM = digest("swarm", b"crowd")
CORE_ROUNDS = 2  # after the healing
SETTLE_S = 300.0
FAULTS_S = 3000.0  # virtual time in which the rounds before it must come
REVEALS_SPARE = 40
SAMPLE_S = 0.5  # between two looks at everybody's state
CROWD_LIES = sorted(set(LIES) - {"twins", "scheme"})  # which need worlds of their own


@dataclass(frozen=True, slots=True)
class Crowd:
    """What a seed decides.

    peers      founding members
    rounds     certified rounds in all
    churn      share of the peers that fail in each round
    network    before the healing
    train_s    local training of a round, of a peer of middling speed
    partition  share of the peers that are cut off for a while; 0: none
    liars      number of a peer -> its lie
    """

    peers: int
    rounds: int
    churn: float
    network: Network
    train_s: float
    partition: float
    liars: dict[int, str]


@dataclass(slots=True)
class Report:
    """What came of a crowd.

    churn, faults   what the seed drew; the latter in words
    contributions   entries of all certified rounds
    committees      seats in them
    blocks, branches  on the longest chain
    views_lost      views that ended without a certificate
    failures        crashes, freezes and deaths that churn made
    members         in the roster at the end
    bytes_a_peer    sent by a peer in a round, mean; a committee member's share is in it
    states_most     the most distinct states at once, of running honest peers
    heal_s          from the healing until all had one state, CORE_ROUNDS on
    rounds_to_one   rounds from the last failure until one state was counted
    """

    seed: int = 0
    peers: int = 0
    churn: float = 0.0
    faults: str = ""
    rounds: int = 0
    contributions: int = 0
    committees: int = 0
    blocks: int = 0
    branches: int = 0
    views_lost: int = 0
    failures: int = 0
    members: int = 0
    bytes_a_peer: float = 0.0
    states_most: int = 0
    heal_s: float = inf
    rounds_to_one: int = -1
    virtual_s: float = 0.0
    events: int = 0
    trace: str = ""
    violation: str = ""

    @property
    def progress(self) -> float:
        """Share of the committees' seats whose work counted."""
        return self.contributions / max(1, self.committees)


def draw_crowd(seed: int, peers: int, rounds: int, churn: float = -1.0) -> Crowd:
    """The crowd of a seed; churn below 0: the seed draws 1 to 10% a round."""
    rng = random.Random(f"crowd {seed}")
    network = Network(
        delay_mean_s=rng.choice([0.02, 0.05, 0.1]),
        loss_ratio=rng.choice([0.0, 0.001, 0.01]),
        duplicate_ratio=rng.choice([0.0, 0.05]),
        ordered=False,
    )
    lying = rng.choice([0.0, 0.0, 0.02, 0.05])
    drawn = rng.choice([0.01, 0.03, 0.1])
    who = rng.sample(range(1, peers), int(lying * peers))
    return Crowd(
        peers=peers,
        rounds=rounds,
        churn=drawn if churn < 0 else churn,
        network=network,
        train_s=rng.choice([3.0, 6.0]),
        partition=rng.choice([0.0, 0.0, 0.1, 0.3]),
        liars={i: rng.choice(CROWD_LIES) for i in sorted(who)},
    )


class CrowdRun:
    """One seed's crowd."""

    def __init__(self, seed: int, crowd: Crowd, progress: Callable[[int], None]) -> None:
        """Build the world; nothing happens yet. progress: told of each certified round."""
        self.crowd, self.seed, self._progress = crowd, seed, progress
        self.rng = random.Random(f"crowd faults {seed}")
        self.ring = KeyRing(seed)
        spare = int(crowd.peers * crowd.churn * crowd.rounds / 4) + 1  # newcomers for the dead
        signers = [self.ring.new_signer() for _ in range(crowd.peers + spare)]
        self.peers = [signer.peer for signer in signers]
        uplinks = {peer: float(self.rng.choice(UPLINKS_MBIT_S)) for peer in self.peers}
        self.world = CrowdWorld(seed, crowd.network, uplinks)
        self.arithmetic = Hashes(shards=1)
        liars = frozenset(self.peers[i] for i in crowd.liars)
        self.world.liars = liars
        self.settings = Settings(
            codec=self.arithmetic.codec,
            shard_bytes=self.arithmetic.shard_bytes,
            rounds=10_000,
            weight_max=64,
            batch=64,
            norm_max2=1 << 80,
            voter_after=0,
        )
        self.judge = CrowdJudge(liars, self.settings)
        self.shells = self._shells(signers)
        self.newcomers = list(range(crowd.peers, len(self.peers)))
        self.gone: set[int] = set()
        self.away: set[int] = set()
        self.rounds = self.last_failure = 0
        self.healed_at = inf
        self.report = Report(seed, crowd.peers, crowd.churn, _faults(crowd))

    def _shells(self, signers: list) -> list[Shell]:  # type: ignore[type-arg]
        """Everybody's process; the founders as members of the founding block."""
        length = self.crowd.rounds + REVEALS_SPARE
        chains = [Reveals(digest("reveal seed", p.encode()), length) for p in self.peers]
        first = genesis(SWARM, self.peers[0], state_digest(self.arithmetic, bytes(96)))
        founders = range(self.crowd.peers)
        context = with_members(first, {self.peers[i]: chains[i].anchor for i in founders})
        self.judge.genesis(context)
        setup = Setup(self.world, self.judge, self.arithmetic, context, Pace(item_timeout_s=8.0))
        found: list[Shell] = []
        for i, signer in enumerate(signers):
            skew = self.rng.uniform(0.9, 1.1)
            timing = Timing(view_first_s=10.0 * skew, branch_s=10.0 * skew, late_s=2.0 * skew)
            config = AveragingConfig(signer.peer, SWARM, signer, self.ring, self.settings, timing)
            train_s = self.crowd.train_s * self.rng.uniform(0.7, 1.3) * skew
            kind = _kind(self.crowd.liars.get(i, ""))
            found.append(kind(setup, config, chains[i], train_s, f"p{i}"))
            self.world.add(found[-1])
        return found

    # --- the run --------------------------------------------------------------------------------
    def go(self) -> None:
        """Run it. Raises ViolationError."""
        world, crowd = self.world, self.crowd
        for i in range(crowd.peers):
            world.at(self.rng.uniform(0.0, 0.5), "", self.shells[i].boot)
        if crowd.partition:
            world.at(self.rng.uniform(5.0, 15.0), "", self._cut)
        world.at(SAMPLE_S, "", self._sample)
        target = max(1, crowd.rounds - CORE_ROUNDS)
        if not world.run(lambda: self.rounds >= target, FAULTS_S):
            raise ViolationError(
                "L5", f"{self.rounds} rounds in {FAULTS_S:.0f} s: {self._standing()}"
            )
        self._heal()
        if not world.run(self._settled, world.now + SETTLE_S):
            raise ViolationError("L5", f"not one state {SETTLE_S:.0f} s on: {self._standing()}")
        self.judge.check()
        self.report.heal_s = world.now - self.healed_at

    def _sample(self) -> None:
        """Look at everybody, as nobody in the swarm can."""
        self.world.at(self.world.now + SAMPLE_S, "", self._sample)
        heights, states = self._count()
        self.report.states_most = max(self.report.states_most, states)
        if heights > self.rounds:
            self.rounds = heights
            self._progress(heights)
            if self.healed_at == inf:
                self._churn()
        if states == 1 and self.healed_at < inf and self.report.rounds_to_one < 0:
            self.report.rounds_to_one = self.rounds - self.last_failure

    def _count(self) -> tuple[int, int]:
        """The most rounds that anyone's chain has, and how many states are applied at once."""
        honest = [s for s in self._running() if s.peer not in self.judge.liars]
        rounds = max((s.storage.history.tip.rounds for s in honest), default=0)
        return rounds, len({s.storage.applied for s in honest})

    def _running(self) -> list[Shell]:
        return [shell for shell in self.shells if shell.running]

    # --- faults ---------------------------------------------------------------------------------
    def _churn(self) -> None:
        """A round has been certified: who fails?"""
        rng = self.rng
        for i, shell in enumerate(self.shells):
            if not shell.running or rng.random() >= self.crowd.churn:
                continue
            self.report.failures += 1
            self.last_failure = self.rounds
            at = self.world.now + rng.uniform(0.0, self.crowd.train_s)
            kind = rng.random()
            self.world.at(at, "", lambda i=i, kind=kind: self._fail(i, kind))  # type: ignore[misc]

    def _fail(self, index: int, kind: float) -> None:
        shell, world = self.shells[index], self.world
        if not shell.running or self.healed_at < inf:
            return
        if kind < 0.2:
            world.frozen_until[shell.name] = world.now + self.rng.uniform(1.0, 8.0)
            return
        shell.crash()
        if kind < 0.35:
            self.gone.add(index)
            if self.newcomers:
                newcomer = self.shells[self.newcomers.pop()]
                world.at(world.now + 1.0, "", newcomer.boot)
            return
        back = world.now + self.rng.expovariate(1.0 / (3 * self.crowd.train_s))
        world.at(back, "", lambda: self._boot(index))

    def _boot(self, index: int) -> None:
        if not self.shells[index].running and index not in self.gone:
            self.shells[index].boot()

    def _cut(self) -> None:
        if self.healed_at < inf:
            return
        count = int(self.crowd.partition * len(self.peers))
        self.world.cut = frozenset(self.rng.sample(self.peers, count))
        self.report.failures += count
        end = self.world.now + self.rng.uniform(3.0, 25.0)
        self.world.at(end, "", lambda: setattr(self.world, "cut", frozenset()))

    # --- after the faults -----------------------------------------------------------------------
    def _heal(self) -> None:
        """From here on nothing fails; those who died stay dead."""
        self.healed_at = self.world.now
        self.last_failure = self.rounds
        self.world.record("healed")
        self.world.calm(CALM)
        for i in range(self.crowd.peers):
            self._boot(i)

    def _settled(self) -> bool:
        """Whether all that run have one state, CORE_ROUNDS rounds after the healing."""
        if self.rounds < self.last_failure + CORE_ROUNDS or self.world.events % 64:
            return False
        return self._count()[1] == 1

    def _standing(self) -> str:
        """Where everyone is, for people."""
        heights: dict[str, int] = {}
        for shell in self._running():
            tip = shell.storage.history.tip
            level = shell.storage.history.height_of(shell.storage.applied)
            name = f"{tip.height}{'' if level == tip.height else f' with state {level}'}"
            heights[name] = heights.get(name, 0) + 1
        tallies = sorted(heights.items(), key=lambda item: -item[1])[:6]
        best = max(self._running(), key=lambda s: s.storage.history.height)
        seats = best.storage.history.tip.seats
        alive = sum(self.world.answers(PeerId(""), p) for p in seats.voters)
        where = ", ".join(f"{count} at height {name}" for name, count in tallies)
        return f"{where}; of the newest committee {alive} of {len(seats.voters)} voters run"

    # --- what came of it ------------------------------------------------------------------------
    def told(self) -> Report:
        """The report, as far as it got."""
        report, world = self.report, self.world
        best = max(self.shells, key=lambda s: s.storage.history.height).storage.history
        links = best.after(0)
        context = best.genesis
        for link in links:
            block = link.certificate.block
            if block.kind == ROUND:
                report.contributions += len(block.entries)
                report.committees += len(committee(context))
            report.branches += block.kind == BRANCH
            report.views_lost += max(0, link.certificate.view - context.view - 1)
            context = link.context
        report.rounds, report.blocks, report.members = (
            best.tip.rounds,
            len(links),
            len(best.tip.roster),
        )
        sent = sum(world.sent_bytes.values())
        report.bytes_a_peer = sent / self.crowd.peers / max(1, report.rounds)
        report.virtual_s, report.events, report.trace = world.now, world.events, world.digest()
        return report


def _faults(crowd: Crowd) -> str:
    """The network, the partition and the liars, for people."""
    network = crowd.network
    found = [f"delay {network.delay_mean_s * 1000:.0f} ms", f"loss {network.loss_ratio:.1%}"]
    if network.duplicate_ratio:
        found.append(f"{network.duplicate_ratio:.0%} twice")
    if crowd.partition:
        found.append(f"{crowd.partition:.0%} cut off")
    if crowd.liars:
        found.append(f"{len(crowd.liars)} liars")
    return ", ".join(found)


def _kind(lie: str) -> type[Shell]:
    """The class of a peer: honest, or a liar of a crowd."""
    if not lie:
        return CrowdPeer
    liar = LIES[lie]
    assert isinstance(liar, type)
    return type(f"Crowd{liar.__name__}", (liar, CrowdPeer), {})


def run_crowd(
    seed: int,
    crowd: Crowd,
    progress: Callable[[int], None] = lambda rounds: None,
) -> Report:
    """Run one crowd and judge it."""
    with shared_work():
        run = CrowdRun(seed, crowd, progress)
        violation = ""
        try:
            run.go()
        except ViolationError as error:
            violation = str(error)
        return replace(run.told(), violation=violation)
