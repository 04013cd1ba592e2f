"""The layers of a network: what shape comes out, which tensors they have, what they record.

A layer is a frozen description. `record` records its forward launches and returns the value that
comes out with a function that records its backward launches. That function gets the gradient of
the loss by what came out, which it may overwrite, and returns the gradient by what went in, or None
if nobody below needs it. Backward functions are called in the opposite order, and only in a plan
that trains.

Shapes are those of one sample: (values,) or (height, width, channels). A new layer is a kernel
file, its numpy twin, its launchers in p2ptrain/device/, and a class here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Protocol

from p2ptrain.device.dense import (
    Activation,
    bias_gradient,
    dense_forward,
    input_gradient,
    weight_gradient,
)
from p2ptrain.device.dense import Dense as DenseForward
from p2ptrain.device.kernels import Launch
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.products import row_major
from p2ptrain.errors import ConfigError
from p2ptrain.model.parameters import TensorSpec
from p2ptrain.model.recorder import Recorder, Value

Shape = tuple[int, ...]
Backward = Callable[[Value], Value | None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer is recorded.

    name        of the layer: what its tensors' names begin with
    is_first    nothing below learns, so no gradient by the input is asked for
    stream      number that tells this layer's random draws from those of others
    """

    name: str
    is_first: bool
    stream: int


class Layer(Protocol):
    """What a plan needs of a layer."""

    def result(self, shape: Shape) -> Shape:
        """The shape of what comes out. Raises ConfigError."""

    def tensors(self, name: str, shape: Shape) -> list[TensorSpec]:
        """Its parameters, in the order of the flat vector."""

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record the forward launches for a batch x of (batch, *shape)."""

    def products(self, shape: Shape) -> int:
        """Multiply-adds of the forward pass of one sample in matrix products."""


class WithoutParameters:
    """What layers have in common that learn nothing and multiply nothing."""

    __slots__ = ()

    def tensors(self, name: str, shape: Shape) -> list[TensorSpec]:
        """None."""
        return []

    def products(self, shape: Shape) -> int:
        """None."""
        return 0


def he_bound(fan_in: int) -> float:
    """sqrt(6 / fan_in), He et al. 2015, arXiv:1502.01852: a float64 root, equal everywhere."""
    return sqrt(6 / fan_in)


def as_rows(value: Value) -> tuple[int, int]:
    """Rows and values of a row, for a value whose first axis is the batch."""
    return value.shape[0], prod(value.shape[1:])


@dataclass(frozen=True, slots=True)
class Dense:
    """z = x W^T + b, then the activation: "none", "relu" or "gelu".

    bound  of the initial weights; 0: He's, by the number of inputs
    """

    width: int
    activation: Activation = "none"
    bound: float = 0.0

    def result(self, shape: Shape) -> Shape:
        """(width,), whatever comes in."""
        return (self.width,)

    def tensors(self, name: str, shape: Shape) -> list[TensorSpec]:
        """Weight (out, in), bias (out,)."""
        fan_in = prod(shape)
        return [
            TensorSpec(f"{name}.weight", (self.width, fan_in), self.bound or he_bound(fan_in)),
            TensorSpec(f"{name}.bias", (self.width,)),
        ]

    def products(self, shape: Shape) -> int:
        """One for each weight."""
        return self.width * prod(shape)

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record z and the activation; the ReLU works in place."""
        return self.record_onto(recorder, place, x, None)

    def record_onto(
        self, recorder: Recorder, place: Place, x: Value, residual: Value | None
    ) -> tuple[Value, Backward]:
        """Record residual + z, if there is one; its gradient is the d that comes in."""
        rows, fan_in = as_rows(x)
        weight, bias = (recorder.offsets[f"{place.name}.{kind}"] for kind in ("weight", "bias"))
        operations, parameters = recorder.operations, recorder.parameters
        matrix = row_major(parameters, self.width, fan_in, weight)
        z = recorder.value(rows, self.width)
        a = recorder.value(rows, self.width) if self.activation == "gelu" else z

        def forward(x: DeviceArray, z: DeviceArray, *more: DeviceArray) -> list[Launch]:
            given = iter(more)
            behind = next(given) if self.activation == "gelu" else None
            added = next(given) if residual is not None else None
            layer = DenseForward(
                row_major(x, rows, fan_in), matrix, z, bias, self.activation, behind, added
            )
            return dense_forward(operations, layer, parameters)

        more = [*([a] if a is not z else []), *([residual] if residual is not None else [])]
        recorder.launch(forward, x, z, *more)

        def backward(d: Value) -> Value | None:
            gradient = recorder.gradient
            assert gradient is not None
            if self.activation != "none":
                name = self.activation
                recorder.launch(lambda z, d: [operations.activation_backward(name, z, d)], z, d)

            def by_parameters(d: DeviceArray, x: DeviceArray) -> list[Launch]:
                d_rows, x_rows = row_major(d, rows, self.width), row_major(x, rows, fan_in)
                launches = weight_gradient(operations, d_rows, x_rows, gradient, weight)
                return [*launches, *bias_gradient(operations, d, gradient, bias)]

            recorder.launch(by_parameters, d, x)
            if place.is_first:
                return None
            dx = recorder.value(*x.shape)
            recorder.launch(
                lambda d, dx: input_gradient(
                    operations, row_major(d, rows, self.width), matrix, dx
                ),
                d, dx,
            )  # fmt: skip
            return dx

        return a, backward


def image_shape(layer: object, shape: Shape) -> tuple[int, int, int]:
    """The shape as height, width, channels. Raises ConfigError for what is no picture."""
    if len(shape) != 3:
        raise ConfigError(
            f"{layer}: needs a picture, and {shape[0]} values in a row come in; put it before the "
            "first linear layer or global-pool"
        )
    return shape[0], shape[1], shape[2]


def record_all(
    layers: Sequence[tuple[str, Layer]], recorder: Recorder, x: Value, *, is_first: bool = True
) -> tuple[Value, Backward]:
    """Record named layers one behind the other."""
    backwards: list[Backward] = []
    for stream, (name, layer) in enumerate(layers):
        place = Place(name, is_first and stream == 0, stream)
        x, backward = layer.record(recorder, place, x)
        backwards.append(backward)

    def back(d: Value) -> Value | None:
        gradient: Value | None = d
        for backward in reversed(backwards):
            assert gradient is not None, "only the first layer gives no gradient"
            gradient = backward(gradient)
        return gradient

    return x, back


def all_tensors(layers: Sequence[tuple[str, Layer]], shape: Shape) -> list[TensorSpec]:
    """The tensors of layers one behind the other."""
    tensors: list[TensorSpec] = []
    for name, layer in layers:
        tensors += layer.tensors(name, shape)
        shape = layer.result(shape)
    return tensors


def all_products(layers: Sequence[tuple[str, Layer]], shape: Shape) -> int:
    """Multiply-adds of layers one behind the other, for one sample."""
    count = 0
    for _, layer in layers:
        count += layer.products(shape)
        shape = layer.result(shape)
    return count
