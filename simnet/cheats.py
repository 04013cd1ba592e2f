"""Liars about their own work, or about who has signed: commits and certificates that may not be.

Each breaks one rule of protocol/averaging.md that a single check enforces, so that a swarm without
that check does what no swarm may.
"""

from __future__ import annotations

import random
from dataclasses import replace

from p2ptrain.swarm.chain import vote_of
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.messages import (
    BRANCH,
    Ballot,
    Block,
    Certificate,
    Certified,
    Commit,
    Message,
    Norm2,
    Signed,
    Statement,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.arithmetic import Hashes
from simnet.liars import Liar

GIANT = 1 << 110  # squared norm of a shard, beyond what rule 2.8 takes in any round


class Cheat(Liar):
    """Commits to something else than its work."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Another commit."""
        match message:
            case Statement(Signed(statement=Commit() as commit)):
                return Statement(self.restate(self.other(commit)))
            case _:
                pass
        return message

    def other(self, commit: Commit) -> Commit:
        """What it commits to."""
        raise NotImplementedError


class Understater(Cheat):
    """Declares half of the squared norm that its work has, to be clipped less (rule 3.4)."""

    def other(self, commit: Commit) -> Commit:
        """Smaller norms for the same shards."""
        return replace(commit, norms2=tuple(Norm2(norm2 // 2) for norm2 in commit.norms2))


class Overweight(Cheat):
    """Claims more samples than the recipe lets anyone claim (rule 2.4)."""

    def other(self, commit: Commit) -> Commit:
        """A weight beyond the bound."""
        return replace(commit, weight=self.config.settings.weight_max + commit.weight)


class Grinder(Cheat):
    """Reveals what it likes instead of its chain's next value, to choose the beacon (rule 2.5)."""

    def other(self, commit: Commit) -> Commit:
        """A reveal that follows from nothing."""
        return replace(commit, reveal=digest("chosen", commit.reveal))


class Giant(Liar):
    """Contributes what no local steps end at, well declared (rule 2.8)."""

    def _trained(self, block: Digest, spent_s: float) -> None:
        self.arithmetic = _Giants()
        if self.averaging is not None:
            setattr(self.averaging, "_refuse_own", lambda contribution: [])  # noqa: B010
        super()._trained(block, spent_s)

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """Its work is what it says."""
        return message


class _Giants(Hashes):
    def contribution(self, state: bytes, rng: random.Random, rounds: int) -> tuple[bytes, ...]:
        """Shards of a giant norm."""
        shards = super().contribution(state, rng, rounds)
        return tuple(GIANT.to_bytes(16, "big") + shard[16:] for shard in shards)


class LoneSigner(Liar):
    """Shows certificates with no ballot but its own (rule 7.1)."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """A certificate that one has signed."""
        if not isinstance(message, Certified):
            return message
        certificate = message.certificate
        signed = self.restate(vote_of(certificate))
        return Certified(replace(certificate, ballots=(Ballot(self.peer, signed.signature),)))


class Deserter(Liar):
    """Certifies branches with nobody in them but itself, and shows them around (section 9)."""

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """A branch of its own in the place of some votes."""
        match message:
            case Statement(Signed(statement=Vote() as vote)) if self.face(to, vote.parent):
                return Certified(self._alone())
            case _:
                pass
        return message

    def _alone(self) -> Certificate:
        tip = self.storage.history.tip
        block = Block(tip.block, BRANCH, (), (), (), (self.peer,))
        bare = Certificate(tip.view + 1, block, ZERO_DIGEST, tip.state, ())
        signed = self.restate(vote_of(bare))
        return replace(bare, ballots=(Ballot(self.peer, signed.signature),))
