"""What must hold in every run, judged from outside: by what peers say and apply, not by their code.

Safety is judged all the time, whatever the faults:

  S1  certificates on one parent carry one list, if nobody lies. Every vote ever sent counts: a
      certificate exists as soon as a quorum has signed, even if nobody ever put it together.
      BRANCH blocks are apart: they are what is left when a quorum is lost. And nobody adopts a
      block without the ballots that it takes, each really given; no member by the word of liars
      alone
  S2  final blocks are on one chain, with up to floor((M-1)/3) liars in every roster on the way.
      Chains that part at a BRANCH are apart: nothing on a branch is final for its parent's
      roster, and when all are together again no final block has been dropped for a branch
  S3  one block, one state: equal bits on all peers, and equal to what the certificate says
  S4  nothing is counted twice, or otherwise than it was given: an entry's commit was signed by its
      peer, for this parent and its state, with this weight; what is summed are the shards that
      were committed to, with the norms that they have, and the factors that follow
  S5  no honest peer is struck (while every roster can bear its liars), and never is one proven to
      have said two things
  S6  roster, beacon and norm limits after a block are what the protocol says (simnet/canon.py)
  S7  while a round is open, an honest peer shows its work to nobody who could still copy it

Liveness is judged in simnet/scenarios.py, after the faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.chain import Context, Settings, vote_of
from p2ptrain.swarm.effects import Proof, Reduce
from p2ptrain.swarm.history import Link
from p2ptrain.wire.codec import block_digest, commit_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import (
    BRANCH,
    ROUND,
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
from p2ptrain.wire.shards import merkle_root, root_of_author
from simnet import canon
from simnet.faults import liars_tolerated, quorum_of
from simnet.trace import short

STEPS_OFF_MAX = 0.53  # half a step; float32 scales and clipped factors of 16 bits a little more


class ViolationError(AssertionError):
    """A run broke a property.

    property  "S1" .. "S7", "L1" .. "L4"
    """

    def __init__(self, property: str, detail: str) -> None:  # noqa: A002
        super().__init__(f"{property}: {detail}")
        self.property = property


@dataclass(slots=True)
class Judge:
    """Sees everything that is sent, applied, struck and proved; raises ViolationError."""

    liars: frozenset[PeerId]
    settings: Settings | None = None  # the run's recipe: without it S6 is not judged
    contexts: dict[Digest, Context] = field(default_factory=dict)
    blocks: dict[Digest, Block] = field(default_factory=dict)
    commits: dict[Digest, tuple[PeerId, Commit]] = field(default_factory=dict)
    states: dict[Digest, Digest] = field(default_factory=dict)
    votes: dict[Vote, set[PeerId]] = field(default_factory=dict)
    said: set[tuple[PeerId, Vote]] = field(default_factory=set)  # votes that were really sent
    given_up: int = 0  # the newest view that anyone has given up
    views: dict[Digest, int] = field(default_factory=dict)  # of a block's first certificate
    proposed_on: set[Digest] = field(default_factory=set)  # parents that a set was proposed for
    committers: set[tuple[Digest, PeerId]] = field(default_factory=set)
    finals: dict[Digest, PeerId] = field(default_factory=dict)
    strikes: list[tuple[PeerId, str, str]] = field(default_factory=list)
    rounds_at: dict[PeerId, list[float]] = field(default_factory=dict)
    on_round: Callable[[int], None] = lambda rounds: None
    _last: Message | None = None

    def genesis(self, context: Context) -> None:
        """Where every chain of the run begins."""
        self.contexts[context.block] = context
        self.states[context.block] = context.state

    # --- what shells report -----------------------------------------------------------------
    def sent(self, sender: PeerId, message: Message, to: PeerId | None = None) -> None:
        """A peer sends a message; remember what it claims."""
        if isinstance(message, Piece) and to is not None and sender not in self.liars:
            self._check_shown(sender, message, to)
        if message is self._last:  # the same to the next recipient
            return
        self._last = message
        match message:
            case Statement(Signed(signer, _, Vote() as vote)) if signer == sender:
                self.votes.setdefault(vote, set()).add(signer)
                self.said.add((signer, vote))
            case Statement(Signed(signer) as signed) if signer == sender:
                self.committed(signed)
            case Propose(Signed(statement=Proposal() as proposal), certificate):
                self._saw(proposal.block)
                self.proposed_on.add(proposal.block.parent)
                if sender not in self.liars:
                    self._certificate(certificate)
            case GiveUp(Signed(statement=Timeout() as timeout), certificate):
                self.given_up = max(self.given_up, timeout.view)
                if sender not in self.liars:
                    self._certificate(certificate)
            case Certified(certificate) if sender not in self.liars:
                self._certificate(certificate)

    def committed(self, signed: Signed) -> None:
        """A peer wrote or sent a commit."""
        if isinstance(signed.statement, Commit):
            commit = signed.statement
            self.commits.setdefault(commit_digest(commit), (signed.signer, commit))
            self.committers.add((commit.parent, signed.signer))

    def applied(self, peer: PeerId, link: Link, finals: Iterable[Digest], now: float) -> None:
        """A peer adopted a block."""
        block = link.context.block
        self._certificate(link.certificate)
        if peer not in self.liars:
            self._check_ballots(peer, link.certificate)
            self._check_context(link)
        known = self.contexts.setdefault(block, link.context)
        if (known.roster, known.beacon, known.limits) != (
            link.context.roster,
            link.context.beacon,
            link.context.limits,
        ):
            raise ViolationError("S3", f"two contexts after {short(block)}")
        if peer not in self.liars:
            if link.context.kind == ROUND:
                self.rounds_at.setdefault(peer, []).append(now)
                self.on_round(link.context.rounds)
            for final in finals:
                self.finals.setdefault(final, peer)

    def state(self, peer: PeerId, link: Link, state: Digest) -> None:
        """A peer made the state after a block."""
        block = link.context.block
        if peer in self.liars:
            return
        if self.states.setdefault(block, state) != state or state != link.certificate.state:
            raise ViolationError("S3", f"{peer[-6:]} has other bits after {short(block)}")

    def reduced(
        self, peer: PeerId, reduce: Reduce, norm2: Callable[[bytes], int | None] | None = None
    ) -> None:
        """A peer reduces a set: it must be the block's list, and every shard as committed.

        norm2  measures the squared norm of a shard; None: what was declared is not judged
        """
        block = self.blocks.get(reduce.block)
        if block is None or peer in self.liars:
            return
        where = f"{peer[-6:]} reduced {short(reduce.block)} with"
        if [term.peer for term in reduce.terms] != [entry.peer for entry in block.entries]:
            raise ViolationError("S4", f"{where} another set")
        for term, entry in zip(reduce.terms, block.entries, strict=True):
            _, commit = self.commits.get(entry.commit, (None, None))
            root = root_of_author(term.peer, merkle_root(term.shards))
            if commit is not None and root != commit.root:
                raise ViolationError("S4", f"{where} other shards of {entry.peer[-6:]}")
            real = norm2 and sum(norm2(shard) or 0 for shard in term.shards)
            if real is not None and real != entry.norm2:
                raise ViolationError("S4", f"{where} a norm that {entry.peer[-6:]} does not have")
        self._check_factors(block, reduce, where)

    def summed(self, peer: PeerId, steps_off: float) -> None:
        """A peer has reduced a set; its sum is so many steps of the encoding from the mean."""
        if steps_off > STEPS_OFF_MAX:
            raise ViolationError("S4", f"{peer[-6:]} sums {steps_off:.2f} steps from the mean")

    def struck(self, by: PeerId, error: RemoteProtocolError) -> None:
        """A peer blames another."""
        self.strikes.append((by, error.peer, error.rule))
        if by not in self.liars and error.peer not in self.liars and self.tolerable():
            raise ViolationError("S5", f"{by[-6:]} struck honest {error}")

    def doubled(self, peer: PeerId, view: int) -> None:
        """A peer believes that somebody else uses its key; nobody but a liar's twin does."""
        if peer not in self.liars:
            raise ViolationError(
                "S5", f"{peer[-6:]} took its own vote of view {view} for another's"
            )

    def proved(self, by: PeerId, proof: Proof) -> None:
        """A peer has a proof against another."""
        if by not in self.liars and proof.first.signer not in self.liars:
            raise ViolationError("S5", f"{by[-6:]} proved honest {proof.first.signer[-6:]} double")

    def _check_shown(self, sender: PeerId, piece: Piece, to: PeerId) -> None:
        """S7; once a view has failed, or a set is proposed, it is too late to copy."""
        if piece.contributor != sender or piece.parent in self.proposed_on:
            return
        closed = self.given_up > self.views.get(piece.parent, 0)
        if not closed and (piece.parent, to) not in self.committers:
            where = f"its work on {short(piece.parent)}"
            raise ViolationError("S7", f"{sender[-6:]} showed {to[-6:]} {where} too early")

    def _check_ballots(self, peer: PeerId, certificate: Certificate) -> None:
        """S1: enough of those entitled have given their ballots."""
        parent, vote = self.contexts[certificate.block.parent], vote_of(certificate)
        entitled, needed = canon.needed(parent, certificate.block)
        given = {b.voter for b in certificate.ballots} & entitled
        where = f"{peer[-6:]} adopts {short(vote.block)}"
        if len(given) < needed:
            raise ViolationError("S1", f"{where} with {len(given)} ballots of {needed}")
        inside = parent.member(peer) is not None  # from outside nobody can tell who is needed
        if inside and given <= self.liars and self._tolerable(parent.block):
            raise ViolationError("S1", f"{where} by the word of liars alone")
        if peer in given:  # one peer alone tells nobody how it votes
            self.said.add((peer, vote))
        for voter in sorted(given - self.liars):
            if (voter, vote) not in self.said:
                raise ViolationError("S1", f"{where} with a ballot that {voter[-6:]} never gave")

    def _check_context(self, link: Link) -> None:
        """S6."""
        if self.settings is not None:
            parent, block = self.contexts[link.context.parent], link.certificate.block
            wrong = canon.differs(parent, block, link.context, self.settings)
            if wrong:
                raise ViolationError("S6", f"after {short(link.context.block)} differs: {wrong}")

    def _check_factors(self, block: Block, reduce: Reduce, where: str) -> None:
        """S4: contributions count with clip and capped weight."""
        parent = self.contexts.get(reduce.parent)
        if self.settings is not None and parent is not None:
            limit2 = canon.limit_of(parent, block, self.settings.norm_max2)
            if tuple(t.factor for t in reduce.terms) != canon.factors(block.entries, limit2):
                raise ViolationError("S4", f"{where} other factors")

    # --- at the end -------------------------------------------------------------------------
    def check(self) -> None:
        """Judge S1, S2 and S4 over the whole run."""
        certified = self._certified()
        if not self.liars:
            self._check_lists(certified)
        self._check_finals()
        self._check_entries()

    def together(self, tip: Digest) -> None:
        """All that live are on the chain of this block: S2 of branches, if nobody lies."""
        path = self._path(tip)
        for final in sorted(self.finals) if not self.liars else ():
            ours = self._path(final)
            shared = sum(1 for x, y in zip(ours, path, strict=False) if x == y)
            apart = shared < min(len(ours), len(path))  # not merely ahead
            if apart and all(self._kind(block) != BRANCH for block in ours[shared:]):
                raise ViolationError("S2", f"final and dropped: {short(final)}")

    def branched(self) -> bool:
        """Whether anyone adopted a BRANCH block."""
        return any(context.kind == BRANCH for context in self.contexts.values())

    def tolerable(self) -> bool:
        """Whether no roster had more liars than it can bear: only then must the run go on."""
        return all(self._tolerable(block) for block in self.contexts)

    def _certified(self) -> dict[Digest, set[Digest]]:
        """Blocks that a quorum has voted for in one view, by parent; BRANCH blocks left out."""
        children: dict[Digest, set[Digest]] = {}
        for vote, voters in self.votes.items():
            context = self.contexts.get(vote.parent)
            block = self.blocks.get(vote.block)
            if context is None or (block is not None and block.kind == BRANCH):
                continue
            entitled = canon.entitled(context)
            if len(voters & entitled) >= quorum_of(len(entitled)):
                children.setdefault(vote.parent, set()).add(vote.block)
        return children

    def _check_lists(self, certified: dict[Digest, set[Digest]]) -> None:
        for parent, children in certified.items():
            if len(children) > 1:
                names = ", ".join(sorted(short(child) for child in children))
                raise ViolationError("S1", f"certified on {short(parent)}: {names}")

    def _check_finals(self) -> None:
        finals = sorted(self.finals)
        for i, a in enumerate(finals):
            for b in finals[:i]:
                self._check_pair(a, b)

    def _check_pair(self, a: Digest, b: Digest) -> None:
        ours, theirs = self._path(a), self._path(b)
        shared = sum(1 for x, y in zip(ours, theirs, strict=False) if x == y)
        ours, theirs = ours[shared - 1 :], theirs[shared - 1 :]
        if len(ours) == 1 or len(theirs) == 1:  # one is an ancestor of the other
            return
        apart = {self._kind(ours[1]), self._kind(theirs[1])}
        if BRANCH in apart or not all(self._tolerable(x) for x in {*ours, *theirs}):
            return
        raise ViolationError("S2", f"final and apart: {short(a)} and {short(b)}")

    def _path(self, block: Digest) -> list[Digest]:
        """From the founding block to this one."""
        path = [block]
        while self.contexts[path[-1]].parent != path[-1]:
            path.append(self.contexts[path[-1]].parent)
        return path[::-1]

    def _kind(self, block: Digest) -> int:
        return self.contexts[block].kind

    def _tolerable(self, block: Digest) -> bool:
        """Whether the roster after a block can bear its liars."""
        voters = canon.entitled(self.contexts[block])
        return sum(peer in self.liars for peer in voters) <= liars_tolerated(len(voters))

    def _check_entries(self) -> None:
        for name, context in self.contexts.items():
            block = self.blocks.get(name)
            if block is None or not self._tolerable(context.parent):
                continue
            for entry in block.entries:
                peer, commit = self.commits.get(entry.commit, (None, None))
                if peer is None or commit is None:
                    raise ViolationError("S4", f"{short(name)} lists a commit nobody made")
                base = self.contexts[context.parent].state
                told = (commit.parent, commit.base_state, commit.weight, commit.reveal)
                listed = (block.parent, base, entry.weight, entry.reveal)
                if peer != entry.peer or told != listed or sum(commit.norms2) != entry.norm2:
                    raise ViolationError("S4", f"{short(name)} lists {peer[-6:]} otherwise")

    def _saw(self, block: Block) -> Digest:
        name = block_digest(block)
        self.blocks.setdefault(name, block)
        return name

    def _certificate(self, certificate: Certificate | None) -> None:
        if certificate is None:
            return
        name = self._saw(certificate.block)
        self.views[name] = min(certificate.view, self.views.get(name, certificate.view))
        vote = Vote(
            certificate.view, name, certificate.block.parent, certificate.reduced, certificate.state
        )
        self.votes.setdefault(vote, set()).update(b.voter for b in certificate.ballots)
