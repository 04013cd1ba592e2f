"""What to do next, as rules that are tried until none applies.

After every input the rules are tried in order, and from the start again whenever one did
something. So nothing depends on which message completed a condition, and one peer alone goes from
its contribution to its certificate within one input. Each rule returns None if it does not apply.

  sit          take part again, once nothing that we may have forgotten can matter
  certify      enough equal votes: make the certificate, send it to all, stand on it
  mute         a voter that restarted in a view in which it may not vote gives it up at once
  lost         no quorum is heard, or what must be repeated is held by nobody any more: the
               living gather in one view, and agree on a BRANCH
  next_view    a quorum has given this view up
  pull         an honest voter has given up this view or a later one: so do we
  tell         tell the view's proposer what is held
  propose      it is our turn, and there is a set to propose
  propose_branch   we are the first of the living, and they have given the view up
  reduce       everything in the proposed set is held: have it reduced
  vote         the proposed block's result is known: write the vote down, then send it
"""

from __future__ import annotations

from p2ptrain.errors import LocalProtocolError
from p2ptrain.swarm.chain import advance, committee, electorate, proposer, quorum
from p2ptrain.swarm.contributions import entry_of
from p2ptrain.swarm.effects import Effect, Reduce, VoteRecord
from p2ptrain.swarm.proposals import repeatable
from p2ptrain.swarm.relaying import Relaying
from p2ptrain.swarm.roster import next_roster
from p2ptrain.swarm.standing import Pending
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import ZERO_DIGEST, Digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.limits import BLOCKS_PER_PARENT_MAX, RULE_STEPS_MAX
from p2ptrain.wire.messages import (
    BRANCH,
    CLOSE,
    ROUND,
    Ballot,
    Block,
    Certificate,
    Proposal,
    Propose,
    Signed,
    Statement,
    Timeout,
    Vote,
)

TRAINING_FACTOR = 4  # limits that a view may take before a quorum has committed


