"""Whether vanishing gradients slow a training step: processors are slow on denormal numbers.

    python -m benchmarks.denormals [--repeats 20] [--models mlp,convnet,gpt,sgd,adamw]

Two steps are timed in turn, one from usual parameters and one from parameters that make gradients
vanish: the weights of the last layer are multiplied by 1e-16 (not all is flushed) down to
1e-40 (denormal themselves), and the learning rate is so small that they stay. Printed is the best
time of the vanishing step over the best of the usual one; 1.10 is the most that is allowed.
The rows of the optimisers are their launch alone, on a gradient of that size.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from p2ptrain.config_model import ConvNetSection, GptSection, MlpSection
from p2ptrain.device.opencl import open_device
from p2ptrain.model.batches import Network
from p2ptrain.model.networks import network_of_section
from p2ptrain.model.recorder import Weights
from p2ptrain.train.local import Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import OPTIMIZERS, InnerConfig, InnerOptimizer

SIZES = (1e-16, 1e-20, 1e-30, 1e-40)
TIED_HEAD = "token.weight"
SAMPLES = 256
STEPS = 4
PARAMETERS = 1 << 20  # of the optimisers
RATE = 1e-35  # a learning rate that changes no parameter


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


def ratio(usual: Callable[[], object], other: Callable[[], object], repeats: int) -> float:
    """Best time of the other over best time of the usual, taken in turn."""
    best = [np.inf, np.inf]
    for _ in range(repeats + 1):
        for i, work in enumerate((usual, other)):
            begun = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - begun)
    return float(best[1] / best[0])


def measure(name: str, repeats: int) -> str:
    """One row of the table."""
    network, inner = networks()[name]
    trainer = Trainer(open_operations(open_device()), network, inner, some_data(network), 1)
    start = trainer.initial_parameters()
    order = np.arange(STEPS * inner.batch, dtype=np.int32) % trainer.sample_count
    indices = order.reshape(STEPS, inner.batch)
    cells = []
    for size in SIZES:
        tiny = vanishing(trainer, start, size)

        def usual() -> object:
            return trainer.pseudo_gradient(start, indices)

        def other(tiny: NDArray[np.float32] = tiny) -> object:
            return trainer.pseudo_gradient(tiny, indices)

        cells.append(f"{ratio(usual, other, repeats):.2f}")
    return f"| {name} | {' | '.join(cells)} |"


def measure_optimizer(name: str, repeats: int) -> str:
    """One row of the table: the optimiser's launches alone."""
    operations = open_operations(open_device())
    device = operations.device
    random = np.random.default_rng(0).uniform(-1, 1, PARAMETERS).astype(np.float32)
    config, everywhere = InnerConfig(optimizer=name), np.ones(PARAMETERS, np.uint8)

    def steps(size: float) -> Callable[[], object]:
        weights = Weights(device.upload(random), device.upload(random * np.float32(size)))
        optimizer = InnerOptimizer(operations, config, weights, everywhere)

        def work() -> object:
            for step in range(STEPS):
                optimizer.enqueue(step)
            device.finish()
            return None

        return work

    cells = [f"{ratio(steps(1.0), steps(size), repeats):.2f}" for size in SIZES]
    return f"| {name} alone | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--models", default="mlp,convnet,gpt,sgd,adamw")
    options = parser.parse_args()
    sizes = " | ".join(f"{size:.0e}" for size in SIZES)
    sys.stdout.write(f"| step of | {sizes} |\n|---|---|---|---|---|\n")
    for name in options.models.split(","):
        row = measure_optimizer if name in OPTIMIZERS else measure
        sys.stdout.write(row(name, options.repeats) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
