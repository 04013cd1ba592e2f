"""The one hash of the protocol: BLAKE3-256 over a domain and length-prefixed parts.

The domain keeps hashes of different things apart, and the length prefixes keep ("ab", "c") and
("a", "bc") apart, so no two different inputs of the protocol share the bytes that are hashed.
protocol/encoding.md section 4. BLAKE3 is about five times as fast as SHA-256 on the machines
that were measured; CIDs alone use SHA-256, because IPFS does.
"""

from typing import NewType

from blake3 import blake3

Digest = NewType("Digest", bytes)  # 32 bytes

DIGEST_BYTES = 32
ZERO_DIGEST = Digest(bytes(DIGEST_BYTES))


def digest(domain: str, *parts: bytes) -> Digest:
    """Hash parts under a domain.

    Args:
      domain  ASCII name of what is hashed, such as "block"
      parts   byte strings; each is preceded by its length as 8 bytes, little-endian

    Returns:
      32 bytes
    """
    hasher = blake3(b"p2ptrain/1/" + domain.encode("ascii") + b"\n")
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return Digest(hasher.digest())
