"""Layers that take each value by itself: dropout, and activations that nothing else takes along."""

from dataclasses import dataclass
from math import prod

from p2ptrain.device.dropout import Dropout, dropout
from p2ptrain.model.layers import Backward, Place, Shape, WithoutParameters
from p2ptrain.model.recorder import Recorder, Value


@dataclass(frozen=True, slots=True)
class Activate(WithoutParameters):
    """relu or gelu behind a layer that has no activation of its own."""

    name: str

    def __str__(self) -> str:
        return self.name

    def result(self, shape: Shape) -> Shape:
        """The same shape."""
        return shape

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record the activation."""
        operations, name = recorder.operations, self.name
        y = recorder.value(*x.shape)
        recorder.launch(lambda x, y: [operations.activation(name, x, y)], x, y)

        def backward(d: Value) -> Value | None:
            recorder.launch(lambda x, d: [operations.activation_backward(name, x, d)], x, d)
            return d

        return y, backward


@dataclass(frozen=True, slots=True)
class DropoutLayer(WithoutParameters):
    """In training, zeros a share of the values and scales the others up (Srivastava et al. 2014).

    The draws depend on the round's noise, the step and the layer's place alone.
    """

    rate: float

    def __str__(self) -> str:
        return f"dropout {self.rate:g}"

    def result(self, shape: Shape) -> Shape:
        """The same shape."""
        return shape

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record it, or nothing in a plan that only evaluates."""
        if not recorder.trains:
            return x, lambda d: d
        operations = recorder.operations
        drop = Dropout(prod(x.shape), self.rate, place.stream)
        y = recorder.value(*x.shape)
        recorder.launch(lambda x, y: dropout(operations, drop, x, y), x, y)

        def backward(d: Value) -> Value | None:
            dx = recorder.value(*x.shape)  # a residual branch begins here: d is needed elsewhere
            recorder.launch(lambda d, dx: dropout(operations, drop, d, dx), d, dx)
            return dx

        return y, backward
