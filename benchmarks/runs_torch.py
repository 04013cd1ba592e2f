"""A recipe trained by PyTorch, eager and alone: what `benchmarks.runs` puts beside p2ptrain.

    python -m benchmarks.runs_torch RECIPE DATA THREADS

Same layers, batch, steps, schedule, smoothing, clipping, decay, mirror images and phases; initial
weights and the order of samples are PyTorch's own, so the curves agree only roughly. A line of
JSON for each evaluation. It knows what the bundled recipes of a convnet and of a GPT use.
"""

import gzip
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]  # only in the benchmark's own environment
from torch import nn
from torch.nn import functional as F  # type: ignore[import-not-found]  # noqa: N812

from benchmarks.engine_torch import Gpt
from p2ptrain.config import Recipe
from p2ptrain.config_layers import Activation, Conv, GlobalPool, Linear, Pool, PoolTo
from p2ptrain.config_model import ConvNetSection, GptSection

EVALUATIONS = 10
IDX_IMAGES_HEADER, IDX_LABELS_HEADER = 16, 8


def convnet(section: ConvNetSection) -> nn.Module:
    """The layers of a recipe, channels first."""
    height, width, channels = section.input
    layers: list[nn.Module] = []
    flat = False
    for text in section.parsed:
        match text:
            case Conv():
                pad = text.pixels_added
                layers.append(nn.Conv2d(channels, text.channels, text.kernel, text.stride, pad))
                channels = text.channels
            case Activation():
                layers.append(nn.ReLU(inplace=True))
            case Pool():
                layers.append(nn.MaxPool2d(text.size, text.stride))
                height, width = height // text.stride, width // text.stride
            case PoolTo():
                pool = nn.AdaptiveMaxPool2d if text.kind == "max" else nn.AdaptiveAvgPool2d
                layers.append(pool(text.side))
                height = width = text.side
            case GlobalPool():
                layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
                flat = True
            case Linear():
                fan_in = channels if flat else height * width * channels
                layers += [] if flat else [nn.Flatten()]
                layers.append(nn.Linear(fan_in, text.width))
                channels, flat = text.width, True
            case _:
                raise SystemExit(f"{text}: this benchmark does not know the layer")
    for module in layers:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def learning_rate(recipe: Recipe, step: int) -> float:
    """As the recipe says: cosine or one cycle, both after a warm-up."""
    inner, steps = recipe.inner, recipe.rounds * recipe.inner.local_steps
    warm = inner.warmup_steps or (steps * 3 // 10 if inner.schedule == "one-cycle" else 0)
    low = inner.learning_rate / 25 if inner.schedule == "one-cycle" else 0.0
    if step < warm:
        return low + (inner.learning_rate - low) * (step + 1) / warm
    if inner.schedule == "constant":
        return inner.learning_rate
    share = (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2
    return inner.learning_rate_end + (inner.learning_rate - inner.learning_rate_end) * share


def optimizer_of(recipe: Recipe, model: nn.Module) -> Any:
    """Fused, with decay on tensors of two dimensions or more."""
    inner = recipe.inner
    groups = [
        {
            "params": [p for p in model.parameters() if is_matrix == (p.ndim > 1)],
            "weight_decay": inner.weight_decay if is_matrix else 0.0,
        }
        for is_matrix in (True, False)
    ]
    rate = inner.learning_rate
    if inner.optimizer == "adamw":
        betas = (inner.beta1, inner.beta2)
        return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=inner.epsilon, fused=True)
    return torch.optim.SGD(
        groups, lr=rate, momentum=inner.momentum, nesterov=inner.nesterov, fused=True
    )


def read_pictures(recipe: Recipe, folder: Path, split: str) -> tuple[Any, Any]:
    """Pictures (n, C, H, W), normalised, channels-last, and labels."""
    assert isinstance(recipe.model, ConvNetSection)
    height, width, channels = recipe.model.input
    prefix = "train" if split == "train" else "t10k"
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(), np.uint8, offset=IDX_IMAGES_HEADER)
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz") as file:
        y = np.frombuffer(file.read(), np.uint8, offset=IDX_LABELS_HEADER)
    values: Any = x.reshape(-1, height, width, channels).astype(np.float32) * recipe.data.scale
    if recipe.data.mean:
        mean, deviation = recipe.data.mean, recipe.data.deviation
        values = (values - np.array(mean, np.float32)) / np.array(deviation, np.float32)
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2), torch.from_numpy(
        y.astype(np.int64)
    )


