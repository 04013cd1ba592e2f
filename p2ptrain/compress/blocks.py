"""Blocks of small integers with one scale: what all codecs have in common. protocol/codecs.md.

A shard of n values (a multiple of CODEC_BLOCK) is its n / CODEC_BLOCK scales, float32-LE, and
then its q: one byte (int8), four bits (int4), two bits (int2), or the places and values of the few
that are not 0 (topk). The format is canonical: a shard that `quantised` accepts is the only
encoding of its numbers q x scale.

How values become q is the codec's rule. int8 and int4 (here) are made of + - * , comparisons, rint
and one correctly rounded division a block, so that kernels/quantize.cl has the same bits on every
device; int2 and topk are in levels.py:

    peak   = max |x| of the block, +0 if below TINY
    scale  = peak * fl(1 / PEAK)             PEAK: 127 (int8) or 7 (int4)
    q      = rint(x * fl(1 / scale))         half to even; never beyond PEAK: four roundings of
                                             2**-24 cannot carry 127 to 127.5

Peers only ever see q and scale, so what a peer lost to rounding is x - fl(q * scale).

Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022, arXiv:2110.02861.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import P2PTrainError
from p2ptrain.wire.limits import CODEC_BLOCK

SCALE_BYTES = 4
TINY = np.float32(2.0**-63)  # as flush_tiny in kernels/common.cl: smaller values count as zero
SCALE_MIN = np.float32(2.0**-70)  # below TINY / 127: no encoder makes a smaller scale
NORM2_UNIT_EXPONENT = -64  # squared norms are integers in units of 2**-64
NORM2_BITS = 128  # as wide as a Norm2 on the wire


class MalformedShard(P2PTrainError):
    """Bytes that are no shard. The caller knows whose they were and raises RemoteProtocolError.

    rule  section of protocol/ that they break, such as "codecs 4.2"
    """

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


class NotFinite(P2PTrainError):
    """Values to encode or to apply contain NaN or infinity: the training has diverged."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """Blocks of small integers.

    q       (n_blocks, CODEC_BLOCK) int8
    scales  (n_blocks,) float32
    """

    q: NDArray[np.int8]
    scales: NDArray[np.float32]

    def values(self) -> NDArray[np.float32]:
        """(n_blocks * CODEC_BLOCK,) float32: fl(q * scale), infinite beyond float32's range."""
        with np.errstate(over="ignore"):
            return (self.q * self.scales[:, None]).ravel()


def _pack_bytes(q: NDArray[np.int8]) -> bytes:
    return q.tobytes()


