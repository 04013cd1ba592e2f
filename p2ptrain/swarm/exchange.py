"""Commit and scatter: how contributions to one block reach the voters that reduce them.

A contribution belongs to its parent and not to a view, so one Exchange lives as long as its parent
is the newest block. Its rules (protocol/averaging.md sections 2 to 4):

  - A signed Commit goes to every voter; pieces follow to those whose own Commit is held, for a
    peer that has not committed yet could copy what it receives.
  - Once a view has failed, or a proposal has fixed the set, pieces go to every voter that asks:
    a voter whose own work is lost must still be able to reduce and vote.
  - What is missing is asked for: of the contributor first, then of every voter in turn, since any
    holder may answer.
  - A Have tells the view's proposer what is held whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet

from p2ptrain.swarm.chain import Context, committee, liars_max, shards_reduced_by, voters
from p2ptrain.swarm.contributions import Contributions, Held
from p2ptrain.swarm.effects import CheckPiece, CommitRecord, Effect, Proof, Send
from p2ptrain.swarm.inputs import AveragingConfig
from p2ptrain.wire.codec import commit_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.limits import SHARDS_ASKED_MAX
from p2ptrain.wire.messages import (
    Block,
    Commit,
    GetContribution,
    Have,
    NotHeld,
    Piece,
    Signed,
    Statement,
)
from p2ptrain.wire.peer_id import PeerId


class Exchange:
    """The contributions to one block, and the messages that spread them."""

    def __init__(self, config: AveragingConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._voters = voters(context)
        self.held = Contributions(config.rules, context)
        self.own: Held | None = None
        self.convicted: AbstractSet[PeerId] = frozenset()  # their work is not listed
        self.open = False  # pieces go to whoever asks: a view failed, or a set was proposed
        self._scattered: set[PeerId] = set()  # voters that were sent our pieces
        self._asked: dict[Digest, int] = {}  # how often a contribution was asked for
        self._have_sent: tuple[PeerId, tuple[Digest, ...]] | None = None
        self.haves: dict[PeerId, frozenset[Digest]] = {}

    @property
    def codec(self) -> int:
        """Number of the codec of these contributions."""
        return self._config.settings.codec_after(self._context.rounds)

    @property
    def _others(self) -> list[PeerId]:
        return [p for p in self._voters if p != self._config.me]

    # --- our own contribution -----------------------------------------------------------------
    def offer(self, record: CommitRecord) -> list[Effect]:
        """Take our own contribution, and send it to all who may have it."""
        commit = record.signed.statement
        assert isinstance(commit, Commit)  # our own record
        self.own = self.held.take_own(record.signed, commit, record.shards)
        return self.announce()

    def announce(self) -> list[Effect]:
        """Send our Commit to the voters that have not told us they hold it, and pieces anew."""
        if self.own is None:
            return []
        name = self.own.name
        effects: list[Effect] = []
        for peer in self._others:
            if name not in self.haves.get(peer, frozenset()):
                effects.append(Send(peer, Statement(self.own.signed)))
                effects += self._scatter_to(peer)
        return effects

    def _scatter_to(self, peer: PeerId) -> list[Effect]:
        """Send a peer the pieces that it reduces, once, if it is entitled to them."""
        if self.own is None or peer in self._scattered or not self._entitled(peer):
            return []
        shards = shards_reduced_by(self._context, peer, self.own.shards)
        if not shards or peer == self._config.me:
            return []
        self._scattered.add(peer)
        return [Send(peer, p) for p in self.held.pieces(self.own, shards)]

    def _entitled(self, peer: PeerId) -> bool:
        return self.open or self.held.first_of(peer) is not None

    # --- what comes in ------------------------------------------------------------------------
    def commit(self, sender: PeerId, signed: Signed, wanted: Collection[Digest]) -> list[Effect]:
        """Take another member's Commit; wanted: digests that a proposal names."""
        commit = signed.statement
        assert isinstance(commit, Commit)  # the caller looked
        if self.held.named(commit_digest(commit)) is not None:
            return []
        self.held.check_commit(signed, commit, sender)
        first = self.held.first_of(signed.signer)
        known_liar = signed.signer in self.held.proven
        self.held.take_commit(signed, commit, wanted)
        if first is not None:  # rule 2.6; told once
            return [] if known_liar else [Proof(first.signed, signed)]
        return self._scatter_to(signed.signer)

    def piece(self, sender: PeerId, piece: Piece) -> list[Effect]:
        """Take a piece: it is checked by the shell before it counts."""
        if self.held.first_of(piece.contributor) is None:  # rule 3.1; its Commit may be on the way
            return [Send(sender, GetContribution(piece.parent, piece.contributor, ()))]
        held = self.held.place_of(piece, sender)
        if held is None:
            return []
        held.checking.add(piece.shard)
        held.proofs[piece.shard] = piece.proof
        return [CheckPiece(sender, piece, self.codec)]

    def have(self, voter: PeerId, have: Have) -> None:
        """Note what a voter holds. It only ever grows, so the longer of two is the newer one."""
        if len(have.commits) >= len(self.haves.get(voter, ())):
            self.haves[voter] = frozenset(have.commits)

    def answer(self, sender: PeerId, request: GetContribution) -> list[Effect]:
        """Send what is held of a contribution: its Commits, and pieces if the asker may have them.

        Only voters reduce, so only they get pieces.
        """
        found = self.held.all_of(request.contributor)
        if not found:
            return [Send(sender, NotHeld(request))]
        effects: list[Effect] = [Send(sender, Statement(held.signed)) for held in found]
        if self._entitled(sender):
            shards = shards_reduced_by(self._context, sender, request.shards)
            for held in found:
                effects += [Send(sender, p) for p in self.held.pieces(held, shards)]
        return effects

    # --- what is missing ----------------------------------------------------------------------
    def fetch_partial(self) -> list[Effect]:
        """Ask for the rest of all contributions whose Commit is held."""
        effects: list[Effect] = []
        for held in self.held.everything():
            if not held.bad and held.missing() and self._may_receive():
                effects += self._ask(held.name, held.signed.signer, held.missing(), ())
        return effects

    def _may_receive(self) -> bool:
        return self.own is not None or self.open

    def lacking(self, block: Block) -> list[PeerId]:
        """The contributors of a proposed set whose contributions are not held whole."""
        lacking = []
        for entry in block.entries:
            held = self.held.named(entry.commit)
            if held is None or not held.whole:
                lacking.append(entry.peer)
        return lacking

    def fetch(self, block: Block, first: PeerId) -> list[Effect]:
        """Ask for what a proposed set lacks: its proposer (`first`), then the others in turn."""
        effects: list[Effect] = []
        every = tuple(range(len(self._config.settings.shard_bytes)))
        for entry in block.entries:
            held = self.held.named(entry.commit)
            shards = every if held is None else held.missing()
            if shards:
                effects += self._ask(entry.commit, entry.peer, shards, (first,))
        return effects

    def _ask(
        self, name: Digest, peer: PeerId, shards: tuple[int, ...], before: Iterable[PeerId]
    ) -> list[Effect]:
        """Ask one holder, the next one at each call."""
        turn = self._asked.get(name, 0)
        self._asked[name] = turn + 1
        order = [p for p in dict.fromkeys((*before, peer, *self._voters)) if p != self._config.me]
        if not order:
            return []
        request = GetContribution(self._context.block, peer, shards[:SHARDS_ASKED_MAX])
        return [Send(order[turn % len(order)], request)]

    # --- who holds what -----------------------------------------------------------------------
    def tell(self, proposer: PeerId, patient: bool) -> list[Effect]:
        """Tell the view's proposer what we hold, if that is new to it.

        patient  wait while pieces of a known Commit are still missing
        """
        if patient and self.held.incomplete:
            return []
        whole = self.held.whole()
        if self._config.me not in self._voters or not whole:
            return []
        if self._have_sent == (proposer, whole):
            return []
        have = Have(self._context.block, whole)
        self.have(self._config.me, have)
        self._have_sent = (proposer, whole)
        if proposer == self._config.me:
            return []
        return [
            Send(proposer, Statement(sign_statement(self._config.signer, self._config.swarm, have)))
        ]

    def forget_told(self) -> None:
        """Send the next Have even if nothing has changed: the last one may be lost."""
        self._have_sent = None

    def listable(self) -> list[Held]:
        """The contributions, one a peer, that enough voters hold whole, in roster order.

        Enough is one more than may lie: a liar could vouch for what another one withholds, and
        each proposer in turn would list what nobody can reduce.
        """
        count = len(self._voters)
        needed = max(min(2, count), liars_max(count) + 1)
        mine = frozenset(self.held.whole())
        chosen = []
        for peer in committee(self._context):
            held = self.held.first_of(peer)
            if held is None or held.bad or peer in self.held.proven | self.convicted:
                continue
            holders = {p for p, names in self.haves.items() if held.name in names}
            if held.name in mine:
                holders.add(self._config.me)
            if peer in self._voters:
                holders.add(peer)
            if len(holders & set(self._voters)) >= needed:
                chosen.append(held)
        return chosen
