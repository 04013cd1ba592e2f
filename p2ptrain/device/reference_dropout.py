"""kernels/dropout.cl again in numpy, equal bit for bit."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.reference import philox
from p2ptrain.device.reference_math import QUIET, Floats, flush_tiny


@dataclass(frozen=True, slots=True)
class Draw:
    """What a mask is a function of, beside the index.

    stream  number of the place in the model
    step    local step of the round
    noise   key of the round, 0 .. 2^64 - 1
    """

    stream: int
    step: int
    noise: int


def random_words(count: int, draw: Draw) -> NDArray[np.uint32]:
    """The word of each value, (count,) uint32."""
    blocks = -(-count // 4)
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = np.arange(blocks)
    counter[:, 1:3] = draw.stream, draw.step
    key = (np.uint32(draw.noise & 0xFFFFFFFF), np.uint32(draw.noise >> 32))
    return philox(counter, key).ravel()[:count]


def dropout(x: Floats, rate: float, draw: Draw) -> Floats:
    """Inverted dropout.

    Args:
      x     float32 of any shape
      rate  share that is dropped, 0 <= rate < 1

    Returns:
      of the shape of x: +0, or x / (1 - rate), flushed
    """
    words = random_words(x.size, draw).reshape(x.shape)
    threshold = np.uint32(min(round(rate * 2.0**32), 2**32 - 1))
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        kept = flush_tiny(x * np.float32(1 / (1 - rate)))
    return np.where(words < threshold, np.float32(0), kept)
