"""Builds the vectors of the wire from the program; run in the repository's root.

    PYTHONPATH=.:tests python protocol/vectors/make.py [--write] [--replace]

Without options it says what differs from the files and exits 1 if anything does. A vector that is
already there is changed only with --replace: other implementations may hold to it. All keys and
values are fixed, so the same program always builds the same files.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chains import make_chain
from datasets import make_data
from examples import (
    ALICE,
    ANNOUNCEMENT,
    BLOCK,
    BOB,
    CLOSING,
    COMMIT,
    FIRST,
    GENESIS,
    JOIN,
    KEYS,
    LAST,
    MESSAGES,
    PARTING,
    PROPOSAL,
    SWARM,
    SWARM_ID,
    TIMEOUT,
    VOTE,
    named,
    one,
    refusals,
)
from wire_json import to_json

from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.codec import (
    block_digest,
    certificate_digest,
    commit_digest,
    encode,
    pack,
)
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.document import pack_document
from p2ptrain.wire.envelope import Ed25519Signer, statement_bytes
from p2ptrain.wire.limits import FRAME_BYTES_MAX
from p2ptrain.wire.messages import (
    Have,
    Hello,
    Leave,
    Signed,
    Vote,
)
from p2ptrain.wire.shards import merkle_proof, merkle_root

HERE = Path(__file__).parent


def make_encoding() -> Any:
    accepted = [
        {"name": name, "hex": encode(message).hex(), "message": to_json(message)}
        for name, message in MESSAGES.items()
    ]
    rejected = [
        {"name": name, "rule": f"encoding {rule}", "hex": data.hex()}
        for name, (rule, data) in refusals().items()
    ]
    too_long = {"name": "a frame too long", "rule": "encoding 3.12"}
    rejected.append({**too_long, "zeros": FRAME_BYTES_MAX + 1})  # type: ignore[dict-item]
    hello = Hello(1, 1, (SWARM_ID,), "p2ptrain/0.1.0", ("/ip4/192.0.2.1/tcp/4001",))
    part = {"name": "hello", "hex": pack(hello).hex(), "part": to_json(hello)}
    return {"accepted": accepted, "parts": [part], "rejected": rejected}


def make_digests() -> Any:
    hashed: list[tuple[str, str, list[bytes]]] = [
        ("nothing", "empty", []),
        ("one empty part", "empty", [b""]),
        ("two parts", "node", [b"ab", b"c"]),
        ("the same bytes in other parts", "node", [b"a", b"bc"]),
        ("swarm", "swarm", [SWARM_ID.encode()]),
        ("founding block", "genesis", [SWARM, ALICE.peer.encode()]),
        ("first beacon", "beacon", [SWARM]),
        (
            "beacon after a round",
            "beacon",
            [
                digest("beacon", SWARM),
                *(part for e in BLOCK.entries for part in (e.peer.encode(), e.reveal)),
            ],
        ),
    ]
    chain = [named("seed of carol")]
    for _ in range(3):
        chain.append(digest("reveal", chain[-1]))
    return {
        "digests": [
            {
                "name": name,
                "domain": domain,
                "parts": [part.hex() for part in parts],
                "digest": digest(domain, *parts).hex(),
            }
            for name, domain, parts in hashed
        ],
        "blocks": [
            {
                "block": to_json(block),
                "packed": pack(block).hex(),
                "digest": block_digest(block).hex(),
            }
            for block in (BLOCK, CLOSING, PARTING)
        ],
        "commits": [{"commit": to_json(COMMIT), "digest": commit_digest(COMMIT).hex()}],
        "certificates": [
            {"certificate": to_json(c), "digest": certificate_digest(c).hex()}
            for c in (FIRST, LAST)
        ],
        "reveals": [{"seed": chain[0].hex(), "length": 3, "anchor": chain[3].hex()}],
        "cids": [
            {"content": content.hex(), "cid": cid_of(content)}
            for content in (b"", b"a recipe", bytes(range(256)))
        ],
        "peers": [{"private_key": k.hex(), "peer": Ed25519Signer(k).peer} for k in KEYS],
    }


def make_envelope() -> Any:
    statements: list[Any] = [
        COMMIT,
        Have(GENESIS, ()),
        PROPOSAL,
        VOTE,
        TIMEOUT,
        JOIN,
        Leave(GENESIS),
        ANNOUNCEMENT,
    ]
    key = next(key for key in KEYS if Ed25519Signer(key).peer == BOB.peer)
    accepted = [
        {
            "private_key": key.hex(),
            "swarm_id": SWARM_ID,
            "signed": to_json(one(statement)),
            "signing_bytes": statement_bytes(SWARM, statement).hex(),
        }
        for statement in statements
    ]
    good = one(VOTE)
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(good.signature[32:], "little") + order
    malleated = good.signature[:32] + scalar.to_bytes(32, "little")
    changed = Vote(2, VOTE.block, VOTE.parent, VOTE.reduced, VOTE.state)
    announced = one(ANNOUNCEMENT)
    later = replace(ANNOUNCEMENT, sequence=ANNOUNCEMENT.sequence + 1)
    refused = {
        "another swarm": (cid_of(b"another recipe"), good),
        "another signer": (SWARM_ID, Signed(ALICE.peer, good.signature, VOTE)),
        "another view": (SWARM_ID, Signed(BOB.peer, good.signature, changed)),
        "another kind of statement": (SWARM_ID, Signed(BOB.peer, good.signature, JOIN)),
        "zeros": (SWARM_ID, Signed(BOB.peer, bytes(64), VOTE)),
        "an announcement in another swarm": (cid_of(b"another recipe"), announced),
        "an announcement made later": (SWARM_ID, Signed(BOB.peer, announced.signature, later)),
        "a scalar above the group order": (SWARM_ID, Signed(BOB.peer, malleated, VOTE)),
    }
    rejected = [
        {"name": name, "rule": "envelope 3.1", "swarm_id": swarm_id, "signed": to_json(signed)}
        for name, (swarm_id, signed) in refused.items()
    ]
    return {"accepted": accepted, "rejected": rejected}


def make_merkle() -> Any:
    accepted = []
    for count in range(10):
        leaves = [bytes([i]) * i for i in range(count)]
        proofs = [[p.hex() for p in merkle_proof(leaves, i)] for i in range(count)]
        root = merkle_root(leaves).hex()
        accepted.append({"leaves": [leaf.hex() for leaf in leaves], "root": root, "proofs": proofs})
    leaves = [bytes([i]) * i for i in range(5)]
    five, proof = merkle_root(leaves), merkle_proof(leaves, 2)
    cases: dict[str, tuple[int, int, bytes, tuple[Digest, ...]]] = {
        "another leaf": (5, 2, leaves[3], proof),
        "another place": (5, 3, leaves[2], proof),
        "a path too short": (5, 2, leaves[2], proof[:-1]),
        "a path too long": (5, 2, leaves[2], (*proof, ZERO_DIGEST)),
        "a path in another order": (5, 2, leaves[2], proof[::-1]),
        "another number of leaves": (4, 2, leaves[2], proof),
        "a place behind the last": (5, 5, leaves[4], merkle_proof(leaves, 4)),
        "a place before the first": (5, -1, leaves[4], merkle_proof(leaves, 4)),
        "an inner node as a leaf": (3, 1, merkle_root(leaves[2:4]), proof[1:]),
        "no leaves": (0, 0, b"", ()),
    }
    rejected = [
        {
            "name": name,
            "root": five.hex(),
            "count": count,
            "index": index,
            "leaf": leaf.hex(),
            "proof": [p.hex() for p in path],
        }
        for name, (count, index, leaf, path) in cases.items()
    ]
    return {"accepted": accepted, "rejected": rejected}


def make_documents() -> Any:
    values: list[Any] = [
        None, True, False, 0, 127, 128, -1, -32, -33, -128, -129, 1 << 62, -(1 << 63),
        (1 << 64) - 1, 0.5, -0.0, 1e-310, "", "é", "x" * 32, [], [1, [2, []]], {},
        {"b": 1, "a": {"é": 2, "z": 3}},
    ]  # fmt: skip
    refused = {
        "nothing": b"",
        "two values": b"\x01\x02",
        "1 in two bytes": b"\xcc\x01",
        "-1 in two bytes": b"\xd0\xff",
        "a float in 32 bits": b"\xca" + bytes(4),
        "NaN": b"\xcb\x7f\xf8" + bytes(6),
        "infinity": b"\xcb\x7f\xf0" + bytes(6),
        "keys not sorted": b"\x82\xa1b\x01\xa1a\x01",
        "a key twice": b"\x82\xa1a\x01\xa1a\x01",
        "a key that is no text": b"\x81\x01\x01",
        "a byte string": b"\xc4\x01a",
        "an extension": b"\xd4\x01\x02",
        "a time": b"\xd6\xff" + bytes(4),
        "a text that is not UTF-8": b"\xa1\xff",
        "a text with a longer head": b"\xd9\x01a",
        "a map with a longer head": b"\xde\x00\x00",
        "nine arrays in one another and a value": b"\x91" * 9 + b"\x01",
        "the byte that means nothing": b"\xc1",
    }
    return {
        "accepted": [{"value": value, "hex": pack_document(value).hex()} for value in values],
        "rejected": [{"name": name, "hex": data.hex()} for name, data in refused.items()],
    }


FILES: dict[str, Callable[[], Any]] = {
    "encoding": make_encoding,
    "digests": make_digests,
    "envelope": make_envelope,
    "merkle": make_merkle,
    "documents": make_documents,
    "chain": make_chain,
    "data": make_data,
}


def _lost(old: Any, new: Any) -> list[str]:
    """Vectors of the old file that are not in the new one, by section and number."""
    return [
        f"{section}[{i}] {vector.get('name', '')}"
        for section, vectors in old.items()
        for i, vector in enumerate(vectors)
        if vector not in new.get(section, [])
    ]


def main(options: list[str]) -> int:
    differs = 0
    for name, make in FILES.items():
        path = HERE / f"{name}.json"
        new = json.loads(json.dumps(make()))
        old = json.loads(path.read_text()) if path.exists() else {}
        if old == new:
            continue
        differs = 1
        lost = _lost(old, new)
        print(f"{path.name}: {'changed' if lost else 'has more now'}", *lost, sep="\n  ")  # noqa: T201
        if "--write" in options and (not lost or "--replace" in options):
            path.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n")
            print("  written")  # noqa: T201
    return differs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
