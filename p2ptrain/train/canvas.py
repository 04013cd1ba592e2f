"""A picture in memory: lines, rectangles and letters, and its bytes as a PNG.

A line is drawn with smooth edges: a pixel gets as much of the colour as the line covers of it,
which is reckoned from the distance of its middle to the line. PNG is the format of RFC 2083; rows
are stored unfiltered, since charts are mostly of one colour and deflate well as they are.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2ptrain.train.glyphs import HEIGHT, WIDTH, glyph

Colour = tuple[int, int, int]
Place = tuple[float, float]

WHITE: Colour = (255, 255, 255)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LETTER_STEP = WIDTH + 1  # pixels from one letter to the next, at scale 1


class Canvas:
    """White at first; x grows to the right and y downwards, both in pixels from the corner."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.full((height, width, 3), 255, np.uint8)

    def rectangle(self, corner: tuple[int, int], size: tuple[int, int], colour: Colour) -> None:
        """Fill a rectangle; what lies outside the picture is left out."""
        (x, y), (width, height) = corner, size
        self.pixels[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = colour

    def polyline(self, places: Sequence[Place], colour: Colour, thickness: float = 2.0) -> None:
        """Straight lines from place to place; a single place is a dot."""
        cover = np.zeros(self.pixels.shape[:2], np.float32)
        ends = places[1:] if len(places) > 1 else places
        for start, end in zip(places, ends, strict=False):
            self._cover(cover, start, end, thickness / 2)
        self._blend(cover, colour)

    def dot(self, place: Place, colour: Colour, radius: float = 4.0) -> None:
        """A filled circle."""
        self.polyline([place], colour, 2 * radius)

    def text(self, place: tuple[int, int], words: str, colour: Colour, scale: int = 2) -> None:
        """Words whose upper left corner is at the place; a letter is 7 * scale pixels high."""
        x, y = place
        for letter in words:
            ink = np.kron(glyph(letter), np.ones((scale, scale), np.bool_))
            # A letter that hangs over the edge is left out.
            if x >= 0 and y >= 0:
                spot = self.pixels[y : y + HEIGHT * scale, x : x + WIDTH * scale]
                if spot.shape[:2] == ink.shape:
                    spot[ink] = colour
            x += LETTER_STEP * scale

    def png(self) -> bytes:
        """The picture as the bytes of a PNG file, 8 bits a channel."""
        height, width, _ = self.pixels.shape
        rows = np.zeros((height, 1 + 3 * width), np.uint8)  # a row begins with its filter: none
        rows[:, 1:] = self.pixels.reshape(height, -1)
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
        return PNG_SIGNATURE + b"".join(png_chunk(kind, content) for kind, content in chunks)

    def _cover(self, cover: NDArray[np.float32], start: Place, end: Place, radius: float) -> None:
        height, width = cover.shape
        (x0, y0), (x1, y1) = start, end
        reach = radius + 1
        left, right = int(max(0, min(x0, x1) - reach)), int(min(width, max(x0, x1) + reach + 1))
        top, bottom = int(max(0, min(y0, y1) - reach)), int(min(height, max(y0, y1) + reach + 1))
        if left >= right or top >= bottom:
            return
        x = np.arange(left, right) + 0.5 - x0
        y = np.arange(top, bottom)[:, None] + 0.5 - y0
        dx, dy = x1 - x0, y1 - y0
        length2 = dx * dx + dy * dy
        along = np.clip((x * dx + y * dy) / length2, 0, 1) if length2 else np.zeros((1, 1))
        distance = np.hypot(x - along * dx, y - along * dy)
        spot = cover[top:bottom, left:right]
        np.maximum(spot, np.clip(radius + 0.5 - distance, 0, 1), out=spot)

    def _blend(self, cover: NDArray[np.float32], colour: Colour) -> None:
        share = cover[:, :, None]
        mixed = self.pixels * (1 - share) + np.array(colour, np.float32) * share
        self.pixels[:] = np.rint(mixed).astype(np.uint8)


def text_width(words: str, scale: int = 2) -> int:
    """Pixels that words take."""
    return max(0, len(words) * LETTER_STEP - 1) * scale


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file: length, kind, content and a checksum over the last two."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
