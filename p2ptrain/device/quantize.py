"""The launcher of kernels/quantize.cl: a gradient and its residual to blocks, in one launch.

The byte layout and the meaning of the blocks are those of p2ptrain/compress; this module only
moves arrays. Its numpy twin is quantise_with_feedback in p2ptrain/compress/feedback.py.
"""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.kernels import LOCAL_SIZE, KernelLibrary
from p2ptrain.wire.limits import CODEC_BLOCK


class Quantizer:
    """Buffers and the one launch for vectors of a fixed length, made once."""

    def __init__(self, library: KernelLibrary, values: int, peak: int) -> None:
        """Allocate.

        Args:
          library  where the kernel comes from
          values   n, a multiple of CODEC_BLOCK
          peak     127: int8, 7: int4
        """
        assert values % CODEC_BLOCK == 0, "vectors are padded to whole blocks"
        device, blocks = library.device, values // CODEC_BLOCK
        self._gradient = device.zeros((values,))
        self._residual = device.zeros((values,))
        self._q = device.zeros((blocks, CODEC_BLOCK), np.int8)
        self._scales = device.zeros((blocks,))
        self._launch = library.launch(
            "quantize.quantize_feedback",
            (blocks * LOCAL_SIZE,),
            (LOCAL_SIZE,),
            (self._gradient, self._residual, self._q, self._scales, np.float32(1 / peak)),
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
