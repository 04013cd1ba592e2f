"""The manifest of a data set: what its records are and which chunks hold them.

Its canonical bytes are one document (wire/document.py) whose CID is the data set's CID. It is a
block like any other, so whoever knows the CID can take manifest and chunks from anyone.
The normative text is protocol/data.md, section 2.

    {format: 1, name, licence, order: "kept" | "shuffled",
     record: {dtype, shape}, label: {dtype, classes} | nil,
     splits: [[name, [[chunk CID, records], ...]], ...],
     text: {tokeniser: "bytes" | "characters", vocabulary}}

The last key is there in data sets of text only, whose records are single tokens of one byte. A
chunk holds the records of one split that follow those of the chunk before it: all records, one
after the other, then all their labels. A record is its values in C order, little-endian.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from p2ptrain.data.tokenisers import Tokeniser
from p2ptrain.errors import ConfigError
from p2ptrain.wire.cid import Cid, cid_of, parse_cid
from p2ptrain.wire.document import pack_document, unpack_document
from p2ptrain.wire.limits import (
    CHUNK_BYTES_MAX,
    CLASSES_MAX,
    LICENCE_CHARS_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_CHUNKS_MAX,
    RECORD_DIMENSIONS_MAX,
    VOCABULARY_MAX,
)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"
# Printable ASCII: manifests come from strangers and are shown in terminals.
LICENCE_PATTERN = r"^[ -~]*$"

CidText = Annotated[str, AfterValidator(parse_cid)]
Size = Annotated[int, Field(ge=1, le=CHUNK_BYTES_MAX)]
ChunkItem = tuple[CidText, Size]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RecordForm(_Part):
    """dtype in numpy's short form, little-endian; shape of one record, () for a single value."""

    dtype: Literal["u1", "i1", "<u2", "<i2", "<i4", "<f4"]
    shape: tuple[Size, ...] = Field(max_length=RECORD_DIMENSIONS_MAX, strict=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of one record without its label."""
        return int(np.dtype(self.dtype).itemsize * math.prod(self.shape))


class LabelForm(_Part):
    """Labels count classes from 0, one a record."""

    dtype: Literal["u1", "<u2"]
    classes: int = Field(ge=1, le=CLASSES_MAX)

    @property
    def size_bytes(self) -> int:
        """Bytes of one label."""
        return int(np.dtype(self.dtype).itemsize)


class TextForm(_Part):
    """How text became tokens; vocabulary: its characters in ascending order, empty for bytes."""

    tokeniser: Literal["bytes", "characters"]
    vocabulary: str = Field(max_length=VOCABULARY_MAX)

    @model_validator(mode="after")
    def _is_a_tokeniser(self) -> Self:
        Tokeniser(self.tokeniser, self.vocabulary)  # a ValueError says what is wrong
        return self


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where some records of a split are.

    cid      of the chunk's bytes
    first    index in its split of the first record in it
    records  how many follow each other in it, >= 1
    """

    cid: Cid
    first: int
    records: int


class Manifest(_Part):
    """A data set's description; every chunk it names has its size implied."""

    format: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    licence: str = Field(pattern=LICENCE_PATTERN, max_length=LICENCE_CHARS_MAX)
    order: Literal["kept", "shuffled"]
    record: RecordForm
    label: LabelForm | None
    splits: tuple[
        tuple[
            Literal["train", "test", "validation"],
            Annotated[
                tuple[Annotated[ChunkItem, Field(strict=False)], ...],
                Field(min_length=1, max_length=MANIFEST_CHUNKS_MAX, strict=False),
            ],
        ],
        ...,
    ] = Field(min_length=1, max_length=3, strict=False)
    text: TextForm | None = None

    @property
    def canonical(self) -> bytes:
        """The bytes that the data set's CID names."""
        tree = self.model_dump()
        if self.text is None:
            del tree["text"]  # which data sets of records never had
        return pack_document(tree)

    @property
    def cid(self) -> Cid:
        """The data set's CID."""
        return cid_of(self.canonical)

    @property
    def tokeniser(self) -> Tokeniser | None:
        """How text became tokens; None if the records are no text."""
        return Tokeniser(self.text.tokeniser, self.text.vocabulary) if self.text else None

    @property
    def record_bytes(self) -> int:
        """Bytes that one record and its label take in a chunk."""
        return self.record.size_bytes + (self.label.size_bytes if self.label else 0)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits, in their order."""
        return tuple(name for name, _ in self.splits)

    def chunks(self, split: str) -> tuple[Chunk, ...]:
        """The chunks of a split, in its order; none if there is no such split."""
        found: list[Chunk] = []
        first = 0
        for cid, records in next((items for name, items in self.splits if name == split), ()):
            found.append(Chunk(Cid(cid), first, records))
            first += records
        return tuple(found)

    def records(self, split: str) -> int:
        """How many records a split has."""
        return sum(chunk.records for chunk in self.chunks(split))

    @property
    def chunk_cids(self) -> tuple[Cid, ...]:
        """All chunks of all splits, each once, in order."""
        return tuple(dict.fromkeys(Cid(cid) for _, items in self.splits for cid, _ in items))

    @classmethod
    def from_canonical(cls, content: bytes) -> "Manifest":
        """Read a manifest. Raises ConfigError unless it is one, in canonical form and in bounds."""
        if len(content) > MANIFEST_BYTES_MAX:
            raise _bad(f"it is longer than {MANIFEST_BYTES_MAX} bytes")
        try:
            manifest = cls.model_validate(_tuples(unpack_document(content)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _bad(f"{where}: {first['msg']}") from None
        except ValueError as error:
            raise _bad(str(error)) from None
        _check_consistent(manifest, content)
        return manifest


TOKEN_FORM = (RecordForm(dtype="u1", shape=()), None, "kept")


def _tuples(tree: Any) -> Any:
    return (
        {key: _tuples(value) for key, value in tree.items()}
        if isinstance(tree, dict)
        else tuple(map(_tuples, tree))
        if isinstance(tree, list)
        else tree
    )


def _check_consistent(manifest: Manifest, content: bytes) -> None:
    if manifest.canonical != content:
        raise _bad("it is not in canonical form")
    if len(set(manifest.split_names)) != len(manifest.split_names):
        raise _bad("a split is named twice")
    if manifest.text and (manifest.record, manifest.label, manifest.order) != TOKEN_FORM:
        raise _bad("a text has tokens of one byte, without labels, in their order")
    largest = max(records for _, items in manifest.splits for _, records in items)
    if largest * manifest.record_bytes > CHUNK_BYTES_MAX:
        raise _bad(f"a chunk of {largest} records is larger than {CHUNK_BYTES_MAX} bytes")


def _bad(why: str) -> ConfigError:
    return ConfigError(
        f"this is no manifest of a data set: {why}.\n"
        "Use the CID that 'p2ptrain seed dataset' printed, of a data set rather than of a chunk."
    )
