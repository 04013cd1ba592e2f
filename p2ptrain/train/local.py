"""Local training of one peer: H steps from shared parameters to a pseudo-gradient.

A trainer owns a device's buffers and knows no network: shared parameters and sample indices come
in, the pseudo-gradient goes out. The same inputs give the same bits on every conformant device,
which is what makes a contribution auditable: start, indices, settings and inner state decide it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import Device
from p2ptrain.device.operations import Operations, Samples
from p2ptrain.errors import ConfigError
from p2ptrain.model.graph import Plan, PlanShape, Weights
from p2ptrain.model.initial import initial_parameters
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.model.parameters import Vector, check_vector
from p2ptrain.train.optimizers import InnerConfig, InnerOptimizer, InnerState

# Steps between two looks at should_stop, each of which waits for the device: as many as a slow one
# does in about 50 ms, since a node's other requests wait as long.
STEPS_AT_ONCE = 8
WORK_AT_ONCE_FLOPS = 5e8
EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A classification data set.

    x       (samples, inputs) float32
    y       (samples,) int32 labels
    test_x  (test samples, inputs) float32, held out
    test_y  (test samples,) int32

    A CPU trains on these very arrays: nobody may change them while there is a trainer.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What local steps gave.

    gradient   (padded_size,) float32, the pseudo-gradient: start minus end
    loss_mean  over the samples of all steps; NaN if no step was taken
    samples    batch x steps taken: the contribution's weight
    """

    gradient: Vector
    loss_mean: float
    samples: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean loss and share of correct predictions over count held-out samples."""

    loss: float
    accuracy: float
    count: int


class Trainer:
    """One network on one device."""

    def __init__(
        self,
        device: Device,
        spec: ModelSpec,
        inner: InnerConfig,
        data: TrainingData,
        seed: int,
        library: KernelLibrary | None = None,
    ) -> None:
        """Put the data on the device and record the plans.

        Args:
          seed     of the initial parameters
          library  kernels already built for the device, to share them

        Raises:
          ConfigError  the data does not fit the model
        """
        check_data(data.x, data.y, spec)
        check_data(data.test_x, data.test_y, spec)
        self.spec = spec
        self.inner = inner
        self.operations = Operations(library or KernelLibrary(device))
        self._device = device
        self._seed = seed
        self._sample_count = len(data.x)
        size = spec.layout.padded_size
        # No launch writes the gradient's padding, so it stays zero.
        self._weights = Weights(device.zeros((size,)), device.zeros((size,)))
        self._optimizer = InnerOptimizer(self.operations, inner, self._weights)
        self._steps = Plan(
            self.operations,
            spec,
            self._weights,
            Samples(device.borrow(data.x), device.borrow(data.y)),
            PlanShape(inner.batch, steps_at_once(spec, inner.batch)),
        )
        self._test_count = len(data.test_x)
        self._test_weights = Weights(device.zeros((size,)), None)
        self._test = Plan(
            self.operations,
            spec,
            self._test_weights,
            Samples(device.borrow(data.test_x), device.borrow(data.test_y)),
            PlanShape(EVALUATION_BATCH, -(-self._test_count // EVALUATION_BATCH)),
        )
        self._load_test()

    def initial_parameters(self) -> Vector:
        """(padded_size,) float32, a function of the model and the seed alone."""
        return initial_parameters(self.operations, self.spec, self._seed)

    def parameters(self) -> Vector:
        """Wait for the device and copy the current parameters, (padded_size,) float32."""
        return self._weights.parameters.read()

    def set_parameters(self, vector: Vector) -> None:
        """Replace the current parameters.

        Args:
          vector  (padded_size,) float32, zero in the padding
        """
        check_vector(vector, self.spec.layout.padded_size)
        self._weights.parameters.write(vector)

    def inner_state(self) -> InnerState:
        """A copy of the inner optimiser's state, to go back to if a contribution is discarded."""
        return self._optimizer.state()

    def set_inner_state(self, state: InnerState) -> None:
        """Go back to a state that inner_state gave."""
        self._optimizer.restore(state)

    def pseudo_gradient(
        self,
        start: Vector,
        sample_indices: NDArray[np.int32],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> LocalResult:
        """Take local steps from the shared parameters.

        Args:
          start           (padded_size,) float32
          sample_indices  (H, batch) int32, each 0 .. samples - 1
          should_stop     asked every few steps, see steps_at_once; true ends the steps early

        Returns:
          the pseudo-gradient; it is finite only if the training has not diverged
        """
        self._check_indices(sample_indices)
        self.set_parameters(start)
        losses: list[NDArray[np.float32]] = []
        at_once = self._steps.shape.steps_max
        for first in range(0, len(sample_indices), at_once):
            if should_stop():
                break
            losses.append(self._run(sample_indices[first : first + at_once]))
        loss = np.concatenate(losses) if losses else np.empty((0, self.inner.batch), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            gradient = start - self.parameters()
        mean = float(loss.mean(dtype=np.float64)) if loss.size else float("nan")
        return LocalResult(gradient, mean, loss.size)

    def evaluate(self, parameters: Vector) -> Evaluation:
        """Loss and accuracy on the held-out samples; leaves the current parameters alone.

        Args:
          parameters  (padded_size,) float32
        """
        check_vector(parameters, self.spec.layout.padded_size)
        self._test_weights.parameters.write(parameters)
        steps = self._test.shape.steps_max
        for step in range(steps):
            self._test.enqueue(step)
        loss, correct = self._test.scores(steps)
        count = self._test_count
        return Evaluation(
            float(loss.sum(dtype=np.float64)) / count, int(correct.sum()) / count, count
        )

    def _run(self, indices: NDArray[np.int32]) -> NDArray[np.float32]:
        self._steps.load(indices)
        for step in range(len(indices)):
            self._steps.enqueue(step)
            self._optimizer.enqueue()
        loss, _ = self._steps.scores(len(indices))
        return loss

    def _load_test(self) -> None:
        shape = self._test.shape
        rows = np.full(shape.steps_max * shape.batch, -1, np.int32)
        rows[: self._test_count] = np.arange(self._test_count)
        self._test.load(rows.reshape(shape.steps_max, shape.batch))

    def _check_indices(self, indices: NDArray[np.int32]) -> None:
        if indices.dtype != np.int32 or indices.ndim != 2 or indices.shape[1] != self.inner.batch:
            raise ValueError(
                f"indices of {indices.dtype} {indices.shape}, not int32 (H, {self.inner.batch})"
            )
        if indices.size and not (indices.min() >= 0 and indices.max() < self._sample_count):
            raise ValueError(f"indices outside 0 .. {self._sample_count - 1}")


def steps_at_once(spec: ModelSpec, batch: int) -> int:
    """Steps that are enqueued before the device is waited for; no bit depends on it."""
    step_flops = 6 * spec.layout.size * batch  # forward, and twice that backward
    return max(1, min(STEPS_AT_ONCE, int(WORK_AT_ONCE_FLOPS / step_flops)))


def check_data(x: NDArray[np.float32], y: NDArray[np.int32], spec: ModelSpec) -> None:
    """See that samples and labels fit each other and the model.

    Raises:
      ConfigError  with what does not fit
    """
    if x.dtype != np.float32 or y.dtype != np.int32 or x.ndim != 2 or y.shape != (len(x),):
        raise ConfigError(f"data of {x.dtype} {x.shape} with labels of {y.dtype} {y.shape}")
    if not len(x):
        raise ConfigError("the data set has no samples in one of its splits")
    if x.shape[1] != spec.inputs:
        raise ConfigError(
            f"a sample has {x.shape[1]} values and the model {spec.inputs} inputs: "
            f"set the first of layers to {x.shape[1]}"
        )
    if y.min() < 0 or y.max() >= spec.classes:
        raise ConfigError(
            f"labels go from {y.min()} to {y.max()} and the model has {spec.classes} classes: "
            f"set the last of layers to {int(y.max()) + 1}"
        )
