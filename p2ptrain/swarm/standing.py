"""Where one peer stands: its newest block, what it holds on top of it, and what it has promised.

This is the ground of the averaging machine (averaging.py): the state, and the few operations that
change which block it stands on or what it has promised. What to do next is decided one floor up,
in deciding.py.

Everything that belongs to one parent (contributions, votes, proposals, results) is thrown away
when another block becomes the newest one; views, promises and presence go on through the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.admissions import Admissions
from p2ptrain.swarm.certificates import is_finished
from p2ptrain.swarm.chain import Context, committee, finals, norm2_max, sits, voters
from p2ptrain.swarm.effects import (
    Apply,
    Certain,
    CommitRecord,
    Diverged,
    Effect,
    KeyElsewhere,
    Persist,
    Send,
    VoteRecord,
)
from p2ptrain.swarm.exchange import Exchange
from p2ptrain.swarm.inputs import AveragingConfig, Contribution
from p2ptrain.swarm.pace import Pace
from p2ptrain.swarm.presence import Presence
from p2ptrain.swarm.proofs import Proofs
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.sitting import SittingOut
from p2ptrain.swarm.views import Views
from p2ptrain.swarm.votes import Votes
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.limits import EARLY_COMMITS_MAX, PARENTS_REMEMBERED, PEERS_REMEMBERED
from p2ptrain.wire.messages import (
    Block,
    Certificate,
    Certified,
    Commit,
    GetVotes,
    GiveUp,
    Message,
    Proposal,
    Propose,
    Signed,
    Timeout,
)
from p2ptrain.wire.peer_id import PeerId

STUCK_AFTER = 4  # views in vain over a set that cannot be fetched: 15 times the first limit


@dataclass(frozen=True, slots=True)
class Pending:
    """A legal proposal for the current view.

    message   what its proposer sent: others may need it from us
    proposal  the statement in it
    name      digest of its block
    """

    message: Propose
    proposal: Proposal
    name: Digest


class Standing:
    """The state of the averaging machine, and what moves it from block to block."""

    def __init__(
        self,
        config: AveragingConfig,
        context: Context,
        certificate: Certificate | None,
        reveals: Reveals,
        record: VoteRecord | None,
        own: CommitRecord | None,
    ) -> None:
        self.config = config
        self.context = context
        self.certificate = certificate
        self._reveals = reveals
        self._record = record or VoteRecord(0, 0, None)
        self._own_record = own
        self._started = False
        self._now = 0.0
        self._expired_at = -inf  # deadlines up to here have had their due
        promised = self._record.promised
        self._views = Views(config.timing, max(context.view + 1, promised), promised, 0.0)
        self._presence = Presence(config.me, config.timing.branch_s, 0.0)
        self._pace = Pace(config.me, config.settings)
        self._proofs = Proofs(config)
        self._admissions = Admissions(config, reveals.anchor)
        self._admissions.convicted = self._proofs.convicted
        self._connected: frozenset[PeerId] | None = None
        self._committed: deque[Digest] = deque(maxlen=PARENTS_REMEMBERED)
        self._early: dict[PeerId, Signed] = {}
        self._foreign: Certificate | None = None  # of a branch without us, on our block
        self._sitting = SittingOut()
        self._sender: PeerId | None = None  # of the message that is being taken
        self._lost = False  # acting on the loss of the quorum
        self._stuck = False  # a set must be repeated of which nobody sends us all
        self._next_retry = inf
        self._introduce_at = inf
        self._stand_on(context)

    def _stand_on(self, context: Context) -> None:
        """Begin anew on a block: nothing of the old parent is kept."""
        self.context = context
        self._voters = voters(context)
        self._is_voter = self.config.me in self._voters
        self._exchange = Exchange(self.config, context)
        self._exchange.convicted = self._proofs.convicted
        self._votes = Votes()
        self._proposal: Pending | None = None
        self._branch: Pending | None = None
        self._blocks: dict[Digest, Block] = {}  # proposed ones, by digest
        self._results: dict[Digest, tuple[Digest, Digest]] = {}  # reduced root, state
        self._reducing: set[Digest] = set()
        self._grace_at: float | None = None
        self._helped: dict[PeerId, float] = {}
        self._sought: dict[PeerId, float] = {}
        self._foreign = None
        self._at_last = inf  # when it will be followed for want of anything else
        self._lost = False
        self._stuck = False
        self._vain = 0  # views in a row that ended while we lacked the proposed set
        self._idle = "training"  # or "diverged": our own work is nothing that anyone would take
        member = context.member(self.config.me)
        if member is not None and member.anchor is not None:
            self._admissions.wish.anchor = member.anchor

    # --- who ----------------------------------------------------------------------------------
    @property
    def _sits(self) -> bool:
        """Whether it is on the committee: its contribution would count."""
        return sits(self.context, self.config.me)

    @property
    def _speaks(self) -> bool:
        """Whether it may vote, propose, give up views."""
        return self._is_voter and not self._sitting.active

    @property
    def finished(self) -> bool:
        """Whether the rounds of the recipe are certified and final."""
        return is_finished(self.context, self.config.settings)

    @property
    def _closing(self) -> bool:
        return self.context.rounds >= self.config.settings.rounds and not self.finished

    def _other_voters(self) -> list[PeerId]:
        return [p for p in self._voters if p != self.config.me]

    def _others(self, *contexts: Context) -> list[PeerId]:
        """The committee, except us: in a small swarm all who follow the chain, joiners too."""
        peers = {peer for context in contexts for peer in committee(context)}
        if not self.context.is_large:  # else joiners hear of blocks from their neighbours
            peers.update(self._admissions.joiners())
        return sorted(peers - {self.config.me})

    def _send(self, peers: Iterable[PeerId], message: Message) -> list[Effect]:
        return [Send(peer, message) for peer in peers]

    # --- which block --------------------------------------------------------------------------
    def _adopt(self, now: float, context: Context, certificate: Certificate) -> list[Effect]:
        """Stand on a verified child of our block."""
        apply = Apply(certificate, context, finals(self.context, certificate))
        certain = [] if self._sitting.active else self._be_certain()
        heard = self._heard_in([certificate])
        return [*heard, apply, *certain, *self._rebase(now, context, certificate)]

    def _rebase(
        self, now: float, context: Context, certificate: Certificate | None
    ) -> list[Effect]:
        """Stand on another block, whatever its relation to ours."""
        child = certificate is not None and certificate.block.parent == self.context.block
        self._pace.stand(self.context, certificate.block if certificate and child else None, now)
        self._views.base(context.view, now)
        self.certificate = certificate
        self._stand_on(context)
        self._views.retain(self._is_usable)
        self._sitting.stand()
        self._admissions.follow(context)
        self._presence.follow(committee(context), now)
        effects = self._say_again()
        if self._closing or self._views.view > context.view + 1:
            self._views.arm(now + self._views.limit)
        self._next_retry = now + self._views.retry
        effects += self._replay_early()
        return effects + self._admissions.ask(context, self._connected or ())

    def _replay_early(self) -> list[Effect]:
        """Take the commits for this block that came before its certificate."""
        effects: list[Effect] = []
        early, self._early = self._early, {}
        for signer, signed in early.items():
            commit = signed.statement
            if isinstance(commit, Commit) and commit.parent == self.context.block:
                try:
                    effects += self._exchange.commit(signer, signed, ())
                except RemoteProtocolError:  # it will send it again, and be struck for it then
                    continue
        return effects

    def _may_be_early(self, sender: PeerId, signed: Signed) -> bool:
        """Whether a commit for a block that we do not know may be one of its members'.

        Whoever that block admits is not in our roster yet. For such there is half of the room, so
        that strangers cannot keep members out.
        """
        if self.context.member(signed.signer) is not None:
            return True
        room = len(self._early) < EARLY_COMMITS_MAX // 2
        return sender == signed.signer and (room or sender in self._early)

    def _keep_early(self, signed: Signed) -> None:
        if signed.signer in self._early or len(self._early) < EARLY_COMMITS_MAX:
            self._early[signed.signer] = signed

    def _recertified(self, certificate: Certificate) -> list[Effect]:
        """Our own block was certified in a later view, too (and the ballots were checked)."""
        self.context = self.context.at_view(certificate.view)
        self.certificate = certificate
        self._views.view = max(self._views.view, certificate.view + 1)
        return [*self._heard_in([certificate]), *self._say_again()]

    def _say_again(self) -> list[Effect]:
        """In a view that others cannot use without our word that we hold this certificate."""
        view = self._views.view
        late = view > self.context.view + 1
        if not self._speaks or not late or self._record.last_view >= view:
            return []
        return self._give_up(view - 1)

    def _is_current(self, signed: Signed) -> bool:
        """Whether a Timeout names the certificate that we hold: only then we can bring it along."""
        timeout, context = signed.statement, self.context
        return isinstance(timeout, Timeout) and (
            (timeout.high_view, timeout.high_block) == (context.view, context.block)
        )

    def _refuse_own(self, contribution: Contribution) -> list[Effect]:
        """Nothing if others would take our work; else (2.8) this round goes on without it."""
        norm2, most = sum(contribution.norms2), norm2_max(self.context, self.config.settings)
        if norm2 <= most:
            return []
        self._idle = "diverged"
        self._committed.append(self.context.block)
        return [Diverged(norm2, most)]

    def _note_lack(self) -> None:
        """A view ends; are we stuck over a set that nobody sends us?

        A voter crashed after its vote, a contributor went off: the set may be lost for good.
        """
        pending = self._proposal
        if pending is not None:
            lacking = bool(self._exchange.lacking(pending.proposal.block))
            self._vain = self._vain + 1 if lacking else 0
        self._stuck = self._stuck or self._vain >= STUCK_AFTER

    # --- what was forgotten -------------------------------------------------------------------
    def _look_back(self, now: float) -> list[Effect]:
        """On a block that we did not see certified: may we have voted on it in an earlier life?"""
        sitting = self._sitting
        if sitting.active or not sitting.doubtful:
            return []
        if self.context.member(self.config.me) is not None:
            sitting.begin(now, self.config.timing.branch_s)
            return self._send(self._others(self.context), GetVotes(self.context.block))
        return self._be_certain() if self.context.height else []

    def _be_certain(self) -> list[Effect]:
        doubtful = self._sitting.doubtful
        self._sitting.end(self.context.view)
        return [Certain()] if doubtful else []

    def _sit(self, now: float) -> list[Effect] | None:
        """The rule: from asking to waiting, and back to taking part."""
        sitting, view = self._sitting, self.context.view
        if sitting.asking and now >= sitting.ends_at:
            return self._promise(sitting.promise(now, view, self.config.timing.branch_s))
        if not sitting.active or not sitting.is_over(now, view, len(self._voters)):
            return None
        self._lost = False
        return self._be_certain()

    def _heard_own(self, view: int) -> list[Effect]:
        """A statement of ours for this view, well signed: known, forgotten, or somebody else's."""
        sitting = self._sitting
        sitting.hear(view)
        if view <= self._record.promised or sitting.asking:
            return []
        if not sitting.may_begin_again():
            return [KeyElsewhere(view)]
        sitting.doubtful = True  # those who knew of it could not be asked when we did
        return self._look_back(self._now)

    def _heard_in(self, certificates: Iterable[Certificate]) -> list[Effect]:
        """Our own votes in certificates that hold."""
        me, effects = self.config.me, list[Effect]()
        for certificate in certificates:
            self._sitting.hear(certificate.view)
            if any(ballot.voter == me for ballot in certificate.ballots):
                effects += self._heard_own(certificate.view)
        return effects

    def _is_usable(self, timeout: Timeout) -> bool:
        """Whether a Timeout names our certificate, or an older one of our chain."""
        context, named = self.context, timeout.high_block
        here = named == context.block and timeout.high_view <= context.view
        return here or (named in context.recent and timeout.high_view < context.view)

    # --- promises -----------------------------------------------------------------------------
    def _persist(self, record: VoteRecord) -> list[Effect]:
        if record == self._record:
            return []
        self._record = record
        return [Persist(record)]

    def _promise(self, view: int) -> list[Effect]:
        """Never vote in this view or below again."""
        self._views.promised = max(self._views.promised, view)
        record = self._record
        return self._persist(VoteRecord(self._views.promised, record.last_view, record.last_block))

    def _give_up(self, view: int) -> list[Effect]:
        """Promise, and tell the voters: Timeout(view), our newest certificate, our last vote."""
        effects = self._promise(view)
        self._views.gave_up = max(self._views.gave_up, view)
        return effects + self._send(self._other_voters(), self._timeout(view))

    def _timeout(self, view: int) -> GiveUp:
        record, context = self._record, self.context
        timeout = Timeout(view, context.view, context.block, record.last_view, record.last_block)
        signed = sign_statement(self.config.signer, self.config.swarm, timeout)
        self._views.note(signed, timeout)
        return GiveUp(signed, self.certificate)

    # --- helping and asking -------------------------------------------------------------------
    def _help(self, now: float, peer: PeerId) -> list[Effect]:
        """Send our newest certificate to a peer that seems to lack it, now and then."""
        if self.certificate is None or not self._due(self._helped, peer, now):
            return []
        return [Send(peer, Certified(self.certificate))]

    def _seek(self, now: float, peer: PeerId) -> list[Effect]:
        """Ask a peer that seems to be ahead for its newest certificate, now and then."""
        if not self._due(self._sought, peer, now):
            return []
        return [Send(peer, GetVotes(self.context.block))]

    def _due(self, book: dict[PeerId, float], peer: PeerId, now: float) -> bool:
        if now < book.get(peer, -inf) + self._views.retry:
            return False
        if len(book) >= PEERS_REMEMBERED:
            book.clear()
        book[peer] = now
        return True

    def _place(self, certificate: Certificate) -> str:
        """How a certificate's block lies to ours: "same", "child", "older" or "unknown"."""
        if certificate.block.parent == self.context.block:
            return "child"
        name = block_digest(certificate.block)
        if name == self.context.block:
            return "same"
        return "older" if name in self.context.recent else "unknown"
