"""Record PyTorch's losses and gradients of the networks of tests/recorded_networks.py.

    .venv-bench/bin/python tests/record_torch.py       (make bench-engine makes that environment)

PyTorch computes in float64, from the same parameters and samples. Written to tests/data, for each
network: `loss`, the mean loss of the first step; `gradient.<tensor>`, in our layout, rounded to
float32, which is a hundred times finer than what the test asks for; `losses`, those of ten steps
of SGD with momentum. The layers are written down here once more, from the definitions.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]  # only in the benchmark's environment
from recorded_networks import CASES, FOLDER, Case, indices, samples, tensors
from torch.nn import functional as F  # type: ignore[import-not-found]  # noqa: N812

from p2ptrain.config_layers import (
    Activation,
    Conv,
    GlobalPool,
    LayerText,
    Linear,
    Norm,
    Pool,
    Residual,
)
from p2ptrain.model.convnet import ConvNetSpec
from p2ptrain.model.gpt import GptSpec
from p2ptrain.model.mlp import ModelSpec

Tensors = Mapping[str, Any]


def convolve(w: Tensors, name: str, x: Any, stride: int, padding: int) -> Any:
    """Of x (batch, channels, height, width); the kernel is stored as (k, k, in, out)."""
    kernel = w[f"{name}.weight"].permute(3, 2, 0, 1)
    return F.conv2d(x, kernel, w.get(f"{name}.bias"), stride, padding)


def normalise(w: Tensors, name: str, x: Any, groups: int) -> Any:
    """GroupNorm."""
    return F.group_norm(x, groups, w[f"{name}.weight"], w[f"{name}.bias"])


def dense(w: Tensors, name: str, x: Any) -> Any:
    """A linear layer; of a picture first its rows, then its columns, then its channels."""
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1).flatten(1)
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def residual(w: Tensors, name: str, x: Any, layer: Residual) -> Any:
    """Two convolutions, and the input added."""
    y = convolve(w, f"{name}.conv1", x, layer.stride, 1)
    y = F.relu(normalise(w, f"{name}.norm1", y, layer.groups))
    y = normalise(w, f"{name}.norm2", convolve(w, f"{name}.conv2", y, 1, 1), layer.groups)
    if f"{name}.shortcut.weight" in w:
        x = convolve(w, f"{name}.shortcut", x, layer.stride, 0)
        x = normalise(w, f"{name}.shortcut_norm", x, layer.groups)
    return F.relu(y + x)


def one_layer(w: Tensors, name: str, layer: LayerText, x: Any) -> Any:
    """What comes out of one layer of a convnet."""
    match layer:
        case Conv():
            return convolve(w, name, x, layer.stride, layer.pixels_added)
        case Norm():
            return normalise(w, name, x, layer.groups)
        case Activation():
            return activate(layer.name, x)
        case Pool():
            pool = F.max_pool2d if layer.kind == "max" else F.avg_pool2d
            return pool(x, layer.size, layer.stride)
        case GlobalPool():
            return x.mean((2, 3))
        case Residual():
            return residual(w, name, x, layer)
        case Linear():
            return dense(w, name, x)
        case _:
            raise AssertionError(f"no record has a layer {layer}")


def activate(name: str, x: Any) -> Any:
    """Of "relu" or "gelu"."""
    return F.relu(x) if name == "relu" else F.gelu(x, approximate="tanh")


def mlp(spec: ModelSpec, w: Tensors, x: Any) -> Any:
    """Logits of rows x (batch, inputs)."""
    last = len(spec.layers) - 2
    for i in range(last):
        x = activate(spec.activation, dense(w, f"layer{i}", x))
    return dense(w, f"layer{last}", x)


def gpt(spec: GptSpec, w: Tensors, tokens: Any) -> Any:
    """Logits (batch * context, vocabulary) of tokens (batch, context), attention written out."""
    batch, context = tokens.shape

    def norm(name: str, x: Any) -> Any:
        return F.layer_norm(x, (spec.channels,), w[f"{name}.weight"], w[f"{name}.bias"])

    later = torch.ones(context, context, dtype=torch.bool).triu(1)
    size = spec.channels // spec.heads
    x = w["token.weight"][tokens] + w["position.weight"]
    for i in range(spec.blocks):
        block = f"block{i}"
        rows = dense(w, f"{block}.qkv", norm(f"{block}.norm1", x))
        q, k, v = rows.view(batch, context, 3, spec.heads, size).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(2, 3) / size**0.5).masked_fill(later, -torch.inf)
        mixed = (scores.softmax(3) @ v).transpose(1, 2).reshape(batch, context, -1)
        x = x + dense(w, f"{block}.proj", mixed)
        up = activate("gelu", dense(w, f"{block}.up", norm(f"{block}.norm2", x)))
        x = x + dense(w, f"{block}.down", up)
    return (norm("norm", x) @ w["token.weight"].T).flatten(0, 1)


def loss_of(case: Case, w: Tensors, chosen: Any) -> Any:
    """Mean cross-entropy of one step."""
    network = case.network
    x, y = samples(case)
    if isinstance(network, GptSpec):
        stream = torch.from_numpy(x.astype(np.int64))
        windows = stream.unfold(0, network.context + 1, 1)[chosen]
        return F.cross_entropy(gpt(network, w, windows[:, :-1]), windows[:, 1:].flatten())
    rows = torch.from_numpy(x.astype(np.float64))[chosen]
    labels = torch.from_numpy(y.astype(np.int64))[chosen]
    if isinstance(network, ModelSpec):
        return F.cross_entropy(mlp(network, w, rows), labels)
    assert isinstance(network, ConvNetSpec)
    picture = rows.view(-1, *network.input).permute(0, 3, 1, 2)
    for i, layer in enumerate(network.layers):
        picture = one_layer(w, f"layer{i}", layer, picture)
    return F.cross_entropy(picture, labels)


def record(case: Case) -> dict[str, np.ndarray[Any, Any]]:
    """Loss, gradients and ten losses of a network."""
    w = {
        name: torch.from_numpy(values.astype(np.float64)).requires_grad_()
        for name, values in tensors(case.network).items()
    }
    order = torch.from_numpy(indices(case).astype(np.int64))
    optimizer = torch.optim.SGD(w.values(), lr=case.rate, momentum=case.momentum)
    found: dict[str, np.ndarray[Any, Any]] = {}
    losses: list[float] = []
    for chosen in order:
        optimizer.zero_grad()
        loss = loss_of(case, w, chosen)
        loss.backward()
        if not losses:
            found = {f"gradient.{n}": t.grad.numpy().astype(np.float32) for n, t in w.items()}
        losses.append(loss.item())
        optimizer.step()
    return found | {"loss": np.array(losses[0]), "losses": np.array(losses)}


def main() -> None:
    """Write all records."""
    FOLDER.mkdir(exist_ok=True)
    for name, case in CASES.items():
        path = FOLDER / f"gradients-{name}.npz"
        found = record(case)
        np.savez_compressed(path, torch=np.array(torch.__version__), **found)  # type: ignore[arg-type]
        sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes, losses {found['losses']}\n")


if __name__ == "__main__":
    main()
