"""What a data file holds once it is read: named splits of equal records, with labels or without.

Everything that comes out of p2ptrain.data.formats has passed `checked`, so the code behind it may
rely on what Records promises.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from p2ptrain.data.tokenisers import Tokeniser
from p2ptrain.errors import ConfigError
from p2ptrain.wire.limits import CHUNK_BYTES_MAX, CLASSES_MAX, RECORD_DIMENSIONS_MAX

Array = NDArray[np.generic]

# Stored types, little-endian. Whatever else numpy has is refused rather than guessed at.
RECORD_DTYPES = ("u1", "i1", "<u2", "<i2", "<i4", "<f4")
TRAIN, TEST = "train", "test"
SPLITS = (TRAIN, TEST, "validation")


@dataclass(frozen=True, slots=True)
class Split:
    """A part of a data set.

    name  one of SPLITS
    x     (n, *record shape), of a dtype in RECORD_DTYPES
    y     (n,) u1 or <u2, classes counted from 0; None where records have no labels
    """

    name: str
    x: Array
    y: Array | None


@dataclass(frozen=True, slots=True)
class Records:
    """A data set in memory.

    splits     at least one, of equal dtypes and record shapes
    classes    largest label + 1; 0 without labels
    divided    whether there is more than one split already
    tokeniser  of a text, whose records are single tokens in their order; else None
    """

    splits: tuple[Split, ...]
    classes: int
    divided: bool
    tokeniser: Tokeniser | None = None

    @property
    def ordered(self) -> bool:
        """Whether neighbouring records belong together, as in text."""
        return self.tokeniser is not None


def checked(source: str, splits: list[Split]) -> Records:
    """Records whose promises hold. Raises ConfigError naming the source and what is wrong."""
    splits = [_normal_split(source, split) for split in splits]
    first = splits[0]
    for split in splits[1:]:
        if split.x.shape[1:] != first.x.shape[1:] or split.x.dtype != first.x.dtype:
            raise unusable(
                source,
                f"{split.name} records are {_kind(split.x)}, {first.name} records {_kind(first.x)}",
                "Give splits of one shape and type.",
            )
        if (split.y is None) != (first.y is None):
            raise unusable(source, "one split has labels and another none", "Give both or neither.")
    classes = max((int(s.y.max()) + 1 for s in splits if s.y is not None), default=0)
    wide = np.dtype("u1") if classes <= 256 else np.dtype("<u2")
    splits = [s if s.y is None else replace(s, y=s.y.astype(wide)) for s in splits]
    return Records(tuple(splits), classes, len(splits) > 1)


def unusable(source: str, why: str, todo: str) -> ConfigError:
    """The error for a data file that cannot be used: what, why, what to do."""
    return ConfigError(f"{source} cannot be used as a data set: {why}.\n{todo}")


def _normal_split(source: str, split: Split) -> Split:
    x = _normal_records(source, split)
    if split.y is None:
        return replace(split, x=x)
    y = split.y
    if y.dtype.kind not in "ui" or y.ndim != 1:
        raise unusable(
            source,
            f"the labels of {split.name} are {_kind(y)}, not one integer a record",
            "Store labels as integers that count the classes from 0.",
        )
    if len(y) != len(x):
        raise unusable(
            source,
            f"{split.name} has {len(x)} records but {len(y)} labels",
            "One of the two files is cut short or belongs to another set.",
        )
    if y.min() < 0 or y.max() >= CLASSES_MAX:
        raise unusable(
            source,
            f"a label of {split.name} lies outside 0..{CLASSES_MAX - 1}",
            "Count the classes from 0.",
        )
    return replace(split, x=x, y=y.astype("<i4"))


def _normal_records(source: str, split: Split) -> Array:
    x = split.x.astype("<f4") if split.x.dtype.str[1:] == "f8" else split.x
    stored = x.dtype.newbyteorder("<")
    if stored.str.lstrip("|") not in RECORD_DTYPES:
        raise unusable(
            source,
            f"records of type {x.dtype} are not supported",
            f"Convert them to one of {', '.join(np.dtype(d).name for d in RECORD_DTYPES)}.",
        )
    if x.ndim == 0 or len(x) == 0 or math.prod(x.shape[1:]) == 0:
        raise unusable(source, f"{split.name} has no records in it", "Give a file with data.")
    if x.ndim > RECORD_DIMENSIONS_MAX + 1 or x[0].nbytes >= CHUNK_BYTES_MAX:
        raise unusable(
            source,
            f"a record is {_kind(x)}: larger than a chunk of {CHUNK_BYTES_MAX} bytes",
            "Cut the records smaller.",
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise unusable(
            source,
            f"{split.name} holds NaN, infinity, or values beyond float32",
            "Remove or replace these records: one of them would spoil every peer's weights.",
        )
    return x.astype(stored, copy=False)


def _kind(x: Array) -> str:
    return f"{x.dtype.name} of shape {list(x.shape[1:])}"
