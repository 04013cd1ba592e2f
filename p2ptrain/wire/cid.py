"""Content identifiers: CIDv1 of raw bytes, so that any IPFS tool can name and check our data.

Only one kind is used, and every other is refused, so that one piece of content has one name:
version 1, codec raw (0x55), hash sha2-256 (0x12, 32 bytes), written in lower-case base32 without
padding behind the letter "b" (https://github.com/multiformats/cid). `ipfs add --cid-version 1
--raw-leaves` gives files of up to one chunk the same names. protocol/encoding.md section 5.
"""

import base64
import binascii
import hashlib
from typing import NewType

Cid = NewType("Cid", str)  # 59 characters, "bafkrei..."

CID_PREFIX = bytes([0x01, 0x55, 0x12, 0x20])  # version 1, raw, sha2-256, 32 bytes
CID_CHARS = 59


def cid_of(content: bytes) -> Cid:
    """The name of these bytes."""
    return cid_of_sha256(hashlib.sha256(content).digest())


def cid_of_sha256(sha256: bytes) -> Cid:
    """The name of the content whose SHA-256 (32 bytes) this is."""
    if len(sha256) != 32:
        raise ValueError(f"a SHA-256 has 32 bytes, not {len(sha256)}")
    return Cid("b" + base64.b32encode(CID_PREFIX + sha256).decode("ascii").rstrip("=").lower())


def parse_cid(text: str) -> Cid:
    """Check a name that came from outside. Raises ValueError saying what is wrong with it."""
    if len(text) != CID_CHARS or not text.startswith("b"):
        raise ValueError(f"a CID here has {CID_CHARS} characters and begins with 'bafkrei'")
    try:
        binary = base64.b32decode(text[1:].upper() + "=" * 6)
    except (binascii.Error, ValueError):
        raise ValueError("a CID is written in lower-case base32: a-z and 2-7") from None
    if not binary.startswith(CID_PREFIX):
        raise ValueError("only CIDv1 of raw bytes with sha2-256 is used ('bafkrei...')")
    # Upper case and spare bits would be second spellings of one name.
    if cid_of_sha256(binary[len(CID_PREFIX) :]) != text:
        raise ValueError("the CID is not in its one canonical spelling")
    return Cid(text)


def sha256_of(cid: Cid) -> bytes:
    """The SHA-256 (32 bytes) that a CID names."""
    return base64.b32decode(cid[1:].upper() + "=" * 6)[len(CID_PREFIX) :]
