"""kernels/softmax_xent.cl again in numpy, equal bit for bit."""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.reference_math import QUIET, Floats, div, exp, flush_tiny, fma, lane_sum, log

NEGLIGIBLE = np.float32(-40.0)


def softmax_xent(
    z: Floats, labels: NDArray[np.int32], scale: np.float32, smoothing: float = 0.0
) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Softmax and cross-entropy, forward and backward.

    Args:
      z          (R, C) logits
      labels     (R,) int32, -1 for a row that counts nothing
      scale      factor of the gradient, 1 / batch in training
      smoothing  share of the target that all classes have in equal parts

    Returns:
      d        (R, C) gradient by z, flushed
      loss     (R,)
      correct  (R,) int32, 1 where the label is the first maximum
    """
    rows = np.arange(len(z))
    present = labels >= 0
    on, off = np.float32(1 - smoothing), np.float32(smoothing / z.shape[1])
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        shifted = z - z.max(axis=1, keepdims=True)
        e = np.where(shifted < NEGLIGIBLE, np.float32(0), exp(shifted))
        total = lane_sum(e.T)
        p = e * div(np.ones_like(total), total)[:, None]
        target = np.full_like(z, off)
        target[rows, labels] = on + off
        d = np.where(present[:, None], flush_tiny((p - target) * scale), np.float32(0))
        at_target = on * shifted[rows, labels]
        if off:
            at_target = fma(np.full_like(total, off), lane_sum(shifted.T), at_target)
        loss = np.where(present, log(total) - at_target, np.float32(0))
    is_number = ~np.isnan(total)
    correct = (present & is_number & (z.argmax(axis=1) == labels)).astype(np.int32)
    return d, loss, correct
