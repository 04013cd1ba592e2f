"""Answers what other peers ask for: blobs, headers, states, reduced shards, the tip.

Every answer is made from what is held at that moment and goes into the asker's bounded outbox;
what is not held is answered with NotHeld, so that the asker turns to another peer at once. The
asker checks every byte by its hash, so serving needs no trust and takes no part in the protocol.

An honest asker has eight requests on the way at most. Who leaves SERVED_BYTES_WAITING_MAX of
answers unread, or has had more than its budget (node/costs.py), is not answered; who has a state
read from disk again and again is told that it is not held.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from p2ptrain.errors import StoreError
from p2ptrain.node.costs import Costs
from p2ptrain.node.ledger import Ledger
from p2ptrain.node.peers import Peers
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import parse_cid
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import (
    CHECKPOINTS_KEPT,
    CONNECTIONS_MAX,
    REDUCED_CACHED,
    SERVED_BYTES_WAITING_MAX,
    STATE_PIECE_BYTES,
    STATES_CACHED,
    STATES_CACHED_BYTES,
)
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
from p2ptrain.wire.peer_id import PeerId
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
    costs: Costs = field(default_factory=Costs)
    _states: OrderedDict[Digest, _Proven] = field(default_factory=OrderedDict)
    _reduced: OrderedDict[Digest, _Proven] = field(default_factory=OrderedDict)
    _early: dict[PeerId, GetTip] = field(default_factory=dict)  # asked before there was a ledger

    def open(self, peers: Peers, ledger: Ledger) -> None:
        """Serve a run from here on; who asked for its tip while it was being opened hears now.

        Peers that start together, as after a power cut, would else wait for each other in vain.
        """
        self.ledger = ledger
        early, self._early = self._early, {}
        for asker, request in early.items():
            self.serve(peers, asker, request)

    def serve(self, peers: Peers, asker: PeerId, request: Request) -> None:
        """Answer a request of a connected peer, as far as it is entitled to it."""
        if self.ledger is None and isinstance(request, GetTip):
            if len(self._early) < CONNECTIONS_MAX:
                self._early[asker] = request
            return
        waiting_bytes = peers.transport.waiting_bytes(asker)
        if waiting_bytes > SERVED_BYTES_WAITING_MAX or not self.costs.may_be_served(asker):
            return
        answer = self.answer(request, asker)
        if answer is not None:
            peers.send(asker, answer)
            answer_bytes = peers.transport.waiting_bytes(asker) - waiting_bytes
            self.costs.serve(asker, max(answer_bytes, 0))

    def answer(self, request: Request, asker: PeerId | None = None) -> Message | None:
        """The answer to a request; None where silence is the answer.

        asker  who pays for what it costs; None: nobody
        """
        match request:
            case GetTip():
                return self._tip()
            case GetHeaders():
                return self.ledger.history.headers(request) if self.ledger else NotHeld(request)
            case GetBlob(cid):
                return self._blob(request, cid)
            case GetState(block, index):
                pieces = self._state(block, asker)
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

    def _state(self, block: Digest, asker: PeerId | None) -> _Proven:
        """The pieces of a state that is on disk, remembered while it is being fetched."""
        if block not in self._states:
            if asker is not None and not self.costs.may_read_state(asker):
                return _NOTHING
            state = self.ledger.state_of(block) if self.ledger else None
            if state is None:
                return _NOTHING
            if asker is not None:
                self.costs.read_state(asker)
            self._states[block] = _proven(cut_state(state))
            self._forget_states()
        self._states.move_to_end(block)
        return self._states[block]

    def _forget_states(self) -> None:
        """Keep all that can be asked for, if small: asking for them in turn must cost nothing."""
        sizes = [sum(map(len, held.leaves)) for held in self._states.values()]
        while len(sizes) > CHECKPOINTS_KEPT or (
            len(sizes) > STATES_CACHED and sum(sizes) > STATES_CACHED_BYTES
        ):
            self._states.popitem(last=False)
            del sizes[0]

    def _shards(self, block: Digest) -> _Proven:
        """The reduced shards of a block, which the ledger holds."""
        ledger = self.ledger
        shards = ledger.reduced_of(block) if ledger else None
        if ledger is None or shards is None:
            return _NOTHING
        if block not in self._reduced:
            for gone in [each for each in self._reduced if ledger.reduced_of(each) is None]:
                del self._reduced[gone]
            self._reduced[block] = _proven(shards)
            while len(self._reduced) > REDUCED_CACHED:
                self._reduced.popitem(last=False)
        return self._reduced[block]


def _proven(leaves: tuple[bytes, ...]) -> _Proven:
    return _Proven(leaves, merkle_proofs(leaves))


def cut_state(state: bytes) -> tuple[bytes, ...]:
    """A state's bytes as its Merkle leaves: STATE_PIECE_BYTES each, the last one shorter."""
    starts = range(0, len(state), STATE_PIECE_BYTES)
    return tuple(state[start : start + STATE_PIECE_BYTES] for start in starts)