class Pictures:
    """Batches and evaluation of pictures."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.x, self.y = read_pictures(recipe, folder, "train")
        self.test_x, self.test_y = read_pictures(recipe, folder, "test")
        self.order = torch.randperm(len(self.x))
        self.used = 0

    def side(self, round_number: int) -> int:
        """Height of the pictures of a round."""
        rounds = 0
        for phase in self.recipe.phases:
            rounds += phase.rounds
            if round_number < rounds:
                return phase.size
        return int(self.x.shape[2])

    def batch(self, round_number: int) -> tuple[Any, Any]:
        """The next samples of an epoch, as the recipe shows them."""
        size, pad = self.recipe.inner.batch, self.recipe.data.crop_padding
        if self.used + size > len(self.x):
            self.order, self.used = torch.randperm(len(self.x)), 0
        index = self.order[self.used : self.used + size]
        self.used += size
        x = self.x[index]
        if self.recipe.data.flip:
            mirrored = torch.rand(size, 1, 1, 1) < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        if pad:
            top, left = (int(v) for v in torch.randint(0, 2 * pad + 1, (2,)))
            x = F.pad(x, (pad,) * 4)[:, :, top : top + 28, left : left + 28]
        return self.reduced(x, round_number), self.y[index]

    def reduced(self, x: Any, round_number: int) -> Any:
        """Pictures of the round's size."""
        factor = x.shape[2] // self.side(round_number)
        return F.avg_pool2d(x, factor) if factor > 1 else x

    def evaluate(self, model: nn.Module, round_number: int) -> dict[str, float]:
        """Loss and accuracy on all held-out pictures."""
        loss, right = 0.0, 0
        for start in range(0, len(self.test_x), 500):
            x = self.reduced(self.test_x[start : start + 500], round_number)
            y, z = self.test_y[start : start + 500], model(x)
            loss += float(F.cross_entropy(z, y, reduction="sum"))
            right += int((z.argmax(1) == y).sum())
        return {"loss": loss / len(self.test_x), "accuracy": right / len(self.test_x)}


class Text:
    """Batches and evaluation of a text, the last tenth held out."""

    def __init__(self, recipe: Recipe, path: Path) -> None:
        assert isinstance(recipe.model, GptSection)
        text = path.read_text("utf-8")
        symbols = {symbol: i for i, symbol in enumerate(sorted(set(text)))}
        tokens = torch.tensor([symbols[symbol] for symbol in text])
        cut = len(tokens) * 9 // 10
        self.context, self.size = recipe.model.context, recipe.inner.batch
        self.train = tokens[:cut].unfold(0, self.context + 1, 1)
        self.test = tokens[cut:].unfold(0, self.context + 1, self.context)

    def batch(self, round_number: int) -> tuple[Any, Any]:
        """Windows from anywhere."""
        window = self.train[torch.randint(len(self.train), (self.size,))]
        return window[:, :-1], window[:, 1:].flatten()

    def evaluate(self, model: nn.Module, round_number: int) -> dict[str, float]:
        """Loss and accuracy on windows side by side."""
        loss, right, count = 0.0, 0, 0
        for window in self.test.split(32):
            z, y = model(window[:, :-1]), window[:, 1:].flatten()
            loss += float(F.cross_entropy(z, y, reduction="sum"))
            right += int((z.argmax(1) == y).sum())
            count += len(y)
        return {"loss": loss / count, "accuracy": right / count}


def train(
    recipe: Recipe, data: Pictures | Text, model: nn.Module, say: Callable[..., None]
) -> None:
    """The run."""
    inner = recipe.inner
    optimizer = optimizer_of(recipe, model)
    training_s, step = 0.0, 0
    for round_number in range(recipe.rounds):
        started = time.perf_counter()
        for _ in range(inner.local_steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            x, y = data.batch(round_number)
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x), y, label_smoothing=inner.label_smoothing)
            loss.backward()
            if inner.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), inner.clip_norm)
            optimizer.step()
            step += 1
        training_s += time.perf_counter() - started
        if (round_number + 1) % max(1, recipe.rounds // EVALUATIONS) == 0:
            with torch.no_grad():
                say(round=round_number + 1, seconds=training_s, train_loss=float(loss.detach()),
                    **data.evaluate(model, round_number))  # fmt: skip


def main(arguments: list[str]) -> None:
    """Train the recipe."""
    recipe = Recipe.from_file(Path(arguments[0]))
    torch.set_num_threads(int(arguments[2]))
    torch.manual_seed(1)
    began = time.process_time()

    def say(**values: float) -> None:
        line = {**values, "cpu_s": time.process_time() - began}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    if isinstance(recipe.model, GptSection):
        train(recipe, Text(recipe, Path(arguments[1])), Gpt(recipe.model.context), say)
    else:
        assert isinstance(recipe.model, ConvNetSection)
        train(recipe, Pictures(recipe, Path(arguments[1])), convnet(recipe.model), say)


if __name__ == "__main__":
    main(sys.argv[1:])
