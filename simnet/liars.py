"""Peers that lie. Each holds its own key only, so it can say anything, but in no name but its own.

A lie is a class of Shell: the production machines run underneath, and what they say is bent on
its way out. Twins are two instances of one peer that know nothing of each other, which makes
double votes, double commits, two proposals and contradicting promises of the plainest kind
("Twins: BFT Systems Made Robust", Bano et al., 2020, arXiv:2004.10617). simnet/schemer.py has one
that goes by a plan.
"""

from __future__ import annotations

from dataclasses import replace

from p2ptrain.wire.digest import ZERO_DIGEST, digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.messages import (
    Commit,
    Contradiction,
    GiveUp,
    Have,
    Headers,
    Message,
    Piece,
    Proposal,
    ReducedPiece,
    Signed,
    Statement,
    StatePiece,
    Timeout,
    Tip,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.shell import Shell

Statements = Commit | Have | Vote | Timeout | Proposal


class Liar(Shell):
    """Bends what the machines say; `bend` returns None for silence."""

    def send(self, to: PeerId, message: Message) -> None:
        """Put a bent message on the wire."""
        bent = self.bend(to, message)
        if bent is not None:
            super().send(to, bent)

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """What is really sent."""
        raise NotImplementedError

    def restate(self, statement: Statements) -> Signed:
        """Sign something else in its own name."""
        return sign_statement(self.config.signer, self.config.swarm, statement)

    def face(self, to: PeerId, of: bytes = b"") -> bool:
        """Which of two faces a peer sees: always the same one for the same subject."""
        return digest("face", to.encode(), of)[0] < 128


class DoubleVoter(Liar):
    """Votes for another block to half of the peers."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Two votes in one view."""
        match message:
            case Statement(Signed(statement=Vote() as vote)) if self.face(to, vote.block):
                return Statement(self.restate(replace(vote, block=digest("other", vote.block))))
            case _:
                pass
        return message


class DoubleCommitter(Liar):
    """Commits to another weight to half of the peers."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Two commits for one parent."""
        match message:
            case Statement(Signed(statement=Commit() as commit)) if self.face(to, commit.parent):
                other = 1 + commit.weight % 64
                return Statement(self.restate(replace(commit, weight=other)))
            case _:
                pass
        return message


class WrongBase(Liar):
    """Commits on a state that the parent does not have."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """A commit with another base state."""
        match message:
            case Statement(Signed(statement=Commit() as commit)):
                return Statement(self.restate(replace(commit, base_state=ZERO_DIGEST)))
            case _:
                pass
        return message


class WrongRoot(Liar):
    """Votes for a reduction that nobody else gets."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """A vote with another reduced root."""
        match message:
            case Statement(Signed(statement=Vote() as vote)):
                other = digest("other", vote.reduced)
                return Statement(self.restate(replace(vote, reduced=other, state=other)))
            case _:
                pass
        return message


class Withholder(Liar):
    """Sends its pieces to half of the peers, others' to nobody, and forgets to pass things on."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """No piece for some."""
        if isinstance(message, Piece):
            return message if message.contributor == self.peer and self.face(to) else None
        return message


class Staller(Liar):
    """Withholds its pieces, and lists its own contribution in every set that it proposes."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """None of its own pieces; and its machine is told that all the others hold them."""
        exchange = self.averaging._exchange if self.averaging is not None else None
        if self.averaging is not None and exchange is not None and exchange.own is not None:
            for member in self.averaging.context.roster:
                known = exchange.haves.get(member.peer, frozenset())
                exchange.haves[member.peer] = known | {exchange.own.name}
        mine = isinstance(message, Piece) and message.contributor == self.peer
        return None if mine else message


class Spoiler(Liar):
    """Sends pieces that are not what it committed to."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Other bytes under the same proof."""
        if isinstance(message, Piece) and self.face(to, message.parent):
            return replace(message, data=bytes(len(message.data)))
        return message


class Forger(Liar):
    """Spoils half of its signatures, and speaks in others' names without their keys."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """A signature of zeros, or another's name over its own signature."""
        if isinstance(message, Statement) and self.rng.random() < 0.5:
            if self.rng.random() < 0.5:
                return Statement(replace(message.signed, signature=bytes(64)))
            return Statement(
                replace(message.signed, signer=self.rng.choice(self.connected or [to]))
            )
        return message


class Boaster(Liar):
    """Claims in every Timeout a certificate that does not exist."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """The newest of all certificates, held by nobody."""
        match message:
            case GiveUp(Signed(statement=Timeout() as timeout), certificate):
                claim = replace(timeout, high_view=timeout.view, high_block=digest("claim"))
                return GiveUp(self.restate(claim), certificate)
            case _:
                pass
        return message


class Denier(Liar):
    """Denies in every Timeout that it ever voted."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """No last vote."""
        match message:
            case GiveUp(Signed(statement=Timeout() as timeout), certificate):
                return GiveUp(
                    self.restate(replace(timeout, last_view=0, last_block=None)), certificate
                )
            case _:
                pass
        return message


class BadDonor(Liar):
    """Gives joiners wrong bytes, headers that do not hold, and a tip that does not exist."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Something else than what was asked for."""
        match message:
            case StatePiece() | ReducedPiece():
                return replace(message, data=bytes(len(message.data)))
            case Headers() if message.certificates:
                wrong = replace(message.certificates[0], state=digest("other"))
                return replace(message, certificates=(wrong, *message.certificates[1:]))
            case Tip(certificate) if certificate is not None:
                ahead = replace(certificate, view=certificate.view + 1000, state=digest("other"))
                return replace(message, certificate=ahead, rounds=message.rounds + 1000)
            case _:
                pass
        return message


class Accuser(Liar):
    """Accuses whoever it hears: what an honest peer signed, beside what it never did."""

    def deliver(self, sender: PeerId, message: Message) -> None:
        """Tell everyone about a vote or a commit; half of the proofs have a signature at all."""
        match message:
            case Statement(Signed(_, signature, Vote() | Commit() as said) as signed):
                lie = self._lie_about(said)
                forged = replace(
                    signed, statement=lie, signature=self.rng.choice([signature, bytes(64)])
                )
                for peer in self.connected:
                    self.send(peer, Contradiction(signed, forged))
            case _:
                pass
        super().deliver(sender, message)

    def _lie_about(self, said: Vote | Commit) -> Vote | Commit:
        if isinstance(said, Vote):
            return replace(said, view=said.view + self.rng.randrange(2), state=digest("other"))
        return replace(said, weight=1 + said.weight % 64)

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Everything else is honest."""
        return message


class Mute(Liar):
    """Takes everything and says nothing."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Nothing at all."""
        return None


class Twin(Liar):
    """One of two instances of one peer; each reaches some peers, and hears some messages."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Reach a peer three times out of four."""
        return message if self.rng.random() < 0.75 else None

    def deliver(self, sender: PeerId, message: Message) -> None:
        """Miss some contributions, so that the twins would list different ones."""
        missed = isinstance(message, Piece) or (
            isinstance(message, Statement) and isinstance(message.signed.statement, Commit)
        )
        if not (missed and self.face(sender, self.name.encode()) and self.rng.random() < 0.5):
            super().deliver(sender, message)
