"""p2ptrain's side of the engine's benchmark: each workload as a Trainer.

A recipe's model and settings go through the Trainer, as in the compute process. Steps are taken in
rounds: parameters in, a number of steps, the pseudo-gradient out; that copy is a part of the time.
"""

from collections.abc import Callable

from benchmarks.engine_models import MLP_WIDTHS, WORKLOADS, make_images
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import Device
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.train.local import Trainer, TrainingData
from p2ptrain.train.optimizers import InnerConfig

EVALUATED = 64  # held-out samples; the benchmark does not evaluate


def mlp(device: Device, library: KernelLibrary) -> Trainer:
    """The MLP by SGD with momentum."""
    workload = WORKLOADS["mlp"]
    x, y = make_images(workload)
    inner = InnerConfig(learning_rate=0.01, momentum=0.9, batch=workload.batch)
    data = TrainingData(x, y, x[:EVALUATED], y[:EVALUATED])
    return Trainer(device, ModelSpec(MLP_WIDTHS), inner, data, 1, library)


TRAINERS: dict[str, Callable[[Device, KernelLibrary], Trainer]] = {"mlp": mlp}
