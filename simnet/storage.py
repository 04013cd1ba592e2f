"""What a simulated peer keeps through crashes, and what it serves from it.

The order is the node's (node/ledger.py): what a reduction gave is written before the vote for it; a
certificate before anything that follows from it; a state, a moment later, when it is applied. A
switch that drops blocks is written with the first block of the new branch that is applied or
follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from p2ptrain.swarm.effects import CommitRecord, VoteRecord
from p2ptrain.swarm.history import History, Link
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

REDUCED_KEPT = 16  # newest reductions that a voter can make a state from again
STATES_KEPT = 12  # a donor keeps more than the unfinal ones, as a node does for joiners

Asked = GetTip | GetHeaders | GetState | GetReduced | GetBlob


@dataclass(slots=True)
class Storage:
    """Records, the chain, applied states and the reduced shards that led to them.

    history  the chain; in memory
    logged   its blocks as they are on the disk
    applied  block whose state is the current one
    states   kept states by block, the founding block's always
    reduced  reduced shards of every ROUND block that was applied, and of those reduced lately
    results  what the newest reductions gave: reduced root and state, by block
    votes    the newest VoteRecord, if there is one
    commit   the newest CommitRecord, if there is one
    doubtful whether the records may be older than what was sent: this is a restored copy
    """

    history: History
    applied: Digest
    states: dict[Digest, bytes]
    logged: tuple[Link, ...] = ()
    reduced: dict[Digest, tuple[bytes, ...]] = field(default_factory=dict)
    results: dict[Digest, tuple[Digest, Digest]] = field(default_factory=dict)
    votes: VoteRecord | None = None
    commit: CommitRecord | None = None
    doubtful: bool = False
    _parted: int | None = None

    def copy(self) -> Storage:
        """A backup: what is on the disk now."""
        backup = replace(
            self,
            history=History(self.history.genesis, self.logged),
            states=dict(self.states),
            reduced=dict(self.reduced),
            results=dict(self.results),
        )
        backup.crash()
        return backup

    def extend(self, link: Link) -> None:
        """A block was certified: it is on the disk before anything follows."""
        self.history.append(link)
        self._log()

    def switch(self, height: int, links: tuple[Link, ...]) -> None:
        """Other blocks take the place of those above a height."""
        dropped = height < self.history.height
        self.history.switch(height, links)
        if dropped:
            self._parted = height
        else:
            self._log()

    def keep(self, block: Digest, shards: tuple[bytes, ...], result: tuple[Digest, Digest]) -> None:
        """What a reduction gave, before the vote for it."""
        self.reduced[block] = shards
        self.results[block] = result
        while len(self.results) > REDUCED_KEPT:
            del self.results[next(iter(self.results))]

    def apply(self, block: Digest, state: bytes, shards: tuple[bytes, ...]) -> None:
        """A state is applied."""
        self.applied = block
        self.states[block] = state
        if shards:
            self.reduced[block] = shards
        height = self.history.height_of(block)
        if self._parted is not None and height is not None and height > self._parted:
            self._log()
        self.prune()

    def crash(self) -> None:
        """Memory is lost: the chain is what the disk says, the state the newest on it."""
        self.history.switch(0, self.logged)
        self._parted = None
        heights = [(self.history.height_of(block), block) for block in self.states]
        self.applied = max((h, block) for h, block in heights if h is not None)[1]

    def _log(self) -> None:
        self.logged = self.history.after(0)
        self._parted = None

    def prune(self) -> None:
        """Keep the states since the last final block, the founding one and the applied one."""
        history = self.history
        first = history.height - max(STATES_KEPT, len(history.tip.unfinal) + 1)
        newest = range(max(0, first), history.height + 1)
        kept = {history.context(height).block for height in (0, *newest)} | {self.applied}
        kept |= {link.context.block for link in self.logged[-STATES_KEPT:]}
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
