"""The three machines of a run, each behind its inbox, and what their effects do here.

  averaging   agrees on blocks with the others           swarm/averaging.py
  catchup     finds the chain that this peer should be on   swarm/catchup.py
  statesync   fetches states and certified shards           swarm/statesync.py

Machines know neither each other nor the network. Messages are dealt out to all three, each takes
what is its own. Effects are carried out in order by the machine's drive loop; those that take
long (a reduction, the check of a piece) run beside it and post their result as the next step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from p2ptrain.compress.blocks import MalformedShard
from p2ptrain.compress.codecs import CODECS
from p2ptrain.errors import RemoteProtocolError
from p2ptrain.node.applied import AppliedState
from p2ptrain.node.compute import ComputeRefused
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.node.drive import Inbox, drive
from p2ptrain.node.peers import Peers
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.node.votes import Votes
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.catchup import CatchUp, CaughtUp, Elsewhere, Switched
from p2ptrain.swarm.effects import (
    Apply,
    Behind,
    CheckPiece,
    Diverged,
    Effect,
    Persist,
    Proof,
    Reduce,
    Send,
)
from p2ptrain.swarm.history import Link
from p2ptrain.swarm.statesync import ApplyReduced, LoadState, Rollback, StateSync
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import Averaging as AveragingMessage
from p2ptrain.wire.messages import Certified, Message, Norm2
from p2ptrain.wire.peer_id import PeerId

INLINE_BYTES_MAX = 1 << 14  # pieces up to this size are checked without a thread
ALIVE_EVERY_S = 1.0  # the averaging machine wants a sign of life every 2 s at least
QUIET_S_MAX = 7.0  # a connection pings every 5 s; one that is silent for longer may be dead
DIVERGED = (
    "our local steps diverged, so this round goes on without our work; if it happens to all, the "
    "recipe's inner.learning_rate is too high for this network, or its averaging.norm_max too low"
)

CatchUpEffect = Send | Switched | Elsewhere | CaughtUp
SyncEffect = Send | Rollback | LoadState | ApplyReduced


@dataclass
class Machines:
    """The machines of one run and their shells.

    nursery    owns the tasks that run beside the drive loops
    caught_up  set when nobody who answered is on a better chain
    """

    nursery: trio.Nursery
    peers: Peers
    telemetry: Telemetry
    state: AppliedState
    votes: Votes
    averaging: Averaging
    catchup: CatchUp
    statesync: StateSync
    on_chain: Callable[[], None]
    caught_up: trio.Event = field(default_factory=trio.Event)
    to_averaging: Inbox[Effect] = field(default_factory=Inbox)
    to_catchup: Inbox[CatchUpEffect] = field(default_factory=Inbox)
    to_statesync: Inbox[SyncEffect] = field(default_factory=Inbox)
    _unfinished: dict[Digest, Reduce] = field(default_factory=dict)
    _news: trio.Event = field(default_factory=trio.Event)
    _died: ComputeDied | None = None
    _known: frozenset[PeerId] = frozenset()

    def start(self) -> None:
        """Start the catch-up machines; averaging starts when there is a state to vote on."""
        start = self.nursery.start_soon
        start(drive, self.catchup, self.to_catchup, self._carry_out_catchup, self._strike_catchup)
        start(drive, self.statesync, self.to_statesync, self._carry_out_sync, self._strike_sync)
        start(self._report_the_living)
        self.to_averaging.post(self.averaging.start)  # before all that waits for it to take part
        self.peers_changed()

    def start_averaging(self) -> None:
        """Take part."""
        start = self.nursery.start_soon
        start(drive, self.averaging, self.to_averaging, self._carry_out, self.peers.strike)

    # --- what comes in ----------------------------------------------------------------------
    def deliver(self, sender: PeerId, message: Message) -> None:
        """Deal a message out. A full inbox drops it: machines never rely on delivery."""
        if isinstance(message, AveragingMessage):  # nearly all of them, in a round
            self.to_averaging.offer(lambda now: self.averaging.receive(now, sender, message))
        else:
            self.to_catchup.offer(lambda now: self.catchup.receive(now, sender, message))
            self.to_statesync.offer(lambda now: self.statesync.receive(now, sender, message))

    def peers_changed(self) -> None:
        """Somebody came or went."""
        connected = self.peers.connected
        self.to_averaging.post(lambda now: self.averaging.peers(now, connected))
        self.to_catchup.post(lambda now: self.catchup.peers(now, connected))
        if connected - self._known:  # somebody new may be on a better chain
            self.to_catchup.post(self.catchup.start)
        self._known = connected
        self.to_statesync.post(lambda now: self.statesync.peers(now, connected))

    async def sync(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Fetch what leads to the tip; returns when the state is there, or until() holds.

        Raises ComputeDied.
        """
        while not (self.state.level or until()):
            self.check_compute()
            news = self._news
            self.to_statesync.post(self._follow)
            await news.wait()

    def notice(self) -> None:
        """The chain or the state has moved, or somebody wants to leave: sync looks again."""
        news, self._news = self._news, trio.Event()
        news.set()

    def check_compute(self) -> None:
        """Raise ComputeDied if it died on a task that nobody waits for, and is still dead."""
        died, self._died = self._died, None
        if died is not None and not self.state.compute.alive:
            raise died

    def reduce_again(self) -> None:
        """After the compute process was restarted: what averaging still waits for."""
        unfinished, self._unfinished = self._unfinished, {}
        for effect in unfinished.values():
            self.nursery.start_soon(self._reduce, effect)

    def _follow(self, now: float) -> Sequence[SyncEffect]:
        """A step of StateSync, which first hears where the state really is: what we reduced
        ourselves needs no fetching, and what was on its way when the compute process died does.
        """
        return [*self.statesync.applied(now, self.state.block), *self.statesync.follow(now)]

    def _compute_died(self, error: ComputeDied) -> None:
        self._died = error
        self.notice()
        self.on_chain()

    # --- effects of averaging ---------------------------------------------------------------
    async def _carry_out(self, effect: Effect) -> bool:
        match effect:
            case Send(to, message):
                self.peers.send(to, message)
            case Persist(record):
                await trio.to_thread.run_sync(self.votes.save, record)
            case CheckPiece():
                self.nursery.start_soon(self._check_piece, effect)
            case Reduce():
                self.nursery.start_soon(self._reduce, effect)
            case Apply(certificate, context, finals):
                # Not if catch-up has just switched: averaging hears of it by its next step.
                if certificate.block.parent == self.state.history.tip.block:
                    self.state.history.append(Link(certificate, context))
                    self.state.pending_finals.extend(finals)
                    self.on_chain()
            case Behind(peer, certificate):
                self.to_catchup.post(lambda now: self.catchup.behind(now, peer, certificate))
            case Proof(first, _):
                self.telemetry.report("proof", peer=first.signer, text="signed two things at once")
            case Diverged(norm2, norm2_max):
                ratio = (norm2 / norm2_max) ** 0.5
                self.telemetry.report("warning", text=f"{DIVERGED} ({ratio:.3g} x too long)")
        return False

    async def _check_piece(self, effect: CheckPiece) -> None:
        piece = effect.piece
        codec = CODECS[self.averaging.config.settings.codec]
        norm2: Norm2 | None
        try:
            # A thread costs more than a small piece: 38 us for 4096 values.
            if len(piece.data) <= INLINE_BYTES_MAX:
                norm2 = Norm2(codec.squared_norm(piece.data))
            else:
                norm2 = Norm2(await trio.to_thread.run_sync(codec.squared_norm, piece.data))
        except MalformedShard:
            norm2 = None
        self.to_averaging.post(
            lambda now: self.averaging.piece_checked(now, effect.sender, piece, norm2)
        )

    async def _reduce(self, effect: Reduce) -> None:
        try:
            result = await self.state.reduce(effect)
        except ComputeDied as error:
            self._unfinished[effect.block] = effect
            self._compute_died(error)  # the spine restarts it and calls reduce_again
            return
        except ComputeRefused as error:
            # Bits that passed every check and cannot be averaged: nobody honest gets further.
            self.telemetry.report("warning", text=f"a proposed set cannot be reduced: {error}")
            return
        if result is not None:
            root, state = result
            self.to_averaging.post(
                lambda now: self.averaging.reduced(now, effect.block, root, state)
            )

    # --- effects of catch-up ----------------------------------------------------------------
    async def _carry_out_catchup(self, effect: CatchUpEffect) -> bool:
        match effect:
            case Send(to, message):
                self.peers.send(to, message)
            case Switched(height, links, context):
                if not await self.state.switch(height, links):
                    self.to_catchup.post(self.catchup.start)
                    return False
                certificates = [link.certificate for link in links]
                self.to_averaging.post(lambda now: self.averaging.adopt(now, context, certificates))
                self.to_statesync.post(self._follow)
                self.on_chain()
            case Elsewhere(peer, certificate):
                branch = Certified(certificate)
                self.to_averaging.post(lambda now: self.averaging.receive(now, peer, branch))
            case CaughtUp():
                if self._known:
                    self.caught_up.set()
        return False

    async def _carry_out_sync(self, effect: SyncEffect) -> bool:
        if isinstance(effect, Send):
            self.peers.send(effect.to, effect.message)
            return False
        try:
            await self.state.sync(effect)
        except ComputeDied as error:
            self._compute_died(error)
        self.notice()
        return False

    # --- faults and signs of life -----------------------------------------------------------
    def _strike_catchup(self, error: RemoteProtocolError) -> None:
        self.peers.strike(error)
        peer = PeerId(error.peer)
        self.to_catchup.post(lambda now: self.catchup.struck(now, peer))

    def _strike_sync(self, error: RemoteProtocolError) -> None:
        self.peers.strike(error)
        peer = PeerId(error.peer)
        self.to_statesync.post(lambda now: self.statesync.lost(now, peer))
        # It may be asked again until it is let go: there may be nobody else.
        connected = self.peers.connected
        self.to_statesync.post(lambda now: self.statesync.peers(now, connected))

    async def _report_the_living(self) -> None:
        while True:
            for peer in self.peers.heard_within(QUIET_S_MAX):
                self.to_averaging.offer(partial(_heard, self.averaging, peer))
            await trio.sleep(ALIVE_EVERY_S)


def _heard(averaging: Averaging, peer: PeerId, now: float) -> list[Effect]:
    return averaging.heard(now, peer)
