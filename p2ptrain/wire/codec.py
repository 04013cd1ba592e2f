"""Canonical bytes of messages, statements and records. Normative text: protocol/encoding.md.

A dataclass is a MessagePack array of its fields, in order; a message or a statement has its code
in front. Every value has one encoding, the shortest, and the reader accepts no other: what was
decoded re-encodes to the same bytes, so a hash of bytes is a hash of meaning.

Theory of operation. The field types of a dataclass are compiled once into a Format, a pair of
functions that write and read such a field. Reading is driven by the expected type alone: nothing
is built that the type does not call for, a length is checked against its bound before the
elements are read, and the depth is that of the types, which are not recursive (fields.Only).
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, lru_cache
from operator import attrgetter
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.wire import messages as m
from p2ptrain.wire.digest import DIGEST_BYTES, Digest, digest
from p2ptrain.wire.fields import AtMost, Each, Exactly, Only
from p2ptrain.wire.limits import (
    CHUNK_BYTES_MAX,
    FRAME_BYTES_MAX,
    PEER_IDS_CACHED,
    TEXT_BYTES_MAX,
)
from p2ptrain.wire.packing import (
    EncodingError,
    Out,
    array_head,
    bin_head,
    read_array_head,
    read_bin,
    read_int,
    read_text,
    write_int,
    write_text,
)
from p2ptrain.wire.peer_id import PEER_ID_CHARS, PeerId, public_key_of

CODES: dict[type, int] = {
    m.Commit: 1, m.Have: 2, m.Proposal: 3, m.Vote: 4, m.Timeout: 5, m.Join: 6, m.Leave: 7,
    m.Announcement: 15,
    m.Contacts: 16, m.Goodbye: 17, m.Announced: 18, m.GetAnnounced: 19,
    m.Statement: 32, m.Propose: 33, m.GiveUp: 34, m.Certified: 35,
    m.Piece: 36, m.GetContribution: 37, m.GetVotes: 38,
    m.Contradiction: 44,
    m.GetTip: 48, m.Tip: 49, m.GetHeaders: 50, m.Headers: 51, m.GetState: 52, m.StatePiece: 53,
    m.GetReduced: 54, m.ReducedPiece: 55, m.GetBlob: 56, m.Blob: 57, m.NotHeld: 58,
}  # fmt: skip

NORM2_BYTES = 16
ELEMENTS_MAX = (1 << 16) - 1  # a tuple without a mark of its own: the longest array16
NIL = b"\xc0"
DIGEST_HEAD = bin_head(DIGEST_BYTES)
NORM2_HEAD = bin_head(NORM2_BYTES)
PEER_ID_HEAD = bytes([0xD9, PEER_ID_CHARS])


Part = TypeVar("Part")


# --- the interface ---------------------------------------------------------------------------
def encode(message: m.Message) -> bytes:
    """The frame of one message. Raises ValueError if it breaks a bound: a bug of ours."""
    data = encode_part(message)
    if len(data) > FRAME_BYTES_MAX:
        raise ValueError(f"a message of {len(data)} bytes, where {FRAME_BYTES_MAX} is the most")
    return data


def decode(data: bytes, sender: PeerId) -> m.Message:
    """Read one frame; raises RemoteProtocolError("encoding 3.x") for whatever is not canonical."""
    message: m.Message = _from_peer(_union(_MESSAGES), data, sender)
    return message


def encode_part(part: Any) -> bytes:
    """The bytes of a statement or message with its code: what signatures cover."""
    return _written(_structure(_kind(part), CODES[type(part)]), part)


def pack(part: Any) -> bytes:
    """The bytes of any frozen dataclass of these field types, without a code: for hashes, disk."""
    return _written(_structure(_kind(part)), part)


def unpack(kind: type[Part], data: bytes) -> Part:
    """Read back what pack wrote. Raises ValueError: the bytes are not such a record."""
    hashable: Any = kind  # mypy does not know that a class is
    value: Part = _read_all(_structure(hashable), data)
    return value


def block_digest(block: m.Block) -> Digest:
    """A block's identity: what votes and children name."""
    return digest("block", pack(block))


def commit_digest(commit: m.Commit) -> Digest:
    """What entries and Have statements name a contribution by."""
    return digest("commit", pack(commit))


def certificate_digest(certificate: m.Certificate) -> Digest:
    """Names one certificate with its view and its signatures, for the transcript."""
    return digest("certificate", pack(certificate))


