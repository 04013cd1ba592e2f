"""What the engine's benchmark trains: shapes, batches, data and the arithmetic of a step.

No framework is imported here, so that the program of each knows the same workloads at no cost to
its start. Work is counted as the products of a step: two operations for each multiply-add of the
matrix products, convolutions and attention, forward, gradient of the weights, and gradient of the
inputs but for the first layer. Everything else that a step does counts as nothing: a share of the
machine's peak is therefore a lower bound of how busy the arithmetic units are.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MLP_WIDTHS = (784, 512, 512, 10)
CNN_CHANNELS, CNN_HIDDEN = (32, 64), 128
RESNET_CHANNELS, RESNET_BLOCKS = (16, 32, 64), 3  # ResNet-20, He et al., 2015: 0.27 M parameters
GPT_BLOCKS, GPT_CHANNELS, GPT_HEADS, GPT_VOCABULARY = 4, 128, 4, 65
CLASSES = 10
SAMPLES = 2048
TOKENS = 100_000
SEED = 7


@dataclass(frozen=True, slots=True)
class Workload:
    """One model as all programs train it.

    title  what the table says
    batch  samples of a step
    shape  of a sample: (values,), (height, width, channels), or (context,) of tokens
    gflop  of the products of one step, in 10^9 operations
    """

    title: str
    batch: int
    shape: tuple[int, ...]
    gflop: float


def mlp_gflop(batch: int) -> float:
    """Of one step of the MLP."""
    products = [fan_in * fan_out for fan_in, fan_out in pairwise(MLP_WIDTHS)]
    return 2e-9 * batch * (3 * sum(products) - products[0])


def convolution_gflop(layers: list[tuple[int, int, int, int]], dense: int, batch: int) -> float:
    """Of one step of a convolutional net.

    Args:
      layers  side of the output, kernel size, channels in, channels out; the first one's input
              is the image
      dense   multiply-adds of the dense layers, for one sample
    """
    products = [side * side * size * size * c_in * c_out for side, size, c_in, c_out in layers]
    return 2e-9 * batch * (3 * (sum(products) + dense) - products[0])


def cnn_gflop(batch: int) -> float:
    """Of one step of the CNN: two padded convolutions, pooling by 2, two dense layers."""
    first, second = CNN_CHANNELS
    dense = 14 * 14 * second * CNN_HIDDEN + CNN_HIDDEN * CLASSES
    return convolution_gflop([(28, 3, 1, first), (28, 3, first, second)], dense, batch)


def resnet_gflop(batch: int) -> float:
    """Of one step of the residual net."""
    layers = [(32, 3, 3, RESNET_CHANNELS[0])]
    below, side = RESNET_CHANNELS[0], 32
    for channels in RESNET_CHANNELS:
        for block in range(RESNET_BLOCKS):
            if channels != below:
                side //= 2
                layers.append((side, 1, below, channels))
            layers += [(side, 3, below, channels), (side, 3, channels, channels)]
            below = channels
            assert block < RESNET_BLOCKS
    return convolution_gflop(layers, below * CLASSES, batch)


def gpt_gflop(context: int, batch: int) -> float:
    """Of one step of the GPT; of the attention only the half that the causal mask leaves."""
    weights = 12 * GPT_CHANNELS * GPT_CHANNELS * GPT_BLOCKS + GPT_VOCABULARY * GPT_CHANNELS
    attention = GPT_BLOCKS * 2 * GPT_CHANNELS * (context + 1) / 2
    return 3 * 2e-9 * batch * context * (weights + attention)


WORKLOADS = {
    "mlp": Workload("MLP 784-512-512-10, SGD", 128, (784,), mlp_gflop(128)),
    "cnn": Workload("CNN 28x28x1, SGD", 64, (28, 28, 1), cnn_gflop(64)),
    "resnet": Workload("ResNet-20 32x32x3, SGD", 64, (32, 32, 3), resnet_gflop(64)),
    "gpt": Workload("GPT 4x128, context 64, AdamW", 12, (64,), gpt_gflop(64, 12)),
    "gpt128": Workload("GPT 4x128, context 128, AdamW", 16, (128,), gpt_gflop(128, 16)),
}


def is_text(workload: Workload) -> bool:
    """Whether the workload's samples are tokens."""
    return workload.title.startswith("GPT")


def make_tokens() -> NDArray[np.uint8]:
    """The text that every program trains on, (TOKENS,), a third of it four tokens."""
    draw = np.random.default_rng(SEED)
    tokens = draw.integers(0, GPT_VOCABULARY, TOKENS)
    return np.where(draw.random(TOKENS) < 1 / 3, tokens % 4, tokens).astype(np.uint8)


def make_images(workload: Workload) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The samples that every program trains on: x (SAMPLES, *shape), channel-last, and labels."""
    draw = np.random.default_rng(SEED)
    x = draw.random((SAMPLES, *workload.shape), np.float32)
    return x, draw.integers(0, CLASSES, SAMPLES).astype(np.int32)


def make_indices(workload: Workload, steps: int) -> NDArray[np.int32]:
    """Samples of each step, (steps, batch) int32; for text the offsets of the first tokens."""
    count = TOKENS - workload.shape[0] - 1 if is_text(workload) else SAMPLES
    draw = np.random.default_rng(SEED + 1)
    return draw.integers(0, count, (steps, workload.batch)).astype(np.int32)
