"""Answers what other peers ask for: blobs, headers, states, reduced shards, the tip.

Every answer is made from what is held at that moment and goes into the asker's bounded outbox;
what is not held is answered with NotHeld, so that the asker turns to another peer at once. The
asker checks every byte by its hash, so serving needs no trust and takes no part in the protocol.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from p2ptrain.errors import StoreError
from p2ptrain.node.ledger import Ledger
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import parse_cid
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import REDUCED_CACHED, STATE_PIECE_BYTES, STATES_CACHED
from p2ptrain.wire.messages import (
    Blob,
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
from p2ptrain.wire.shards import merkle_proofs

Request = GetTip | GetHeaders | GetState | GetReduced | GetBlob
REQUESTS = (GetTip, GetHeaders, GetState, GetReduced, GetBlob)


@dataclass(frozen=True, slots=True)
class _Proven:
    """The leaves of a Merkle tree and the path of each: the tree is hashed once."""

    leaves: tuple[bytes, ...]
    proofs: list[tuple[Digest, ...]]


_NOTHING = _Proven((), [])


@dataclass
class Server:
    """Serves one node's holdings.

    blocks  its content-addressed store
    ledger  its run; None while it has none, or serves a data set only
    """

    blocks: BlockStore
    telemetry: Telemetry
    ledger: Ledger | None = None
    _states: OrderedDict[Digest, _Proven] = field(default_factory=OrderedDict)
    _reduced: OrderedDict[Digest, _Proven] = field(default_factory=OrderedDict)

    def answer(self, request: Request) -> Message | None:
        """The answer to a request; None where silence is the answer."""
        match request:
            case GetTip():
                return self._tip()
            case GetHeaders():
                return self.ledger.history.headers(request) if self.ledger else NotHeld(request)
            case GetBlob(cid):
                return self._blob(request, cid)
            case GetState(block, index):
                pieces = self._state(block)
                if index >= len(pieces.leaves):
                    return NotHeld(request)
                return StatePiece(block, index, pieces.proofs[index], pieces.leaves[index])
            case GetReduced(block, shard):
                shards = self._shards(block)
                if shard >= len(shards.leaves):
                    return NotHeld(request)
                return ReducedPiece(block, shard, shards.proofs[shard], shards.leaves[shard])

    def _tip(self) -> Message | None:
        if self.ledger is None:
            return None
        history = self.ledger.history
        return Tip(history.certificate, history.tip.rounds, self.ledger.states())

    def _blob(self, request: GetBlob, text: str) -> Message:
        try:
            content = self.blocks.get(parse_cid(text))
        except ValueError:
            return NotHeld(request)
        except StoreError as error:
            # The damaged block is set aside; the asker finds it elsewhere, the user is told.
            self.telemetry.report("warning", text=str(error))
            return NotHeld(request)
        return NotHeld(request) if content is None else Blob(text, content)

    def _state(self, block: Digest) -> _Proven:
        """The pieces of a state that is on disk, remembered while it is being fetched."""
        if block not in self._states:
            state = self.ledger.state_of(block) if self.ledger else None
            if state is None:
                return _NOTHING
            _remember(self._states, block, cut_state(state), STATES_CACHED)
        self._states.move_to_end(block)
        return self._states[block]

    def _shards(self, block: Digest) -> _Proven:
        """The reduced shards of a block, which the ledger holds."""
        shards = self.ledger.reduced_of(block) if self.ledger else None
        if shards is None:
            return _NOTHING
        if block not in self._reduced:
            _remember(self._reduced, block, shards, REDUCED_CACHED)
        return self._reduced[block]


def _remember(
    cache: OrderedDict[Digest, _Proven], block: Digest, leaves: tuple[bytes, ...], entries_max: int
) -> None:
    cache[block] = _Proven(leaves, merkle_proofs(leaves))
    while len(cache) > entries_max:
        cache.popitem(last=False)


def cut_state(state: bytes) -> tuple[bytes, ...]:
    """A state's bytes as its Merkle leaves: STATE_PIECE_BYTES each, the last one shorter."""
    starts = range(0, len(state), STATE_PIECE_BYTES)
    return tuple(state[start : start + STATE_PIECE_BYTES] for start in starts)
