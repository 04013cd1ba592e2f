"""The network of a crowd: who knows whom, and uplinks of different widths.

Everybody keeps connections to NEIGHBOURS others, drawn once: a random graph. What is sent takes its
size over the sender's uplink, one message after the other, and then the way; downlinks are not
narrow here. Contributions and averages have SHARD_BYTES a shard whatever is really averaged: a
reduced payload, so that ten thousand peers fit one core. simnet/story_links.py is exact instead.
"""

import random
from collections.abc import Mapping, Sequence

from p2ptrain.wire.codec import encode
from p2ptrain.wire.messages import (
    Certificate,
    Certified,
    GiveUp,
    Headers,
    Message,
    Piece,
    Propose,
    ReducedPiece,
    Signed,
    StatePiece,
    Tip,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.faults import Network
from simnet.trace import kind_of
from simnet.world import Node, World

NEIGHBOURS = 16  # a coverage of all but e**-16 by those who are told; a node keeps as many
SHARD_BYTES = 40_000
EVENTS_MAX = 200_000_000
UPLINKS_MBIT_S = (10, 50, 100)


class CrowdWorld(World):
    """A World whose peers have neighbours and uplinks."""

    def __init__(self, seed: int, network: Network, uplinks: Mapping[PeerId, float]) -> None:
        """uplinks: Mbit/s of each peer."""
        super().__init__(seed, network)
        self.events_max = EVENTS_MAX
        self.sent_bytes = dict.fromkeys(uplinks, 0.0)
        self.neighbours = neighbours_of(seed, tuple(uplinks))
        self._rates = {peer: mbit_s * 1e6 / 8 for peer, mbit_s in uplinks.items()}
        self._free = dict.fromkeys(uplinks, 0.0)
        self._sizes: dict[str, int] = {}
        self._statements: dict[int, tuple[Signed, int]] = {}
        self._certificates: dict[int, tuple[Certificate, int]] = {}

    def post(self, sender: PeerId, to: PeerId, message: Message) -> None:
        """Put a message on its sender's uplink."""
        size = self._size(message)
        self.sent_bytes[sender] += size
        self._free[sender] = max(self.now, self._free[sender]) + size / self._rates[sender]
        super().post(sender, to, message)

    def _arrival(self, sender: PeerId, to: PeerId) -> float:
        return super()._arrival(sender, to) + self._free[sender] - self.now

    def _deliver(self, sender: PeerId, node: Node, message: Message) -> None:
        node.deliver(sender, message)  # millions: the trace has what came of them

    def _size(self, message: Message) -> int:
        match message:
            case Piece() | ReducedPiece() | StatePiece():
                return SHARD_BYTES
            case Certified(certificate) | Tip(certificate=certificate):
                return 64 + self._of(certificate)
            case GiveUp() | Propose():
                return self._of(message.certificate) + self._rest(message)
            case Headers(certificates=certificates):
                return sum(map(self._of, certificates))
            case _:
                return self._usual(message)

    def _usual(self, message: Message) -> int:
        """Of the first of its kind: all are about as large."""
        kind = kind_of(message)
        if kind not in self._sizes:
            self._sizes[kind] = len(encode(message))
        return self._sizes[kind]

    def _rest(self, message: GiveUp | Propose) -> int:
        """Without its certificate: a Timeout or a Proposal, which have blocks in them."""
        signed = message.signed
        found = self._statements.get(id(signed))
        if found is None:
            found = signed, len(encode(type(message)(signed, None)))
            self._statements[id(signed)] = found
        return found[1]

    def _of(self, certificate: Certificate | None) -> int:
        if certificate is None:
            return 0
        found = self._certificates.get(id(certificate))
        if found is None:
            found = certificate, len(encode(Certified(certificate)))
            self._certificates[id(certificate)] = found
        return found[1]


def neighbours_of(seed: int, peers: Sequence[PeerId]) -> dict[PeerId, tuple[PeerId, ...]]:
    """A random graph: each peer dials half of NEIGHBOURS, and is dialled by as many on average."""
    rng = random.Random(f"neighbours {seed}")
    near: dict[PeerId, set[PeerId]] = {peer: set() for peer in peers}
    for peer in peers:
        for other in rng.sample(peers, min(NEIGHBOURS // 2 + 1, len(peers))):
            if other != peer:
                near[peer].add(other)
                near[other].add(peer)
    return {peer: tuple(sorted(others)) for peer, others in near.items()}
