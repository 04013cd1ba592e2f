"""Peers that lie. Each holds its own key only, so it can say anything, but in no name but its own.

A lie is a class of Shell: the production machines run underneath, and what they say is bent on
its way out. Twins are two instances of one peer that know nothing of each other, which makes
double votes, double commits, two proposals and contradicting promises of the plainest kind
("Twins: BFT Systems Made Robust", Bano et al., 2020, arXiv:2004.10617). A Schemer is a pair of
twins that also share what they have seen and claim in every Timeout whatever suits them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import ZERO_DIGEST, digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.messages import (
    Block,
    Certificate,
    Certified,
    Commit,
    GiveUp,
    Message,
    Piece,
    Proposal,
    Propose,
    Signed,
    Statement,
    Timeout,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.shell import Shell

Statements = Commit | Vote | Timeout


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


@dataclass(slots=True)
class Notebook:
    """What a pair of Schemers has seen: certificates, and blocks with the views they were in."""

    certificates: list[Certificate] = field(default_factory=list)
    proposed: list[tuple[int, Block]] = field(default_factory=list)


class Schemer(Twin):
    """A twin that claims in a Timeout any certificate and any vote that it could have."""

    notebook: Notebook

    def deliver(self, sender: PeerId, message: Message) -> None:
        """Take notes, then behave as a twin."""
        match message:
            case Certified(certificate):
                self._note(certificate)
            case Propose(Signed(statement=Proposal() as proposal), certificate):
                self._note(certificate)
                self.notebook.proposed.append((proposal.view, proposal.block))
            case GiveUp(_, certificate):
                self._note(certificate)
            case _:
                pass
        super().deliver(sender, message)

    def _note(self, certificate: Certificate | None) -> None:
        if certificate is not None and certificate not in self.notebook.certificates[-8:]:
            self.notebook.certificates.append(certificate)

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Another story for everyone, and certificates kept to itself most of the time."""
        match message:
            case GiveUp(Signed(statement=Timeout() as timeout), certificate):
                return self._story(timeout, certificate)
            case Certified():
                return message if self.rng.random() < 0.2 else None
            case Propose(signed, certificate) if isinstance(signed.statement, Proposal):
                self.notebook.proposed.append((signed.statement.view, signed.statement.block))
            case _:
                pass
        return super().bend(to, message)

    def _story(self, timeout: Timeout, certificate: Certificate | None) -> GiveUp:
        held = [c for c in self.notebook.certificates[-6:] if c.view <= timeout.view]
        high = self.rng.choice([certificate, *held])
        if high is not None:
            name = block_digest(high.block)
            timeout = replace(timeout, high_view=high.view, high_block=name)
        votes = [(v, b) for v, b in self.notebook.proposed[-6:] if v <= timeout.view]
        if votes and self.rng.random() < 0.7:
            view, block = self.rng.choice(votes)
            timeout = replace(timeout, last_view=view, last_block=block)
        else:
            timeout = replace(timeout, last_view=0, last_block=None)
        return GiveUp(self.restate(timeout), high)


def share_notebook(shells: Sequence[Shell]) -> None:
    """Let the instances of one Schemer know what each has seen."""
    notebook = Notebook()
    for shell in shells:
        if isinstance(shell, Schemer):
            shell.notebook = notebook


LIES: dict[str, Callable[..., Liar]] = {
    "double vote": DoubleVoter,
    "double commit": DoubleCommitter,
    "wrong base state": WrongBase,
    "wrong reduced root": WrongRoot,
    "withheld pieces": Withholder,
    "spoiled pieces": Spoiler,
    "forged signatures": Forger,
    "claimed certificates": Boaster,
    "denied votes": Denier,
    "silence": Mute,
    "twins": Twin,
    "schemers": Schemer,
}
TWINS = ("twins", "schemers")  # lies that take two instances
