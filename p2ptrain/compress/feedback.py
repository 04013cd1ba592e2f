"""Error feedback: what rounding lost in one round is added to the next. protocol/codecs.md 5.

    sum       = gradient + decay * residual    each operation rounded, to float32; topk: decay 0.95
    blocks    = quantise(sum)
    residual' = sum - fl(q * scale)            two roundings; +0 where below TINY

All functions are pure. A contribution that is discarded leaves no trace if its caller keeps the
old residual, so the loss of a round costs the round and nothing else.

Seide et al., 1-Bit Stochastic Gradient Descent, 2014; Karimireddy et al., Error Feedback Fixes
SignSGD, 2019, arXiv:1901.09847.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import TINY, BlockCodec, Quantised
from p2ptrain.wire.limits import CODEC_BLOCK


def quantise_with_feedback(
    codec: BlockCodec, gradient: NDArray[np.float32], residual: NDArray[np.float32]
) -> tuple[Quantised, NDArray[np.float32]]:
    """Round gradient + residual; the numpy twin of kernels/quantize.cl and quantize_few.cl.

    Args:
      codec     whose q
      gradient  (n,) float32, n a multiple of CODEC_BLOCK
      residual  (n,) float32, from the last contribution that was counted

    Returns:
      blocks    what peers will see
      residual  (n,) float32, what they will not

    Raises NotFinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # quantise refuses what is not finite
        total = gradient + np.float32(codec.decay) * residual
    quantised = codec.quantise(total)
    lost = total - quantised.values()
    return quantised, np.where(np.abs(lost) < TINY, np.float32(0), lost)


def cut_shards(codec: BlockCodec, quantised: Quantised, shard_values: int) -> tuple[bytes, ...]:
    """The shards of a vector: shard_values values each (a multiple of CODEC_BLOCK), then the rest.

    A vector of n values has ceil(n / shard_values) shards; only the last may be shorter.
    """
    step = shard_values // CODEC_BLOCK
    q, scales = quantised.q, quantised.scales
    return tuple(
        codec.join(Quantised(q[first : first + step], scales[first : first + step]))
        for first in range(0, len(scales), step)
    )


def shard_lengths(values: int, shard_values: int) -> tuple[int, ...]:
    """Values in each shard of a vector of so many values, a multiple of CODEC_BLOCK."""
    return tuple(min(shard_values, values - first) for first in range(0, values, shard_values))


def join_values(codec: BlockCodec, shards: Sequence[bytes]) -> NDArray[np.float32]:
    """The vector of its shards, (n,) float32. Raises MalformedShard."""
    return np.concatenate([codec.decode(shard) for shard in shards])
