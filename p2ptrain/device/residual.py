"""The launcher of kernels/residual.cl: where two branches of a network meet.

Arrays are float32 of one size and any shape. On a CPU whose contraction probe passed, a task
takes a span of values in a vectorised loop; elsewhere a work-item takes one value. The bits are
the same.
"""

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations

SPAN_MAX = 16384  # values of a task: 64 KiB of each array
SPAN_MIN = 1024
TASKS_PER_CORE = 4


def add_forward(
    operations: Operations, a: DeviceArray, b: DeviceArray, y: DeviceArray, relu: bool
) -> list[Launch]:
    """Into y = a + b, flushed, behind a ReLU if asked for; y may be a or b."""
    count = y.size
    assert a.size == b.size == count
    span, local_size = 1, LOCAL_SIZE
    if operations.tile is not None:
        tasks = TASKS_PER_CORE * operations.device.info.compute_units
        span, local_size = min(SPAN_MAX, max(SPAN_MIN, ceil_to(-(-count // tasks), 64))), 1
    size = (ceil_to(-(-count // span), local_size),)
    arguments = (a, b, y, np.int32(count), np.int32(span), np.int32(relu))
    return [operations.library.launch("residual.add_forward", size, (local_size,), arguments)]
