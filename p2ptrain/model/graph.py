"""A static plan: a training or evaluation step as a recorded list of launches.

Theory of operation. Everything that a step needs is decided when the plan is made: buffers, kernel
arguments, the order of launches (recorder.py). A step sets a few integers, such as which of the
loaded samples it takes, and replays the list. Nothing waits: many steps are enqueued, and the one
read of the losses at the end waits for all of them.

    gather the batch -> forward -> loss and its gradient -> backward

The gradients are written into the flat gradient at the places of their tensors. A plan whose
weights have no gradient evaluates: forward and loss alone, no dropout, no random draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.kernels import Launch
from p2ptrain.device.loss import cross_entropy
from p2ptrain.device.operations import Operations, Samples, Score
from p2ptrain.model.batches import Input, Network, StepShape
from p2ptrain.model.recorder import Recorder, Value, Weights

WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PlanShape:
    """How much a plan holds.

    step       what one step does
    steps_max  steps whose indices and losses are on the device at once
    """

    step: StepShape
    steps_max: int


@dataclass(frozen=True, slots=True)
class Moment:
    """When the loaded steps are taken; random draws depend on nothing else.

    first_step  the first loaded step's number in the round
    noise       the round's key of random draws, 0 .. 2^64 - 1
    """

    first_step: int = 0
    noise: int = 0


class Plan:
    """Gather a batch, forward, loss, and where there is a gradient, backward."""

    def __init__(
        self,
        operations: Operations,
        network: Network,
        weights: Weights,
        samples: Samples,
        shape: PlanShape,
    ) -> None:
        device = operations.device
        self.shape = shape
        self._rows = shape.step.batch * network.rows
        self._index = device.empty((shape.steps_max * shape.step.batch,), np.int32)
        slots = (shape.steps_max * self._rows,)
        self._score = Score(device.empty(slots), device.empty(slots, np.int32))
        self._logits = device.empty((self._rows, network.classes))
        self._moment = Moment()
        recorder = Recorder(operations, weights, network.layout.offsets)
        self._record(recorder, network, Input(samples.x, samples.y, self._index))
        self.launches: list[Launch] = recorder.finish()
        self.planned_bytes = recorder.planned_bytes
        self._varying = [launch for launch in self.launches if launch.varying]

    def _record(self, recorder: Recorder, network: Network, source: Input) -> None:
        step = self.shape.step
        x, labels = network.record_input(recorder, source, step)
        logits, backward = network.record(recorder, x)
        recorder.keep(logits, self._logits)
        d: Value | None = recorder.value(*logits.shape) if recorder.trains else None
        # A step's loss is the mean over its rows, so that is what the gradient is of.
        scale = float(np.float32(1) / np.float32(self._rows))
        smoothing = step.smoothing if recorder.trains else 0.0
        recorder.launch(
            lambda z, labels, *d: cross_entropy(
                recorder.operations, z, labels, d[0] if d else None, self._score, scale, smoothing
            ),
            logits, labels, *([d] if d else []),
        )  # fmt: skip
        if d is not None:
            backward(d)

    def load(self, indices: NDArray[np.int32], moment: Moment | None = None) -> None:
        """Say which samples the steps to come take.

        Args:
          indices  (steps, batch) int32, steps <= steps_max; -1 for a row that counts nothing
          moment   when they are taken; None: no random draw is asked for
        """
        filled = np.full((self.shape.steps_max, self.shape.step.batch), -1, np.int32)
        filled[: len(indices)] = indices
        self._index.write(filled)
        self._moment = moment or Moment()
        words = (self._moment.noise & WORD, self._moment.noise >> 32)
        for launch in self._varying:
            for name, word in zip(("noise_low", "noise_high"), words, strict=True):
                if name in launch.varying:
                    launch.set_scalar(launch.varying[name], np.uint32(word))

    def enqueue(self, slot: int) -> None:
        """Put step 0 .. steps_max - 1 of those that were loaded into the queue."""
        step = np.uint32(self._moment.first_step + slot)
        for launch in self._varying:
            if "slot" in launch.varying:
                launch.set_scalar(launch.varying["slot"], np.int32(slot))
            if "step" in launch.varying:
                launch.set_scalar(launch.varying["step"], step)
        for launch in self.launches:
            launch.enqueue()

    def scores(self, steps: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Wait for the first steps and read their scores.

        Returns:
          loss     (steps, batch * rows) float32
          correct  (steps, batch * rows) int32, 0 or 1
        """
        form = (self.shape.steps_max, self._rows)
        loss = self._score.loss.read().reshape(form)
        correct = self._score.correct.read().reshape(form)
        return loss[:steps], correct[:steps]

    def logits(self) -> NDArray[np.float32]:
        """Wait for the newest step and read what it predicted: (batch * rows, classes)."""
        return np.asarray(self._logits.read(), np.float32)
