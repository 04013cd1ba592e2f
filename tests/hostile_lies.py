"""What liars that are members lie about: their work, their votes, what they hold.

A Liar sits between the parts of a real node (hostile_members.py puts it there): it may change the
work before it is committed (`tamper`), every message on its way out (`bend`), and what its machine
believes before it proposes. It holds its own key only. What it really did it says in "lied" events,
so that a test can tell a lie that was borne from one that was never told. simnet/liars.py has such
lies in the simulator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from random import Random

import numpy as np

from p2ptrain.compress.blocks import INT4, INT8, SCALE_BYTES, Quantised
from p2ptrain.compress.codecs import CODECS
from p2ptrain.node.compute import LocalWork
from p2ptrain.node.telemetry import json_lines
from p2ptrain.swarm import weights
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.inputs import AveragingConfig
from p2ptrain.wire.digest import digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.messages import (
    Certified,
    Commit,
    GetContribution,
    GiveUp,
    Have,
    Join,
    Message,
    Norm2,
    Piece,
    Proposal,
    Propose,
    Signed,
    Statement,
    Timeout,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId

HUGE = 1e6
REPLAYED_KEPT = 256
Statements = Commit | Have | Vote | Timeout | Proposal


@dataclass
class Liar:
    """Honest; each kind of liar overrides what it lies about."""

    rng: Random = field(default_factory=lambda: Random(1))
    machine: Averaging | None = None
    lies: int = 0

    def lied(self) -> None:
        """Count a lie that was really told, and say so now and then."""
        self.lies += 1
        if self.lies & (self.lies - 1) == 0 or self.lies % 256 == 0:
            json_lines({"event": "lied", "what": type(self).__name__, "count": self.lies})

    def tampered(self) -> None:
        """Tell the judge that what we contribute to this round is a lie."""
        assert self.machine is not None
        self.lied()
        json_lines({"event": "tampered", "round": self.machine.context.rounds + 1})

    def inhabit(self, machine: Averaging) -> None:
        """The node's machine is there."""
        self.machine = machine

    @property
    def config(self) -> AveragingConfig:
        """Keys and recipe of the node around us."""
        assert self.machine is not None
        return self.machine.config

    def voters(self) -> list[PeerId]:
        """The voters but us, sorted."""
        assert self.machine is not None
        roster = self.machine.context.roster
        return [m.peer for m in roster if m.voter and m.peer != self.config.me]

    def restate(self, statement: Statements) -> Signed:
        """Sign something else in our own name."""
        self.lied()
        return sign_statement(self.config.signer, self.config.swarm, statement)

    def tamper(self, work: LocalWork) -> LocalWork:
        """What is committed in the place of honest work."""
        return work

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        """What is sent in the place of a message."""
        return (message,)

    def heard(self, sender: PeerId, message: Message) -> None:
        """A message came in for the averaging machine."""

    def before_proposing(self) -> None:
        """The machine is about to choose a set."""


