"""Launcher of kernels/softmax_xent.cl: cross-entropy with smoothed labels, and its gradient.

On a CPU whose contraction probe passed, a task takes several rows; elsewhere a work-item takes
one. The bits are the same.
"""

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations, Score

ROWS = 16  # of a task, as softmax_xent.cl has it
SLOT = 11  # the argument that says where the step's losses go


def cross_entropy(
    operations: Operations,
    z: DeviceArray,
    labels: DeviceArray,
    d: DeviceArray | None,
    score: Score,
    scale: float,
    smoothing: float,
) -> list[Launch]:
    """Loss and hits of logits z (R, C), and the gradient d by them; slot varies.

    Args:
      labels     (R,) int32; -1: the row counts nothing
      d          (R, C) or None, in evaluation
      score      loss and correct of each row go to slot * R + r
      scale      factor of the gradient, 1 / batch in training
      smoothing  share of the target that all classes have in equal parts, 0 .. 1
    """
    assert 0 <= smoothing < 1
    rows, classes = z.shape
    arguments: tuple[Argument, ...] = (
        *(z, labels, score.loss if d is None else d, score.loss, score.correct),
        *(np.int32(rows), np.int32(classes), np.int32(d is not None)),
        *(np.float32(scale), np.float32(1 - smoothing), np.float32(smoothing / classes)),
        np.int32(0),
    )
    name, size, local_size = "cross_entropy_rows", -(-rows // ROWS), 1
    if operations.tile is None:
        name, size, local_size = "cross_entropy_simple", ceil_to(rows, LOCAL_SIZE), LOCAL_SIZE
    launch = operations.library.launch(
        f"softmax_xent.{name}", (size,), (local_size,), arguments, varying={"slot": SLOT}
    )
    return [launch]
