"""One simulated peer: the production machines, joined as the node joins them, on virtual time.

A Shell owns a Storage, which survives crashes, and machines, which do not: Averaging, CatchUp and
StateSync. It carries effects out in the order of their list; what a real node does in another
process (local training, decoding, reducing) is an event some milliseconds later. After every
boot the peer first asks everyone where the chain stands, then takes part.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm import averaging, catchup, effects, statesync
from p2ptrain.swarm.certificates import Rules
from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.history import History, Link
from p2ptrain.swarm.inputs import AveragingConfig, Contribution
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.messages import ROUND, Certified, Message
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_root
from simnet.arithmetic import Arithmetic, state_digest
from simnet.checkers import Judge
from simnet.process import USUAL_PACE, Pace, Process
from simnet.storage import Asked, Storage
from simnet.trace import short
from simnet.world import World

PING_S = 1.5  # a sign of life at least every 2 s
APPLY_S = USUAL_PACE.apply_s
REVEALS = 800  # more rounds than any run has


@dataclass(frozen=True, slots=True)
class Setup:
    """What all shells of a run share.

    world       clock and network
    judge       the checkers
    arithmetic  what is computed
    genesis     context of the founding block
    pace        how long things take
    """

    world: World
    judge: Judge
    arithmetic: Arithmetic
    genesis: Context
    pace: Pace = USUAL_PACE


class Shell(Process):
    """One instance of a peer."""

    def __init__(
        self, setup: Setup, config: AveragingConfig, reveals: Reveals, train_s: float, name: str
    ) -> None:
        """Args:

        setup        what the run shares
        config       the averaging machine's
        reveals      the peer's hash chain
        train_s      seconds of local training
        name         tells two instances of one peer apart
        """
        super().__init__(setup.world, name)
        self.peer: PeerId = config.me
        self.judge, self.arithmetic, self.pace = setup.judge, setup.arithmetic, setup.pace
        self.config = config
        self.train_s = train_s
        self.steps = 1  # local steps of this round
        self.reveals = reveals
        initial = setup.arithmetic.initial()
        genesis = setup.genesis
        self.storage = Storage(History(genesis), genesis.block, {genesis.block: initial})
        self.rng = random.Random(f"{setup.world.seed} {name}")
        self.leaving = False
        self.averaging: averaging.Averaging | None = None

    # --- life and death -----------------------------------------------------------------------
    def boot(self) -> None:
        """Start, or start again with what the storage has."""
        self.life += 1
        self.running = True
        self.averaging = None
        self.reducing: dict[Digest, effects.Reduce] = {}
        self.training: Digest | None = None
        self.asked_to_join = False
        self.wake_at = float("inf")
        self.ping_at = self.world.now
        history, config = self.storage.history, self.config
        rules = Rules(config.swarm, config.verifier, config.settings)
        self.catchup = catchup.CatchUp(self.peer, rules, history)
        shapes = statesync.Shapes(
            self.arithmetic.piece_count, len(config.settings.shard_bytes), self.pace.item_timeout_s
        )
        self.sync = statesync.StateSync(
            history, self.storage.applied, self.storage.states.keys(), shapes
        )
        self.alive(self._begin)

    def _begin(self) -> None:
        self._apply_candidate()
        self._learn_peers()
        self._do(self.catchup.start(self.world.now))
        self._do(self.sync.follow(self.world.now))
        self._schedule()

    def crash(self) -> None:
        """Lose everything but the storage."""
        super().crash()
        self.averaging = None
        self.storage.crash()

    def restore(self, backup: Storage) -> None:
        """Come back with an old copy of the storage."""
        self.world.record(f"{self.name} is restored from a copy")
        if self.running:
            self.crash()
        self.storage = backup
        self.storage.doubtful = True

    def leave(self) -> None:
        """Ask to be let go, now and after every boot."""
        self.leaving = True
        if self.running:
            self.alive(self._train)
            self._schedule()

    # --- inputs from the world ------------------------------------------------------------------
    def deliver(self, sender: PeerId, message: Message) -> None:
        """A message has come."""
        if self.running:
            self.alive(lambda: self._deliver(sender, message))

    def _deliver(self, sender: PeerId, message: Message) -> None:
        now = self.world.now
        if isinstance(message, Asked):
            self.send(sender, self.storage.answer(message, self.arithmetic))
            return
        try:
            self._do(self.catchup.receive(now, sender, message))
            self._do(self.sync.receive(now, sender, message))
            if self.averaging:
                self._do(self.averaging.receive(now, sender, message))
        except RemoteProtocolError as error:
            self._strike(error)
        self._schedule()

    def _wake(self, at: float) -> None:
        if at != self.wake_at:  # another wake-up was made for an earlier deadline
            return
        now = self.world.now
        late = now > at + self.config.timing.late_s
        self.wake_at = float("inf")
        if now >= self.ping_at:
            self.ping_at = now + PING_S
            self._ping()
        if late:  # this process stood still: where is everyone?
            self._do(self.catchup.start(now))
        if self.averaging and now >= self.averaging.deadline:
            self._do(self.averaging.expire(now))
        if now >= self.catchup.deadline:
            self._do(self.catchup.expire(now))
        if now >= self.sync.deadline:
            self._do(self.sync.expire(now))
        self._schedule()

    def _ping(self) -> None:
        now = self.world.now
        self._learn_peers()
        if self.averaging:
            for peer in self.connected:
                self._do(self.averaging.heard(now, peer))

    def _learn_peers(self) -> None:
        now, world = self.world.now, self.world
        self.connected = [p for p in sorted(world.nodes) if world.answers(self.peer, p)]
        self._do(self.catchup.peers(now, self.connected))
        self._do(self.sync.peers(now, self.connected))
        if self.averaging:
            self._do(self.averaging.peers(now, self.connected))

    def _schedule(self) -> None:
        """One wake-up at the earliest deadline; those made for later ones are void."""
        due = min(self.ping_at, self.catchup.deadline, self.sync.deadline)
        if self.averaging:
            due = min(due, self.averaging.deadline)
        if due < self.wake_at:
            self.wake_at = max(due, self.world.now)
            at = self.wake_at
            self.later(at, lambda: self._wake(at))

    # --- effects --------------------------------------------------------------------------------
    def send(self, to: PeerId, message: Message) -> None:
        """Put a message on the wire; liars override this."""
        self.judge.sent(self.peer, message, to)
        self.world.post(self.peer, to, message)

    def _do(self, todo: Sequence[effects.Effect | catchup.Effect | statesync.SyncEffect]) -> None:
        for effect in todo:
            self.burn()
            match effect:
                case effects.Send(to, message):
                    self.send(to, message)
                case effects.Persist(record):
                    self._persist(record)
                case effects.CheckPiece():
                    self._check_piece(effect)
                case effects.Reduce():
                    self.reducing[effect.block] = effect
                    self.after(self.pace.reduce_s, lambda e=effect: self._reduce(e))  # type: ignore[misc]
                case effects.Apply():
                    self._apply(effect)
                case effects.Behind(peer, certificate):
                    self._do(self.catchup.behind(self.world.now, peer, certificate))
                case effects.Proof():
                    self.judge.proved(self.peer, effect)
                case effects.Diverged():
                    pass
                case effects.Certain():
                    self.storage.doubtful = False
                    self._train()
                case effects.KeyElsewhere(view):
                    self.judge.doubled(self.peer, view)
                case catchup.Switched():
                    self._switch(effect)
                case catchup.Elsewhere(peer, certificate):
                    if self.averaging:
                        now, message = self.world.now, Certified(certificate)
                        self._do(self.averaging.receive(now, peer, message))
                case catchup.CaughtUp():
                    self._take_part()
                case statesync.Rollback(block):
                    self.storage.applied = block
                case statesync.LoadState(link, pieces):
                    self._store(link, b"".join(pieces), ())
                case statesync.ApplyReduced(link, shards):
                    self._replay(link, shards)

    def _persist(self, record: effects.VoteRecord | effects.CommitRecord) -> None:
        if isinstance(record, effects.VoteRecord):
            self.storage.votes = record
        else:
            self.storage.commit = record
            self.judge.committed(record.signed)

    def _check_piece(self, effect: effects.CheckPiece) -> None:
        norm2 = self.arithmetic.norm2(effect.piece.data)
        if self.averaging is None:
            return
        try:
            self._do(
                self.averaging.piece_checked(self.world.now, effect.sender, effect.piece, norm2)
            )
        except RemoteProtocolError as error:
            self._strike(error)

    def _reduce(self, effect: effects.Reduce) -> None:
        """The compute process is done; without the parent's state it could not begin."""
        state = self.storage.states.get(effect.parent)
        if state is None or self.averaging is None or effect.block not in self.reducing:
            return
        del self.reducing[effect.block]
        self.judge.reduced(self.peer, effect, self.arithmetic.norm2)
        shards = self.arithmetic.reduce(effect.terms)
        self.judge.summed(self.peer, self.arithmetic.steps_off(effect.terms, shards))
        after = self.arithmetic.apply(state, shards)
        root, name = merkle_root(shards), state_digest(self.arithmetic, after)
        self.storage.keep(effect.block, shards, (root, name))
        self._do(self.averaging.reduced(self.world.now, effect.block, root, name))
        self._apply_candidate()
        self._schedule()

    def _apply(self, effect: effects.Apply) -> None:
        link = Link(effect.certificate, effect.context)
        self.judge.applied(self.peer, link, effect.finals, self.world.now)
        self.world.record(f"{self.name} applies {short(link.context.block)}")
        self.storage.extend(link)
        if self._candidate() is not None:
            self.after(self.pace.apply_s, self._apply_candidate)
        elif not self.sync.level and effect.context.block not in self.reducing:
            self._do(self.sync.follow(self.world.now))
        self._forget_stale()
        self._train()

    def _candidate(self) -> tuple[Link, tuple[bytes, ...]] | None:
        """The block after the applied one, if it can be applied from what is here."""
        history, storage = self.storage.history, self.storage
        height = history.height_of(storage.applied)
        if height is None or height == history.height:
            return None
        link = history.link(height + 1)
        if link.certificate.block.kind != ROUND:
            return link, ()
        shards = storage.reduced.get(link.context.block)
        held = shards is not None and merkle_root(shards) == link.certificate.reduced
        return (link, shards) if shards is not None and held else None

    def _apply_candidate(self) -> None:
        """Apply the blocks after the applied one that we reduced and that are certified."""
        while (candidate := self._candidate()) is not None:
            self._replay(*candidate)
            self._do(self.sync.applied(self.world.now, candidate[0].context.block))

    def _replay(self, link: Link, shards: tuple[bytes, ...]) -> None:
        state = self.storage.states[link.certificate.block.parent]
        if link.certificate.block.kind == ROUND:
            state = self.arithmetic.apply(state, shards)
        self._store(link, state, shards)

    def _store(self, link: Link, state: bytes, shards: tuple[bytes, ...]) -> None:
        """A state is applied: durable from here on."""
        block, storage = link.context.block, self.storage
        self.judge.state(self.peer, link, state_digest(self.arithmetic, state))
        storage.apply(block, state, shards)
        for reduce in [r for r in self.reducing.values() if r.parent == block]:
            self.after(self.pace.reduce_s, lambda e=reduce: self._reduce(e))  # type: ignore[misc]
        self._train()

    def _switch(self, effect: catchup.Switched) -> None:
        for link in effect.links:
            self.judge.applied(self.peer, link, (), self.world.now)
        self.storage.switch(effect.height, effect.links)
        if self.averaging:
            certificates = [link.certificate for link in effect.links]
            self._do(self.averaging.adopt(self.world.now, effect.context, certificates))
        self._do(self.sync.follow(self.world.now))
        self._forget_stale()
        self._train()

    def _forget_stale(self) -> None:
        tip = self.storage.history.tip.block
        for block in [b for b, r in self.reducing.items() if r.parent != tip]:
            if block != tip:
                del self.reducing[block]

    def _take_part(self) -> None:
        """Nobody is ahead: join the averaging, if that is not done yet."""
        if self.averaging is None:
            history, storage = self.storage.history, self.storage
            own = storage.commit
            if own and getattr(own.signed.statement, "parent", None) != history.tip.block:
                own = None
            self.averaging = averaging.Averaging(
                self.config, history.tip, history.certificate, self.reveals, storage.votes, own
            )
            self.averaging.recall(storage.results)
            if storage.doubtful:
                self.averaging.doubt()
            self._do(self.averaging.start(self.world.now))
            self._do(self.averaging.peers(self.world.now, self.connected))
        self._train()

    # --- local work -----------------------------------------------------------------------------
    def _train(self) -> None:
        """Begin local training on the newest block, if we are a member and hold its state."""
        context = self.storage.history.tip
        if self.averaging is None or self.storage.applied != context.block:
            return
        if context.member(self.peer) is None:
            if not self.asked_to_join and not self.leaving:
                self.asked_to_join = True
                steps = self.averaging.local_steps(self.pace.local_steps)
                self._do(self.averaging.join(self.world.now, steps))
            return
        self.asked_to_join = False
        if self.leaving:
            self._do(self.averaging.leave(self.world.now))
        if not self.averaging.may_contribute or self.training == context.block:
            return
        self.training, most = context.block, self.pace.local_steps
        self.steps = self.averaging.local_steps(most)
        spent = self.train_s * self.steps / most * self.rng.uniform(0.8, 1.2)
        self._do(self.averaging.begin(self.world.now, self.steps))
        self.later(self.world.now + spent, lambda: self._trained(context.block, spent))

    def _trained(self, block: Digest, spent_s: float) -> None:
        tip = self.storage.history.tip.block
        if block != tip or self.storage.applied != tip or self.averaging is None:
            return
        state = self.storage.states[block]
        shards = self.arithmetic.contribution(state, self.rng, self.storage.history.tip.rounds)
        norms2 = tuple(self.arithmetic.norm2(shard) or 0 for shard in shards)
        data = digest("data", block, self.peer.encode())
        samples = self.steps * self.pace.batch or self.rng.randint(1, 64)
        work = Contribution(data, samples, shards, norms2, self.pace.local_steps, block)  # type: ignore[arg-type]
        work = replace(work, steps=self.steps, seconds=spent_s)
        self._do(self.averaging.contribute(self.world.now, work))
        self._schedule()

    def _strike(self, error: RemoteProtocolError) -> None:
        self.judge.struck(self.peer, error)
        self._do(self.catchup.struck(self.world.now, PeerId(error.peer)))
        self._do(self.sync.lost(self.world.now, PeerId(error.peer)))
