"""PyTorch's side of the engine's benchmark.

Each workload in the form that PyTorch's own guides call fast on a CPU, eager: the data set lies in
memory and a batch is one gather, gradients are set to None, the loss is read after the last of
several steps, the optimiser is fused or for-each, images are channels-last or not. The variant,
"fused,last" for example, says which; the benchmark tries them and keeps the fastest. With
"compile" in it the step's forward and backward go through torch.compile, which needs a compiler.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch  # type: ignore[import-not-found]  # only in the benchmark's own environment
from torch import nn
from torch.nn import functional as F  # type: ignore[import-not-found]  # noqa: N812

from benchmarks.engine_models import (
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
IMAGE_VARIANTS = ("fused,last", "foreach,last", "fused", "foreach")
VARIANTS = {
    "mlp": ("fused", "foreach"),
    "cnn": IMAGE_VARIANTS,
    "resnet": IMAGE_VARIANTS,
    "gpt": ("fused", "foreach"),
    "gpt128": ("fused", "foreach"),
}


def mlp() -> nn.Module:
    """The MLP."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(MLP_WIDTHS):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Module:
    """The CNN."""
    first, second = CNN_CHANNELS
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(14 * 14 * second, CNN_HIDDEN),
        nn.ReLU(),
        nn.Linear(CNN_HIDDEN, CLASSES),
    )


class ResidualBlock(nn.Module):  # type: ignore[misc]
    """Two convolutions with GroupNorm, and the input added, by a 1x1 convolution if need be."""

    def __init__(self, below: int, channels: int) -> None:
        super().__init__()
        stride = 1 if below == channels else 2
        self.conv1 = nn.Conv2d(below, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(below, channels, 1, stride, bias=False), nn.GroupNorm(GROUPS, channels)
            )

    def forward(self, x: Any) -> Any:
        """(N, below, H, W) to (N, channels, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


def resnet() -> nn.Module:
    """The residual net."""
    below = RESNET_CHANNELS[0]
    layers: list[nn.Module] = [
        nn.Conv2d(3, below, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, below),
        nn.ReLU(inplace=True),
    ]
    for channels in RESNET_CHANNELS:
        for _ in range(RESNET_BLOCKS):
            layers.append(ResidualBlock(below, channels))
            below = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(below, CLASSES))


class GptBlock(nn.Module):  # type: ignore[misc]
    """Attention and MLP, each behind a LayerNorm and with its input added."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(GPT_CHANNELS), nn.LayerNorm(GPT_CHANNELS)
        self.qkv = nn.Linear(GPT_CHANNELS, 3 * GPT_CHANNELS)
        self.merge = nn.Linear(GPT_CHANNELS, GPT_CHANNELS)
        self.up = nn.Linear(GPT_CHANNELS, 4 * GPT_CHANNELS)
        self.down = nn.Linear(4 * GPT_CHANNELS, GPT_CHANNELS)

    def forward(self, x: Any) -> Any:
        """(batch, context, channels) to the same."""
        batch, context, channels = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, context, 3, GPT_HEADS, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.merge(mixed.transpose(1, 2).reshape(batch, context, channels))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):  # type: ignore[misc]
    """Token and position embeddings, blocks, LayerNorm, and the embedding as the head."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(GPT_VOCABULARY, GPT_CHANNELS)
        self.positions = nn.Parameter(torch.zeros(context, GPT_CHANNELS))
        self.blocks = nn.Sequential(*(GptBlock() for _ in range(GPT_BLOCKS)))
        self.norm = nn.LayerNorm(GPT_CHANNELS)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Any) -> Any:
        """(batch, context) int64 to logits (batch * context, vocabulary)."""
        x = self.blocks(self.tokens(tokens) + self.positions)
        return F.linear(self.norm(x), self.tokens.weight).flatten(0, 1)


def images(name: str, *, channels_last: bool) -> Callable[[Any], tuple[Any, Any]]:
    """A function from the indices of a batch to its samples and labels."""
    values, labels = make_images(WORKLOADS[name])
    x, y = torch.from_numpy(values), torch.from_numpy(labels).long()
    if x.ndim == 2:
        return lambda index: (x[index], y[index])
    if channels_last:
        return lambda index: (x[index].permute(0, 3, 1, 2), y[index])
    contiguous = x.permute(0, 3, 1, 2).contiguous()
    return lambda index: (contiguous[index], y[index])


def text(name: str) -> Callable[[Any], tuple[Any, Any]]:
    """A function from the offsets of a batch to its tokens and the tokens that follow."""
    context = WORKLOADS[name].shape[0]
    windows = torch.from_numpy(make_tokens()).long().unfold(0, context + 1, 1)

    def batch(index: Any) -> tuple[Any, Any]:
        window = windows[index]
        return window[:, :-1], window[:, 1:].flatten()

    return batch


def make(name: str, threads: int, variant: str) -> Callable[[int], float]:
    """A function that takes steps and returns the last loss."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    options = set(variant.split(",")) if variant else set()
    workload = WORKLOADS[name]
    models = {"mlp": mlp, "cnn": cnn, "resnet": resnet}
    model = Gpt(workload.shape[0]) if is_text(workload) else models[name]()
    if "last" in options:
        model = model.to(memory_format=torch.channels_last)
    batch_of = text(name) if is_text(workload) else images(name, channels_last="last" in options)
    how = {"fused": True} if "fused" in options else {"foreach": True}
    if is_text(workload):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, **how)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, **how)
    indices = torch.from_numpy(make_indices(workload, 64)).long()
    forward = torch.compile(model) if "compile" in options else model
    taken = 0

    def run(steps: int) -> float:
        nonlocal taken
        for _ in range(steps):
            x, y = batch_of(indices[taken % len(indices)])
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(forward(x), y)
            loss.backward()
            optimizer.step()
            taken += 1
        return float(loss.item())

    return run
