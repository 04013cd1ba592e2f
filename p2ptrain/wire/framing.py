"""Frames in a stream of bytes: a length of 4 bytes, big-endian, and as many bytes.

Sans-io: whoever reads a pipe or a stream feeds what came, in any cuts, and gets whole frames. A
length above the bound is refused when its four bytes are there, before anything is kept for it.
protocol/encoding.md section 8.
"""

LENGTH_BYTES = 4


class OversizeError(ValueError):
    """A frame announced more bytes than are allowed; the stream cannot be used any further."""


class FrameReader:
    """Takes bytes as they come and gives whole frames; holds at most one unfinished frame."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes held of a frame that is not whole yet: not zero at the end means it was cut."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Frames completed by `data`, in order.

        Raises OversizeError for a length above the bound; the frames before it in the same call
        are lost with it, for the stream is over.
        """
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[start : start + LENGTH_BYTES], "big")
            if length > self._frame_bytes_max:
                raise OversizeError(f"a frame of {length} bytes, over {self._frame_bytes_max}")
            end = start + LENGTH_BYTES + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[start + LENGTH_BYTES : end]))
            start = end
        del self._buffer[:start]
        return frames


def frame(content: bytes, frame_bytes_max: int) -> bytes:
    """The content behind its length. Raises OversizeError: a bug of the caller."""
    if len(content) > frame_bytes_max:
        raise OversizeError(f"a frame of {len(content)} bytes, over {frame_bytes_max}")
    return len(content).to_bytes(LENGTH_BYTES, "big") + content
