"""What a node reports of each round, and the summary that a run ends with."""

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from math import inf

import trio

from p2ptrain.node.applied import AppliedState
from p2ptrain.node.compute import Compute
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.node.curve_file import CurveFile
from p2ptrain.node.peers import Peers
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.history import Link
from p2ptrain.swarm.inputs import Wait
from p2ptrain.train.worker_messages import Evaluated
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.peer_id import PeerId

WAITS_TOLD_EVERY_S = 2.0
WAITS_TOLD_AFTER_S = 3.0  # a round that takes no longer needs no words
EVALUATION_SHARE = 0.1  # of the time: 10,000 test samples cost as much as 3,300 trained ones


@dataclass(frozen=True, slots=True)
class Summary:
    """One peer's run in figures.

    rounds          rounds of the swarm, up to our last block
    contributed     of those, the ones with our contribution in them
    samples         training samples behind our certified contributions
    loss, accuracy  of the last state on the test samples; None if the compute process is gone
    bytes_*         of frames, to and from all peers
    weights_sha256  SHA-256 of the state after the last block: parameters, then outer momentum
    block           digest of that block, in hexadecimal
    finished        whether the run is over, rather than that we left it
    """

    peer: PeerId
    swarm: str
    rounds: int
    contributed: int
    samples: int
    bytes_sent: int
    bytes_received: int
    loss: float | None
    accuracy: float | None
    weights_sha256: str
    block: str
    finished: bool

    @property
    def values(self) -> dict[str, Value]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """How good a state is.

    state    its digest
    round    rounds behind it
    again_s  no state is evaluated before this, but the last one: time on the trio clock
    """

    state: Digest
    round: int
    figures: Evaluated
    again_s: float


def words_of(wait: Wait, now: float) -> str:
    """A wait for people, with its age and limit."""
    limit = "" if wait.limit == inf else f" of {wait.limit:.0f}"
    return f"{wait.what} ({now - wait.since:.0f} s{limit})"


@dataclass
class Reporter:
    """Reports what one node does in one run.

    curve             the picture of the run
    evaluation_share  most of the time that evaluating states after rounds may take
    """

    me: PeerId
    swarm: str
    peers: Peers
    telemetry: Telemetry
    state: AppliedState[Compute]
    curve: CurveFile
    evaluation_share: float = EVALUATION_SHARE
    _evaluated: _Evaluation | None = None
    _last_s: float = field(default_factory=trio.current_time)

    async def report(self, link: Link) -> None:
        """Tell how the round went, and how good the newest state is that was evaluated."""
        block = link.certificate.block
        evaluation = await self._evaluate(at_once=False)
        now = trio.current_time()
        seconds, self._last_s = now - self._last_s, now
        samples = sum(entry.weight for entry in block.entries)
        sent, received = self._bytes()
        self.telemetry.report(
            "round",
            round=link.context.rounds,
            view=link.certificate.view,
            loss=evaluation.figures.loss,
            accuracy=evaluation.figures.accuracy,
            evaluated_round=evaluation.round,
            contributions=len(block.entries),
            included=any(entry.peer == self.me for entry in block.entries),
            samples=samples,
            samples_s=round(samples / max(seconds, 1e-6), 1),
            seconds=round(seconds, 4),
            members=len(link.context.roster),
            branch=link.context.branch_depth > 0,
            connected=len(self.peers.connected),
            bytes_sent=sent,
            bytes_received=received,
            block=link.context.block.hex(),
            state=link.context.state.hex(),
        )
        told = self.telemetry.latest("round")
        assert told is not None
        if self.curve.add(told, self.telemetry.latest("trained")):
            await trio.to_thread.run_sync(self.curve.write)

    async def report_waits(self, averaging: Averaging) -> None:
        """When a round takes long, say what is waited for and for how long at most; for ever."""
        told_rest = False
        while True:
            await trio.sleep(WAITS_TOLD_EVERY_S)
            now = trio.current_time()
            if now - self._last_s < WAITS_TOLD_AFTER_S:
                continue
            if averaging.rests and not told_rest:
                told_rest = True
                self.telemetry.report("warning", text=self._rest())
            waits = [words_of(wait, now) for wait in self.telemetry.waits_now()]
            self.telemetry.report(
                "waiting",
                phase=averaging.phase,
                view=averaging.view,
                seconds=round(now - self._last_s, 1),
                waits=waits or [f"{averaging.phase}"],
            )

    def _rest(self) -> str:
        """What somebody can do with a run that has lost all its members."""
        rounds = self.state.history.tip.rounds
        return (
            f"the run rests at round {rounds}: none of its members can be reached, so nobody can "
            "let this peer in. It goes on when one of them comes back. Until then: "
            f"p2ptrain export --swarm {self.swarm} --out model.safetensors takes its weights, and "
            'a recipe with init = "model.safetensors" in [model] founds a new run from them'
        )

    async def summary(self, *, finished: bool) -> Summary:
        """The run in figures, after the last block."""
        state = self.state.ledger.state_of(self.state.block)
        if state is None:  # the founding state has no checkpoint
            state = await self.state.compute.state(self.state.block)
        height = self.state.height or 0
        context = self.state.history.context(height)
        links = map(self.state.history.link, range(1, height + 1))  # not all at once in memory
        mine = [
            entry.weight
            for link in links
            for entry in link.certificate.block.entries
            if entry.peer == self.me
        ]
        sent, received = self._bytes()
        evaluated: Evaluated | None = None
        with suppress(ComputeDied):  # the run is over: its figures are not worth a new process
            evaluated = (await self._evaluate(at_once=True)).figures
        return Summary(
            peer=self.me,
            swarm=self.swarm,
            rounds=context.rounds,
            contributed=len(mine),
            samples=sum(mine),
            bytes_sent=sent,
            bytes_received=received,
            loss=evaluated.loss if evaluated else None,
            accuracy=evaluated.accuracy if evaluated else None,
            weights_sha256=sha256(state).hexdigest(),
            block=self.state.block.hex(),
            finished=finished,
        )

    async def _evaluate(self, *, at_once: bool) -> _Evaluation:
        """Loss and accuracy of the applied state, computed once a state.

        Unless it must be known at once, an older figure stands in while a new one would take more
        than evaluation_share of the time.
        """
        context = self.state.history.context(self.state.height or 0)
        known, began_s = self._evaluated, trio.current_time()
        if known and (known.state == context.state or (began_s < known.again_s and not at_once)):
            return known
        figures = await self.state.compute.evaluate(context.rounds)
        now = trio.current_time()
        again_s = now + (now - began_s) * (1 / self.evaluation_share - 1)
        self._evaluated = _Evaluation(context.state, context.rounds, figures, again_s)
        return self._evaluated

    def _bytes(self) -> tuple[int, int]:
        statistics = self.peers.transport.statistics().values()
        return sum(s.bytes_sent for s in statistics), sum(s.bytes_received for s in statistics)
