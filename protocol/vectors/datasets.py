"""Vectors of data.md: manifests, the fixed order of records, who trains on what, and weights."""

from typing import Any

import numpy as np
from examples import ALICE, BOB, named

from p2ptrain.data.chunks import permutation
from p2ptrain.data.manifest import Manifest
from p2ptrain.data.sampler import assigned, noise_of, window
from p2ptrain.data.text import TextOptions, samples_in, text_records
from p2ptrain.data.weights import WeightsManifest
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.digest import digest
from p2ptrain.wire.document import pack_document
from p2ptrain.wire.limits import CHUNK_BYTES_MAX

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


def _text_tree(content: bytes, vocabulary: str) -> dict[str, Any]:
    return {
        "format": 1,
        "name": "a text",
        "licence": "CC0-1.0",
        "order": "kept",
        "record": {"dtype": "u1", "shape": []},
        "label": None,
        "splits": [["train", [[cid_of(content), len(content)]]]],
        "text": {"tokeniser": "characters" if vocabulary else "bytes", "vocabulary": vocabulary},
    }


def _manifests() -> list[Any]:
    trees = [_text_tree(b"\1\0\1", "ab"), _text_tree(b"\xc3\xa9", "")]
    canonical = [_manifest().canonical, *map(pack_document, trees)]
    return [{"hex": content.hex(), "cid": cid_of(content)} for content in canonical]


def _manifests_refused() -> list[Any]:
    good = _text_tree(b"\1\0\1", "ab")
    many = "".join(map(chr, range(1, 258)))
    text = good["text"]
    trees: dict[str, Any] = {
        "an empty text key": {**good, "text": None},
        "a text without its order": {**good, "order": "shuffled"},
        "a text of pairs": {**good, "record": {"dtype": "u1", "shape": [2]}},
        "a text of wide tokens": {**good, "record": {"dtype": "<u2", "shape": []}},
        "a text with labels": {**good, "label": {"dtype": "u1", "classes": 2}},
        "another tokeniser": {**good, "text": {**text, "tokeniser": "words"}},
        "bytes with a vocabulary": {**good, "text": {**text, "tokeniser": "bytes"}},
        "no vocabulary": {**good, "text": {**text, "vocabulary": ""}},
        "a vocabulary out of order": {**good, "text": {**text, "vocabulary": "ba"}},
        "a character twice": {**good, "text": {**text, "vocabulary": "aa"}},
        "a vocabulary of 257 characters": {**good, "text": {**text, "vocabulary": many}},
    }
    return [{"name": name, "hex": pack_document(tree).hex()} for name, tree in trees.items()]


def _texts() -> list[Any]:
    """What becomes of a text: its tokens, split by split, and how many samples are in them."""
    cases = [
        ("To be, or not to be\n", "characters", 100),
        ("To be, or not to be\n", "bytes", 250),
        ("\u00e9\u4e2d\U0001f600\u00e9a", "characters", 400),
        ("\u00e9\u4e2d\U0001f600\u00e9a", "bytes", 400),
    ]
    found = []
    for text, kind, thousandths in cases:
        options = TextOptions(kind, thousandths / 1000)
        records = text_records("text", [("text", text.encode())], options)
        assert records.tokeniser is not None
        found.append(
            {
                "text": text,
                "tokeniser": kind,
                "test_thousandths": thousandths,
                "vocabulary": records.tokeniser.characters,
                "splits": {split.name: split.x.tolist() for split in records.splits},
                "context": 2,
                "samples": {split.name: samples_in(len(split.x), 2) for split in records.splits},
            }
        )
    return found


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


# The network of the vectors: layers [2, 3, 1].
SHAPES = {
    "layer0.weight": (3, 2),
    "layer0.bias": (3,),
    "layer1.weight": (1, 3),
    "layer1.bias": (1,),
}
VALUES = np.arange(13, dtype="<f4") / 4 - 1
# Of a vector too long to print: a network of layers [512, 512, 2], every value 1.
LARGE_SHAPES = {
    "layer0.weight": (512, 512),
    "layer0.bias": (512,),
    "layer1.weight": (2, 512),
    "layer1.bias": (2,),
}


