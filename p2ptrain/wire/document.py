"""Canonical bytes of recipes and manifests: documents that a CID names and people also write.

MessagePack, of which only this subset is used, each value in its one shortest form:

    map (text keys, sorted by their UTF-8 bytes) | array | text | integer of -2^63..2^64-1 |
    float64 (never NaN or infinite) | true | false | nil

Messages between peers use the narrower encoding of wire/codec.py instead: it has no maps and no
floats, and checks every bound while it reads. protocol/encoding.md section 6.
"""

import math
from typing import Any

import msgpack

DEPTH_MAX = 8  # maps and arrays inside one another; a recipe has 3


def pack_document(tree: Any) -> bytes:
    """The canonical bytes of dicts, lists, tuples, text, integers, floats, booleans and None."""
    packed: bytes = msgpack.packb(_canonical(tree, DEPTH_MAX), use_bin_type=True)
    return packed


def unpack_document(content: bytes) -> Any:
    """The tree in canonical bytes; arrays come as lists.

    Raises:
      ValueError  the bytes are not MessagePack of the subset above, or not in canonical form
    """
    try:
        tree = msgpack.unpackb(content, raw=False, strict_map_key=True)
        canonical = pack_document(tree)
    except (ValueError, TypeError) as error:
        raise ValueError(f"no canonical document: {error}") from None
    if canonical != content:
        raise ValueError("no canonical document: a value has another, canonical form")
    return tree


def _canonical(tree: Any, depth: int) -> Any:
    if depth < 0:
        raise ValueError(f"more than {DEPTH_MAX} levels")
    match tree:
        case dict():
            if not all(isinstance(key, str) for key in tree):
                raise TypeError("the keys of a map are text")
            keys = sorted(tree, key=lambda key: key.encode("utf-8"))
            return {key: _canonical(tree[key], depth - 1) for key in keys}
        case list() | tuple():
            return [_canonical(item, depth - 1) for item in tree]
        case float() if not math.isfinite(tree):
            raise ValueError("a float that is not finite")
        case str() | int() | float() | None:
            return tree
        case _:
            raise TypeError(f"{type(tree).__name__} has no form in a document")
