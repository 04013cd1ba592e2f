"""THE SPINE: what a peer does, round after round. Read this first.

    follow      bring our state to the newest certified block
    train       local steps on samples that the beacon draws -> pseudo-gradient, compressed
    contribute  commit to it, sign it, hand its shards to the averaging machine
    agree       wait: the machine exchanges, proposes, reduces, votes; a certificate comes
    ...         which is the next block to follow

Agreement itself is the averaging machine's (swarm/averaging.py), the arithmetic the compute
process's (train/worker.py), the disk the ledger's. This file only puts them in order. Whatever we
are doing, a certificate that others reached without us moves the chain, and we follow it: local
steps that have become pointless are abandoned, and error feedback stays as it was.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

import trio

from p2ptrain.config import Recipe
from p2ptrain.data.sampler import Indices, assigned, noise_of
from p2ptrain.errors import DeviceError
from p2ptrain.node.applied import AppliedState
from p2ptrain.node.compute import Compute, ComputeRefused, LocalWork
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.node.machines import DIVERGED, Machines
from p2ptrain.swarm.certificates import is_finished
from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.history import Link
from p2ptrain.swarm.inputs import Contribution, Wait
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import COMPUTE_DEATHS_WITHIN_S, COMPUTE_RESTARTS_MAX
from p2ptrain.wire.messages import ROUND
from p2ptrain.wire.peer_id import PeerId

FIRST_LOOK_EVERY_S = 0.1
LEAVE_S_MAX = 10.0  # how long a peer that wants to go waits to be let go


async def _silent(link: Link) -> None:
    """Report nothing."""


async def _nothing() -> None:
    """Neither keep anything nor take it."""


class Deaths:
    """Deaths of the compute process: a long run may see many, a bad driver causes many soon."""

    def __init__(self) -> None:
        self._at_s: deque[float] = deque()

    def another(self, now: float) -> int:
        """One more; how many there were in the last COMPUTE_DEATHS_WITHIN_S."""
        self._at_s.append(now)
        while self._at_s[0] <= now - COMPUTE_DEATHS_WITHIN_S:
            self._at_s.popleft()
        return len(self._at_s)


@dataclass
class Rounds:
    """One peer's rounds of one run.

    me            this peer
    sample_count  training samples it draws from
    rounds_max    leave after this many of our contributions; None: stay to the end
    local_steps   the most that we take in a round, because the user says so
    first_peers   peers that must have asked to enter before the first round of a new swarm
    trained_samples, samples_per_s  of our own training: in all, and in the newest round
    applied       blocks that were applied and not reported yet
    report        tells the user of one
    keep          called when the state is level: writes what is our own, if it is time
    take          called after the compute process has died: gives the new one what was kept
    """

    me: PeerId
    recipe: Recipe
    machines: Machines
    sample_count: int
    local_steps: int
    rounds_max: int | None = None
    first_peers: int = 0
    leaving: bool = False
    trained_samples: int = 0
    samples_per_s: float = 0.0
    applied: list[Link] = field(default_factory=list)
    report: Callable[[Link], Awaitable[None]] = _silent
    keep: Callable[[], Awaitable[None]] = _nothing
    take: Callable[[], Awaitable[None]] = _nothing
    _news: trio.Event = field(default_factory=trio.Event)
    _left_at: float | None = None
    _training_on: Digest | None = None
    _contributed_to: Digest | None = None
    _deaths: Deaths = field(default_factory=Deaths)
    _began_at: float = field(default_factory=trio.current_time)

    @property
    def state(self) -> AppliedState[Compute]:
        """Our state, and the chain it follows."""
        return self.machines.state

    @property
    def finished(self) -> bool:
        """Whether the block that closes the run is applied.

        The averaging machine knows of that block before it is written down and in the history:
        whoever asked it would end one block too early, with a last round that is not final.
        """
        settings = self.machines.averaging.config.settings
        return is_finished(self.tip, settings) and self.state.level

    @property
    def tip(self) -> Context:
        """The newest certified block that we know."""
        return self.state.history.tip

    @property
    def waits(self) -> list[Wait]:
        """What only the spine waits for; the machines and the compute process tell their own."""
        waits: list[Wait] = []
        if self._waits_for_the_first(self.tip):
            here = len(self.machines.averaging.joiners)
            what = f"peers to begin with: {here} of {self.first_peers}"
            waits.append(Wait(what, self._began_at, inf))
        if self._left_at is not None:
            waits.append(Wait("to be let go by the others", self._left_at, LEAVE_S_MAX))
        return waits

    def notice(self) -> None:
        """The chain has moved, or a peer came or went: look again."""
        if self._training_on not in (None, self.tip.block):
            self._training_on = None
            self.machines.nursery.start_soon(self._abandon)
        news, self._news = self._news, trio.Event()
        news.set()
        self.machines.notice()

    async def run(self) -> None:
        """Round after round, until the run is over or we have left."""
        while not self._over():
            try:
                await self.outer_step()
            except ComputeDied as error:
                await self._recover(error)
        with suppress(ComputeDied):  # the mark on disk comes first
            await self.state.finalize()  # the last block may have come by another way

    async def outer_step(self) -> None:
        """One round: from one certified block to the next."""
        await self.follow()
        self._enter_or_leave()
        if not (self.state.level or self.leaving):
            return  # the chain moved on while we told the user about it
        base = self.tip
        if self._contributes(base):
            work = await self.train(base)
            if work is not None:
                await self.contribute(work)
        await self.agree(base)

    async def follow(self) -> None:
        """Apply every certified block up to the newest one: ours, or fetched from others."""
        while not self.state.level:
            with self.machines.telemetry.waiting("the new state: applied and on disk"):
                followed = await self.state.follow()
            if not followed:
                await self.machines.sync(until=lambda: self.leaving)
            if self.leaving and not self.state.level:
                return  # whoever wants to go need not fetch what it missed
        await self.state.finalize()
        await self.keep()
        rounds = [link for link in self.applied if link.certificate.block.kind == ROUND]
        self.applied.clear()
        if rounds:  # of several, the state is that after the newest
            await self.report(rounds[-1])

    async def train(self, base: Context) -> tuple[LocalWork, Indices] | None:
        """H local steps on our samples; None if the chain moved on before we were done."""
        averaging, batch = self.machines.averaging, self.recipe.inner.batch
        steps = averaging.local_steps(self.local_steps)
        samples = assigned(base.beacon, self.me, self.sample_count, steps, batch)
        self.machines.to_averaging.post(lambda now: averaging.begin(now, steps))
        self._training_on = base.block
        try:
            work = await self.state.compute.train(
                samples, round_number=base.rounds, noise=noise_of(base.beacon, self.me)
            )
        except ComputeRefused as error:
            if error.reason != "diverged":
                raise
            self._contributed_to = base.block
            self.machines.telemetry.report("warning", text=f"{DIVERGED} ({error})")
            return None
        finally:
            self._training_on = None
        return None if work is None or self.tip.block != base.block else (work, samples)

    async def contribute(self, trained: tuple[LocalWork, Indices]) -> None:
        """Commit to our work: from here on the averaging machine answers for it."""
        work, samples = trained
        contribution = Contribution(
            data=digest("samples", samples.astype("<i4").tobytes()),
            weight=work.samples,
            shards=work.shards,
            norms2=work.norms2,
            local_steps=self.local_steps,
            parent=work.parent,
            steps=len(samples),
            seconds=work.seconds,
        )
        averaging = self.machines.averaging
        self._contributed_to = work.parent
        self.machines.to_averaging.post(lambda now: averaging.contribute(now, contribution))
        self.trained_samples += work.samples
        self.samples_per_s = work.samples / max(work.seconds, 1e-6)
        self.machines.telemetry.report("trained", loss=work.loss, seconds=work.seconds)

    async def agree(self, base: Context) -> None:
        """Wait until a certificate moves the chain, or there is something else to do."""
        while self.tip.block == base.block and not self._over():
            self.machines.check_compute()
            news = self._news
            if self._contributes(base) or (self.leaving and self._left_at is None):
                return
            until = inf if self._left_at is None else self._left_at + LEAVE_S_MAX
            if self._waits_for_the_first(base):  # nobody tells the spine of a joiner
                until = min(until, trio.current_time() + FIRST_LOOK_EVERY_S)
            with trio.move_on_at(until):
                await news.wait()

    # --- details ----------------------------------------------------------------------------
    def _contributes(self, base: Context) -> bool:
        """Whether to train: members do, unless a contribution stands already or peers are due."""
        averaging = self.machines.averaging
        # The machine may be a step behind or ahead of the state: ask it about this block only.
        if averaging.context.block != base.block or not averaging.may_contribute:
            return False
        done = self._contributed_to == base.block
        return not (done or self._waits_for_the_first(base) or self._left_at)

    def _waits_for_the_first(self, base: Context) -> bool:
        """Whether a founder holds round 1 back until those it expects are ready for it."""
        return base.rounds == 0 and len(self.machines.averaging.joiners) < self.first_peers

    def _enter_or_leave(self) -> None:
        averaging, inbox = self.machines.averaging, self.machines.to_averaging
        member = self.tip.member(self.me)
        if self.rounds_max is not None and member and member.rounds >= self.rounds_max:
            self.leaving = True
        if self.leaving:
            if self._left_at is None:
                self._left_at = trio.current_time()
                inbox.post(averaging.leave)
        elif member is None:
            steps = averaging.local_steps(self.local_steps)
            inbox.post(lambda now: averaging.join(now, steps))

    def _over(self) -> bool:
        """The run has its last final block, or we asked to go and are out (or nobody is left)."""
        if self.finished:
            return True
        if self._left_at is None:
            return False
        alone = self.tip.member(self.me) is None or len(self.tip.roster) == 1
        return alone or trio.current_time() >= self._left_at + LEAVE_S_MAX

    async def _abandon(self) -> None:
        with suppress(ComputeDied):  # train() is told the same, and the spine recovers there
            await self.state.compute.cancel()

    async def _recover(self, error: ComputeDied) -> None:
        """The compute process died: say so, start another; at most this round is lost."""
        if self._deaths.another(trio.current_time()) > COMPUTE_RESTARTS_MAX:
            raise DeviceError(
                f"the compute process died too often ({COMPUTE_RESTARTS_MAX} times an hour), "
                f"the last time so: {error}\n"
                "The OpenCL driver is at fault, or memory is short: try --device pocl --threads 1"
            ) from error
        self.machines.telemetry.report("warning", text=f"{error}; starting it again")
        self._contributed_to = None
        try:
            await self.state.restart()
            await self.take()
        except ComputeDied as again:
            await self._recover(again)
        else:
            self.machines.reduce_again()
