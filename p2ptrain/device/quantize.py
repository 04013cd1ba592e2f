"""From a gradient and its residual to blocks in one launch: kernels/quantize.cl, quantize_few.cl.

The byte layout and the meaning of the blocks are those of p2ptrain/compress; this module only
moves arrays. Its numpy twin is quantise_with_feedback in p2ptrain/compress/feedback.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.kernels import LOCAL_SIZE, KernelLibrary
from p2ptrain.wire.limits import CODEC_BLOCK


@dataclass(frozen=True, slots=True)
class Rule:
    """A kernel, and its arguments behind the arrays."""

    kernel: str
    numbers: tuple[np.float32 | np.int32, ...]


def to_peak(peak: int) -> Rule:
    """As much of the largest value as fits; 127: int8, 7: int4."""
    return Rule("quantize.quantize_feedback", (np.float32(1 / peak),))


def to_few(decay: float, kept: int = 0) -> Rule:
    """Few levels: int2, or topk with the `kept` largest values of a block.

    decay  what is left of the residual after a round
    """
    return Rule("quantize_few.quantize_few", (np.float32(decay), np.int32(kept)))


class Quantizer:
    """Buffers and the one launch for vectors of a fixed length, made once."""

    def __init__(self, library: KernelLibrary, values: int, rule: Rule) -> None:
        """Allocate.

        Args:
          library  where the kernel comes from
          values   n, a multiple of CODEC_BLOCK
          rule     how values are rounded
        """
        assert values % CODEC_BLOCK == 0, "vectors are padded to whole blocks"
        device, blocks = library.device, values // CODEC_BLOCK
        self._gradient = device.zeros((values,))
        self._residual = device.zeros((values,))
        self._q = device.zeros((blocks, CODEC_BLOCK), np.int8)
        self._scales = device.zeros((blocks,))
        self._launch = library.launch(
            rule.kernel,
            (blocks * LOCAL_SIZE,),
            (LOCAL_SIZE,),
            (self._gradient, self._residual, self._q, self._scales, *rule.numbers),
            (f"LANES={LOCAL_SIZE}",),
        )

    def quantise(
        self, gradient: NDArray[np.float32], residual: NDArray[np.float32]
    ) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
        """Quantise gradient + residual.

        Args:
          gradient  (n,) float32
          residual  (n,) float32

        Returns:
          q         (n / CODEC_BLOCK, CODEC_BLOCK) int8
          scales    (n / CODEC_BLOCK,) float32; NaN where a block is not finite
          residual  (n,) float32, the next one
        """
        self._gradient.write(gradient)
        self._residual.write(residual)
        self._launch.enqueue()
        return self._q.read(), self._scales.read(), self._residual.read()