def _weights_tree(content: bytes) -> dict[str, Any]:
    return {
        "format": 1,
        "kind": "weights",
        "tensors": [[name, list(shape)] for name, shape in SHAPES.items()],
        "blocks": [cid_of(content)],
    }


def _weights() -> list[Any]:
    """Blocks are lists of [hex, times], as in codecs.json."""
    last = 4 * sum(int(np.prod(shape)) for shape in LARGE_SHAPES.values()) - CHUNK_BYTES_MAX
    one = np.ones(1, "<f4").tobytes()
    cases: list[tuple[dict[str, Any], list[list[Any]]]] = [
        (SHAPES, [[VALUES.tobytes().hex(), 1]]),
        (LARGE_SHAPES, [[one.hex(), CHUNK_BYTES_MAX // 4], [one.hex(), last // 4]]),
    ]
    found = []
    for shapes, blocks in cases:
        cids = tuple(cid_of(bytes.fromhex(text) * times) for text, times in blocks)
        manifest = WeightsManifest(tensors=tuple(shapes.items()), blocks=cids)
        found.append({"hex": manifest.canonical.hex(), "cid": manifest.cid, "blocks": blocks})
    return found


def _weights_refused() -> list[Any]:
    """Manifests, and whole manifests of blocks, that a reader refuses."""
    content = VALUES.tobytes()
    good = _weights_tree(content)
    name, shape = good["tensors"][0]
    trees: dict[str, Any] = {
        "another format": {**good, "format": 2},
        "another kind": {**good, "kind": "data"},
        "a key too many": {**good, "name": "x"},
        "a key too few": {key: good[key] for key in good if key != "kind"},
        "no tensors": {**good, "tensors": []},
        "no blocks": {**good, "blocks": []},
        "a block too many": {**good, "blocks": good["blocks"] * 2},
        "a name with a space": {
            **good,
            "tensors": [["layer0 weight", shape], *good["tensors"][1:]],
        },
        "a tensor twice": {**good, "tensors": [good["tensors"][0]] * 2},
        "a size of 0": {**good, "tensors": [[name, [0, 2]], *good["tensors"][1:]]},
        "a size that is no integer": {**good, "tensors": [[name, [3.0, 2]], *good["tensors"][1:]]},
        "no CID": {**good, "blocks": ["layer0"]},
        "tensors in another order": {**good, "tensors": good["tensors"][::-1]},
        "a tensor too few": {**good, "tensors": good["tensors"][:3]},
        "another shape": {**good, "tensors": [[name, [2, 3]], *good["tensors"][1:]]},
    }
    found: list[Any] = [
        {"name": name, "hex": pack_document(tree).hex()} for name, tree in trees.items()
    ]
    nan, infinite, tiny, minus = (
        np.array([value], "<f4").tobytes() for value in (np.nan, -np.inf, 2.0**-64, -0.0)
    )
    blocks = {
        "NaN": content[:-4] + nan,
        "infinity": infinite + content[4:],
        "a value below 2^-63": content[:4] + tiny + content[8:],
        "-0": minus + content[4:],
        "a value too few": content[:-4],
        "a value too many": content + bytes(4),
        "half a value too many": content + bytes(2),
    }
    for name, block in blocks.items():
        packed = pack_document(_weights_tree(block)).hex()
        found.append({"name": name, "hex": packed, "blocks": [[block.hex(), 1]]})
    return found


def make_data() -> Any:
    """protocol/vectors/data.json."""
    return {
        "manifests": _manifests(),
        "manifests_rejected": _manifests_refused(),
        "texts": _texts(),
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
        "noises": [
            {
                "beacon": BEACON.hex(),
                "peer": signer.peer,
                "noise": noise_of(BEACON, signer.peer).to_bytes(8, "little").hex(),
            }
            for signer in (ALICE, BOB)
        ],
        "weights": _weights(),
        "weights_rejected": _weights_refused(),
    }
