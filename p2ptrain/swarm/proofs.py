"""Proofs against liars: two statements of one signer that exclude one another, told to everyone.

Two Votes of one view that differ, or two Commits to one parent that differ, are what no honest peer
signs: what it signs is on its disk before it is sent (protocol/averaging.md section 13). So a proof
needs no trust in who brings it. Whoever finds one, or gets one that is new, passes it once to all
members, and from then on does not propose the liar's work, nor that it joins. Nothing else changes:
blocks and certificates are judged as if there were no proof, for peers may not all know of it, and
the roster drops the liar for its absence, by the same rule for all.

A proof that does not hold is a fault of its bringer. Only members are convicted: keys are free, and
whoever makes a thousand liars of its own would have us keep and pass on a thousand proofs.

Two Proposals of one view are a fault (5.7) and no proof: an honest proposer that crashes between
its proposal and its vote may propose another set in the same view.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.certificates import Rules
from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.effects import Effect, Proof, Send
from p2ptrain.swarm.inputs import AveragingConfig
from p2ptrain.wire.envelope import check_signed
from p2ptrain.wire.limits import PROOFS_MAX
from p2ptrain.wire.messages import Commit, Contradiction, Signed, Vote
from p2ptrain.wire.peer_id import PeerId


def exclude_one_another(first: Signed, second: Signed) -> bool:
    """Whether no honest peer signs both."""
    match first.statement, second.statement:
        case Vote() as one, Vote() as other:
            return one.view == other.view and one != other
        case Commit() as one, Commit() as other:
            return one.parent == other.parent and one != other
        case _:
            return False


def check_proof(rules: Rules, proof: Contradiction, sender: PeerId) -> None:
    """Raise RemoteProtocolError against the sender if a proof does not hold.

    13.1  the statements do not exclude one another
    A signature that does not hold raises "envelope 3.1".
    """
    if not exclude_one_another(proof.first, proof.second):
        raise RemoteProtocolError(sender, "averaging 13.1", "both statements may be honest")
    for signed in (proof.first, proof.second):
        check_signed(rules.verifier, rules.swarm, signed, sender)


class Proofs:
    """Who is proven a liar, and by what."""

    def __init__(self, config: AveragingConfig) -> None:
        self._config = config
        self._known: dict[PeerId, Contradiction] = {}
        self.convicted: set[PeerId] = set()

    def recall(self, proofs: Iterable[Contradiction]) -> None:
        """Proofs that an earlier life of this peer had checked."""
        for proof in proofs:
            self._convict(proof)

    def found(self, effects: list[Effect], context: Context, sender: PeerId) -> list[Effect]:
        """Effects with what is to be sent where a Proof is among them that is new."""
        proofs = [Contradiction(e.first, e.second) for e in effects if isinstance(e, Proof)]
        return effects + [e for proof in proofs for e in self._spread(proof, context, sender)]

    def take(self, context: Context, sender: PeerId, proof: Contradiction) -> list[Effect]:
        """Take what somebody says is a proof. Raises as check_proof."""
        liar = proof.first.signer
        if liar in self.convicted or context.member(liar) is None:
            return []
        check_proof(self._config.rules, proof, sender)
        effect = Proof(proof.first, proof.second)
        return [effect, *self._spread(proof, context, sender)]

    def against_members(self, context: Context, told: Iterable[PeerId]) -> list[Effect]:
        """What peers that have just come must know of the present members."""
        proofs = [p for liar, p in self._known.items() if context.member(liar) is not None]
        return [Send(peer, proof) for peer in told for proof in proofs]

    def _spread(self, proof: Contradiction, context: Context, sender: PeerId) -> list[Effect]:
        liar, me = proof.first.signer, self._config.me
        if liar in self.convicted or liar == me:  # the shell stops: our key is in use elsewhere
            return []
        self._convict(proof)
        others = (m.peer for m in context.roster if m.peer not in (me, sender, liar))
        return [Send(peer, proof) for peer in others]

    def _convict(self, proof: Contradiction) -> None:
        liar = proof.first.signer
        self._known[liar] = proof
        self.convicted.add(liar)
        while len(self._known) > PROOFS_MAX:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self.convicted.discard(oldest)
