"""The machine's peak of fused multiply-adds, as an OpenCL loop reaches it.

Every thread keeps 12 vectors of 16 values in registers and adds to each in turn: enough chains for
the latency of two units, no memory. The kernel is contracted C, as the fast kernels are, and the
vectors are as wide as the device's: what it reaches is the floor under every matrix product.
"""

import time
from collections.abc import Callable

import numpy as np
import pyopencl as cl

from p2ptrain.device.opencl import open_device

ROUNDS = 1_000_000  # some milliseconds: time for all threads to wake up
CHAINS = 12
SOURCE = """
#pragma OPENCL FP_CONTRACT ON
typedef float vector __attribute__((ext_vector_type(WIDTH), aligned(4)));
__kernel void peak(__global float *out, const float factor, const int rounds)
{
    vector sums[CHAINS];
    #pragma unroll
    for (int i = 0; i < CHAINS; i++) sums[i] = (vector)(i * 0.25f);
    const vector a = (vector)(factor), b = (vector)(1.0f - factor);
    for (int r = 0; r < rounds; r++) {
        #pragma unroll
        for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * a + b;
    }
    float total = 0.0f;
    #pragma unroll
    for (int i = 0; i < CHAINS; i++)
        for (int j = 0; j < WIDTH; j++) total += sums[i][j];
    out[get_group_id(0)] = total;
}
"""


def gflop(threads: int, width: int) -> float:
    """Operations of one step, in 10^9."""
    return 2e-9 * threads * CHAINS * width * ROUNDS


def make(_model: str, threads: int, _variant: str) -> Callable[[int], float]:
    """A function that takes steps and returns GFLOP/s where the others return a loss."""
    device = open_device()
    out = device.zeros((threads,))
    runs = []
    for width in (16, 8, 4):
        options = [f"-DWIDTH={width}", f"-DCHAINS={CHAINS}"]
        kernel = cl.Kernel(cl.Program(device.context, SOURCE).build(options), "peak")
        runs.append((width, kernel))

    def once(width: int, kernel: cl.Kernel) -> float:
        # Set here, the buffer lives as long as this function: OpenCL keeps no kernel's buffers.
        kernel.set_args(out.handle, np.float32(0.5), np.int32(ROUNDS))
        started = time.perf_counter()
        cl.enqueue_nd_range_kernel(device.queue, kernel, (threads,), (1,))
        device.finish()
        return gflop(threads, width) / (time.perf_counter() - started)

    best = max(runs, key=lambda run: max(once(*run) for _ in range(3)))

    def run(steps: int) -> float:
        return max(once(*best) for _ in range(steps))

    return run