def _unpack_bytes(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    return packed.view(np.int8)


def pack_parts(q: NDArray[np.int8], bits: int) -> bytes:
    """Several q a byte, two's complement of so many bits: 4 or 2.

    Parts of a block side by side, not neighbours: both sides of a cut are contiguous.
    """
    parts = np.split(q.view(np.uint8) & ((1 << bits) - 1), 8 // bits, axis=1)
    packed = np.zeros_like(parts[0])
    for number, part in enumerate(parts):
        packed |= part << (number * bits)
    content: bytes = packed.tobytes()
    return content


def unpack_parts(packed: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """What pack_parts packed."""
    # A shift of int8 keeps the sign, so the pair of shifts extends a part to eight bits.
    above = 8 - bits
    parts = [(packed << (above - at)).view(np.int8) >> above for at in range(0, 8, bits)]
    return np.concatenate(parts, axis=1)


def _quantise_to_peak(blocks: NDArray[np.float32], peak: int) -> Quantised:
    peaks = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    if not np.isfinite(peaks).all():
        raise NotFinite("values to encode are not finite")
    scales = np.where(peaks < TINY, np.float32(0), peaks * np.float32(1 / peak))
    divisors = np.where(scales > 0, scales, np.float32(1))
    inverses = np.where(scales > 0, np.float32(1) / divisors, np.float32(0))
    q = np.rint(blocks * inverses[:, None]).astype(np.int8)
    return Quantised(q, scales.astype(np.float32))


@dataclass(frozen=True, slots=True)
class BlockCodec:
    """A way of writing blocks.

    number        what a Commit names it by
    peak          the largest magnitude of a q; a block has a q of that size, or only zeros
    block_bytes   of a block's q
    round_blocks  (n_blocks, CODEC_BLOCK) float32 to blocks; raises NotFinite
    pack          q to bytes
    unpack        (n_blocks, block_bytes) uint8 to q; raises MalformedShard (codecs 4.3)
    kept          values of a block that are not 0, at the most; 0: any number
    decay         what is left of the residual of error feedback after a round
    reset_rounds  rounds after which that residual is forgotten; 0: never
    """

    number: int
    peak: int
    block_bytes: int
    round_blocks: Callable[[NDArray[np.float32]], Quantised]
    pack: Callable[[NDArray[np.int8]], bytes]
    unpack: Callable[[NDArray[np.uint8]], NDArray[np.int8]]
    kept: int = 0
    decay: float = 1.0
    reset_rounds: int = 0

    def shard_bytes(self, values: int) -> int:
        """Length of a shard of this many values, a multiple of CODEC_BLOCK."""
        assert values % CODEC_BLOCK == 0, "vectors are padded to whole blocks"
        return values // CODEC_BLOCK * (SCALE_BYTES + self.block_bytes)

    def values(self, shard_bytes: int) -> int:
        """Values of a shard of this length."""
        return shard_bytes // (SCALE_BYTES + self.block_bytes) * CODEC_BLOCK

    def quantise(self, values: NDArray[np.float32]) -> Quantised:
        """Round values, (n,) float32, n a multiple of CODEC_BLOCK. Raises NotFinite."""
        return self.round_blocks(values.reshape(-1, CODEC_BLOCK))

    def join(self, quantised: Quantised) -> bytes:
        """The shard of some blocks."""
        return quantised.scales.astype("<f4").tobytes() + self.pack(quantised.q)

    def encode(self, values: NDArray[np.float32]) -> bytes:
        """The shard of some values, as quantise. Raises NotFinite."""
        return self.join(self.quantise(values))

    def quantised(self, shard: bytes) -> Quantised:
        """The blocks of a shard. Raises MalformedShard, by the rules of codecs.md section 4."""
        blocks, rest = divmod(len(shard), SCALE_BYTES + self.block_bytes)
        if rest or not blocks:
            raise MalformedShard("codecs 4.1", f"{len(shard)} bytes are no whole blocks")
        scales = np.frombuffer(shard, "<f4", blocks).astype(np.float32)
        zero = scales.view(np.uint32) == 0  # the bits of +0: not -0
        if not (zero | (np.isfinite(scales) & (scales >= SCALE_MIN))).all():
            raise MalformedShard("codecs 4.2", "a scale is neither +0 nor a number >= 2**-70")
        packed = np.frombuffer(shard, np.uint8, offset=blocks * SCALE_BYTES)
        q = self.unpack(packed.reshape(blocks, self.block_bytes))
        self._check(q, zero)
        return Quantised(q, scales)

    def decode(self, shard: bytes) -> NDArray[np.float32]:
        """The values of a shard, (n,) float32. Raises MalformedShard."""
        return self.quantised(shard).values()

    def squared_norm(self, shard: bytes) -> int:
        """Squared norm of a shard's values: floor(sum of (q * scale)**2 * 2**64), exactly.

        Raises MalformedShard, also (codecs 4.6) when it does not fit 128 bits.
        """
        quantised = self.quantised(shard)
        squares = np.square(quantised.q, dtype=np.int32).sum(axis=1, dtype=np.int64)
        mantissas, exponents = split_scales(quantised.scales)
        terms = zip(squares.tolist(), mantissas.tolist(), exponents.tolist(), strict=True)
        # In units of 2**(2 * lowest): Python's integers are exact at any size.
        lowest = int(exponents.min())
        total = sum(square * m * m << 2 * (e - lowest) for square, m, e in terms)
        shift = 2 * lowest - NORM2_UNIT_EXPONENT
        norm2: int = total << shift if shift >= 0 else total >> -shift
        if norm2 >> NORM2_BITS:
            raise MalformedShard("codecs 4.6", "the squared norm does not fit 128 bits")
        return norm2

    def _check(self, q: NDArray[np.int8], zero: NDArray[np.bool_]) -> None:
        peaks = np.maximum(q.max(axis=1).astype(np.int16), -q.min(axis=1).astype(np.int16))
        if (peaks > self.peak).any():
            raise MalformedShard("codecs 4.3", f"a q lies outside [-{self.peak}, {self.peak}]")
        if peaks[zero].any():
            raise MalformedShard("codecs 4.4", "a block of scale +0 holds a q that is not 0")
        if (peaks[~zero] < self.peak).any():
            raise MalformedShard("codecs 4.5", f"a block holds no q of +-{self.peak}")


def split_scales(
    scales: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Integers m, e with scale = m * 2**e and 2**23 <= m < 2**24; m = e = 0 for scale 0."""
    fractions, exponents = np.frexp(scales)
    mantissas = np.ldexp(fractions, 24).astype(np.int64)
    return mantissas, np.where(mantissas > 0, exponents.astype(np.int64) - 24, 0)


INT8 = BlockCodec(
    8, 127, CODEC_BLOCK, partial(_quantise_to_peak, peak=127), _pack_bytes, _unpack_bytes
)
INT4 = BlockCodec(
    4,
    7,
    CODEC_BLOCK // 2,
    partial(_quantise_to_peak, peak=7),
    partial(pack_parts, bits=4),
    partial(unpack_parts, bits=4),
)
