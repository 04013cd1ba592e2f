"""What comes in: each kind of message is checked whole, and only then changes anything.

A message about another block than ours is no fault. If it is about an older one, its sender lacks
our certificate and gets it; if it is about one that we do not know, we ask the sender. The numbers
in errors are those of averaging.py's table.
"""

from __future__ import annotations

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.branches import may_follow
from p2ptrain.swarm.certificates import check_ballots, check_wish, verify_certificate
from p2ptrain.swarm.chain import Context, advance, sits, voters
from p2ptrain.swarm.deciding import Deciding
from p2ptrain.swarm.effects import Behind, Effect, Proof, Send
from p2ptrain.swarm.proposals import check_proposal
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import check_signed
from p2ptrain.wire.messages import (
    BRANCH,
    ROUND,
    Announcement,
    Certificate,
    Certified,
    Commit,
    Contradiction,
    GetContribution,
    GetVotes,
    GiveUp,
    Have,
    Join,
    Leave,
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


class Receiving(Deciding):
    """How the averaging machine takes messages."""

    def _take(self, now: float, sender: PeerId, message: Message) -> list[Effect]:
        match message:
            case Statement(signed):
                return self._take_statement(now, sender, signed)
            case Piece() | GetContribution():
                return self._take_piece(now, sender, message)
            case Propose():
                return self._take_proposal(now, sender, message)
            case GiveUp():
                return self._take_timeout(now, sender, message)
            case Certified(certificate):
                return self._take_certificate(now, sender, certificate)
            case Contradiction():
                return self._proofs.take(self.context, sender, message)
            case GetVotes(parent):
                return self._answer_votes(now, sender, parent)
            case _:
                return []

    def _elsewhere(self, now: float, sender: PeerId, parent: Digest) -> list[Effect]:
        """A message about another block than ours: one of us lacks a certificate."""
        if parent in self.context.recent:
            return self._help(now, sender)
        return self._seek(now, sender)

    def _check_signed(self, signed: Signed, sender: PeerId) -> None:
        check_signed(self.config.verifier, self.config.swarm, signed, sender)

    def _take_statement(self, now: float, sender: PeerId, signed: Signed) -> list[Effect]:
        match signed.statement:
            case Commit() as commit:
                return self._take_commit(now, sender, signed, commit)
            case Have() as have:
                return self._take_have(now, sender, signed, have)
            case Vote() as vote:
                return self._take_vote(now, sender, signed, vote)
            case Join() | Leave() as wish:
                return self._take_wish(now, sender, signed, wish.tip)
            case Proposal() | Timeout() | Announcement():
                rule = "a Proposal or Timeout travels in a Propose or GiveUp"
                raise RemoteProtocolError(sender, "averaging 1.1", rule)

    # --- contributions ------------------------------------------------------------------------
    def _take_commit(
        self, now: float, sender: PeerId, signed: Signed, commit: Commit
    ) -> list[Effect]:
        if commit.parent != self.context.block:
            if commit.parent not in self.context.recent and self._may_be_early(sender, signed):
                self._check_signed(signed, sender)
                self._keep_early(signed)
            return self._elsewhere(now, sender, commit.parent)
        if not sits(self.context, signed.signer):
            return []
        effects = self._exchange.commit(sender, signed, self._wanted())
        self._pace.committed(signed.signer, now)
        self._evidence(now)
        return self._proofs.found(effects, self.context, sender)

    def _wanted(self) -> frozenset[Digest]:
        """Digests of the commits that proposals name."""
        entries = (e for block in self._blocks.values() for e in block.entries)
        return frozenset(e.commit for e in entries)

    def _take_piece(
        self, now: float, sender: PeerId, message: Piece | GetContribution
    ) -> list[Effect]:
        if self.context.member(sender) is None:
            return []
        if message.parent != self.context.block:
            return self._elsewhere(now, sender, message.parent)
        if isinstance(message, GetContribution):
            return self._exchange.answer(sender, message)
        if not self._is_voter or not sits(self.context, message.contributor):
            return []
        return self._exchange.piece(sender, message)

    def _take_have(self, now: float, sender: PeerId, signed: Signed, have: Have) -> list[Effect]:
        if have.parent != self.context.block:
            return self._elsewhere(now, sender, have.parent)
        if signed.signer not in self._voters or signed.signer == self.config.me:
            return []
        self._check_signed(signed, sender)
        self._exchange.have(signed.signer, have)
        self._evidence(now)
        return []

    # --- certificates -------------------------------------------------------------------------
    def _take_certificate(
        self, now: float, sender: PeerId, certificate: Certificate
    ) -> list[Effect]:
        """Adopt a child of our block at once, whatever we are doing."""
        match self._place(certificate):
            case "older":
                return self._help(now, sender)
            case "unknown":
                return self._behind(now, sender, certificate)
            case "same":
                if certificate.view <= self.context.view:
                    return []
                self._check_again(certificate, sender)
                return self._recertified(certificate)
            case _:
                context = self._verified(certificate, sender)
                if not self._follows(now, certificate, sender):
                    return self._left_behind(certificate)
                proofs = self._proofs_in(certificate, sender)
                return [*proofs, *self._adopt(now, context, certificate)]

    def _proofs_in(self, certificate: Certificate, sender: PeerId) -> list[Effect]:
        """Voters that told us something else than the certificate's ballots say."""
        found = self._votes.contradicted_by(certificate)
        proofs: list[Effect] = [Proof(one, other) for one, other in found]
        return self._proofs.found(proofs, self.context, sender)

    def _behind(self, now: float, sender: PeerId, certificate: Certificate) -> list[Effect]:
        return [Behind(sender, certificate)] if self._due(self._sought, sender, now) else []

    def _check_again(self, certificate: Certificate, sender: PeerId) -> None:
        """Our own block in a later view: only the ballots are new."""
        context = self.context
        if certificate.state != context.state:
            raise RemoteProtocolError(sender, "averaging 7.4", "another state for one block")
        electorate = (context.electors, context.needed)
        check_ballots(self.config.rules, electorate, certificate, sender)

    def _verified(self, certificate: Certificate, sender: PeerId) -> Context:
        """The context after a valid certificate for a child of our block."""
        verify_certificate(self.config.rules, self.context, certificate, sender)
        return advance(self.context, certificate, self.config.settings)

    def _follows(self, now: float, certificate: Certificate, sender: PeerId) -> bool:
        """Whether to stand on a verified child of our block; a branch without us must be alive."""
        me, block = self.config.me, certificate.block
        ours = block.kind != BRANCH or me in block.living or self.context.member(me) is None
        signed = {ballot.voter for ballot in certificate.ballots}
        inside = self._sits or not self.context.is_large  # else no committee is ever heard
        if not ours and inside and sender not in signed and not self._is_alive(now, certificate):
            return False
        lost = inside and self._quorum_lost(now)
        return ours or may_follow(self.context, [certificate], me, lost)

    def _left_behind(self, certificate: Certificate) -> list[Effect]:
        """A branch went off without us; those in it do not vote with us any more."""
        self._note_foreign(certificate)
        self._presence.elsewhere |= frozenset(b.voter for b in certificate.ballots)
        return []

    # --- proposals ----------------------------------------------------------------------------
    def _take_proposal(self, now: float, sender: PeerId, message: Propose) -> list[Effect]:
        """A proposal may bring its parent's certificate, which is adopted first."""
        proposal = message.signed.statement
        if not isinstance(proposal, Proposal):
            raise RemoteProtocolError(sender, "averaging 5.1", "a Propose without a Proposal")
        context, effects = self._context_named(now, sender, message.certificate)
        if context is None:
            return effects
        if proposal.block.parent != context.block:
            return self._elsewhere(now, sender, proposal.block.parent)
        if proposal.view <= context.view or self._is_known(message):
            return []
        check_proposal(self.config.rules, context, message.signed, sender)
        self._sitting.hear(proposal.view)
        late = proposal.view < max(self._views.view, context.view + 1)
        if context.block == self.context.block and not late:
            self._check_single(message.signed, proposal)
        if context.block != self.context.block and message.certificate is not None:
            effects += self._adopt(now, context, message.certificate)
        elif context.view > self.context.view and message.certificate is not None:
            effects += self._recertified(message.certificate)
        if proposal.view < self._views.view:
            return effects
        if proposal.view > self._views.view:
            effects += self._enter(now, proposal.view)
        self._note_proposal(now, message, proposal)
        if self._is_voter and proposal.block.kind == ROUND:
            effects += self._fetch_unknown(message.signed.signer, proposal)
        return effects

    def _context_named(
        self, now: float, sender: PeerId, certificate: Certificate | None
    ) -> tuple[Context | None, list[Effect]]:
        """The context after a certificate that a message brings along; changes nothing.

        None: the message cannot be judged here, and the effects say what is done about that.
        """
        if certificate is None:
            here = self.context.height == 0
            return (self.context, []) if here else (None, self._help(now, sender))
        match self._place(certificate):
            case "older":
                return None, self._help(now, sender)
            case "unknown":
                return None, self._behind(now, sender, certificate)
            case "same":
                if certificate.view < self.context.view:  # it lacks our later certificate for it
                    return None, self._help(now, sender)
                if certificate.view == self.context.view:
                    return self.context, []
                self._check_again(certificate, sender)
                return self.context.at_view(certificate.view), []
            case _:
                context = self._verified(certificate, sender)
                if self._follows(now, certificate, sender):
                    return context, []
                return None, self._left_behind(certificate)

    def _is_known(self, message: Propose) -> bool:
        known = (self._proposal, self._branch)
        return any(p is not None and p.message.signed == message.signed for p in known)

    def _check_single(self, signed: Signed, proposal: Proposal) -> None:
        """One proposal in a view (5.7); a BRANCH is apart, for it has another proposer."""
        branch = proposal.block.kind == BRANCH
        known = self._branch if branch else self._proposal
        if known is None or known.proposal.view != proposal.view:
            return
        same_signer = known.message.signed.signer == signed.signer
        if same_signer and known.name != block_digest(proposal.block):
            raise RemoteProtocolError(signed.signer, "averaging 5.7", "a second proposal")

    def _fetch_unknown(self, first: PeerId, proposal: Proposal) -> list[Effect]:
        """Ask at once for what was not on its way to us; the rest may still arrive by itself."""
        held = self._exchange.held
        unknown = [e for e in proposal.block.entries if held.named(e.commit) is None]
        expected = self._exchange.own is not None and not unknown
        return [] if expected else self._exchange.fetch(proposal.block, first)

    # --- votes and Timeouts -------------------------------------------------------------------
    def _take_vote(self, now: float, sender: PeerId, signed: Signed, vote: Vote) -> list[Effect]:
        if signed.signer == self.config.me:
            self._check_signed(signed, sender)
            return self._heard_own(vote.view)
        if vote.parent != self.context.block:
            return self._elsewhere(now, sender, vote.parent)
        if signed.signer not in self._voters or vote.view <= self.context.view:
            return []
        if self._votes.has(signed):
            return []
        self._check_signed(signed, sender)
        self._sitting.hear(vote.view)
        contradicted = self._votes.add(signed, vote)
        if contradicted is not None:
            return self._proofs.found([Proof(contradicted, signed)], self.context, sender)
        if vote.block not in self._blocks:  # its proposal did not reach us
            return self._seek(now, sender)
        return []

    def _take_timeout(self, now: float, sender: PeerId, message: GiveUp) -> list[Effect]:
        timeout = message.signed.statement
        if not isinstance(timeout, Timeout):
            raise RemoteProtocolError(sender, "averaging 8.1", "a GiveUp without a Timeout")
        self._check_signed(message.signed, sender)
        self._check_names(sender, timeout, message.certificate)
        effects: list[Effect] = []
        if message.signed.signer == self.config.me:
            effects += self._heard_own(timeout.view)
        if message.certificate is not None:
            effects += self._take_certificate(now, sender, message.certificate)
        context = self.context
        if not self._is_usable(timeout) or message.signed.signer not in voters(context):
            return effects
        self._sitting.hear(timeout.view)
        self._views.note(message.signed, timeout)
        if timeout.high_block != context.block:
            effects += self._help(now, sender)
        if timeout.view < self._views.view - 1 and self._due(self._helped, sender, now):
            effects += self._show_view(sender)
        self._evidence(now)
        return effects

    def _check_names(
        self, sender: PeerId, timeout: Timeout, certificate: Certificate | None
    ) -> None:
        """Whether a GiveUp brings the certificate that its Timeout names (8.1)."""
        if certificate is None:
            fits = timeout.high_view == 0
        else:
            fits = certificate.view == timeout.high_view
            fits = fits and block_digest(certificate.block) == timeout.high_block
        if not fits:
            raise RemoteProtocolError(sender, "averaging 8.1", "not the certificate it names")

    def _show_view(self, peer: PeerId) -> list[Effect]:
        """Send a peer in an older view what moved us on: the Timeouts for the view before ours."""
        given_up = self._views.timeouts(self._views.view - 1, self._voters)
        known = [self._proposal.message] if self._proposal is not None else []
        return [
            *(Send(peer, message) for message in known),
            *(
                Send(peer, GiveUp(signed, self.certificate))
                for signed in given_up
                if self._is_current(signed)
            ),
        ]

    def _answer_votes(self, now: float, sender: PeerId, parent: Digest) -> list[Effect]:
        """Our vote, and what it was for; or the certificate that the asker lacks."""
        if parent != self.context.block:
            return self._help(now, sender)
        if self.context.member(sender) is None:
            return []
        known = [p for p in (self._proposal, self._branch) if p is not None]
        effects: list[Effect] = [Send(sender, pending.message) for pending in known]
        vote = self._votes.newest_of(self.config.me)
        return [*effects, Send(sender, Statement(vote))] if vote is not None else effects

    # --- wishes -------------------------------------------------------------------------------
    def _take_wish(self, now: float, sender: PeerId, signed: Signed, tip: Digest) -> list[Effect]:
        if self._admissions.is_answer(self.context, signed):
            self._check_signed(signed, sender)
            self._admissions.take_answer(signed)
            return []
        if not self._admissions.is_open(self.context, signed):
            return self._help(now, sender) if tip != self.context.block else []
        check_wish(self.config.rules, self.context, signed, sender)
        return self._admissions.take(self.context, sender, signed)
