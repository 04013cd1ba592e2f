"""Whether vanishing gradients slow a training step: processors are slow on denormal numbers.

    python -m benchmarks.denormals [--repeats 30] [--models mlp,convnet,gpt,sgd,adamw]

Steps are timed in turn, from usual parameters and from parameters that make gradients vanish: the
weights of the last layer are multiplied by 1e-16 (not all is flushed) down to 1e-40 (denormal
themselves), and the learning rate is so small that they stay. Printed is the median CPU time over
that of the usual step; 1.10 is the most that is allowed. The first column is the usual step once
more, and says how far equal work differs. The rows of optimisers are their launches alone, on a
gradient of that size.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from p2ptrain.config_model import ConvNetSection, GptSection, MlpSection
from p2ptrain.device.opencl import open_device
from p2ptrain.model.batches import Network
from p2ptrain.model.networks import network_of_section
from p2ptrain.model.recorder import Weights
from p2ptrain.train.local import Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import OPTIMIZERS, InnerConfig, InnerOptimizer

SIZES = (1.0, 1e-16, 1e-20, 1e-30, 1e-40)  # of what is timed beside the usual step
TIED_HEAD = "token.weight"
SAMPLES = 256
STEPS = 4
PARAMETERS = 1 << 20  # of the optimisers
RATE = 1e-35  # a learning rate that changes no parameter


@dataclass(frozen=True, slots=True)
class Trial:
    """What is done before the clock starts, and what is timed."""

    prepare: Callable[[], object]
    work: Callable[[], object]


def networks() -> dict[str, tuple[Network, InnerConfig]]:
    """Three networks of the benchmarks' sizes."""
    still = InnerConfig(learning_rate=RATE, batch=32)
    layers = (
        "conv 3x3 16", "norm 4", "relu", "max-pool 2", "residual 32 stride 2 groups 4",
        "global-pool", "linear 10",
    )  # fmt: skip
    sections = (
        (MlpSection(layers=(784, 512, 512, 10)), still),
        (ConvNetSection(kind="convnet", input=(28, 28, 1), layers=layers), still),
        (
            GptSection(kind="gpt", blocks=2, heads=4, channels=128, context=64, vocabulary=65),
            replace(still, optimizer="adamw", batch=12),
        ),
    )
    return {section.kind: (network_of_section(section), inner) for section, inner in sections}


def some_data(network: Network) -> TrainingData:
    """Random samples, or tokens."""
    random = np.random.default_rng(0)
    if not network.inputs:
        tokens = random.integers(0, network.classes, 4096, np.uint8)
        return TrainingData(tokens, np.empty(0, np.int32), tokens, np.empty(0, np.int32))
    x = random.random((SAMPLES, network.inputs), np.float32)
    y = random.integers(0, network.classes, SAMPLES, np.int32)
    return TrainingData(x, y, x, y)


def vanishing(trainer: Trainer, start: NDArray[np.float32], size: float) -> NDArray[np.float32]:
    """Parameters that make all gradients behind the last layer so much smaller."""
    vector = start.copy()
    tensors = trainer.network.layout.split(vector)
    matrices = [name for name, tensor in tensors.items() if tensor.ndim > 1]
    tensors[TIED_HEAD if TIED_HEAD in tensors else matrices[-1]] *= np.float32(size)
    return vector


def ratios(trials: Sequence[Trial], repeats: int) -> list[float]:
    """Median CPU time of each trial over that of the first; they take turns."""
    seconds: list[list[float]] = [[] for _ in trials]
    for repeat in range(repeats + 1):
        for trial, taken in zip(trials, seconds, strict=True):
            trial.prepare()
            begun = time.process_time()
            trial.work()
            if repeat:  # the first compiles
                taken.append(time.process_time() - begun)
    medians = [median(taken) for taken in seconds]
    return [each / medians[0] for each in medians[1:]]


def of_model(name: str) -> list[Trial]:
    """Steps from the usual parameters, and from some that make gradients vanish."""
    network, inner = networks()[name]
    trainer = Trainer(open_operations(open_device()), network, inner, some_data(network), 1)
    start = trainer.initial_parameters()
    order = np.arange(STEPS * inner.batch, dtype=np.int32) % trainer.sample_count
    indices = order.reshape(STEPS, inner.batch)

    def trial(size: float) -> Trial:
        vector = vanishing(trainer, start, size)
        return Trial(lambda: None, lambda: trainer.pseudo_gradient(vector, indices))

    return [trial(size) for size in (1.0, *SIZES)]


def of_optimizer(name: str) -> list[Trial]:
    """The optimiser's launches alone, on the same memory, after its moments have followed."""
    operations = open_operations(open_device())
    device = operations.device
    random = np.random.default_rng(0).uniform(-1, 1, PARAMETERS).astype(np.float32)
    parameters, gradient = device.upload(random), device.upload(random)
    config, everywhere = InnerConfig(optimizer=name), np.ones(PARAMETERS, np.uint8)
    optimizer = InnerOptimizer(operations, config, Weights(parameters, gradient), everywhere)

    def work() -> None:
        for step in range(STEPS):
            optimizer.enqueue(step)
        device.finish()

    def trial(size: float) -> Trial:
        values = random * np.float32(size)

        def prepare() -> None:
            parameters.write(random)
            gradient.write(values)
            work()

        return Trial(prepare, work)

    return [trial(size) for size in (1.0, *SIZES)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--models", default="mlp,convnet,gpt,sgd,adamw")
    options = parser.parse_args()
    sizes = " | ".join(f"{size:.0e}" for size in SIZES[1:])
    sys.stdout.write(f"| step of | usual again | {sizes} |\n|---|---:|---:|---:|---:|---:|\n")
    for name in options.models.split(","):
        trials = of_optimizer(name) if name in OPTIMIZERS else of_model(name)
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios(trials, options.repeats))
        sys.stdout.write(f"| {name} | {cells} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
