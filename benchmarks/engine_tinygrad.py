"""tinygrad's side of the engine's benchmark, on the OpenCL implementation that p2ptrain uses.

The step is one TinyJit, as tinygrad's own examples have it. Batches are made beforehand and given
to the step, so that tinygrad is spared its slow gather. DEV=CL finds the OpenCL loader by the
variable OPENCL_PATH; the one inside pyopencl only works after pyopencl has been imported.
"""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyopencl

from p2ptrain.device.linker import use_bundled_linker

use_bundled_linker()
os.environ["DEV"] = "CL"
os.environ.setdefault(
    "OPENCL_PATH", str(next(Path(pyopencl.__file__).parent.glob(".libs/libOpenCL*"), ""))
)

from tinygrad import Context, Tensor, TinyJit, nn  # type: ignore[import-not-found]  # noqa: E402

from benchmarks.engine_models import (  # noqa: E402  # the environment comes first
    CLASSES,
    CNN_CHANNELS,
    CNN_HIDDEN,
    GPT_BLOCKS,
    GPT_CHANNELS,
    GPT_HEADS,
    GPT_VOCABULARY,
    MLP_WIDTHS,
    RESNET_BLOCKS,
    RESNET_CHANNELS,
    WORKLOADS,
    is_text,
    make_images,
    make_indices,
    make_tokens,
)

GROUPS = 8
BATCHES = 8


class Chain:
    """Layers one behind the other."""

    def __init__(self, *layers: Any) -> None:
        self.layers = layers

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


def mlp() -> Chain:
    """The MLP."""
    layers: list[Any] = []
    for fan_in, fan_out in pairwise(MLP_WIDTHS):
        layers += [nn.Linear(fan_in, fan_out), Tensor.relu]
    return Chain(*layers[:-1])


def cnn() -> Chain:
    """The CNN."""
    first, second = CNN_CHANNELS
    return Chain(
        *(nn.Conv2d(1, first, 3, padding=1), Tensor.relu),
        *(nn.Conv2d(first, second, 3, padding=1), Tensor.relu),
        *(Tensor.max_pool2d, lambda x: x.flatten(1)),
        *(nn.Linear(14 * 14 * second, CNN_HIDDEN), Tensor.relu, nn.Linear(CNN_HIDDEN, CLASSES)),
    )


class ResidualBlock:
    """Two convolutions with GroupNorm, and the input added."""

    def __init__(self, below: int, channels: int) -> None:
        stride = 1 if below == channels else 2
        self.conv1 = nn.Conv2d(below, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.shortcut = Chain()
        if stride > 1:
            convolution = nn.Conv2d(below, channels, 1, stride, bias=False)
            self.shortcut = Chain(convolution, nn.GroupNorm(GROUPS, channels))

    def __call__(self, x: Any) -> Any:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


def resnet() -> Chain:
    """The residual net."""
    below = RESNET_CHANNELS[0]
    layers = [nn.Conv2d(3, below, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, below)]
    blocks = []
    for channels in RESNET_CHANNELS:
        for _ in range(RESNET_BLOCKS):
            blocks.append(ResidualBlock(below, channels))
            below = channels
    return Chain(*layers, Tensor.relu, *blocks, lambda x: x.mean((2, 3)), nn.Linear(below, CLASSES))


class GptBlock:
    """Attention and MLP, each behind a LayerNorm and with its input added."""

    def __init__(self) -> None:
        self.norm1, self.norm2 = nn.LayerNorm(GPT_CHANNELS), nn.LayerNorm(GPT_CHANNELS)
        self.qkv = nn.Linear(GPT_CHANNELS, 3 * GPT_CHANNELS)
        self.merge = nn.Linear(GPT_CHANNELS, GPT_CHANNELS)
        self.up = nn.Linear(GPT_CHANNELS, 4 * GPT_CHANNELS)
        self.down = nn.Linear(4 * GPT_CHANNELS, GPT_CHANNELS)

    def __call__(self, x: Any) -> Any:
        batch, context, channels = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, context, 3, GPT_HEADS, -1)
        q, k, v = (parts[:, :, i].transpose(1, 2) for i in range(3))
        mixed = q.scaled_dot_product_attention(k, v, is_causal=True)
        x = x + self.merge(mixed.transpose(1, 2).reshape(batch, context, channels))
        return x + self.down(self.up(self.norm2(x)).gelu())


class Gpt:
    """Token and position embeddings, blocks, LayerNorm, and the embedding as the head."""

    def __init__(self, context: int) -> None:
        self.tokens = nn.Embedding(GPT_VOCABULARY, GPT_CHANNELS)
        self.tokens.weight = Tensor.normal(GPT_VOCABULARY, GPT_CHANNELS, std=0.02)
        self.positions = Tensor.zeros(context, GPT_CHANNELS).contiguous()
        self.blocks = [GptBlock() for _ in range(GPT_BLOCKS)]
        self.norm = nn.LayerNorm(GPT_CHANNELS)

    def __call__(self, tokens: Any) -> Any:
        x = Chain(*self.blocks)(self.tokens(tokens) + self.positions)
        return self.norm(x).flatten(0, 1) @ self.tokens.weight.transpose()


def make_batches(name: str) -> list[tuple[Any, Any]]:
    """The first batches, on the device."""
    workload = WORKLOADS[name]
    order = make_indices(workload, BATCHES)
    if is_text(workload):
        tokens, context = make_tokens().astype("int32"), workload.shape[0]
        windows = [tokens[index[:, None] + range(context + 1)] for index in order]
        pairs = [(window[:, :-1].copy(), window[:, 1:].flatten()) for window in windows]
    else:
        x, y = make_images(workload)
        if x.ndim == 4:
            x = x.transpose(0, 3, 1, 2)
        pairs = [(x[index], y[index]) for index in order]
    return [(Tensor(x).realize(), Tensor(y).realize()) for x, y in pairs]


def make(name: str, _threads: int, _variant: str) -> Callable[[int], float]:
    """A function that takes steps and returns the last loss."""
    workload = WORKLOADS[name]
    models = {"mlp": mlp, "cnn": cnn, "resnet": resnet}
    model = Gpt(workload.shape[0]) if is_text(workload) else models[name]()
    parameters = nn.state.get_parameters(model)
    if is_text(workload):
        optimizer = nn.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)
    else:
        optimizer = nn.optim.SGD(parameters, lr=0.01, momentum=0.9)
    batches = make_batches(name)
    taken = 0

    def train(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = model(x).sparse_categorical_crossentropy(y).backward()
        return loss.realize(*optimizer.schedule_step())

    step = TinyJit(train)

    def run(steps: int) -> float:
        nonlocal taken
        with Context(TRAINING=1):
            for _ in range(steps):
                loss = step(*batches[taken % BATCHES])
                taken += 1
            return float(loss.item())

    return run
