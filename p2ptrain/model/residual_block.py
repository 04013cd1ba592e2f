"""The block that deep convolutional networks are made of: two convolutions and a way around them.

The branch begins as nothing, for its last norm starts with scale 0 (Goyal et al. 2017,
arXiv:1706.02677, section 5.1): at first a deep network behaves as a shallow one.
"""

from dataclasses import dataclass

from p2ptrain.device.residual import add_forward
from p2ptrain.model.layers import (
    Backward,
    Layer,
    Place,
    Shape,
    all_products,
    all_tensors,
    image_shape,
    record_all,
)
from p2ptrain.model.parameters import TensorSpec
from p2ptrain.model.recorder import Recorder, Value
from p2ptrain.model.vision import Conv2d, GroupNormalisation


@dataclass(frozen=True, slots=True)
class ResidualBlock:
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)): He et al. 2015, arXiv:1512.03385.

    The shortcut is x itself, or a 1x1 convolution and a norm where the shapes differ.
    """

    channels: int
    stride: int
    groups: int

    def __str__(self) -> str:
        return f"residual {self.channels}"

    def body(self, name: str) -> list[tuple[str, Layer]]:
        """The branch that learns a difference; it begins as nothing."""
        return [
            (f"{name}.conv1", Conv2d(3, self.channels, self.stride, 1, has_bias=False)),
            (f"{name}.norm1", GroupNormalisation(self.groups, relu=True)),
            (f"{name}.conv2", Conv2d(3, self.channels, 1, 1, has_bias=False)),
            (f"{name}.norm2", GroupNormalisation(self.groups, fill=0.0)),
        ]

    def shortcut(self, name: str, shape: Shape) -> list[tuple[str, Layer]]:
        """What x goes through beside the body; nothing if the shapes agree."""
        if self.stride == 1 and shape[2] == self.channels:
            return []
        return [
            (f"{name}.shortcut", Conv2d(1, self.channels, self.stride, 0, has_bias=False)),
            (f"{name}.shortcut_norm", GroupNormalisation(self.groups)),
        ]

    def result(self, shape: Shape) -> Shape:
        """As of its convolutions. Raises ConfigError."""
        image_shape(self, shape)
        for _, layer in self.body(""):
            shape = layer.result(shape)
        return shape

    def tensors(self, name: str, shape: Shape) -> list[TensorSpec]:
        """Of the body, then of the shortcut."""
        body, shortcut = self.body(name), self.shortcut(name, shape)
        return all_tensors(body, shape) + all_tensors(shortcut, shape)

    def products(self, shape: Shape) -> int:
        """Of all its convolutions."""
        return all_products(self.body(""), shape) + all_products(self.shortcut("", shape), shape)

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record both paths and their sum."""
        operations = recorder.operations
        body, shortcut = self.body(place.name), self.shortcut(place.name, x.shape[1:])
        a, body_back = record_all(body, recorder, x, is_first=place.is_first)
        b, shortcut_back = record_all(shortcut, recorder, x, is_first=place.is_first)
        y = recorder.value(*a.shape)
        recorder.launch(lambda a, b, y: add_forward(operations, a, b, y, True), a, b, y)

        def backward(d: Value) -> Value | None:
            recorder.launch(lambda y, d: [operations.activation_backward("relu", y, d)], y, d)
            # Neither path ends in a ReLU, so none of them overwrites d, which both need.
            by_body, by_shortcut = body_back(d), shortcut_back(d)
            if by_body is None or by_shortcut is None:
                return None
            dx = recorder.value(*x.shape)
            recorder.launch(
                lambda a, b, dx: add_forward(operations, a, b, dx, False), by_body, by_shortcut, dx
            )
            return dx

        return y, backward