class Deciding(Relaying):
    """The rules of the averaging machine."""

    def _settle(self, now: float) -> list[Effect]:
        """Apply the rules until none applies."""
        if not self._started:
            raise LocalProtocolError("start the machine before anything else")
        effects: list[Effect] = []
        for _ in range(RULE_STEPS_MAX):
            more = self._step(now)
            if more is None:
                return effects
            effects += more
        raise LocalProtocolError("the rules do not settle")

    def _step(self, now: float) -> list[Effect] | None:
        for rule in (
            self._sit,
            self._certify,
            self._mute,
            self._act_on_loss,
            self._next_view,
            self._pull,
            self._tell,
            self._propose,
            self._propose_branch,
            self._reduce,
            self._vote,
        ):
            effects = rule(now)
            if effects is not None:
                return effects
        return None

    # --- certificates -------------------------------------------------------------------------
    def _certify(self, now: float) -> list[Effect] | None:
        for vote, ballots in self._votes.tallies().items():
            block = self._blocks.get(vote.block)
            if block is None:
                continue
            entitled, needed = electorate(self.context, block)
            good = tuple(ballot for ballot in ballots if ballot.voter in entitled)
            if len(good) >= needed and self._can_be(block, vote):
                return self._certified(now, block, vote, good)
        return None

    def _can_be(self, block: Block, vote: Vote) -> bool:
        """Whether an honest voter may have voted so, and we may stand on the outcome."""
        if block.kind == ROUND:
            return True
        me = self.config.me
        still = vote.reduced == ZERO_DIGEST and vote.state == self.context.state
        return still and (block.kind != BRANCH or me in block.living)

    def _certified(
        self, now: float, block: Block, vote: Vote, ballots: tuple[Ballot, ...]
    ) -> list[Effect]:
        certificate = Certificate(vote.view, block, vote.reduced, vote.state, ballots)
        context = advance(self.context, certificate, self.config.settings)
        return [
            *self._spread(context, certificate),
            *self._adopt(now, context, certificate),
        ]

    # --- patience -----------------------------------------------------------------------------
    def _evidence(self, now: float) -> None:
        """Someone is at work on this block: from now on its view runs out, slowly at first.

        Slow training is no fault. So the view's own limit begins once a quorum of voters has
        committed, and until then a multiple of it: for voters that live but never contribute.
        """
        held = self._exchange.held
        committed = sum(held.first_of(peer) is not None for peer in self._voters)
        begun = committed >= quorum(len(self._voters))
        limit = self._patience() if begun else TRAINING_FACTOR * self._views.limit
        self._views.arm(now + limit)

    def _patience(self) -> float:
        """The view's limit; a short one if the proposer is known to be gone."""
        turn = proposer(self.context, self._views.view)
        gone = self._connected is not None and turn not in self._connected
        if gone and turn != self.config.me:
            return max(self.config.timing.view_min_s, self._views.limit / 4)
        return self._views.limit

    # --- views --------------------------------------------------------------------------------
    def _mute(self, now: float) -> list[Effect] | None:
        """We restarted in a view in which we may not vote any more: do not wait for its deadline.

        A power cut ends all voters in one view; alone, nobody else would give it up for us.
        """
        views = self._views
        voted = self._votes.of(self.config.me, views.view)
        may_vote = voted or views.promised < views.view
        if not self._speaks or self.finished or may_vote or views.gave_up >= views.view:
            return None
        return self._give_up(views.view)

    def _act_on_loss(self, now: float) -> list[Effect] | None:
        """Without a quorum, or stuck, walk on to one view with the others that live."""
        lost = self._stuck or self._quorum_lost(now)
        if not self._speaks or self.finished or not lost:
            self._lost = False
            return None
        if self._foreign is not None and self._is_alive(now, self._foreign):
            certificate = self._foreign
            context = advance(self.context, certificate, self.config.settings)
            return self._adopt(now, context, certificate)
        living = self._presence.living(self._other_voters(), now)
        ahead = max((self._views.newest_of(peer) for peer in living), default=0)
        if self._lost and ahead < self._views.view:
            return None
        self._lost = True
        return self._walk_on(now, max(ahead, self._views.view))

    def _walk_on(self, now: float, view: int) -> list[Effect]:
        """Give a view up and enter the next one without a quorum: the way to a BRANCH."""
        effects = self._give_up(view) + self._enter(now, view + 1)
        self._views.deadline = now + min(self._views.limit, self.config.timing.branch_s / 2)
        return effects

    def _next_view(self, now: float) -> list[Effect] | None:
        if self._views.quiet:
            return None
        for view in sorted({self._views.view, self._views.gave_up}):
            given_up = self._views.timeouts(view, self._voters)
            if view >= self._views.view and len(given_up) >= quorum(len(self._voters)):
                return self._enter(now, view + 1)
        return None

    def _enter(self, now: float, view: int) -> list[Effect]:
        """Enter a higher view on the same block; contributions stay valid.

        That is a promise, too: not to vote in the views below, and proposals will carry it.
        """
        self._views.enter(view, now)
        self._note_lack()
        self._proposal = self._branch = None
        self._exchange.open = True
        self._grace_at = None
        self._next_retry = now + self._views.retry
        return self._promise(view - 1)

    def _pull(self, now: float) -> list[Effect] | None:
        if not self._speaks or self._views.quiet:
            return None
        given_up = self._views.given_up_by(self._other_voters())
        if given_up < self._views.view or given_up <= self._views.gave_up:
            return None
        return self._give_up(given_up)

    # --- proposals ----------------------------------------------------------------------------
    def _tell(self, now: float) -> list[Effect] | None:
        if self._proposal is not None or not self._is_voter:
            return None
        turn = proposer(self.context, self._views.view)
        return self._exchange.tell(turn, patient=True) or None

    def _propose(self, now: float) -> list[Effect] | None:
        views, me = self._views, self.config.me
        if self._proposal is not None or views.promised >= views.view or self.finished:
            return None
        if not self._speaks or proposer(self.context, views.view) != me:
            return None
        needs_none = views.view == self.context.view + 1  # right after our certificate
        timeouts = () if needs_none else self._timeouts_to_carry()
        if not needs_none and (not timeouts or self._waits_for_timeouts(now, timeouts)):
            return None
        statements = [s.statement for s in timeouts if isinstance(s.statement, Timeout)]
        repeated = repeatable(self.context, statements)
        repeated.sort(key=lambda b: bool(self._exchange.lacking(b)))  # what is held comes first
        block = repeated[0] if repeated else self._new_block(now)
        if block is None:
            return None
        return self._send_proposal(now, Proposal(views.view, block, timeouts))

    def _timeouts_to_carry(self) -> tuple[Signed, ...]:
        """A quorum of Timeouts for the view before, our own among them; empty: not enough."""
        view, me = self._views.view - 1, self.config.me
        needed = quorum(len(self._voters))
        others = self._views.timeouts(view, tuple(self._other_voters()))
        if len(others) + 1 < needed:
            return ()
        if not self._views.timeouts(view, (me,)):
            self._timeout(view)  # our own word: it says that we hold our certificate
        # What names a block that we lack comes last: a liar may have invented it, or withhold it.
        others.sort(key=lambda s: (self._is_dubious(s), s.signer))
        chosen = [*self._views.timeouts(view, (me,)), *others[: needed - 1]]
        return tuple(sorted(chosen, key=lambda s: s.signer))

    def _is_dubious(self, signed: Signed) -> bool:
        timeout = signed.statement
        block = timeout.last_block if isinstance(timeout, Timeout) else None
        here = block is not None and block.parent == self.context.block
        return here and bool(block and self._exchange.lacking(block))

    def _waits_for_timeouts(self, now: float, timeouts: tuple[Signed, ...]) -> bool:
        """Whether others' Timeouts may yet free us from repeating a set that we cannot reduce.

        A liar votes for what it withholds. Had that been certified, no quorum could leave it out.
        """
        known = self._views.timeouts(self._views.view - 1, self._voters)
        if len(known) == len(self._voters) or not any(map(self._is_dubious, timeouts)):
            return False
        if self._grace_at is None:
            self._grace_at = now + self._views.grace
        return now < self._grace_at

    def _new_block(self, now: float) -> Block | None:
        """A block of our own choice, once there is enough to list."""
        parent = self.context.block
        if self._closing:
            return Block(parent, CLOSE, (), (), (), ())
        chosen = self._exchange.listable()
        if not chosen or not (self._all_here(len(chosen)) or self._grace_is_over(now)):
            return None
        entries = tuple(entry_of(held) for held in chosen)
        joins, leaves = self._admissions.granted(self.context)
        living = self._admissions.answered(self.context)
        block = Block(parent, ROUND, entries, joins, leaves, living)
        if not next_roster(self.context, block, self.config.settings):
            block = Block(parent, ROUND, entries, joins, (), living)
        return block

    def _all_here(self, listed: int) -> bool:
        return listed == len(set(committee(self.context)) - self._proofs.convicted)

    def _grace_is_over(self, now: float) -> bool:
        """A grace after a quorum of Haves; a short one if nobody connected is missing."""
        if len(self._exchange.haves) < quorum(len(self._voters)):
            return False
        if self._grace_at is None:
            self._grace_at = now + self._views.grace
        connected = self._connected
        if connected is not None:
            listed = {held.signed.signer for held in self._exchange.listable()}
            missing = set(committee(self.context)) - listed
            if missing.isdisjoint(connected):
                self._grace_at = min(self._grace_at, now + self.config.timing.grace_min_s)
        return now >= self._grace_at

    def _send_proposal(self, now: float, proposal: Proposal) -> list[Effect]:
        signed = sign_statement(self.config.signer, self.config.swarm, proposal)
        message = Propose(signed, self.certificate)
        self._note_proposal(now, message, proposal)
        return self._send(self._others(self.context), message)

    def _note_proposal(self, now: float, message: Propose, proposal: Proposal) -> None:
        """Keep a legal proposal for the current view."""
        pending = Pending(message, proposal, block_digest(proposal.block))
        if proposal.block.kind == BRANCH:
            self._branch = pending
        else:
            self._proposal = pending
        if len(self._blocks) >= BLOCKS_PER_PARENT_MAX:
            self._blocks.pop(next(iter(self._blocks)))
        self._blocks[pending.name] = proposal.block
        self._exchange.open = True
        self._views.arm(now + self._views.limit)
        self._next_retry = min(self._next_retry, now + self._views.retry)

    def _propose_branch(self, now: float) -> list[Effect] | None:
        views, context = self._views, self.context
        if not self._lost or self._branch is not None or views.promised >= views.view:
            return None
        alive = self._presence.living(committee(context), now)
        entitled = tuple(p for p in self._voters if p in alive)
        timeouts = tuple(views.timeouts(views.view - 1, entitled))
        if entitled[:1] != (self.config.me,) or len(timeouts) < len(entitled):
            return None
        block = Block(context.block, BRANCH, (), (), (), alive)
        return self._send_proposal(now, Proposal(views.view, block, timeouts))

    # --- voting -------------------------------------------------------------------------------
    def _reduce(self, now: float) -> list[Effect] | None:
        del now
        pending = self._proposal
        if pending is None or pending.proposal.block.kind != ROUND or not self._is_voter:
            return None
        name, block = pending.name, pending.proposal.block
        if name in self._results or name in self._reducing or not self._is_supported(block):
            return None
        self._reducing.add(name)
        terms = self._exchange.held.terms(block, self.context.limits)
        return [Reduce(name, block.parent, terms, self._exchange.codec)]

    def _is_supported(self, block: Block) -> bool:
        """Whether all entries are held whole and say what their commits say (rule 5.5)."""
        if self._exchange.lacking(block):
            return False
        held = (self._exchange.held.named(entry.commit) for entry in block.entries)
        return all(
            h is not None and entry_of(h) == e for h, e in zip(held, block.entries, strict=True)
        )

    def _vote(self, now: float) -> list[Effect] | None:
        if not self._speaks or self._views.promised >= self._views.view:
            return None
        proposal = self._proposal
        if proposal is not None and not self._exchange.lacking(proposal.proposal.block):
            self._stuck = False
        # What we reduced in an earlier life we could vote for, but the others lack the set as well.
        first = None if self._stuck or self._overlooks(proposal) else proposal
        for pending in (first, self._branch if self._may_branch() else None):
            result = self._result(pending)
            if pending is not None and result is not None:
                return self._cast(
                    pending,
                    Vote(
                        view=self._views.view,
                        block=pending.name,
                        parent=self.context.block,
                        reduced=result[0],
                        state=result[1],
                    ),
                )
        return None

    def _may_branch(self) -> bool:
        branch = self._branch
        return (
            self._lost and branch is not None and (self.config.me in branch.proposal.block.living)
        )

    def _result(self, pending: Pending | None) -> tuple[Digest, Digest] | None:
        if pending is None:
            return None
        if pending.proposal.block.kind != ROUND:
            return ZERO_DIGEST, self.context.state
        return self._results.get(pending.name)

    def _cast(self, pending: Pending, vote: Vote) -> list[Effect]:
        """Write the vote down, then send it. A BRANCH vote does not replace the last vote.

        For a list that may have been certified unseen must stay known: a BRANCH never is one that
        others have to repeat.
        """
        self._views.promised = vote.view
        record, block = self._record, pending.proposal.block
        if block.kind == BRANCH:
            effects = self._persist(VoteRecord(vote.view, record.last_view, record.last_block))
        else:
            effects = self._persist(VoteRecord(vote.view, vote.view, block))
        signed = sign_statement(self.config.signer, self.config.swarm, vote)
        self._votes.add(signed, vote)
        return effects + self._send(self._others(self.context), Statement(signed))
