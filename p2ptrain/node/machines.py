"""The machines of a peer that takes part, each behind its inbox, and what their effects do here.

Beside the two of every node that follows a run (node/following.py) there is the averaging machine,
which agrees on blocks with the others (swarm/averaging.py). Effects that take long (a reduction,
the check of a piece) run beside its drive loop and post their result as the next step.
"""

from dataclasses import dataclass, field
from functools import partial

import trio

from p2ptrain.compress.blocks import MalformedShard
from p2ptrain.compress.codecs import CODECS
from p2ptrain.errors import ConfigError, RemoteProtocolError
from p2ptrain.node.compute import Compute, ComputeRefused
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.node.convictions import Convictions
from p2ptrain.node.costs import Costs
from p2ptrain.node.drive import Inbox, drive
from p2ptrain.node.following import Following
from p2ptrain.node.votes import Votes
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.catchup import Elsewhere, Switched
from p2ptrain.swarm.effects import (
    Apply,
    Behind,
    Certain,
    CheckPiece,
    Diverged,
    Effect,
    KeyElsewhere,
    Persist,
    Proof,
    Reduce,
    Send,
)
from p2ptrain.swarm.history import Link
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import SERVED_BYTES_WAITING_MAX
from p2ptrain.wire.messages import Averaging as AveragingMessage
from p2ptrain.wire.messages import Certified, Contradiction, GetContribution, Message, Norm2
from p2ptrain.wire.peer_id import PeerId

INLINE_VALUES_MAX = 1 << 14  # pieces of up to so many values are checked without a thread
ALIVE_EVERY_S = 1.0  # the averaging machine wants a sign of life every 2 s at least
QUIET_S_MAX = 7.0  # a connection pings every 5 s; one that is silent for longer may be dead
TWO_THINGS = "signed two things at once"
DIVERGED = (
    "our local steps diverged, so this round goes on without our work; if it happens to all, the "
    "recipe's inner.learning_rate is too high for this network, or its averaging.norm_max too low"
)


@dataclass(kw_only=True)
class Machines(Following[Compute]):
    """The machines of one run and their shells."""

    votes: Votes
    convictions: Convictions
    averaging: Averaging
    to_averaging: Inbox[Effect] = field(default_factory=Inbox)
    silent: frozenset[PeerId] = frozenset()  # connected, but frozen or cut off
    _costs: Costs = field(default_factory=Costs)
    _unfinished: dict[Digest, Reduce] = field(default_factory=dict)

    def start(self) -> None:
        """Start the catch-up machines; averaging starts when there is a state to vote on."""
        super().start()
        self.nursery.start_soon(self._report_the_living)
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
            waiting_bytes = self.peers.transport.waiting_bytes(sender)
            if isinstance(message, GetContribution) and waiting_bytes > SERVED_BYTES_WAITING_MAX:
                return  # whoever does not read what it asked for need not be sent more
            self.to_averaging.offer_from(sender, message, self._receive)
        else:
            super().deliver(sender, message)

    def _receive(self, now: float, sender: PeerId, message: Message) -> list[Effect]:
        """Hand a message to the averaging machine, and charge its sender for the signatures."""
        verifier = self.averaging.config.verifier
        before = verifier.checked
        try:
            return self.averaging.receive(now, sender, message)
        finally:
            if not self._costs.may_check(sender, verifier.checked - before):
                fault = "it made us check more signatures than it may"
                self.peers.strike(RemoteProtocolError(sender, "transport 5", fault))

    def peers_changed(self) -> None:
        """Somebody came or went, fell silent or spoke again."""
        connected = self.peers.connected - self.silent
        self.to_averaging.post(lambda now: self.averaging.peers(now, connected))
        super().peers_changed()

    def reduce_again(self) -> None:
        """After the compute process was restarted: what averaging still waits for."""
        unfinished, self._unfinished = self._unfinished, {}
        for effect in unfinished.values():
            self.nursery.start_soon(self._reduce, effect)

    # --- effects of averaging ---------------------------------------------------------------
    async def _carry_out(self, effect: Effect) -> bool:
        match effect:
            case Send(to, message):
                self.peers.send(to, message)
            case Persist(record):
                with self.telemetry.waiting("the disk, to hold our vote"):
                    await trio.to_thread.run_sync(self.votes.save, record)
            case CheckPiece():
                self.nursery.start_soon(self._check_piece, effect)
            case Reduce():
                self.nursery.start_soon(self._reduce, effect)
            case Apply(certificate, context, finals):
                # Not if catch-up has just switched: averaging hears of it by its next step.
                with self.telemetry.waiting("the disk, to hold a certificate"):
                    extended = await self.state.extend(Link(certificate, context), finals)
                if extended:
                    self.on_chain()
            case Behind(peer, certificate):
                self.to_catchup.post(lambda now: self.catchup.behind(now, peer, certificate))
            case Certain():
                await trio.to_thread.run_sync(self.votes.be_certain)
                self.telemetry.report("certain", text="this peer votes")
                self.on_chain()
            case KeyElsewhere(view):
                raise _in_use_elsewhere(f"a vote of view {view} that this home knows nothing of")
            case Proof(first, _) if first.signer == self.averaging.config.me:
                raise _in_use_elsewhere("two statements that exclude one another")
            case Proof(first, second):
                self.telemetry.report("proof", peer=first.signer, text=TWO_THINGS)
                self.peers.ban(first.signer, f"it {TWO_THINGS}, which proves it a liar")
                proof = Contradiction(first, second)
                await trio.to_thread.run_sync(self.convictions.add, proof)
            case Diverged(norm2, norm2_max):
                ratio = (norm2 / norm2_max) ** 0.5
                self.telemetry.report("warning", text=f"{DIVERGED} ({ratio:.3g} x too long)")
        return False

    async def _check_piece(self, effect: CheckPiece) -> None:
        piece = effect.piece
        codec = CODECS[effect.codec]
        norm2: Norm2 | None
        try:
            # A thread costs more than a small piece: 38 us for 4096 values, 20 to 60 in topk.
            if codec.values(len(piece.data)) <= INLINE_VALUES_MAX:
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

    # --- what the others find ---------------------------------------------------------------
    def _after_switch(self, switched: Switched) -> None:
        certificates = [link.certificate for link in switched.links]
        self.to_averaging.post(
            lambda now: self.averaging.adopt(now, switched.context, certificates)
        )

    def _after_elsewhere(self, elsewhere: Elsewhere) -> None:
        branch = Certified(elsewhere.certificate)
        self.to_averaging.post(lambda now: self.averaging.receive(now, elsewhere.peer, branch))

    # --- signs of life ----------------------------------------------------------------------
    async def _report_the_living(self) -> None:
        while True:
            for peer in self.peers.heard_within(QUIET_S_MAX):
                if peer in self.silent:  # it announces each second, unless something is wrong
                    continue
                self.to_averaging.offer(partial(_heard, self.averaging, peer))
            await trio.sleep(ALIVE_EVERY_S)


def _in_use_elsewhere(what: str) -> ConfigError:
    return ConfigError(
        f"this identity is in use elsewhere: its key has signed {what}.\n"
        "Two copies of one home at once vote against each other, and the others take both for a "
        "liar. Stop one of them for good; a machine of its own needs a home of its own: --home DIR"
    )


def _heard(averaging: Averaging, peer: PeerId, now: float) -> list[Effect]:
    return averaging.heard(now, peer)
