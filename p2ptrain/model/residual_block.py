"""The block that deep convolutional networks are made of: two convolutions and a way around them.

The branch begins as nothing, for its last norm starts with scale 0 (Goyal et al. 2017,
arXiv:1706.02677, section 5.1): at first a deep network behaves as a shallow one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from p2ptrain.device.residual import add_backward, add_forward, add_gradients
from p2ptrain.model.layers import Backward, Layer, Place, Shape, image_shape
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

    @property
    def kernel_files(self) -> frozenset[str]:
        """conv.cl, groupnorm.cl, residual.cl."""
        return frozenset({"conv", "groupnorm", "residual"})

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

    def _paths(self, name: str, shape: Shape) -> tuple[Sequence[tuple[str, Layer]], ...]:
        return self.body(name), self.shortcut(name, shape)

    def result(self, shape: Shape) -> Shape:
        """As of its convolutions. Raises ConfigError."""
        image_shape(self, shape)
        for _, layer in self.body(""):
            shape = layer.result(shape)
        return shape

    def tensors(self, name: str, shape: Shape) -> list[TensorSpec]:
        """Of the body, then of the shortcut."""
        tensors: list[TensorSpec] = []
        for path in self._paths(name, shape):
            here = shape
            for part, layer in path:
                tensors += layer.tensors(part, here)
                here = layer.result(here)
        return tensors

    def products(self, shape: Shape) -> int:
        """Of all its convolutions."""
        count = 0
        for path in self._paths("", shape):
            here = shape
            for _, layer in path:
                count += layer.products(here)
                here = layer.result(here)
        return count

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record both paths and their sum."""
        operations = recorder.operations
        ends, backs = [], []
        for path in self._paths(place.name, x.shape[1:]):
            here, path_backs = x, []
            for i, (name, layer) in enumerate(path):
                part = replace(place, name=name, is_first=place.is_first and i == 0)
                here, back = layer.record(recorder, part, here)
                path_backs.append(back)
            ends.append(here)
            backs.append(path_backs)
        y = recorder.value(*ends[0].shape)
        recorder.launch(lambda a, b, y: add_forward(operations, a, b, y, True), *ends, y)

        def backward(d: Value) -> Value | None:
            recorder.launch(lambda y, d: add_backward(operations, y, d), y, d)
            # Neither path ends in a ReLU, so none of them overwrites d, which both need.
            gradients: list[Value | None] = []
            for path_backs in backs:
                gradient: Value | None = d
                for back in reversed(path_backs):
                    assert gradient is not None
                    gradient = back(gradient)
                gradients.append(gradient)
            body, shortcut = gradients
            if body is None or shortcut is None:
                return None
            dx = recorder.value(*x.shape)
            recorder.launch(
                lambda a, b, dx: add_gradients(operations, a, b, dx), body, shortcut, dx
            )
            return dx

        return y, backward
