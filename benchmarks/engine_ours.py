"""p2ptrain's side of the engine's benchmark: each workload as a Trainer.

Network and settings go through the Trainer, as in the compute process, and as there the device is
tested before it trains, for the kernels of the network and for the quantiser. Steps are taken in
rounds: parameters in, some steps, the pseudo-gradient out; these copies are a part of the time.
"""

from collections.abc import Callable

import numpy as np

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
from p2ptrain.config_layers import parse_layer
from p2ptrain.device.opencl import Device, open_device
from p2ptrain.device.selftest import self_test
from p2ptrain.model.batches import Network
from p2ptrain.model.convnet import ConvNetSpec
from p2ptrain.model.gpt import GptSpec
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.train.compression import check_quantizer
from p2ptrain.train.local import Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import InnerConfig

EVALUATED = 64  # held-out samples; the benchmark does not evaluate


def convnet(shape: tuple[int, ...], layers: list[str]) -> ConvNetSpec:
    """A network of layers as a recipe writes them."""
    height, width, channels = shape
    return ConvNetSpec((height, width, channels), tuple(parse_layer(text) for text in layers))


def mlp() -> ModelSpec:
    """The MLP."""
    return ModelSpec(MLP_WIDTHS)


def cnn() -> ConvNetSpec:
    """The CNN."""
    first, second = CNN_CHANNELS
    convolutions = [f"conv 3x3 {first}", "relu", f"conv 3x3 {second}", "relu", "max-pool 2"]
    dense = [f"linear {CNN_HIDDEN}", "relu", f"linear {CLASSES}"]
    return convnet(WORKLOADS["cnn"].shape, convolutions + dense)


def resnet() -> ConvNetSpec:
    """The residual net."""
    below = RESNET_CHANNELS[0]
    layers = [f"conv 3x3 {below} no-bias", "norm 8", "relu"]
    for channels in RESNET_CHANNELS:
        for _ in range(RESNET_BLOCKS):
            layers.append(f"residual {channels}" + (" stride 2" if channels != below else ""))
            below = channels
    return convnet(WORKLOADS["resnet"].shape, [*layers, "global-pool", f"linear {CLASSES}"])


def gpt(name: str) -> GptSpec:
    """The GPT with the context of a workload."""
    context = WORKLOADS[name].shape[0]
    return GptSpec(GPT_BLOCKS, GPT_HEADS, GPT_CHANNELS, context, GPT_VOCABULARY)


NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "gpt": lambda: gpt("gpt"),
    "gpt128": lambda: gpt("gpt128"),
}


def inner_config(name: str) -> InnerConfig:
    """The optimiser of a workload."""
    batch = WORKLOADS[name].batch
    if is_text(WORKLOADS[name]):
        return InnerConfig("adamw", 1e-3, weight_decay=0.1, batch=batch)
    return InnerConfig(learning_rate=0.01, momentum=0.9, batch=batch)


def make_trainer(name: str, device: Device) -> Trainer:
    """The trainer of a workload, its plan not yet recorded."""
    workload = WORKLOADS[name]
    operations = open_operations(device)
    if is_text(workload):
        tokens = make_tokens()
        none = np.empty(0, np.int32)
        data = TrainingData(tokens, none, tokens[:1024], none)
    else:
        x, y = make_images(workload)
        x = x.reshape(len(x), -1)
        data = TrainingData(x, y, x[:EVALUATED], y[:EVALUATED])
    return Trainer(operations, NETWORKS[name](), inner_config(name), data, 1)


def make(name: str, _threads: int, _variant: str) -> Callable[[int], float]:
    """A function that takes steps and returns their mean loss.

    The device takes its number of threads from POCL_MAX_PTHREAD_COUNT.
    """
    trainer = make_trainer(name, open_device())
    trainer.plan()
    self_test(trainer.operations, trainer.operations.library.used)
    check_quantizer(trainer.operations.library)
    start = trainer.initial_parameters()
    order = make_indices(WORKLOADS[name], 64)

    def run(steps: int) -> float:
        nonlocal start
        rows = np.resize(order, (steps, order.shape[1]))  # repeated from the start
        result = trainer.pseudo_gradient(start, rows)
        start = start - result.gradient
        return result.loss_mean

    return run
