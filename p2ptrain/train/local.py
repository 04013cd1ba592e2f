"""Local training of one peer: H steps from shared parameters to a pseudo-gradient.

A trainer owns a device's buffers and knows no network: shared parameters and sample indices come
in, the pseudo-gradient goes out. The same inputs give the same bits on every conformant device,
which is what makes a contribution auditable: start, indices, moment, settings and inner state
decide it.

A convnet that begins on smaller pictures has a plan for each size, recorded when the first step of
its phase comes; all of them share the parameters and the optimiser.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import Device
from p2ptrain.device.operations import Operations, Samples
from p2ptrain.device.products import best_tile
from p2ptrain.device.tiles import read_tiles, tiles_path
from p2ptrain.errors import ConfigError
from p2ptrain.model.batches import Network, StepShape
from p2ptrain.model.graph import Moment, Plan, PlanShape
from p2ptrain.model.initial import initial_parameters
from p2ptrain.model.parameters import Vector, check_vector
from p2ptrain.model.recorder import Weights
from p2ptrain.train.optimizers import InnerConfig, InnerOptimizer, InnerState

# Steps between two looks at should_stop, each of which waits for the device: as many as a slow one
# does in about 50 ms, since a node's other requests wait as long.
STEPS_AT_ONCE = 8
WORK_AT_ONCE_FLOPS = 5e8
EVALUATION_BATCH = 256
EVALUATION_ROWS_MAX = 2048  # predictions of an evaluation step: of a text there are many a sample


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What is learned from, and by what it is judged.

    Of a classification data set:
      x       (samples, inputs) float32
      y       (samples,) int32 labels
      test_x  (test samples, inputs) float32, held out
      test_y  (test samples,) int32
    Of a text: x and test_x are streams of tokens, (tokens,) uint8; y and test_y are empty.

    A CPU trains on these very arrays: nobody may change them while there is a trainer.
    """

    x: NDArray[np.float32] | NDArray[np.uint8]
    y: NDArray[np.int32]
    test_x: NDArray[np.float32] | NDArray[np.uint8]
    test_y: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Phase:
    """Training steps on smaller pictures.

    end_step  the first step of the run after it
    side      height of the pictures
    """

    end_step: int
    side: int


@dataclass(frozen=True, slots=True)
class Presentation:
    """How samples are shown in training; in evaluation they are shown as they are.

    smoothing     share of a label that all classes divide
    crop_padding  pixels by which pictures are shifted at random, at most
    flip          whether half of them are mirrored
    phases        steps on smaller pictures, at the start of the run
    """

    smoothing: float = 0.0
    crop_padding: int = 0
    flip: bool = False
    phases: tuple[Phase, ...] = field(default=())

    def side(self, step: int) -> int:
        """Height of the pictures at a step of the run; 0: full size."""
        return next((phase.side for phase in self.phases if step < phase.end_step), 0)