# --- reading and writing a whole -------------------------------------------------------------
def _kind(part: Any) -> Any:
    return type(part)


def _written(form: Format, part: Any) -> bytes:
    pieces: list[bytes] = []
    form.write(part, pieces.append)
    return b"".join(pieces)


def _read_all(form: Format, data: bytes) -> Any:
    try:
        value, end = form.read(data, 0)
    except IndexError:
        raise EncodingError("3.1", "the bytes end where a value should begin") from None
    if end != len(data):
        raise EncodingError("3.2", f"{len(data) - end} bytes behind the end")
    return value


def _from_peer(form: Format, data: bytes, sender: PeerId) -> Any:
    if len(data) > FRAME_BYTES_MAX:
        raise RemoteProtocolError(sender, "encoding 3.12", f"a frame of {len(data)} bytes")
    try:
        return _read_all(form, data)
    except EncodingError as error:
        raise RemoteProtocolError(sender, f"encoding {error.rule}", str(error)) from None


# --- formats of fields -----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Format:
    """How values of one field type are written, and read from a position."""

    write: Callable[[Any, Out], None]
    read: Callable[[bytes, int], tuple[Any, int]]


@cache
def _structure(kind: type, code: int | None = None, only: tuple[str, ...] = ()) -> Format:
    """A dataclass: array of [its code, if it has one, and] its fields."""
    if not is_dataclass(kind):
        raise TypeError(f"{kind} is not a dataclass")
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind)]
    formats = [_format(hints[name], only) for name in names]
    head = array_head(len(names) + (code is not None)) + bytes([] if code is None else [code])
    writers = [form.write for form in formats]
    readers = [form.read for form in formats]
    getters = [attrgetter(name) for name in names]

    def write(value: Any, out: Out) -> None:
        if type(value) is not kind:
            raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
        out(head)
        for getter, writer in zip(getters, writers, strict=True):
            writer(getter(value), out)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        end = at + len(head)
        if data[at:end] != head:
            raise EncodingError("3.6", f"not the head of a {kind.__name__} of {len(names)} fields")
        values = []
        for reader in readers:
            value, end = reader(data, end)
            values.append(value)
        try:
            return kind(*values), end
        except ValueError as error:  # its own checks: sizes, order, what goes with what
            raise EncodingError("3.11", f"{kind.__name__}: {error}") from None

    return Format(write, read)


@cache
def _union(kinds: tuple[type, ...]) -> Format:
    """One of several dataclasses, told apart by the code in front."""
    by_kind = {kind: _structure(kind, CODES[kind]) for kind in kinds}
    by_code = {CODES[kind]: form.read for kind, form in by_kind.items()}

    def write(value: Any, out: Out) -> None:
        if type(value) not in by_kind:
            raise ValueError(f"a {type(value).__name__} does not belong here")
        by_kind[type(value)].write(value, out)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        if data[at] & 0xF0 != 0x90:
            raise EncodingError("3.3", f"byte {data[at]:#04x} where a message begins")
        reader = by_code.get(data[at + 1])
        if reader is None:
            raise EncodingError("3.8", f"code {data[at + 1]} is not known here")
        return reader(data, at)

    return Format(write, read)


def _optional(form: Format) -> Format:
    """None or a value; no value begins with the byte of nil."""

    def write(value: Any, out: Out) -> None:
        if value is None:
            out(NIL)
        else:
            form.write(value, out)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        return (None, at + 1) if data[at] == NIL[0] else form.read(data, at)

    return Format(write, read)


def _tuple(element: Format, most: int) -> Format:
    """Any number of elements of one type, up to `most`."""

    def write(value: Any, out: Out) -> None:
        if len(value) > most:
            raise ValueError(f"{len(value)} elements, where {most} is the most")
        out(array_head(len(value)))
        for item in value:
            element.write(item, out)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        count, at = read_array_head(data, at, most)
        items = []
        for _ in range(count):
            item, at = element.read(data, at)
            items.append(item)
        return tuple(items), at

    return Format(write, read)


def _bytes(most: int) -> Format:
    def write(value: Any, out: Out) -> None:
        if len(value) > most:
            raise ValueError(f"{len(value)} bytes, where {most} is the most")
        out(bin_head(len(value)))
        out(value)

    return Format(write, lambda data, at: read_bin(data, at, most))


