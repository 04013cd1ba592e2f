"""Who a peer is: the libp2p peer id of its Ed25519 key, as text.

A libp2p peer id is a multihash of the public key's protobuf encoding. For keys of up to 42 bytes
the multihash is "identity": the key itself, unhashed. An Ed25519 id is therefore a fixed prefix of
six bytes and the 32 bytes of the key, written in base58 ("12D3KooW..."), and the key can be read
back out of it. That is why a signature needs no key beside it: the signer's id is enough.

    00 24          multihash: identity, 36 bytes follow
    08 01          protobuf field 1 (key type) = 1 (Ed25519)
    12 20 <key>    protobuf field 2 (data) = 32 bytes

Source: the libp2p peer id specification, https://github.com/libp2p/specs/blob/master/peer-ids.
"""

from typing import NewType

import base58

PeerId = NewType("PeerId", str)

PUBLIC_KEY_BYTES = 32
_PREFIX = bytes.fromhex("002408011220")
PEER_ID_CHARS = 52  # what 38 bytes with this prefix always take in base58


def peer_id_of(public_key: bytes) -> PeerId:
    """The peer id of an Ed25519 public key (32 bytes). Raises ValueError for another length."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return PeerId(base58.b58encode(_PREFIX + public_key).decode("ascii"))


def public_key_of(peer_id: str) -> bytes:
    """The 32-byte Ed25519 public key inside a peer id.

    Raises ValueError for whatever is not the one canonical text of an Ed25519 peer id, so that two
    different texts never name one peer.
    """
    if len(peer_id) != PEER_ID_CHARS:  # before decoding, whose cost grows with the square
        raise ValueError(f"an Ed25519 peer id has {PEER_ID_CHARS} characters, not {len(peer_id)}")
    try:
        decoded: bytes = base58.b58decode(peer_id.encode("ascii"))
    except ValueError as error:  # a character outside the alphabet, or outside ASCII
        raise ValueError("a peer id is written in base58") from error
    if not decoded.startswith(_PREFIX) or len(decoded) != len(_PREFIX) + PUBLIC_KEY_BYTES:
        raise ValueError("not the id of an Ed25519 key")
    public_key = decoded[len(_PREFIX) :]
    if peer_id_of(public_key) != peer_id:  # the decoder forgives trailing spaces; we do not
        raise ValueError("not the canonical text of a peer id")
    return public_key


def peer_id_in(address: str) -> PeerId:
    """The peer id at the end of a full multiaddr, ".../p2p/<peer id>".

    Raises ValueError if there is none or it is not an Ed25519 peer id.
    """
    _, found, peer_id = address.rpartition("/p2p/")
    if not found:
        raise ValueError("the address does not end in /p2p/<peer id>")
    public_key_of(peer_id)
    return PeerId(peer_id)
