"""How fast the engine trains and multiplies, beside numpy's OpenBLAS and the floor, in one run.

    python -m benchmarks.engine [--repeats 30]

Read the figures as ratios: the machine's load moves all of them. Each is the best of many. The
floor of a step is its floating-point operations at the peak that the same run measures, by the
largest matrix product that either side reached: a step cannot be faster than its products.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from p2ptrain.device.kernels import KernelLibrary, Launch
from p2ptrain.device.opencl import Device, open_device
from p2ptrain.device.operations import Operations, row_major
from p2ptrain.device.selftest import self_test
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.train.local import STEPS_AT_ONCE, Trainer, TrainingData
from p2ptrain.train.optimizers import InnerConfig

PRODUCTS = ((512, 512, 512), (1024, 1024, 1024), (128, 512, 784), (128, 512, 512), (512, 784, 128))
MODELS = ((ModelSpec((64, 256, 10)), 32), (ModelSpec((784, 512, 512, 10)), 128))
SAMPLES = 2048


def say(line: str) -> None:
    """One line of the report."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def best_s(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several runs, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def measure_products(operations: Operations, repeats: int) -> float:
    """Print GFLOP/s of matrix products; returns the best that either side reached."""
    device = operations.device
    best = 0.0
    say("\nM x N x K            p2ptrain   numpy   ratio   GFLOP/s, packing included")
    for m, n, k in PRODUCTS:
        a = np.linspace(-1, 1, m * k, dtype=np.float32).reshape(m, k)
        b = np.linspace(1, -1, k * n, dtype=np.float32).reshape(k, n)
        out = device.empty((m, n))
        launches = operations.gemm(
            row_major(device.upload(a), m, k),
            row_major(device.upload(b), k, n),
            row_major(out, m, n),
        )

        def multiply(launches: list[Launch] = launches) -> None:
            for launch in launches:
                launch.enqueue()
            device.finish()

        def multiply_in_numpy(a: np.ndarray = a, b: np.ndarray = b) -> object:
            return a @ b

        giga = 2e-9 * m * n * k
        ours = giga / best_s(multiply, repeats)
        theirs = giga / best_s(multiply_in_numpy, repeats)
        best = max(best, ours, theirs)
        say(f"{m:5} x {n:4} x {k:4}   {ours:8.0f} {theirs:8.0f} {ours / theirs:7.2f}")
    return best


def step_gflop(spec: ModelSpec, batch: int) -> float:
    """Of the products of one step: forward, weight gradients, and but the first, inputs."""
    widths = list(pairwise(spec.layers))
    forward = sum(2e-9 * batch * fan_in * fan_out for fan_in, fan_out in widths)
    return 3 * forward - 2e-9 * batch * widths[0][0] * widths[0][1]


def numpy_step_s(spec: ModelSpec, batch: int, repeats: int) -> float:
    """Seconds of the same products in numpy, and nothing else of the step."""
    inputs = [np.ones((batch, width), np.float32) for width in spec.layers]
    weights = [np.ones((fan_out, fan_in), np.float32) for fan_in, fan_out in pairwise(spec.layers)]

    def step() -> None:
        for i, weight in enumerate(weights):
            inputs[i] @ weight.T
        for i, weight in enumerate(weights):
            inputs[i + 1].T @ inputs[i]
            if i:
                inputs[i + 1] @ weight

    return best_s(step, repeats)


def measure_steps(device: Device, library: KernelLibrary, peak: float, repeats: int) -> None:
    """Print the time of a training step of each model."""
    say("\nmodel, batch                    step ms   numpy's products   floor")
    for spec, batch in MODELS:
        x = np.linspace(0, 1, SAMPLES * spec.inputs, dtype=np.float32).reshape(SAMPLES, -1)
        y = (np.arange(SAMPLES) % spec.classes).astype(np.int32)
        inner = InnerConfig(learning_rate=0.01, batch=batch)
        trainer = Trainer(device, spec, inner, TrainingData(x, y, x, y), 1, library)
        start = trainer.initial_parameters()
        steps = 4 * STEPS_AT_ONCE
        order = np.arange(steps * batch, dtype=np.int32).reshape(steps, batch) % SAMPLES
        several = best_s(lambda t=trainer, s=start, o=order: t.pseudo_gradient(s, o), repeats)  # type: ignore[misc]
        name = "-".join(str(width) for width in spec.layers)
        products = numpy_step_s(spec, batch, repeats)
        floor = step_gflop(spec, batch) / peak
        say(f"{name + ',':22} {batch:4} {1e3 * several / steps:14.3f}"
            f" {1e3 * products:14.3f} {1e3 * floor:11.3f}")  # fmt: skip


def main() -> None:
    """Run every measurement once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    device = open_device()
    library = KernelLibrary(device)
    started = time.perf_counter()
    operations = Operations(library)
    report = self_test(operations)
    say(f"{report.device}\ntile {report.tile}, contracted fma {report.contracted_fma}, "
        f"self-test {time.perf_counter() - started:.2f} s")  # fmt: skip
    peak = measure_products(operations, repeats)
    measure_steps(device, library, peak, repeats)


if __name__ == "__main__":
    main()