# --- lies about the work -------------------------------------------------------------------------
def rescaled(work: LocalWork, factors: Iterable[float]) -> LocalWork:
    """The same work and norms with the scales of each shard multiplied by a factor."""
    shards = []
    for shard, factor in zip(work.shards, factors, strict=False):
        # A shard is its blocks' scales and then their values; int4 has the smaller blocks.
        block_bytes = next(
            SCALE_BYTES + c.block_bytes
            for c in (INT4, INT8)
            if len(shard) % (SCALE_BYTES + c.block_bytes) == 0
        )
        head = SCALE_BYTES * (len(shard) // block_bytes)
        scales = np.frombuffer(shard[:head], "<f4") * np.float32(factor)
        shards.append(scales.astype("<f4").tobytes() + shard[head:])
    return replace(work, shards=tuple(shards))


@dataclass
class NaN(Liar):
    """Scales that are no numbers: NaN in the first shard, infinity in the others."""

    def tamper(self, work: LocalWork) -> LocalWork:
        self.tampered()
        return rescaled(work, chain([np.nan], repeat(np.inf)))


@dataclass
class Huge(Liar):
    """Values times 1e6, with the norms that they have."""

    def __post_init__(self) -> None:
        vars(weights)["ABSURD_NORM2_RATIO"] = 1 << 120  # our own machine would not commit to it

    def tamper(self, work: LocalWork) -> LocalWork:
        self.tampered()
        big = rescaled(work, repeat(HUGE))
        codec = CODECS[self.config.settings.codec]
        norms2 = tuple(Norm2(codec.squared_norm(shard)) for shard in big.shards)
        return replace(big, norms2=norms2)


@dataclass
class FalseNorms(Liar):
    """Values times 1e6, with the norms that they had before."""

    def tamper(self, work: LocalWork) -> LocalWork:
        self.tampered()
        return rescaled(work, repeat(HUGE))


@dataclass
class Opposed(Liar):
    """The honest work, negated: a lie that no rule can see. The control of every measurement."""

    def tamper(self, work: LocalWork) -> LocalWork:
        self.tampered()
        codec = INT4 if self.config.settings.codec == 4 else INT8

        def negated(shard: bytes) -> bytes:
            honest = codec.quantised(shard)
            return codec.join(Quantised(-honest.q, honest.scales))

        return replace(work, shards=tuple(map(negated, work.shards)))


# --- lies about signatures and votes -------------------------------------------------------------
@dataclass
class WrongSignatures(Liar):
    """Signatures of nothing, and other peers' names over our own signature."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        if not isinstance(message, Statement | GiveUp | Propose):
            return (message,)
        if isinstance(message.signed.statement, Join) or self.rng.random() < 0.5:
            return (message,)
        self.lied()
        if self.rng.random() < 0.5:
            return (replace(message, signed=replace(message.signed, signature=bytes(64))),)
        other = self.rng.choice(self.voters() or [to])
        return (replace(message, signed=replace(message.signed, signer=other)),)


@dataclass
class DoubleVotes(Liar):
    """Two votes in one view, and two commits for one parent, both to everybody."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        match message:
            case Statement(Signed(statement=Vote() as vote)):
                block = digest("other", vote.block)
                both = [message, Statement(self.restate(replace(vote, block=block)))]
            case Statement(Signed(statement=Commit() as commit)):
                weight = 1 + commit.weight % 64
                both = [message, Statement(self.restate(replace(commit, weight=weight)))]
            case _:
                return (message,)
        return both if to < self.config.me else reversed(both)


@dataclass
class WrongHashes(Liar):
    """Votes for a reduction, and a state, that nobody else gets."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        match message:
            case Statement(Signed(statement=Vote() as vote)):
                other = digest("other", vote.reduced)
                return (Statement(self.restate(replace(vote, reduced=other, state=other))),)
            case _:
                return (message,)


@dataclass
class TwoProposals(Liar):
    """When it is our turn: one set to the first voter, another to the second, both to the rest."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        match message:
            case Propose(Signed(signer, _, Proposal() as proposal)) if (
                signer == self.config.me and len(proposal.block.entries) > 1
            ):
                shorter = replace(proposal.block, entries=proposal.block.entries[:-1])
                other = replace(message, signed=self.restate(replace(proposal, block=shorter)))
                place = self.voters().index(to) if to in self.voters() else 2
                return ((message,), (other,), (message, other))[min(place, 2)]
            case _:
                return (message,)


@dataclass
class FalseTimeouts(Liar):
    """Gives every view up at once, and claims a certificate that does not exist."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        assert self.machine is not None
        match message:
            case Statement(Signed(statement=Vote() as vote)):
                claim = Timeout(vote.view, vote.view, digest("claim"), 0, None)
                return (message, GiveUp(self.restate(claim), self.machine.certificate))
            case _:
                return (message,)


# --- lies about what is held ---------------------------------------------------------------------
@dataclass
class Withholds(Liar):
    """Commits, and sends its pieces to nobody."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        if isinstance(message, Piece) and message.contributor == self.config.me:
            self.lied()
            return ()
        return (message,)


@dataclass
class WithholdsButOne(Liar):
    """Sends its pieces to one voter only, and nobody else's to anyone."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        if isinstance(message, Piece) and self.voters()[:1] != [to]:
            self.lied()
            return ()
        return (message,)


@dataclass
class Stalls(Withholds):
    """Withholds its pieces, and lists them in every set that it proposes."""

    def before_proposing(self) -> None:
        assert self.machine is not None
        exchange = self.machine._exchange
        if exchange.own is not None:
            for peer in self.voters():
                known = exchange.haves.get(peer, frozenset())
                exchange.haves[peer] = known | {exchange.own.name}


@dataclass
class FalseHaves(Liar):
    """Says that it holds every contribution that it ever heard of, and some that do not exist."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        assert self.machine is not None
        match message:
            case Statement(Signed(statement=Have() as have)):
                held = self.machine._exchange.held.everything()
                names = {h.name for h in held} | {digest("nothing", have.parent)}
                return (Statement(self.restate(replace(have, commits=tuple(sorted(names))))),)
            case _:
                return (message,)


@dataclass
class Conspires(FalseHaves):
    """Withholds its own pieces, and vouches for those of others that do the same."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        return () if isinstance(message, Piece) else super().bend(to, message)


# --- what is old, and nothing at all -------------------------------------------------------------
@dataclass
class Replays(Liar):
    """Says again what it heard or said long ago: certificates, votes, commits, proposals."""

    old: deque[Message] = field(default_factory=lambda: deque(maxlen=REPLAYED_KEPT))

    def heard(self, sender: PeerId, message: Message) -> None:
        if isinstance(message, Statement | Propose | GiveUp | Certified | Piece):
            self.old.append(message)

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        if len(self.old) < 16 or isinstance(message, Piece):
            return (message,)
        self.lied()
        return (message, *self.rng.sample(list(self.old), 2))


@dataclass
class Mute(Liar):
    """Enters, and then says nothing any more."""

    def bend(self, to: PeerId, message: Message) -> Iterable[Message]:
        joins = isinstance(message, Statement) and isinstance(message.signed.statement, Join)
        averaging = isinstance(
            message, Statement | Propose | GiveUp | Certified | Piece | GetContribution
        )
        if not averaging or joins:
            return (message,)
        self.lied()
        return ()
