"""Sparse blocks as bytes: the gaps between values that are not 0, Rice-coded. codecs.md 2.1.

A block has at most k values that are not 0. Each is told by its gap, the zeros between it and the
one before, and by two bits for its sign and level. A gap is cut into a low part of b bits and a
high part, written in unary: so many 0s and a 1. Three areas of fixed length hold the low parts,
the high parts and the values; what is not used of them is 0. So the ones in the high area are
counted first, and any set of positions has one encoding.

Every block has the same length, that of the worst case: 4 to 5 bits in a hundred above the mean.
In return the sizes of shards follow from the recipe alone, and nobody's choice of positions can
make a message longer.

Rice and Plaunt, Adaptive Variable-Length Coding for Efficient Compression of Spacecraft Television
Data, 1971; the parts lie apart as in Elias, Efficient Storage and Retrieval by Content, 1974.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import MalformedShard
from p2ptrain.compress.levels import LOW
from p2ptrain.wire.limits import CODEC_BLOCK

VALUE_BITS = 2  # bit 0: the sign, bit 1: the level

Bits = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Gaps:
    """The layout of blocks with at most `kept` values, of which b bits of a gap are low."""

    kept: int
    low_bits: int

    @property
    def high_area(self) -> int:
        """Bits of the unary parts: a 1 for each value, and the 0s that fit into a block."""
        return self.kept + ((CODEC_BLOCK - self.kept) >> self.low_bits)

    @property
    def areas(self) -> tuple[int, int, int]:
        """Bits of the low parts, of the high parts and of the values."""
        return self.kept * self.low_bits, self.high_area, self.kept * VALUE_BITS

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, of which up to 7 bits at the end are 0."""
        return (sum(self.areas) + 7) // 8

    def pack(self, q: NDArray[np.int8]) -> bytes:
        """The bytes of q, (n_blocks, CODEC_BLOCK), with at most `kept` of each block not 0."""
        rows, columns = np.nonzero(q)
        ranks = _ranks(rows)
        assert ranks.size == 0 or ranks.max() < self.kept, "a block with too many values"
        before = np.where(ranks == 0, -1, np.concatenate(([-1], columns[:-1])))
        gaps = columns - before - 1
        low, high, values = (np.zeros((len(q), bits), np.uint8) for bits in self.areas)
        _write(low, rows, ranks, self.low_bits, gaps & ((1 << self.low_bits) - 1))
        high[rows, _running_sums(gaps >> self.low_bits, rows, ranks) + ranks] = 1
        chosen = q[rows, columns]
        _write(values, rows, ranks, VALUE_BITS, (chosen < 0) + 2 * (np.abs(chosen) > LOW))
        return np.packbits(np.concatenate((low, high, values), axis=1), 1, "little").tobytes()

    def unpack(self, packed: NDArray[np.uint8]) -> NDArray[np.int8]:
        """The q of blocks, (n_blocks, block_bytes). Raises MalformedShard (codecs 4.3)."""
        bits = np.unpackbits(packed, axis=1, bitorder="little")
        low, high, values, rest = np.split(bits, np.cumsum(self.areas), axis=1)
        rows, at = np.nonzero(high)
        ranks = _ranks(rows)
        counts = np.bincount(rows, minlength=len(bits))
        if (counts > self.kept).any():
            raise MalformedShard("codecs 4.3", f"a block has more than {self.kept} values")
        unused = np.arange(self.kept)[None, :] >= counts[:, None]
        is_clean = not rest.any() and not any(
            (area.reshape(len(bits), self.kept, -1).any(axis=2) & unused).any()
            for area in (low, values)
        )
        if not is_clean:
            raise MalformedShard("codecs 4.3", "bits that mean nothing are not 0")
        gaps = ((at - ranks) - _before(at - ranks, ranks)) << self.low_bits
        gaps += _read(low, rows, ranks, self.low_bits)
        columns = _running_sums(gaps, rows, ranks) + ranks
        if columns.size and columns.max() >= CODEC_BLOCK:
            raise MalformedShard("codecs 4.3", "a value lies behind the end of its block")
        codes = _read(values, rows, ranks, VALUE_BITS)
        q = np.zeros((len(bits), CODEC_BLOCK), np.int8)
        q[rows, columns] = (LOW + (codes >> 1)) * (1 - 2 * (codes & 1))
        return q


def gaps_of(kept: int) -> Gaps:
    """The layout for so many values: as many low bits as make the block shortest."""
    return min((Gaps(kept, bits) for bits in range(12)), key=lambda gaps: sum(gaps.areas))


def _ranks(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each entry in its row, from 0; rows are sorted."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def _before(entries: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The entry before each in its row; 0 for the first."""
    return np.where(ranks == 0, 0, np.concatenate(([0], entries[:-1])))


def _running_sums(
    entries: NDArray[np.int64], rows: NDArray[np.int64], ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The sum of each entry and those before it in its row."""
    sums = np.cumsum(entries)
    firsts = np.flatnonzero(ranks == 0)
    return sums - (sums - entries)[firsts[np.searchsorted(rows[firsts], rows)]]


def _write(
    area: Bits,
    rows: NDArray[np.int64],
    ranks: NDArray[np.int64],
    bits: int,
    numbers: NDArray[np.int64],
) -> None:
    for bit in range(bits):
        area[rows, ranks * bits + bit] = numbers >> bit & 1


def _read(
    area: Bits, rows: NDArray[np.int64], ranks: NDArray[np.int64], bits: int
) -> NDArray[np.int64]:
    numbers = np.zeros(len(rows), np.int64)
    for bit in range(bits):
        numbers |= area[rows, ranks * bits + bit].astype(np.int64) << bit
    return numbers
