"""The averaging machine: one peer's part in all rounds of a run, without I/O, clock or vectors.

Theory of operation
===================

Peers take turns to propose which contributions a round averages. Each voter reduces exactly that
set and votes for the outcome; a quorum of equal votes is a certificate, and its block the parent of
the next round. Contributions belong to a parent and stay valid while it does; views number the
attempts to agree, through the whole run. The normative text is protocol/averaging.md.

    contribute -> Commit to the voters -> pieces to those who have committed -> Have to the
    proposer -> Propose -> Reduce -> Vote -> Certificate -> Apply, and the next round

The machine is five floors, each a module: standing.py is what a peer holds and has promised,
deciding.py the rules that say what to do next, receiving.py what comes in, showing.py what can be
read off it, and this one what can be done with it. A shell calls start once, then receive, expire
(at `deadline`) and the local inputs, and carries out the effects in their order. Any message may
be lost, repeated, late or early; what may be a race is ignored without a word, and only what no
honest peer would send raises RemoteProtocolError, with its rule:

    1.1  a statement that only a member may make
    2.1  base state   2.2  codec   2.3  shards   2.4  weight   2.5  reveal   2.6  second commit (*)
    2.8  absurd norm   3.1  a piece without its Commit (asked for)   3.2  proof   3.3  malformed
    3.4  norm   3.5  size
    5.1  not the proposer's turn   5.2  timeouts   5.3  parent or view   5.4  list to be repeated
    5.5  entries   5.6  joins and leaves   5.7  a second proposal in one view   5.8  kind
    6.1  second vote in one view (*)
    7.1  too few ballots   7.2  ballot signature   7.3  not a voter   7.4  view, root or state
    8.1  a Timeout's certificate is not the one it names
    13.1  two statements that are no proof

(*) told by a Proof effect rather than an error: two statements of one signer prove it to anyone.
Signatures (2.7, 6.2) raise "envelope 3.1"; a certificate that a GiveUp brings and that does not
hold (8.2) raises 7.1 to 7.4. When receive raises, nothing has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf

from p2ptrain.errors import LocalProtocolError, RemoteProtocolError
from p2ptrain.swarm.chain import Context, committee, proposer
from p2ptrain.swarm.effects import CommitRecord, Effect, Persist
from p2ptrain.swarm.inputs import Contribution
from p2ptrain.swarm.showing import Showing
from p2ptrain.swarm.standing import STUCK_AFTER
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.limits import BLOCKS_PER_PARENT_MAX
from p2ptrain.wire.messages import (
    ROUND,
    Certificate,
    Certified,
    Commit,
    Contradiction,
    GetVotes,
    GiveUp,
    Message,
    Norm2,
    Piece,
    Statement,
)
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_root, root_of_author


class Averaging(Showing):
    """Drive it: start, then receive, expire and the local inputs.

    Args:
      config       what does not change
      context      the chain after the newest block it ever adopted, its state here or not
      certificate  that block's certificate; None: the founding block
      reveals      this peer's hash chain
      record       what it last wrote about its votes, after a restart
      own          its contribution to that block, if it had made one
    """

    # --- the machine --------------------------------------------------------------------------
    def recall(self, results: Mapping[Digest, tuple[Digest, Digest]]) -> None:
        """Before start: blocks that an earlier life reduced, with reduced root and state.

        It may have voted for one of them. If that is proposed again, the contributions may be gone.
        """
        self._results.update(results)

    def recall_proofs(self, proofs: Iterable[Contradiction]) -> None:
        """Before start: proofs against others that an earlier life had checked."""
        self._proofs.recall(proofs)

    def doubt(self) -> None:
        """Before start: what we remember of our own signatures may be incomplete."""
        self._sitting.doubt()

    def start(self, now: float) -> list[Effect]:
        """Begin; after a restart this sends our contribution again."""
        self._started, self._now = True, now
        self._views.entered_at = now
        self._pace.stand(self.context, None, now)
        self._presence.woke(now)
        self._presence.follow(committee(self.context), now)
        self._next_retry = now + self._views.retry
        self._introduce_at = now + self.config.timing.branch_s
        if self._closing or self._views.view > self.context.view + 1:
            self._views.arm(now + self._views.limit)
        effects: list[Effect] = []
        own = self._own_record
        known = self.context.height > 0 or self._record.promised > 0 or own is not None
        if known or len(self._voters) > 1:  # else it is a founder that begins
            effects += self._look_back(now)
        if own is not None and isinstance(own.signed.statement, Commit):
            self._committed.append(own.signed.statement.parent)
        return [*effects, *self._offer_again(now), *self._settle(now)]

    def receive(self, now: float, sender: PeerId, message: Message) -> list[Effect]:
        """Take one message; those that are not this machine's business are ignored."""
        effects = self._woken(now)
        self._now, self._sender = now, sender
        try:
            effects += self._take(now, sender, message)
        finally:
            self._sender = None
        self._presence.heard(sender, now)
        return effects + self._settle(now)

    def expire(self, now: float) -> list[Effect]:
        """The deadline has come."""
        woken = self._woken(now)
        self._now = self._expired_at = now
        if woken:
            return woken
        effects: list[Effect] = []
        if now >= self._views.deadline:
            effects += self._view_failed(now)
        if now >= self._next_retry:
            effects += self._retry(now)
        effects += self._follow_at_last(now)
        if now >= self._introduce_at:
            effects += self._introduce(now, self._connected or ())
        return effects + self._settle(now)

    @property
    def deadline(self) -> float:
        """When expire must be called next, seconds on the caller's clock; inf: never."""
        times = [self._views.deadline, self._next_retry, self._introduce_at, self._sitting.ends_at]
        times.append(self._at_last)
        if self._grace_at is not None and self._proposal is None:
            times.append(self._grace_at)
        soonest = min((t for t in times if t > self._expired_at), default=inf)
        may_be = self._is_voter and not self.finished
        if may_be and soonest > self._presence.not_lost_before(self._voters):
            times.append(self._presence.lost_at(self._voters))
        return min((t for t in times if t > self._expired_at), default=inf)

    def _woken(self, now: float) -> list[Effect]:
        """If we stood still, ask what happened before saying anything."""
        if now - self.deadline <= self.config.timing.late_s:
            return []
        self._presence.woke(now)
        self._lost = False
        if self._views.deadline < inf:
            self._views.deadline = now + self._views.limit
        self._next_retry = now + self._views.retry
        return self._send(self._others(self.context), GetVotes(self.context.block))

    # --- deadlines ----------------------------------------------------------------------------
    def _view_failed(self, now: float) -> list[Effect]:
        self._views.fail(now)
        if not self._speaks or self.finished:
            return []
        pending = self._proposal
        if pending is not None and self._views.failed >= STUCK_AFTER:
            # A voter crashed after its vote, a contributor went off: the set may be lost for good.
            self._stuck = self._stuck or bool(self._exchange.lacking(pending.proposal.block))
        if self._lost:
            return self._walk_on(now, self._views.view)
        return self._give_up(self._views.target(self._other_voters()))

    def _retry(self, now: float) -> list[Effect]:
        """Send again what may have been lost, and ask for what is missing."""
        self._next_retry = now + self._views.retry
        effects = self._admissions.ask(self.context, self._connected or ())
        if self.finished:
            return effects
        exchange, pending = self._exchange, self._proposal
        effects += exchange.fetch_partial()
        if self._views.deadline == inf and not self._sitting.asking:
            return effects  # nobody has begun on this block
        effects += exchange.announce()
        if pending is not None and pending.proposal.block.kind == ROUND and self._is_voter:
            effects += exchange.fetch(pending.proposal.block, pending.message.signed.signer)
        if self._is_voter:
            effects += self._repeat_ourselves()
        return effects + self._send(self._informed(), GetVotes(self.context.block))

    def _repeat_ourselves(self) -> list[Effect]:
        """Our Have, proposal, vote and Timeout again, to the voters that may lack them."""
        views, me, effects = self._views, self.config.me, list[Effect]()
        if self._proposal is None:
            self._exchange.forget_told()
            effects += self._exchange.tell(proposer(self.context, views.view), patient=False)
        silent = [p for p in self._other_voters() if self._votes.of(p, views.view) is None]
        for pending in (self._proposal, self._branch):
            if pending is not None and pending.message.signed.signer == me:
                effects += self._send(silent, pending.message)
        vote = self._votes.of(me, views.view)
        if vote is not None:
            effects += self._send(self._other_voters(), Statement(vote))
        newest = max(views.gave_up, views.view - 1)
        for signed in views.timeouts(newest, (me,)):
            if self._is_current(signed):
                effects += self._send(self._other_voters(), GiveUp(signed, self.certificate))
        return effects

    def _introduce(self, now: float, peers: Iterable[PeerId]) -> list[Effect]:
        """Show strangers where our chain stands: they may be on another branch of it."""
        self._introduce_at = now + self.config.timing.branch_s
        if self.certificate is None or self.context.member(self.config.me) is None:
            return []
        strangers = [p for p in peers if self.context.member(p) is None]
        return self._send(strangers, Certified(self.certificate))

    # --- local inputs -------------------------------------------------------------------------
    def contribute(self, now: float, contribution: Contribution) -> list[Effect]:
        """Our local work on context.block is done; ignored if there is no place for it.

        That is: it was for another block; one stands already, or was made before a switch of
        branches; we are no member; the rounds are done. Work that breaks 2.8 gives Diverged. Raises
        LocalProtocolError if the hash chain is used up, or is not the one that our Join named.
        """
        self._now = now
        member = self.context.member(self.config.me)
        elsewhere = contribution.parent not in (None, self.context.block)
        if member is None or not self._sits or elsewhere or not self.may_contribute:
            return []
        if refused := self._refuse_own(contribution):
            return refused
        reveal = self._reveals.preimage(member.anchor)
        if reveal is None:
            raise LocalProtocolError("the hash chain does not continue from our anchor")
        commit = Commit(
            parent=self.context.block,
            base_state=self.context.state,
            data=contribution.data,
            codec=self._exchange.codec,
            weight=contribution.weight,
            root=root_of_author(self.config.me, merkle_root(contribution.shards)),
            norms2=contribution.norms2,
            reveal=reveal,
            local_steps=self._declare(now, contribution),
        )
        record = CommitRecord(
            sign_statement(self.config.signer, self.config.swarm, commit), contribution.shards
        )
        self._committed.append(commit.parent)
        return [Persist(record), *self._offer(now, record), *self._settle(now)]

    def _declare(self, now: float, contribution: Contribution) -> int:
        """The steps of the next round, by what this one took."""
        if contribution.steps:
            self._pace.trained(contribution.steps, contribution.seconds, now)
        self._pace.committed(self.config.me, now)
        return self._pace.declared(self.context, contribution.local_steps)

    def begin(self, now: float, steps: int) -> list[Effect]:
        """Local work on context.block has begun: a round without it was missed for slowness."""
        self._now = now
        self._pace.began(steps)
        return []

    def _offer(self, now: float, record: CommitRecord) -> list[Effect]:
        self._next_retry = now + self._views.retry
        effects = self._exchange.offer(record)
        self._evidence(now)
        return effects

    def _offer_again(self, now: float) -> list[Effect]:
        """After a restart: what we had committed to the block on which we stand now."""
        own = self._own_record
        if own is None or not own.shards or not self._sits:
            return []
        commit = own.signed.statement
        is_to_this = isinstance(commit, Commit) and commit.parent == self.context.block
        return self._offer(now, own) if is_to_this else []

    def _rebase(
        self, now: float, context: Context, certificate: Certificate | None
    ) -> list[Effect]:
        # Whoever lost its chain with the process comes back to the block that it had worked on:
        # it may commit to it no second time.
        return [*super()._rebase(now, context, certificate), *self._offer_again(now)]

    def piece_checked(
        self, now: float, sender: PeerId, piece: Piece, norm2: Norm2 | None
    ) -> list[Effect]:
        """The answer to CheckPiece.

        Raises RemoteProtocolError against the contributor, who signed the root over these bytes:
        malformed or not finite (3.3), or another norm than declared (3.4). Its contribution is void
        then: that alone is remembered.
        """
        self._now = now
        held = next(
            (
                h
                for h in self._exchange.held.all_of(piece.contributor)
                if piece.shard in h.checking and h.proofs[piece.shard] == piece.proof
            ),
            None,
        )
        if held is None or piece.parent != self.context.block:  # the block has changed meanwhile
            return []
        held.checking.discard(piece.shard)
        if norm2 != held.commit.norms2[piece.shard]:
            held.bad = True
            rule = "averaging 3.3" if norm2 is None else "averaging 3.4"
            raise RemoteProtocolError(piece.contributor, rule, f"shard {piece.shard} of {sender}")
        held.shards[piece.shard] = piece.data
        return self._settle(now)

    def reduced(self, now: float, block: Digest, root: Digest, state: Digest) -> list[Effect]:
        """The answer to Reduce: Merkle root of the reduced shards, digest of the state after."""
        self._now = now
        if block not in self._reducing:  # the block has changed meanwhile
            return []
        self._reducing.discard(block)
        self._results[block] = (root, state)
        if len(self._results) > BLOCKS_PER_PARENT_MAX:
            del self._results[next(iter(self._results))]
        return self._settle(now)

    def adopt(
        self, now: float, context: Context, certificates: Sequence[Certificate]
    ) -> list[Effect]:
        """Catch-up has applied another block; certificates: those after the common ancestor.

        Oldest first; the last is the context's own, and there is one unless the context is the
        founding block's.
        """
        self._now = now
        if context.block == self.context.block:
            return []
        if not certificates and context.height > 0:
            raise LocalProtocolError("adopt needs the certificate of the block")
        newest = certificates[-1] if certificates else None
        effects = self._rebase(now, context, newest)
        effects += self._heard_in(certificates) + self._look_back(now)
        return effects + self._settle(now)

    def join(self, now: float, local_steps: int = 1) -> list[Effect]:
        """Ask to enter the roster until we are in it, and again whenever we fall out of it."""
        self._admissions.wish.join, self._admissions.wish.leave = True, False
        self._admissions.wish.local_steps = local_steps
        return self._ask(now)

    def leave(self, now: float) -> list[Effect]:
        """Ask to be let go until we are out."""
        self._admissions.wish.join, self._admissions.wish.leave = False, True
        return self._ask(now)

    def _ask(self, now: float) -> list[Effect]:
        self._now = now
        self._next_retry = min(self._next_retry, now + self._views.retry)
        return [*self._admissions.ask(self.context, self._connected or ()), *self._settle(now)]

    def peers(self, now: float, connected: Collection[PeerId]) -> list[Effect]:
        """Who is connected now: whom a Join goes to, and whom nobody need wait for."""
        self._now = now
        new = sorted(set(connected) - (self._connected or set()))
        self._connected = frozenset(connected)
        if not self._started:
            return []
        if self._views.deadline < inf:
            self._evidence(now)
        effects = self._introduce(now, new) + self._proofs.against_members(self.context, new)
        effects += self._admissions.ask(self.context, new) if new else []
        return effects + self._settle(now)

    def heard(self, now: float, peer: PeerId) -> list[Effect]:
        """A sign of life that is no message, such as a ping: told every 2 s at least."""
        self._now = now
        self._presence.heard(peer, now)
        return self._settle(now) if self._started else []
