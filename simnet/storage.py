"""What a simulated peer keeps through crashes, and what it serves from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2ptrain.swarm.effects import CommitRecord, VoteRecord
from p2ptrain.swarm.history import History
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import (
    GetBlob,
    GetHeaders,
    GetReduced,
    GetState,
    GetTip,
    Message,
    NotHeld,
    ReducedPiece,
    StatePiece,
    Tip,
)
from p2ptrain.wire.shards import merkle_proof
from simnet.arithmetic import Arithmetic

STATES_KEPT = 12  # a donor keeps more than the unfinal ones, as a node does for joiners

Asked = GetTip | GetHeaders | GetState | GetReduced | GetBlob


@dataclass(slots=True)
class Storage:
    """Records, the chain, applied states and the reduced shards that led to them.

    history  the chain
    applied  block whose state is the current one
    states   kept states by block, the founding block's always
    reduced  reduced shards of every ROUND block that was applied
    votes    the newest VoteRecord, if there is one
    commit   the newest CommitRecord, if there is one
    """

    history: History
    applied: Digest
    states: dict[Digest, bytes]
    reduced: dict[Digest, tuple[bytes, ...]] = field(default_factory=dict)
    votes: VoteRecord | None = None
    commit: CommitRecord | None = None

    def prune(self) -> None:
        """Keep the states since the last final block, the founding one and the applied one."""
        history = self.history
        first = history.height - max(STATES_KEPT, len(history.tip.unfinal) + 1)
        newest = range(max(0, first), history.height + 1)
        kept = {history.context(height).block for height in (0, *newest)} | {self.applied}
        for old in [block for block in self.states if block not in kept]:
            del self.states[old]

    def answer(self, request: Asked, arithmetic: Arithmetic) -> Message:
        """What a donor says."""
        match request:
            case GetTip():
                heights = [(self.history.height_of(block), block) for block in self.states]
                held = sorted((h for h in heights if h[0] is not None), reverse=True)
                rounds = self.history.tip.rounds
                return Tip(self.history.certificate, rounds, tuple(block for _, block in held))
            case GetHeaders():
                return self.history.headers(request)
            case GetState(block, index) if block in self.states:
                pieces = arithmetic.pieces(self.states[block])
                return StatePiece(block, index, merkle_proof(pieces, index), pieces[index])
            case GetReduced(block, shard) if block in self.reduced:
                shards = self.reduced[block]
                return ReducedPiece(block, shard, merkle_proof(shards, shard), shards[shard])
            case GetState() | GetReduced() | GetBlob():
                return NotHeld(request)
