"""Vectors of data.md: a manifest, the fixed order of records, and who trains on what."""

from typing import Any

from examples import ALICE, BOB, named

from p2ptrain.data.chunks import permutation
from p2ptrain.data.manifest import Manifest
from p2ptrain.data.sampler import assigned, window
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.digest import digest

BEACON = named("beacon")


def _manifest() -> Manifest:
    tree = {
        "format": 1,
        "name": "three records",
        "licence": "CC0-1.0",
        "order": "kept",
        "record": {"dtype": "u1", "shape": (2,)},
        "label": {"dtype": "u1", "classes": 2},
        "splits": (
            ("train", ((cid_of(bytes([1, 2, 3, 4, 0, 1])), 2),)),
            ("test", ((cid_of(bytes([5, 6, 1])), 1),)),
        ),
    }
    return Manifest.model_validate(tree)


def _draws() -> list[Any]:
    cases = [(ALICE, 10, 2, 3), (BOB, 10, 2, 3), (ALICE, 4, 3, 3), (ALICE, 1, 1, 2)]
    found = []
    for signer, count, steps, batch in cases:
        indices = assigned(BEACON, signer.peer, count, steps, batch)
        found.append(
            {
                "beacon": BEACON.hex(),
                "peer": signer.peer,
                "records": count,
                "indices": indices.tolist(),
                "data": digest("samples", indices.astype("<i4").tobytes()).hex(),
            }
        )
    return found


def make_data() -> Any:
    """protocol/vectors/data.json."""
    manifest = _manifest()
    return {
        "manifests": [{"hex": manifest.canonical.hex(), "cid": manifest.cid}],
        "orders": [{"count": n, "order": permutation(n).tolist()} for n in (0, 1, 2, 10)],
        "windows": [
            {
                "beacon": BEACON.hex(),
                "peer": ALICE.peer,
                "chunks": chunks,
                "window": window(BEACON, ALICE.peer, chunks).tolist(),
            }
            for chunks in (1, 64, 65, 100)
        ],
        "draws": _draws(),
    }
