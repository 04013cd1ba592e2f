"""Signatures over statements. Normative text: protocol/envelope.md.

A statement is signed together with the swarm it is meant for and the name of its kind, so that it
proves nothing anywhere else. The signer's key is inside its peer id, so a Signed can be relayed
by anyone and checked by everyone. Ed25519 as in RFC 8032, through the cryptography library.
"""

from collections import OrderedDict
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.codec import encode_part
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import KEYS_CACHED, SIGNATURES_CACHED
from p2ptrain.wire.messages import (
    Announcement,
    Commit,
    Have,
    Join,
    Leave,
    Proposal,
    Signed,
    Timeout,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId, peer_id_of, public_key_of

AnyStatement = Commit | Have | Proposal | Vote | Timeout | Join | Leave | Announcement

STATEMENT_DOMAIN = "statement"


class Signer(Protocol):
    """Signs as one peer."""

    @property
    def peer(self) -> PeerId:
        """Whose signatures these are."""

    def sign(self, data: bytes) -> bytes:
        """The signature over data: 64 bytes."""


class Verifier(Protocol):
    """Checks anyone's signatures."""

    checked: int  # signatures that were really computed, not remembered

    def verify(self, peer: PeerId, data: bytes, signature: bytes) -> bool:
        """Whether `peer` signed `data`."""


class Ed25519Signer:
    """Signs with an Ed25519 private key (32 bytes)."""

    def __init__(self, private_key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        self._peer = peer_id_of(self._key.public_key().public_bytes_raw())

    @property
    def peer(self) -> PeerId:
        """Whose signatures these are."""
        return self._peer

    def sign(self, data: bytes) -> bytes:
        """The signature over data: 64 bytes."""
        return self._key.sign(data)


class Ed25519Verifier:
    """Checks Ed25519 signatures, and remembers good ones: relayed statements come many times."""

    def __init__(self) -> None:
        self.checked = 0
        self._keys: OrderedDict[PeerId, Ed25519PublicKey] = OrderedDict()
        self._verified: OrderedDict[Digest, None] = OrderedDict()

    def verify(self, peer: PeerId, data: bytes, signature: bytes) -> bool:
        """Whether `peer` signed `data`. Raises ValueError if `peer` is not a peer id."""
        name = digest("verified", peer.encode(), data, signature)
        if name in self._verified:
            self._verified.move_to_end(name)
            return True
        self.checked += 1
        try:
            self._key_of(peer).verify(signature, data)
        except InvalidSignature:  # not remembered: a liar must not push the good ones out
            return False
        self._verified[name] = None
        if len(self._verified) > SIGNATURES_CACHED:
            self._verified.popitem(last=False)
        return True

    def _key_of(self, peer: PeerId) -> Ed25519PublicKey:
        key = self._keys.get(peer)
        if key is None:
            key = Ed25519PublicKey.from_public_bytes(public_key_of(peer))
            self._keys[peer] = key
            if len(self._keys) > KEYS_CACHED:
                self._keys.popitem(last=False)
        return key


def swarm_digest(swarm: Cid) -> Digest:
    """The swarm as signatures and hashes name it."""
    return digest("swarm", swarm.encode("ascii"))


def signing_bytes(domain: str, swarm: Digest, statement: AnyStatement) -> bytes:
    """What is signed: domain, swarm and statement, each behind its length (8 bytes, little)."""
    parts = (b"p2ptrain/1/" + domain.encode("ascii"), swarm, encode_part(statement))
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def sign_statement(signer: Signer, swarm: Digest, statement: AnyStatement) -> Signed:
    """Sign one statement for one swarm."""
    signature = signer.sign(signing_bytes(STATEMENT_DOMAIN, swarm, statement))
    return Signed(signer.peer, signature, statement)


def statement_bytes(swarm: Digest, statement: AnyStatement) -> bytes:
    """What sign_statement signs; for ballots, which share one statement, computed once."""
    return signing_bytes(STATEMENT_DOMAIN, swarm, statement)


def check_signed(verifier: Verifier, swarm: Digest, signed: Signed, sender: PeerId) -> None:
    """Raise RemoteProtocolError("envelope 3.1") unless the signature holds in this swarm."""
    data = statement_bytes(swarm, signed.statement)
    if not verifier.verify(signed.signer, data, signed.signature):
        detail = f"a {type(signed.statement).__name__} that {signed.signer} did not sign so"
        raise RemoteProtocolError(sender, "envelope 3.1", detail)
