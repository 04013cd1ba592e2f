"""How long messages take to write, read and check: python -m benchmarks.wire.

The certificate is that of a full roster: 64 entries, 64 ballots. The floor of a blob is a copy of
its bytes. Best of 5 runs each.
"""

import timeit
from collections.abc import Callable

from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.codec import block_digest, decode, encode
from p2ptrain.wire.digest import digest
from p2ptrain.wire.envelope import (
    Ed25519Signer,
    Ed25519Verifier,
    sign_statement,
    statement_bytes,
)
from p2ptrain.wire.messages import (
    ROUND,
    Ballot,
    Blob,
    Block,
    Certificate,
    Certified,
    Entry,
    Norm2,
    Vote,
)
from p2ptrain.wire.shards import merkle_proofs

SIGNERS = sorted((Ed25519Signer(bytes([i]) * 32) for i in range(64)), key=lambda s: s.peer)
D = digest("benchmark")


def certificate() -> Certificate:
    """A block of 64 contributions that 64 voters signed."""
    entries = tuple(Entry(s.peer, D, 320, Norm2(1 << 70), D, 10) for s in SIGNERS)
    block = Block(D, ROUND, entries, (), (), ())
    data = statement_bytes(D, Vote(7, block_digest(block), D, D, D))
    return Certificate(7, block, D, D, tuple(Ballot(s.peer, s.sign(data)) for s in SIGNERS))


def report(what: str, size: int, action: Callable[[], object], number: int = 100) -> None:
    """Print the best time of one action."""
    seconds = min(timeit.repeat(action, number=number, repeat=5)) / number
    print(f"{what:44} {size:9,} bytes {seconds * 1e6:10.1f} us")  # noqa: T201


def main() -> None:
    """Measure and print."""
    me, message = SIGNERS[0], Certified(certificate())
    data = encode(message)
    report("write a certificate of 64", len(data), lambda: encode(message))
    report("read it", len(data), lambda: decode(data, me.peer))
    vote = Vote(7, block_digest(message.certificate.block), D, D, D)
    signed_data = statement_bytes(D, vote)
    ballots = message.certificate.ballots

    def verify(verifier: Ed25519Verifier) -> bool:
        return all(verifier.verify(b.voter, signed_data, b.signature) for b in ballots)

    report("check its signatures", len(data), lambda: verify(Ed25519Verifier()), 5)
    known = Ed25519Verifier()
    verify(known)
    report("check them again", len(data), lambda: verify(known))
    report("sign a vote", 64, lambda: sign_statement(me, D, vote))
    blob = Blob(cid_of(b""), bytes(1 << 20))
    frame = encode(blob)
    report("copy 1 MiB: the floor", 1 << 20, lambda: bytearray(blob.data))
    report("write a blob of 1 MiB", len(frame), lambda: encode(blob))
    report("read it", len(frame), lambda: decode(frame, me.peer))
    shards = [bytes(1 << 17)] * 20
    report("Merkle paths of 20 shards of 128 KiB", 20 << 17, lambda: merkle_proofs(shards), 10)


if __name__ == "__main__":
    main()
