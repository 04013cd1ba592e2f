"""A chain of certified blocks with its states and shards: what a donor has, for tests."""

from dataclasses import replace

from p2ptrain.swarm.certificates import Rules
from p2ptrain.swarm.chain import Context, Settings, advance, genesis, vote_of
from p2ptrain.swarm.history import History, Link
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.roster import Member
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.envelope import statement_bytes
from p2ptrain.wire.messages import (
    BRANCH,
    ROUND,
    Ballot,
    Block,
    Certificate,
    Entry,
    GetHeaders,
    GetReduced,
    GetState,
    GetTip,
    Message,
    Norm2,
    NotHeld,
    ReducedPiece,
    StatePiece,
    Tip,
)
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_proof, merkle_root
from simnet.arithmetic import SHARDS, Hashes, state_digest
from simnet.keys import KeyRing, SimSigner

SWARM = digest("swarm", b"test")
RING = KeyRing(1)
SIGNERS = sorted((RING.new_signer() for _ in range(3)), key=lambda s: s.peer)
ME, DONOR, OTHER = (RING.new_signer().peer for _ in range(3))
HASHES = Hashes()
SETTINGS = Settings(4, HASHES.shard_bytes, 1000, 64, 1 << 70, 0)
RULES = Rules(SWARM, RING, SETTINGS)
REVEALS = {s.peer: Reveals(digest("seed", s.peer.encode()), 100) for s in SIGNERS}


class Chain:
    """A history with the states and shards that belong to it: what a donor has."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.states = {history.genesis.block: HASHES.initial()}
        self.shards: dict[Digest, tuple[bytes, ...]] = {}

    def grow(self, count: int, tag: bytes = b"", signers: list[SimSigner] = SIGNERS) -> None:
        for _ in range(count):
            self._round(tag, signers)

    def branch(self, living: list[SimSigner]) -> None:
        peers = tuple(s.peer for s in living)
        self._append(Block(self.history.tip.block, BRANCH, (), (), (), peers), (), living)

    def fork(self) -> "Chain":
        copy = Chain(History(self.history.genesis, self.history.after(0)))
        copy.states, copy.shards = dict(self.states), dict(self.shards)
        return copy

    def _round(self, tag: bytes, signers: list[SimSigner]) -> None:
        tip = self.history.tip
        entries = tuple(
            Entry(s.peer, digest("commit", tag), 1, Norm2(1), _reveal(tip, s.peer), 1)
            for s in signers
        )
        shards = tuple(digest("shard", tip.block, tag, bytes([i])) for i in range(SHARDS))
        self._append(Block(tip.block, ROUND, entries, (), (), ()), shards, signers)

    def _append(self, block: Block, shards: tuple[bytes, ...], signers: list[SimSigner]) -> None:
        tip = self.history.tip
        state = self.states[tip.block]
        state = HASHES.apply(state, shards) if shards else state
        root = merkle_root(shards) if shards else ZERO_DIGEST
        bare = Certificate(tip.view + 1, block, root, state_digest(HASHES, state), ())
        data = statement_bytes(SWARM, vote_of(bare))
        ballots = tuple(Ballot(s.peer, s.sign(data)) for s in signers)
        certificate = replace(bare, ballots=ballots)
        context = advance(tip, certificate, SETTINGS)
        self.history.append(Link(certificate, context))
        self.states[context.block], self.shards[context.block] = state, shards

    def tip(self, states: tuple[Digest, ...] = ()) -> Tip:
        return Tip(self.history.certificate, self.history.tip.rounds, states)

    def answer(self, request: Message) -> Message:
        match request:
            case GetTip():
                return self.tip((self.history.tip.block,))
            case GetHeaders():
                return self.history.headers(request)
            case GetState(block, index):
                pieces = HASHES.pieces(self.states[block])
                return StatePiece(block, index, merkle_proof(pieces, index), pieces[index])
            case GetReduced(block, shard) if block in self.shards:
                shards = self.shards[block]
                return ReducedPiece(block, shard, merkle_proof(shards, shard), shards[shard])
            case GetReduced():
                return NotHeld(request)
            case _:
                raise AssertionError(request)


def _reveal(context: Context, peer: PeerId) -> Digest:
    member = context.member(peer)
    assert member is not None
    reveal = REVEALS[peer].preimage(member.anchor)
    assert reveal is not None
    return reveal


def founding() -> Context:
    context = genesis(SWARM, SIGNERS[0].peer, state_digest(HASHES, HASHES.initial()))
    roster = tuple(Member(s.peer, REVEALS[s.peer].anchor, True, 0, 0, 1) for s in SIGNERS)
    return replace(context, roster=roster)


def chain(count: int) -> Chain:
    made = Chain(History(founding()))
    made.grow(count)
    return made
