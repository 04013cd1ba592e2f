"""Cut records into chunks, by rules that give the same data set the same CID on every machine.

Splits: a source that has them keeps them. Otherwise one record in five, rounded down, is held out
as "test". A text comes divided (text.py).

Order: neighbouring records of many data sets are of one class, and a peer that draws from a few
chunks would see few classes. So the records of every split, except of text, are shuffled once, by
a fixed permutation that anyone can compute again: record i gets the i-th 8 bytes, little-endian,
of the BLAKE3 output stream over "p2ptrain/1/shuffle" and the number of records (8 bytes,
little-endian), and records are sorted by these keys, equal keys by i. An undivided set is
shuffled before the last fifth is held out. protocol/data.md section 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from p2ptrain.data.records import TEST, TRAIN, Records, Split
from p2ptrain.wire.limits import CHUNK_BYTES_MAX

# A range stands for itself, so that a text of gigabytes needs no array of its indices.
Order = NDArray[np.int64] | range


@dataclass(frozen=True, slots=True)
class Cut:
    """Some records of a split, ready to be stored.

    split    its name
    content  records, then labels; at most CHUNK_BYTES_MAX bytes
    records  how many, >= 1
    """

    split: str
    content: bytes
    records: int


def permutation(count: int) -> NDArray[np.int64]:
    """The fixed order of count records: position to index in the source, (count,) int64."""
    stream = blake3(b"p2ptrain/1/shuffle" + count.to_bytes(8, "little")).digest(length=8 * count)
    return np.argsort(np.frombuffer(stream, "<u8"), kind="stable")


def chunk_count(records: Records) -> int:
    """How many chunks cut_records will yield, for showing progress."""
    return sum(-(-len(order) // _per_chunk(split)) for _, split, order in _divided(records))


def cut_records(records: Records) -> Iterator[Cut]:
    """The chunks of a data set, split by split, in the order that the manifest lists them."""
    for name, split, order in _divided(records):
        step = _per_chunk(split)
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            kept = slice(chosen.start, chosen.stop) if isinstance(chosen, range) else chosen
            content = split.x[kept].tobytes()
            if split.y is not None:
                content += split.y[chosen].tobytes()
            yield Cut(name, content, len(chosen))


def _divided(records: Records) -> list[tuple[str, Split, Order]]:
    """Name, source and order of the records of each split that is to be stored."""
    if records.ordered:
        assert records.divided, "text.py divides a text"
        return [(s.name, s, range(len(s.x))) for s in records.splits]
    parts: list[tuple[str, Split, Order]]
    if records.divided:
        return [(s.name, s, permutation(len(s.x))) for s in records.splits]
    only = records.splits[0]
    count = len(only.x)
    held_out = count // 5
    order = permutation(count)
    parts = [(TRAIN, only, order[: count - held_out])]
    return [*parts, (TEST, only, order[count - held_out :])] if held_out else parts


def _per_chunk(split: Split) -> int:
    label = split.y.itemsize if split.y is not None else 0
    return CHUNK_BYTES_MAX // (int(split.x[0].nbytes) + label)