@dataclass(frozen=True, slots=True)
class RoundMoment:
    """When local steps are taken.

    first_step   number of the first one in the run: round x the recipe's local steps
    noise        the round's key of random draws, 0 .. 2^64 - 1
    round_steps  the recipe's local steps; a round of more passes through as much of the schedule;
                 0: each step is one of the schedule
    """

    first_step: int = 0
    noise: int = 0
    round_steps: int = 0

    def step(self, done: int, steps: int) -> int:
        """The step of the schedule at which step `done` of so many is taken."""
        if not 0 < self.round_steps < steps:
            return self.first_step + done
        return self.first_step + done * self.round_steps // steps


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
        operations: Operations,
        network: Network,
        inner: InnerConfig,
        data: TrainingData,
        seed: int,
        presentation: Presentation | None = None,
    ) -> None:
        """Put the data on the device and record the plans.

        Args:
          operations  the kernels of a device (see open_operations)
          seed        of the initial parameters

        Raises:
          ConfigError  the data does not fit the model
        """
        check_data(data.x, data.y, network)
        check_data(data.test_x, data.test_y, network)
        device = operations.device
        self.network = network
        self.inner = inner
        self.operations = operations
        self.sample_count = sample_count(network, len(data.x))
        self._seed = seed
        self._presentation = presentation or Presentation()
        size = network.layout.padded_size
        # No launch writes the gradient's padding, so it stays zero.
        self._weights = Weights(device.zeros((size,)), device.zeros((size,)))
        self._optimizer = InnerOptimizer(
            operations, inner, self._weights, network.layout.decay_mask()
        )
        self._samples = Samples(device.borrow(data.x), device.borrow(data.y))
        self._plans: dict[int, Plan] = {}
        self._test_weights = Weights(device.zeros((size,)), None)
        self._test_order = test_order(network, len(data.test_x))
        self._test_samples = Samples(device.borrow(data.test_x), device.borrow(data.test_y))
        self._test_plans: dict[int, Plan] = {}

    def plan(self, step: int = 0) -> Plan:
        """The plan of a step of the run; recorded when it is first asked for."""
        side = self._presentation.side(step)
        if side not in self._plans:
            network = self._network_of(side)
            show = self._presentation
            batch = self.inner.batch
            shape = StepShape(batch, show.crop_padding, show.flip, show.smoothing)
            self._plans[side] = Plan(
                self.operations,
                network,
                self._weights,
                self._samples,
                PlanShape(shape, steps_at_once(network, batch)),
            )
        return self._plans[side]

    def initial_parameters(self) -> Vector:
        """(padded_size,) float32, a function of the model and the seed alone."""
        return initial_parameters(self.operations, self.network.layout, self._seed)

    def parameters(self) -> Vector:
        """Wait for the device and copy the current parameters, (padded_size,) float32."""
        return self._weights.parameters.read()

    def set_parameters(self, vector: Vector) -> None:
        """Replace the current parameters.

        Args:
          vector  (padded_size,) float32, zero in the padding
        """
        check_vector(vector, self.network.layout.padded_size)
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
        moment: RoundMoment | None = None,
    ) -> LocalResult:
        """Take local steps from the shared parameters.

        Args:
          start           (padded_size,) float32
          sample_indices  (H, batch) int32, each 0 .. sample_count - 1
          should_stop     asked every few steps, see steps_at_once; true ends the steps early
          moment          when; None: the first step of the run

        Returns:
          the pseudo-gradient; it is finite only if the training has not diverged
        """
        self._check_indices(sample_indices)
        self.set_parameters(start)
        when = moment or RoundMoment()
        losses: list[NDArray[np.float32]] = []
        done = 0
        count = len(sample_indices)
        while done < count and not should_stop():
            plan = self.plan(when.step(done, count))
            indices = sample_indices[done : done + plan.shape.steps_max]
            steps = [when.step(done + i, count) for i in range(len(indices))]
            losses.append(self._run(plan, indices, Moment(done, when.noise), steps))
            done += len(indices)
        loss = np.concatenate(losses) if losses else np.empty(0, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            gradient = start - self.parameters()
        mean = float(loss.mean(dtype=np.float64)) if loss.size else float("nan")
        return LocalResult(gradient, mean, done * self.inner.batch)

    def evaluate(self, parameters: Vector, last_step: int | None = None) -> Evaluation:
        """Loss and accuracy on the held-out samples; leaves the current parameters alone.

        Args:
          parameters  (padded_size,) float32
          last_step   step of the run that they come from, whose size of pictures is taken; None:
                      full size
        """
        check_vector(parameters, self.network.layout.padded_size)
        plan = self._test_plan(0 if last_step is None else self._presentation.side(last_step))
        self._test_weights.parameters.write(parameters)
        steps = len(self._test_order)
        for step in range(steps):
            plan.enqueue(step)
        loss, correct = plan.scores(steps)
        count = int((self._test_order >= 0).sum()) * self.network.rows
        return Evaluation(
            float(loss.sum(dtype=np.float64)) / count, int(correct.sum()) / count, count
        )

    def _test_plan(self, side: int) -> Plan:
        if side not in self._test_plans:
            shape = PlanShape(StepShape(self._test_order.shape[1]), len(self._test_order))
            self._test_plans[side] = plan = Plan(
                self.operations,
                self._network_of(side),
                self._test_weights,
                self._test_samples,
                shape,
            )
            plan.load(self._test_order)
        return self._test_plans[side]

    def _network_of(self, side: int) -> Network:
        return self.network.resized(side) if side else self.network

    def _run(
        self, plan: Plan, indices: NDArray[np.int32], moment: Moment, steps: list[int]
    ) -> NDArray[np.float32]:
        plan.load(indices, moment)
        for slot, step in enumerate(steps):
            plan.enqueue(slot)
            self._optimizer.enqueue(step)
        loss, _ = plan.scores(len(indices))
        return loss.ravel()

    def _check_indices(self, indices: NDArray[np.int32]) -> None:
        if indices.dtype != np.int32 or indices.ndim != 2 or indices.shape[1] != self.inner.batch:
            raise ValueError(
                f"indices of {indices.dtype} {indices.shape}, not int32 (H, {self.inner.batch})"
            )
        if indices.size and not (indices.min() >= 0 and indices.max() < self.sample_count):
            raise ValueError(f"indices outside 0 .. {self.sample_count - 1}")


def open_operations(device: Device, cache: Path | None = None) -> Operations:
    """All kernels of a device, with the tiles that tuning has left beside the compiled ones."""
    library = KernelLibrary(device)
    tile = best_tile(library)
    if tile is None or cache is None:
        return Operations(library, tile)
    return Operations(library, tile, read_tiles(tiles_path(cache, device.info), tile.width))


def steps_at_once(network: Network, batch: int) -> int:
    """Steps that are enqueued before the device is waited for; no bit depends on it."""
    step_flops = 6 * network.products * batch  # forward, and twice that backward
    return max(1, min(STEPS_AT_ONCE, int(WORK_AT_ONCE_FLOPS / step_flops)))


def sample_count(network: Network, records: int) -> int:
    """Samples in so many records, or tokens of a text: one begins at each but the last ones."""
    return records if network.inputs else records - network.rows


def test_order(network: Network, records: int) -> NDArray[np.int32]:
    """Which held-out samples are evaluated in which step: all, each once; of a text, side by side.

    Returns:
      (steps, batch) int32, filled up with -1
    """
    stride = 1 if network.inputs else network.rows
    starts = np.arange(0, sample_count(network, records), stride, dtype=np.int32)
    batch = max(1, min(EVALUATION_BATCH, EVALUATION_ROWS_MAX // network.rows, len(starts)))
    order = np.full(-(-len(starts) // batch) * batch, -1, np.int32)
    order[: len(starts)] = starts
    return order.reshape(-1, batch)


def check_data(
    x: NDArray[np.float32] | NDArray[np.uint8], y: NDArray[np.int32], network: Network
) -> None:
    """See that samples and labels fit each other and the model.

    Raises:
      ConfigError  with what does not fit
    """
    if not network.inputs:
        check_text(x, network)
        return
    if x.dtype != np.float32 or y.dtype != np.int32 or x.ndim != 2 or y.shape != (len(x),):
        raise ConfigError(f"data of {x.dtype} {x.shape} with labels of {y.dtype} {y.shape}")
    if not len(x):
        raise ConfigError("the data set has no samples in one of its splits")
    if x.shape[1] != network.inputs:
        raise ConfigError(
            f"a sample has {x.shape[1]} values and the model {network.inputs} inputs: "
            f"set the first of layers to {x.shape[1]}, or input to the pictures' height, width "
            "and channels"
        )
    if y.min() < 0 or y.max() >= network.classes:
        raise ConfigError(
            f"labels go from {y.min()} to {y.max()} and the model has {network.classes} classes: "
            f"set the last of layers to {int(y.max()) + 1}"
        )


def check_text(x: NDArray[np.float32] | NDArray[np.uint8], network: Network) -> None:
    """See that a stream of tokens fits the model. Raises ConfigError."""
    if x.dtype != np.uint8 or x.ndim != 1:
        raise ConfigError(f"a gpt learns from a text, and the data are {x.dtype} {x.shape}")
    if len(x) <= network.rows:
        raise ConfigError(
            f"a split of the text has {len(x)} tokens, and model.context = {network.rows} needs "
            "at least one more: take a longer text or a shorter context"
        )
    if x.max() >= network.classes:
        raise ConfigError(
            f"the text has token {x.max()}: set model.vocabulary to {int(x.max()) + 1} or more"
        )
