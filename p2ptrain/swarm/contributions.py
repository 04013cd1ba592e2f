"""The contributions to one block that a peer holds: commits, their pieces, what is still missing.

Nothing is sent from here. What is taken in was checked first (protocol/averaging.md):

  2.1  a commit on another base state       2.2  another codec     2.3  number of shards
  2.4  weight of 0 or above what was declared  2.5  the reveal does not follow
  2.7  signature (envelope 3.1)             2.8  an absurd norm
  3.2  a piece's proof                      3.5  a piece's size or number

A peer that signs two commits for one parent is proven a liar (2.6), but its first commit may
already be in a set that others voted for. So further commits are kept beside the first one where a
proposal names them, a few a peer: without them an honest voter could never vote for that set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.certificates import Rules
from p2ptrain.swarm.chain import Context, norm2_max, reveal_follows, weight_max
from p2ptrain.swarm.effects import Term
from p2ptrain.swarm.roster import Member
from p2ptrain.swarm.weights import factors, limit2_of_round
from p2ptrain.wire.codec import commit_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import check_signed
from p2ptrain.wire.limits import COMMITS_PER_PEER_MAX
from p2ptrain.wire.messages import Block, Commit, Entry, Norm2, Piece, Signed
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_proofs, root_of_author, root_of_path


@dataclass(slots=True)
class Held:
    """One commit and what is held of its shards.

    bad  a shard of it was refused by the codec, or by its own norm: it can never be whole
    """

    signed: Signed
    commit: Commit
    name: Digest
    shards: dict[int, bytes] = field(default_factory=dict)
    proofs: dict[int, tuple[Digest, ...]] = field(default_factory=dict)
    checking: set[int] = field(default_factory=set)
    bad: bool = False

    @property
    def whole(self) -> bool:
        """Whether every shard is held and checked."""
        return not self.bad and len(self.shards) == len(self.commit.norms2)

    def missing(self) -> tuple[int, ...]:
        """The shards that are neither held nor being checked."""
        every = range(len(self.commit.norms2))
        return tuple(i for i in every if i not in self.shards and i not in self.checking)


def entry_of(held: Held) -> Entry:
    """How a block lists a contribution."""
    commit = held.commit
    return Entry(
        peer=held.signed.signer,
        commit=held.name,
        weight=commit.weight,
        norm2=Norm2(sum(commit.norms2)),
        reveal=commit.reveal,
        local_steps=commit.local_steps,
    )


class Contributions:
    """Everything that is held of the contributions to one block."""

    def __init__(self, rules: Rules, context: Context) -> None:
        self._rules = rules
        self._context = context
        self._held: dict[PeerId, list[Held]] = {}
        self._by_name: dict[Digest, Held] = {}
        self.proven: set[PeerId] = set()  # signed two commits

    # --- commits ------------------------------------------------------------------------------
    def check_commit(self, signed: Signed, commit: Commit, sender: PeerId) -> None:
        """Raise unless the commit is a legal contribution to this context's block."""
        check_signed(self._rules.verifier, self._rules.swarm, signed, sender)
        self._check_fields(self._member(signed.signer), commit)

    def _member(self, signer: PeerId) -> Member:
        member = self._context.member(signer)
        if member is None:
            raise RemoteProtocolError(signer, "averaging 1.1", "a commit of a peer outside")
        return member

    def _check_fields(self, member: Member, commit: Commit) -> None:
        settings, signer = self._rules.settings, member.peer
        if commit.base_state != self._context.state:
            raise RemoteProtocolError(signer, "averaging 2.1", "another base state")
        if commit.codec != settings.codec_after(self._context.rounds):
            raise RemoteProtocolError(signer, "averaging 2.2", f"codec {commit.codec}")
        if len(commit.norms2) != len(settings.shard_bytes):
            raise RemoteProtocolError(signer, "averaging 2.3", f"{len(commit.norms2)} shards")
        if not 1 <= commit.weight <= weight_max(member, settings):
            raise RemoteProtocolError(signer, "averaging 2.4", f"weight {commit.weight}")
        if not reveal_follows(member, commit.reveal):
            raise RemoteProtocolError(signer, "averaging 2.5", "reveal")
        if sum(commit.norms2) > norm2_max(self._context, settings):
            raise RemoteProtocolError(signer, "averaging 2.8", "a norm that no local steps end at")

    def take_commit(
        self, signed: Signed, commit: Commit, wanted: Collection[Digest]
    ) -> Held | None:
        """Hold a checked commit; a second one of a peer only if it is wanted. None: not taken."""
        name = commit_digest(commit)
        if name in self._by_name:
            return None
        others = self._held.setdefault(signed.signer, [])
        if others:
            self.proven.add(signed.signer)
            if name not in wanted or len(others) >= COMMITS_PER_PEER_MAX:
                return None
        held = Held(signed, commit, name)
        others.append(held)
        self._by_name[name] = held
        return held

    def first_of(self, peer: PeerId) -> Held | None:
        """The first commit that was held of a peer."""
        return next(iter(self._held.get(peer, ())), None)

    def all_of(self, peer: PeerId) -> Sequence[Held]:
        """Every commit that is held of a peer: one, unless it lies."""
        return self._held.get(peer, ())

    def named(self, name: Digest) -> Held | None:
        """The commit of that digest."""
        return self._by_name.get(name)

    def everything(self) -> Iterator[Held]:
        """All commits, in a fixed order."""
        for peer in sorted(self._held):
            yield from self._held[peer]

    @property
    def incomplete(self) -> bool:
        """Whether pieces of a known commit are still to come."""
        return any(not held.whole and not held.bad for held in self._by_name.values())

    def whole(self) -> tuple[Digest, ...]:
        """Digests of the contributions that are held whole, sorted: what a Have says."""
        return tuple(sorted(held.name for held in self._by_name.values() if held.whole))

    # --- pieces -------------------------------------------------------------------------------
    def place_of(self, piece: Piece, sender: PeerId) -> Held | None:
        """The commit that a piece belongs to; None: it is held, or being checked, already.

        Raises RemoteProtocolError: size or number of the shard (3.5), no path to a root (3.2). The
        latter is held against contributors only: an honest relayer may hold another commit of a
        liar than we do.
        """
        sizes = self._rules.settings.shard_bytes_after(self._context.rounds)
        if piece.shard >= len(sizes) or len(piece.data) != sizes[piece.shard]:
            raise RemoteProtocolError(sender, "averaging 3.5", f"shard {piece.shard}")
        root = root_of_path(len(sizes), piece.shard, piece.data, piece.proof)
        name = root and root_of_author(piece.contributor, root)
        open_places = False
        for held in self.all_of(piece.contributor):
            if piece.shard in held.shards or piece.shard in held.checking:
                continue
            open_places = True
            if held.commit.root == name:
                return held
        if open_places and sender == piece.contributor:
            raise RemoteProtocolError(sender, "averaging 3.2", f"proof of shard {piece.shard}")
        return None

    def take_own(self, signed: Signed, commit: Commit, shards: Sequence[bytes]) -> Held:
        """Hold our own contribution, which needs no checking."""
        held = Held(signed, commit, commit_digest(commit))
        held.shards = dict(enumerate(shards))
        held.proofs = dict(enumerate(merkle_proofs(shards)))
        self._held.setdefault(signed.signer, []).insert(0, held)
        self._by_name[held.name] = held
        return held

    def pieces(self, held: Held, shards: Collection[int]) -> list[Piece]:
        """The messages that carry the named shards, of those that are held."""
        parent, peer = held.commit.parent, held.signed.signer
        return [
            Piece(parent, peer, i, held.proofs[i], held.shards[i])
            for i in sorted(shards)
            if i in held.shards
        ]

    # --- the set ------------------------------------------------------------------------------
    def terms(self, block: Block, limits2: tuple[int, ...]) -> tuple[Term, ...]:
        """What a block's set is reduced from; every entry must be held whole."""
        norms2 = [entry.norm2 for entry in block.entries]
        limit2 = limit2_of_round(norms2, limits2, self._rules.settings.norm_max2)
        terms = []
        for entry, factor in zip(block.entries, factors(block.entries, limit2), strict=True):
            shards = self._by_name[entry.commit].shards
            terms.append(Term(entry.peer, factor, tuple(shards[i] for i in range(len(shards)))))
        return tuple(terms)
