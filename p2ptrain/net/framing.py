"""Frames on a stream: how long, which kind, then the bytes.

    length  4 bytes, big-endian: how many bytes of payload follow the kind
    kind    1 byte
    payload

    kind  name      lane      payload
    0     DATA      both      a message of the layers above, 0..FRAME_BYTES_MAX bytes
    1     HELLO     control   the first frame of each side, 0..HELLO_BYTES_MAX
    2     PING      control   empty; answered by PONG at once
    3     PONG      control   empty
    4     REFUSED   control   UTF-8 text; the dialled side's answer to a hello it does not like,
                              or the dialler's to the answer. The connection ends.
    5     DUPLICATE control   empty; instead of a hello: "I have already greeted you on a
                              connection that I dialled, use that one". This one ends.
    6     GOODBYE   control   UTF-8 text: why the sender ends the connection

The bound of its kind is checked when the header is read, before anything is kept of the payload.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from p2ptrain.wire.limits import FRAME_BYTES_MAX, HELLO_BYTES_MAX, REASON_BYTES_MAX

_HEADER = struct.Struct(">IB")
HEADER_BYTES = _HEADER.size


class Kind(IntEnum):
    """What a frame is for; the module's docstring is the table."""

    DATA = 0
    HELLO = 1
    PING = 2
    PONG = 3
    REFUSED = 4
    DUPLICATE = 5
    GOODBYE = 6


PAYLOAD_BYTES_MAX = {
    Kind.DATA: FRAME_BYTES_MAX,
    Kind.HELLO: HELLO_BYTES_MAX,
    Kind.PING: 0,
    Kind.PONG: 0,
    Kind.REFUSED: REASON_BYTES_MAX,
    Kind.DUPLICATE: 0,
    Kind.GOODBYE: REASON_BYTES_MAX,
}


class FramingError(ValueError):
    """The bytes of a peer are not frames. Nothing after them can be understood."""


class RawFrame(NamedTuple):
    """One frame as it came: its kind and its payload."""

    kind: Kind
    payload: bytes


def header_of(kind: Kind, payload_bytes: int) -> bytes:
    """The 5 bytes before a payload. Raises ValueError if the payload is too long for its kind."""
    if payload_bytes > PAYLOAD_BYTES_MAX[kind]:
        raise ValueError(f"{kind.name} of {payload_bytes} bytes: {PAYLOAD_BYTES_MAX[kind]} at most")
    return _HEADER.pack(payload_bytes, kind)


def encode_frame(kind: Kind, payload: bytes = b"") -> bytes:
    """One whole frame. Raises ValueError if the payload is too long for its kind."""
    return header_of(kind, len(payload)) + payload


def encode_reason(reason: str) -> bytes:
    """A reason as a payload: UTF-8, cut between characters so that it fits."""
    return reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore").encode()


def decode_reason(payload: bytes) -> str:
    """A peer's reason for people's eyes: printable characters on one line."""
    text = payload.decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text)  # no terminal tricks


class FrameDecoder:
    """Bytes in, frames out. Holds at most one unfinished frame and what was fed after it."""

    def __init__(self) -> None:
        """Start at the first byte of a stream."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        self._buffer += data

    def next_frame(self) -> RawFrame | None:
        """The next whole frame, or None until more is fed. Raises FramingError."""
        if len(self._buffer) < HEADER_BYTES:
            return None
        payload_bytes, number = _HEADER.unpack_from(self._buffer)
        try:
            kind = Kind(number)
        except ValueError as error:
            raise FramingError(f"unknown frame kind {number}") from error
        if payload_bytes > PAYLOAD_BYTES_MAX[kind]:
            raise FramingError(
                f"{kind.name} frame of {payload_bytes} bytes: {PAYLOAD_BYTES_MAX[kind]} at most"
            )
        end = HEADER_BYTES + payload_bytes
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[HEADER_BYTES:end])
        del self._buffer[:end]
        return RawFrame(kind, payload)