def _fixed(size: int) -> Format:
    """A byte string of one size."""
    head = bin_head(size)
    skip = len(head)

    def write(value: Any, out: Out) -> None:
        if len(value) != size:
            raise ValueError(f"{len(value)} bytes, where {size} belong")
        out(head)
        out(value)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        start = at + skip
        end = start + size
        if data[at:start] != head:
            raise EncodingError("3.3", f"not the head of a byte string of {size}")
        if end > len(data):
            raise EncodingError("3.1", f"{size} bytes announced, {len(data) - start} there")
        return data[start:end], end

    return Format(write, read)


def _text(most: int) -> Format:
    return Format(
        lambda value, out: write_text(value, most, out),
        lambda data, at: read_text(data, at, most),
    )


def _write_bool(value: Any, out: Out) -> None:
    out(b"\xc3" if value else b"\xc2")


def _read_bool(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] not in (0xC2, 0xC3):
        raise EncodingError("3.3", f"byte {data[at]:#04x} where true or false belongs")
    return data[at] == 0xC3, at + 1


_NORM2 = _fixed(NORM2_BYTES)


def _write_norm2(value: Any, out: Out) -> None:
    if not 0 <= value < 1 << 8 * NORM2_BYTES:
        raise ValueError("a squared norm lies in 0..2**128-1")
    _NORM2.write(value.to_bytes(NORM2_BYTES, "big"), out)


def _read_norm2(data: bytes, at: int) -> tuple[int, int]:
    value, end = _NORM2.read(data, at)
    return int.from_bytes(value, "big"), end


@lru_cache(PEER_IDS_CACHED)  # base58 takes 13 us an id, and a swarm has few of them
def _checked_peer(text: bytes) -> str:
    try:
        peer = text.decode("ascii")
        public_key_of(peer)
    except ValueError as error:
        raise EncodingError("3.9", str(error)) from None
    return peer


def _write_peer(value: Any, out: Out) -> None:
    text = value.encode()
    try:
        _checked_peer(text)
    except EncodingError as error:
        raise ValueError(f"{value!r}: {error}") from None
    out(PEER_ID_HEAD + text)


def _read_peer(data: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + PEER_ID_CHARS
    if data[at : at + 2] != PEER_ID_HEAD:
        raise EncodingError("3.3", "not the head of a peer id")
    if end > len(data):
        raise EncodingError("3.1", "the bytes end inside a peer id")
    return _checked_peer(data[at + 2 : end]), end


# --- from types to formats -------------------------------------------------------------------
_PLAIN: dict[Any, Format] = {
    int: Format(write_int, read_int),
    bool: Format(_write_bool, _read_bool),
    Digest: _fixed(DIGEST_BYTES),
    m.Norm2: Format(_write_norm2, _read_norm2),
    PeerId: Format(_write_peer, _read_peer),
    str: _text(TEXT_BYTES_MAX),
    bytes: _bytes(CHUNK_BYTES_MAX),
}


def _format(hint: Any, only: tuple[str, ...]) -> Format:
    """The format of a field's type. `only`: which statements a union of statements may hold."""
    marks: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        marks = tuple(rest)
    most = next((mark.count for mark in marks if isinstance(mark, AtMost)), None)
    only = next((mark.statements for mark in marks if isinstance(mark, Only)), only)
    if get_origin(hint) is tuple:
        kind, dots = get_args(hint)
        assert dots is Ellipsis, "tuples on the wire are of one type and any length"
        each = next((AtMost(mark.count) for mark in marks if isinstance(mark, Each)), None)
        element = _format(Annotated[kind, each] if each else kind, only)
        return _tuple(element, ELEMENTS_MAX if most is None else most)
    if get_origin(hint) in (Union, types.UnionType):
        return _union_or_optional(get_args(hint), only)
    for mark in marks:
        if isinstance(mark, Exactly):
            return _fixed(mark.count)
    if most is not None:
        return _text(most) if hint is str else _bytes(most)
    if getattr(hint, "__name__", "") == "Cid":
        return _PLAIN[str]
    return _PLAIN[hint] if hint in _PLAIN else _structure(hint, None, only)


def _union_or_optional(kinds: tuple[Any, ...], only: tuple[str, ...]) -> Format:
    some = [kind for kind in kinds if kind is not types.NoneType]
    if len(some) < len(kinds) and len(some) == 1:  # X | None
        return _optional(_format(some[0], only))
    form = _union(tuple(kind for kind in some if not only or kind.__name__ in only))
    return _optional(form) if len(some) < len(kinds) else form


_MESSAGES = tuple(get_args(m.Message))
