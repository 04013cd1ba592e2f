"""What must hold in every run, judged from outside: by what peers say and apply, not by their code.

Safety is judged all the time, whatever the faults:

  S1  certificates on one parent carry one list, if nobody lies. Every vote ever sent counts: a
      certificate exists as soon as a quorum has signed, even if nobody ever put it together.
      BRANCH blocks are apart: they are what is left when a quorum is lost
  S2  final blocks are on one chain, with up to floor((M-1)/3) liars in every roster on the way.
      Chains that part at a BRANCH are apart: nothing on a branch is final for its parent's roster
  S3  one block, one state: equal bits on all peers, and equal to what the certificate says
  S4  nothing is counted twice: an entry's commit was signed by its peer, for this parent, with
      this weight; no commit is in two blocks of a chain
  S5  no honest peer is struck (while every roster can bear its liars), and never is one proven to
      have said two things

Liveness is judged in simnet/scenarios.py, after the faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.chain import Context
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
    Proposal,
    Propose,
    Signed,
    Statement,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.faults import liars_tolerated, quorum_of
from simnet.trace import short


class ViolationError(AssertionError):
    """A run broke a property.

    property  "S1" .. "S5", "L1" .. "L4"
    """

    def __init__(self, property: str, detail: str) -> None:  # noqa: A002
        super().__init__(f"{property}: {detail}")
        self.property = property


@dataclass(slots=True)
class Judge:
    """Sees everything that is sent, applied, struck and proved; raises ViolationError."""

    liars: frozenset[PeerId]
    contexts: dict[Digest, Context] = field(default_factory=dict)
    blocks: dict[Digest, Block] = field(default_factory=dict)
    commits: dict[Digest, tuple[PeerId, Commit]] = field(default_factory=dict)
    states: dict[Digest, Digest] = field(default_factory=dict)
    votes: dict[Vote, set[PeerId]] = field(default_factory=dict)
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
    def sent(self, sender: PeerId, message: Message) -> None:
        """A peer sends a message; remember what it claims."""
        if message is self._last:  # the same to the next recipient
            return
        self._last = message
        match message:
            case Statement(Signed(signer, _, Vote() as vote)) if signer == sender:
                self.votes.setdefault(vote, set()).add(signer)
            case Statement(Signed(signer) as signed) if signer == sender:
                self.committed(signed)
            case Propose(Signed(statement=Proposal() as proposal), certificate):
                self._saw(proposal.block)
                if sender not in self.liars:
                    self._certificate(certificate)
            case Certified(certificate) | GiveUp(_, certificate) if sender not in self.liars:
                self._certificate(certificate)

    def committed(self, signed: Signed) -> None:
        """A peer wrote or sent a commit."""
        if isinstance(signed.statement, Commit):
            commit = signed.statement
            self.commits.setdefault(commit_digest(commit), (signed.signer, commit))

    def applied(self, peer: PeerId, link: Link, finals: Iterable[Digest], now: float) -> None:
        """A peer adopted a block."""
        block = link.context.block
        self._certificate(link.certificate)
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

    def reduced(self, peer: PeerId, reduce: Reduce) -> None:
        """A peer reduced a set: it must be the block's list, and every shard as committed."""
        block = self.blocks.get(reduce.block)
        if block is None or peer in self.liars:
            return
        if [term.peer for term in reduce.terms] != [entry.peer for entry in block.entries]:
            raise ViolationError(
                "S4", f"{peer[-6:]} reduced another set than {short(reduce.block)}"
            )

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

    # --- at the end -------------------------------------------------------------------------
    def check(self) -> None:
        """Judge S1, S2 and S4 over the whole run."""
        certified = self._certified()
        if not self.liars:
            self._check_lists(certified)
        self._check_finals()
        self._check_entries()

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
            entitled = {member.peer for member in context.roster if member.voter}
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
        voters = [m.peer for m in self.contexts[block].roster if m.voter]
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
                told = (commit.parent, commit.weight, sum(commit.norms2), commit.reveal)
                if peer != entry.peer or told != (
                    block.parent,
                    entry.weight,
                    entry.norm2,
                    entry.reveal,
                ):
                    raise ViolationError("S4", f"{short(name)} lists {peer[-6:]} otherwise")

    def _saw(self, block: Block) -> Digest:
        name = block_digest(block)
        self.blocks.setdefault(name, block)
        return name

    def _certificate(self, certificate: Certificate | None) -> None:
        if certificate is None:
            return
        name = self._saw(certificate.block)
        vote = Vote(
            certificate.view, name, certificate.block.parent, certificate.reduced, certificate.state
        )
        self.votes.setdefault(vote, set()).update(b.voter for b in certificate.ballots)
