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
from p2ptrain.wire.limits import STATE_PIECE_BYTES, STATES_CACHED
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
from p2ptrain.wire.shards import merkle_proof

Request = GetTip | GetHeaders | GetState | GetReduced | GetBlob
REQUESTS = (GetTip, GetHeaders, GetState, GetReduced, GetBlob)


@dataclass
class Server:
    """Serves one node's holdings.

    blocks  its content-addressed store
    ledger  its run; None while it has none, or serves a data set only
    """

    blocks: BlockStore
    telemetry: Telemetry
    ledger: Ledger | None = None
    _states: OrderedDict[Digest, tuple[bytes, ...]] = field(default_factory=OrderedDict)

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
                if index >= len(pieces):
                    return NotHeld(request)
                return StatePiece(block, index, tuple(merkle_proof(pieces, index)), pieces[index])
            case GetReduced(block, shard):
                shards = self.ledger.reduced_of(block) if self.ledger else None
                if shards is None or shard >= len(shards):
                    return NotHeld(request)
                return ReducedPiece(block, shard, tuple(merkle_proof(shards, shard)), shards[shard])

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

    def _state(self, block: Digest) -> tuple[bytes, ...]:
        """The pieces of a state that is on disk, remembered while it is being fetched."""
        if block not in self._states:
            state = self.ledger.state_of(block) if self.ledger else None
            if state is None:
                return ()
            self._states[block] = cut_state(state)
            while len(self._states) > STATES_CACHED:
                self._states.popitem(last=False)
        self._states.move_to_end(block)
        return self._states[block]


def cut_state(state: bytes) -> tuple[bytes, ...]:
    """A state's bytes as its Merkle leaves: STATE_PIECE_BYTES each, the last one shorter."""
    starts = range(0, len(state), STATE_PIECE_BYTES)
    return tuple(state[start : start + STATE_PIECE_BYTES] for start in starts)
