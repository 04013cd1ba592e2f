"""Small networks whose gradients PyTorch has recorded: their shapes, parameters and data.

Both sides make the parameters and the samples from the same counter-based draws, so that the
records in tests/data hold losses and gradients only.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ptrain.config_layers import parse_layer
from p2ptrain.device.reference import philox_uniform
from p2ptrain.model.batches import Network
from p2ptrain.model.convnet import ConvNetSpec
from p2ptrain.model.gpt import GptSpec
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.model.parameters import TensorSpec

FOLDER = Path(__file__).with_name("data")
SEED = 20_261_123
SAMPLES_STREAM, LABELS_STREAM = 1_000, 1_001  # tensor i has stream i
STEPS = 10
CONVNET = (
    "conv 3x3 5", "norm 1", "relu", "max-pool 2", "residual 5 groups 5",
    "residual 9 stride 2 groups 3", "conv 1x1 7 no-bias", "norm 7", "relu", "global-pool",
    "linear 11", "gelu", "linear 10",
)  # fmt: skip
PLAIN = (
    "conv 5x5 3 stride 2 padding 1", "relu", "average-pool 2 stride 1", "conv 2x2 7 padding 0",
    "relu", "linear 10",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One recorded network.

    batch     samples of a step
    rate      of the ten steps of SGD with momentum
    momentum  of SGD
    """

    network: Network
    batch: int
    rate: float
    momentum: float = 0.9


def convnet(layers: tuple[str, ...]) -> ConvNetSpec:
    """A network on pictures of 12 x 12 x 3."""
    return ConvNetSpec((12, 12, 3), tuple(parse_layer(text) for text in layers))


CASES = {
    "mlp": Case(ModelSpec((13, 17, 10), "gelu"), 5, 0.05),
    "convnet": Case(convnet(CONVNET), 5, 0.01),
    "plain": Case(convnet(PLAIN), 5, 0.02),
    "gpt": Case(GptSpec(blocks=2, heads=3, channels=24, context=11, vocabulary=17), 3, 0.02),
}


def draws(count: int, stream: int) -> NDArray[np.float32]:
    """Uniform values in [-1, 1), (count,)."""
    return philox_uniform(count, SEED, stream, np.float32(1))


def tensors(network: Network) -> dict[str, NDArray[np.float32]]:
    """All parameters by name; no scale, shift or bias is what training would start from."""
    return {
        tensor.name: tensor_values(tensor, stream)
        for stream, tensor in enumerate(network.layout.tensors)
    }


def tensor_values(tensor: TensorSpec, stream: int) -> NDArray[np.float32]:
    """Of one tensor: small around 0, scales of norms around 1."""
    values = draws(tensor.size, stream).reshape(tensor.shape)
    if len(tensor.shape) > 1:
        fan_in = tensor.shape[-1] if len(tensor.shape) == 2 else np.prod(tensor.shape[:-1])
        return values * np.float32(1.5 / np.sqrt(np.float64(fan_in)))
    shift = np.float32(1 if tensor.name.endswith("weight") else 0)
    return shift + np.float32(0.25) * values


def samples(case: Case) -> tuple[NDArray[np.float32] | NDArray[np.uint8], NDArray[np.int32]]:
    """Three batches: x (samples, inputs) float32 and labels, or a text (tokens,) uint8."""
    network = case.network
    count = 3 * case.batch if network.inputs else 97
    labels = whole_numbers(count, network.classes, LABELS_STREAM)
    if not network.inputs:
        return labels.astype(np.uint8), np.empty(0, np.int32)
    x = draws(count * network.inputs, SAMPLES_STREAM).reshape(count, network.inputs)
    return x, labels


def indices(case: Case) -> NDArray[np.int32]:
    """Which samples each of the ten steps takes, (STEPS, batch)."""
    network = case.network
    count = 3 * case.batch if network.inputs else 97 - network.rows
    return whole_numbers(STEPS * case.batch, count, SAMPLES_STREAM + 2).reshape(STEPS, case.batch)


def whole_numbers(count: int, below: int, stream: int) -> NDArray[np.int32]:
    """Numbers 0 .. below - 1, (count,)."""
    unit = (draws(count, stream).astype(np.float64) + 1) / 2
    return np.floor(unit * below).astype(np.int32)
