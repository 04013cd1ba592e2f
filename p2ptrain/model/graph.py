"""A static plan: a training or evaluation step as a recorded list of launches.

Theory of operation. Everything that a step needs is decided when the plan is made: buffers, kernel
arguments, the order of launches. A step sets two integers, which say where its sample indices
begin and where its losses go, and replays the list. Nothing waits: many steps are enqueued, and
the one read of the losses at the end waits for all of them.

Layer i of a step on a batch of R rows, with weight W (out, in), bias b, input a:

    forward    z = a W^T + b;  a' = activation(z)
    backward   given d = dL/dz:  dW = d^T a;  db = column sums of d;  da = d W
               and for the layer below  d = da * activation'(z)

The gradients are written into the flat gradient at the places of their tensors.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.kernels import Launch
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import (
    GATHER_STEP,
    XENT_STEP,
    Batch,
    Matrix,
    Operations,
    Samples,
    Score,
    row_major,
)
from p2ptrain.model.mlp import ModelSpec


@dataclass(frozen=True, slots=True)
class PlanShape:
    """How much a plan holds.

    batch      rows of a step
    steps_max  steps whose indices and losses are on the device at once
    """

    batch: int
    steps_max: int


@dataclass(frozen=True, slots=True)
class Weights:
    """The flat vectors of the network, each (padded_size,) float32.

    gradient is None in a plan that only evaluates.
    """

    parameters: DeviceArray
    gradient: DeviceArray | None


@dataclass(frozen=True, slots=True)
class Layer:
    """The buffers of one layer in a plan of R rows.

    index       0 for the first
    input       a: (R, in)
    before      z: (R, out)
    output      activation(z): (R, out); for the last layer z itself
    difference  d: (R, out), the gradient of the loss by output, then by z
    """

    index: int
    input: DeviceArray
    before: DeviceArray
    output: DeviceArray
    difference: DeviceArray


class Plan:
    """Gather a batch, forward, loss, and where there is a gradient, backward."""

    def __init__(
        self,
        operations: Operations,
        spec: ModelSpec,
        weights: Weights,
        samples: Samples,
        shape: PlanShape,
    ) -> None:
        device = operations.device
        self._operations = operations
        self._spec = spec
        self._weights = weights
        self._offsets = spec.layout.offsets
        self.shape = shape
        slots = (shape.steps_max * shape.batch,)
        self._index = device.empty(slots, np.int32)
        self._score = Score(device.empty(slots), device.empty(slots, np.int32))
        self._batch = Batch(
            device.empty((shape.batch, spec.inputs)), device.empty((shape.batch,), np.int32)
        )
        layers = self._make_layers()
        self._gather = operations.gather_rows(samples, self._index, self._batch)
        self._xent = self._make_xent(layers[-1])
        self._launches = [self._gather, *self._forward(layers), self._xent]
        if weights.gradient is not None:
            self._launches += self._backward(layers, weights.gradient)

    def load(self, indices: NDArray[np.int32]) -> None:
        """Say which samples the steps to come take.

        Args:
          indices  (steps, batch) int32, steps <= steps_max; -1 for a row that counts nothing
        """
        filled = np.full((self.shape.steps_max, self.shape.batch), -1, np.int32)
        filled[: len(indices)] = indices
        self._index.write(filled)

    def enqueue(self, step: int) -> None:
        """Put step 0 .. steps_max - 1 of those that were loaded into the queue."""
        self._gather.set_scalar(GATHER_STEP, np.int32(step))
        self._xent.set_scalar(XENT_STEP, np.int32(step))
        for launch in self._launches:
            launch.enqueue()

    def scores(self, steps: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Wait for the first steps and read their scores.

        Returns:
          loss     (steps, batch) float32
          correct  (steps, batch) int32, 0 or 1
        """
        form = (self.shape.steps_max, self.shape.batch)
        loss = self._score.loss.read().reshape(form)
        correct = self._score.correct.read().reshape(form)
        return loss[:steps], correct[:steps]

    def _make_layers(self) -> list[Layer]:
        device = self._operations.device
        layers: list[Layer] = []
        below = self._batch.x
        for i, width in enumerate(self._spec.layers[1:]):
            form = (self.shape.batch, width)
            before = device.empty(form)
            is_last = i == len(self._spec.layers) - 2
            output = before if is_last else device.empty(form)
            layers.append(Layer(i, below, before, output, device.empty(form)))
            below = output
        return layers

    def _make_xent(self, last: Layer) -> Launch:
        scale = np.float32(1) / np.float32(self.shape.batch)
        return self._operations.softmax_xent(
            last.before, self._batch.y, last.difference, self._score, scale
        )

    def _forward(self, layers: list[Layer]) -> list[Launch]:
        operations, parameters = self._operations, self._weights.parameters
        launches: list[Launch] = []
        for layer in layers:
            weight = self._weight(parameters, layer.index)
            bias = self._offsets[f"layer{layer.index}.bias"]
            launches += operations.gemm(
                as_matrix(layer.input), weight.transposed, as_matrix(layer.before)
            )
            if layer is layers[-1]:
                launches.append(operations.bias(layer.before, parameters, bias))
            else:
                launches.append(
                    operations.bias_activation(
                        self._spec.activation, layer.before, parameters, layer.output, bias
                    )
                )
        return launches

    def _backward(self, layers: list[Layer], gradient: DeviceArray) -> list[Launch]:
        operations = self._operations
        launches: list[Launch] = []
        for below, layer in reversed(list(pairwise([None, *layers]))):
            assert layer is not None
            d = as_matrix(layer.difference)
            weight_gradient = self._weight(gradient, layer.index)
            launches += operations.gemm(d.transposed, as_matrix(layer.input), weight_gradient)
            bias = self._offsets[f"layer{layer.index}.bias"]
            launches.append(operations.column_sums(layer.difference, gradient, bias))
            if below is None:
                continue
            weight = self._weight(self._weights.parameters, layer.index)
            launches += operations.gemm(d, weight, as_matrix(below.difference))
            launches.append(
                operations.activation_backward(
                    self._spec.activation, below.before, below.difference
                )
            )
        return launches

    def _weight(self, vector: DeviceArray, layer: int) -> Matrix:
        fan_in, fan_out = self._spec.layers[layer : layer + 2]
        return row_major(vector, fan_out, fan_in, self._offsets[f"layer{layer}.weight"])


def as_matrix(array: DeviceArray) -> Matrix:
    """A whole (rows, columns) array as a matrix."""
    rows, columns = array.shape
    return row_major(array, rows, columns)
