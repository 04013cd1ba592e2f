"""Simulated signatures: fast, and unforgeable only because the world holds all secrets.

Ed25519 would take most of a simulation's time (about 100 microseconds a check), and a simulation
looks for errors in the protocol and not in the signature scheme. A signature here is a keyed hash
under a secret of the signer; the verifier knows every secret, which no real verifier could.
Machines and liars are only ever given the Signer of their own peer, so nobody can forge another's.
"""

from dataclasses import dataclass, field
from hmac import compare_digest

from blake3 import blake3

from p2ptrain.wire.digest import digest
from p2ptrain.wire.peer_id import PeerId, peer_id_of

SIGNATURE_BYTES = 64  # as Ed25519's, so that messages keep their size


def _sign(secret: bytes, data: bytes) -> bytes:
    return blake3(data, key=secret).digest(length=SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class SimSigner:
    """One peer's key."""

    peer: PeerId
    secret: bytes

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return _sign(self.secret, data)


@dataclass(slots=True)
class KeyRing:
    """All peers of a world, and the verifier that knows their secrets."""

    seed: int
    checked: int = 0  # nobody is charged for signatures here
    _signers: dict[PeerId, SimSigner] = field(default_factory=dict)

    def new_signer(self) -> SimSigner:
        """The key of one more peer; the same seed gives the same peers in the same order."""
        name = b"%d %d" % (self.seed, len(self._signers))
        peer = peer_id_of(digest("simulated peer", name))
        self._signers[peer] = SimSigner(peer, digest("simulated secret", name))
        return self._signers[peer]

    def verify(self, peer: PeerId, data: bytes, signature: bytes) -> bool:
        """Whether this peer signed this data."""
        signer = self._signers.get(peer)
        return signer is not None and compare_digest(signer.sign(data), signature)
