"""Few levels: how int2 and topk round a block. protocol/codecs.md sections 3.2 and 3.3.

int8 and int4 take their scale from the largest value of a block, which with one or two levels
would round nearly all others to zero. Here each value's level is chosen first, and then the scale
that leaves the least squared error of all scales:

    level   int2: 1 where |x| >= CUT times the block's mean magnitude, else 0
            topk: 0 but for the `kept` largest; of these 3 where |x| >= CUT times their mean, else 2
    scale   (sum of level |x|) / (sum of level squared)

That scale never overshoots: what is left of a block is shorter than the block, so the residual of
error feedback stays bounded. Sums are those of kernels/common.cl (64 lanes, then a fixed tree), so
kernels/quantize_few.cl has the same bits.

Li et al., Ternary Weight Networks, 2016, arXiv:1605.04711; Sarfi et al., Communication Efficient
LLM Pre-training with SparseLoCo, 2025, arXiv:2508.15706.
"""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import TINY, NotFinite, Quantised
from p2ptrain.wire.limits import CODEC_BLOCK

LANES = 64
CUT = np.float32(0.96875)  # of a mean; below 1, or of equal values none would reach their mean
LOW, HIGH = 2, 3  # levels of topk: what is kept differs by little

Blocks = NDArray[np.float32]


def quantise_int2(blocks: Blocks) -> Quantised:
    """Round blocks, (n_blocks, CODEC_BLOCK) float32, to q of -1, 0, 1. Raises NotFinite."""
    sizes = _magnitudes(blocks)
    means = _finite_sums(sizes) * np.float32(1 / CODEC_BLOCK)
    chosen = (sizes >= (CUT * means)[:, None]) & (sizes > 0)
    return _scaled(blocks, sizes, chosen.astype(np.int8))


def quantise_largest(blocks: Blocks, kept: int) -> Quantised:
    """Round all but the `kept` largest of each block to 0, those to 2 or 3. Raises NotFinite.

    Of equal magnitudes, that of the lower index counts as the larger.
    """
    sizes = _magnitudes(blocks)
    _finite_sums(sizes)
    places = np.argsort(-sizes, axis=1, kind="stable")[:, :kept]
    chosen = np.zeros(blocks.shape, np.bool_)
    np.put_along_axis(chosen, places, values=True, axis=1)
    chosen &= sizes > 0
    counts = np.maximum(chosen.sum(axis=1), 1).astype(np.float32)
    means = lane_sums(np.where(chosen, sizes, np.float32(0))) / counts
    is_high = sizes >= (CUT * means)[:, None]
    return _scaled(blocks, sizes, np.where(chosen, np.where(is_high, HIGH, LOW), 0).astype(np.int8))


def lane_sums(blocks: Blocks) -> NDArray[np.float32]:
    """Sums of rows, (n_blocks,): value i to lane i mod 64 in order, then a fixed binary tree."""
    lanes = np.zeros((len(blocks), LANES), np.float32)
    with np.errstate(over="ignore"):
        for first in range(0, CODEC_BLOCK, LANES):
            lanes += blocks[:, first : first + LANES]
        width = LANES // 2
        while width:
            lanes[:, :width] += lanes[:, width : 2 * width]
            width //= 2
    return lanes[:, 0].copy()


def _magnitudes(blocks: Blocks) -> Blocks:
    sizes = np.abs(blocks)
    return np.where(sizes < TINY, np.float32(0), sizes)  # NaN stays


def _finite_sums(sizes: Blocks) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        sums = lane_sums(sizes)
    if not np.isfinite(sums).all():
        raise NotFinite("values to encode are not finite")
    return sums


def _scaled(blocks: Blocks, sizes: Blocks, levels: NDArray[np.int8]) -> Quantised:
    squares = np.square(levels, dtype=np.int32).sum(axis=1)
    products = lane_sums(sizes * levels)
    scales = np.where(squares > 0, products / np.maximum(squares, 1).astype(np.float32), 0)
    q = np.where(np.signbit(blocks), -levels, levels)
    return Quantised(q.astype(np.int8), scales.astype(np.float32))
