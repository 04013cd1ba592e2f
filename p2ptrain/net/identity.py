"""The key that makes this peer this peer: one Ed25519 key in one file.

The file is PEM (PKCS 8, unencrypted, mode 0600), so that openssl and others read it too. Above the
key stands the peer id: any 32 bytes are a key, and a flipped bit would make another peer of us. It
is made once, at first run. Whoever has it can sign as this peer: it is never sent, logged or shown.
"""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from p2ptrain.errors import StoreError
from p2ptrain.wire.peer_id import PeerId, peer_id_of

_PEER_LINE = "p2ptrain peer "
_BEGIN = b"-----BEGIN"


@dataclass(frozen=True, slots=True)
class Identity:
    """An Ed25519 key and the peer id that follows from it.

    private_key   32 bytes, the seed; left out of repr, so that no log can hold it
    """

    peer_id: PeerId
    private_key: bytes = field(repr=False)


def identity_of(private_key: bytes) -> Identity:
    """The identity of a 32-byte Ed25519 seed. Raises ValueError for another length."""
    public_key = Ed25519PrivateKey.from_private_bytes(private_key).public_key()
    raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return Identity(peer_id_of(raw), private_key)


def load_or_create(path: Path) -> Identity:
    """The identity in a file; made, with the folders above it, if there is no such file.

    Raises StoreError, with what to do, if the file cannot be read, written or understood, or if
    others may read it.
    """
    try:
        if not path.exists():
            _create(path)
        mode = path.stat().st_mode & 0o777
        pem = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"the identity file {path} cannot be used: {error.strerror}. "
            "Make its folder readable and writable for you, or choose another with --home."
        ) from error
    if mode & 0o077:
        raise StoreError(
            f"the identity file {path} is open to others (mode {mode:03o}), who could sign in "
            f"your name. Close it: chmod 600 {path}"
        )
    return _decode(path, pem)


def _create(path: Path) -> None:
    """Write a new key so that the file is either whole or not there, whenever power fails."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = Ed25519PrivateKey.generate()
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    said = f"{_PEER_LINE}{identity_of(raw).peer_id}\n".encode("ascii")
    pem = said + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, does not replace a key made meanwhile
        except FileExistsError:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        draft.unlink()


def _decode(path: Path, pem: bytes) -> Identity:
    try:
        key = load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("it holds a key of another kind than Ed25519")
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        why = str(error).partition("\n")[0]
        raise StoreError(
            f"the identity file {path} holds no usable key: {why}. Restore it from a copy, or "
            f"remove it to go on as a new peer: rm {path}"
        ) from error
    identity = identity_of(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
    said = pem.partition(_BEGIN)[0].decode("ascii", "replace").strip()
    # A bare key has nothing above it: it was put there by other means.
    if said and said != f"{_PEER_LINE}{identity.peer_id}":
        raise StoreError(
            f"the identity file {path} is damaged: its key is not that of the peer it names. "
            f"Restore it from a copy, or remove it to go on as a new peer: rm {path}"
        )
    return identity
