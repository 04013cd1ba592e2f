"""The layers of convolutional networks. Pictures are (batch, height, width, channels).

A convolution's kernel is stored as (k, k, channels in, channels out), so that it is a matrix whose
rows are what a pixel of the output sees; PyTorch's is (out, in, k, k).
"""

from dataclasses import dataclass

from p2ptrain.device.convolution import (
    Activation,
    ConvShape,
    ConvWeights,
    conv_forward,
    conv_input_gradient,
    conv_weight_gradient,
)
from p2ptrain.device.groupnorm import (
    GroupNorm,
    GroupNormBackward,
    group_norm_backward,
    group_norm_forward,
)
from p2ptrain.device.kernels import Launch
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.pooling import (
    PoolShape,
    average_pool_backward,
    average_pool_forward,
    global_pool_backward,
    global_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from p2ptrain.errors import ConfigError
from p2ptrain.model.layers import Backward, Place, Shape, WithoutParameters, he_bound, image_shape
from p2ptrain.model.parameters import TensorSpec
from p2ptrain.model.recorder import Recorder, Value


@dataclass(frozen=True, slots=True)
class Conv2d:
    """A convolution, with its bias and a ReLU if wanted."""

    kernel: int
    channels: int
    stride: int
    padding: int
    has_bias: bool = True
    relu: bool = False

    def __str__(self) -> str:
        return f"conv {self.kernel}x{self.kernel} {self.channels}"

    def result(self, shape: Shape) -> Shape:
        """Height and width as the stride and the padding make them. Raises ConfigError."""
        height, width, _ = image_shape(self, shape)
        sides = [
            (side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (height, width)
        ]
        if min(sides) < 1:
            raise ConfigError(
                f"{self}: a picture of {height} x {width} is smaller than the kernel; take out a "
                "pool or a stride before it, or give it padding"
            )
        return (*sides, self.channels)

    def tensors(self, name: str, shape: Shape) -> list[TensorSpec]:
        """Weight (k, k, in, out), bias (out,)."""
        channels = image_shape(self, shape)[2]
        form = (self.kernel, self.kernel, channels, self.channels)
        bound = he_bound(self.kernel**2 * channels)
        weight = TensorSpec(f"{name}.weight", form, bound=bound)
        return [weight, TensorSpec(f"{name}.bias", (self.channels,))] if self.has_bias else [weight]

    def products(self, shape: Shape) -> int:
        """Pixels out times weights."""
        height, width, channels_out = self.result(shape)
        return height * width * channels_out * self.kernel**2 * shape[2]

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record the convolution."""
        batch, height, width, channels = x.shape
        operations = recorder.operations
        shape = ConvShape(
            batch, height, width, channels, self.channels, self.kernel, self.stride, self.padding
        )
        weight = recorder.offsets[f"{place.name}.weight"]
        bias = recorder.offsets[f"{place.name}.bias"] if self.has_bias else None
        weights = ConvWeights(recorder.parameters, weight, bias)
        y = recorder.value(batch, *self.result((height, width, channels)))
        activation: Activation = "relu" if self.relu else "none"
        recorder.launch(
            lambda x, y: conv_forward(operations, shape, x, y, weights, activation), x, y
        )

        def backward(d: Value) -> Value | None:
            gradient = recorder.gradient
            assert gradient is not None
            if self.relu:
                recorder.launch(lambda y, d: [operations.activation_backward("relu", y, d)], y, d)
            recorder.launch(
                lambda x, d: conv_weight_gradient(operations, shape, x, d, gradient, weight), x, d
            )
            if bias is not None:
                pixels = (y.shape[0] * y.shape[1] * y.shape[2], self.channels)

                def sums(d: DeviceArray, offset: int = bias) -> list[Launch]:
                    rows = d.viewed_as(pixels, d.dtype)
                    return [operations.column_sums(rows, gradient, offset)]

                recorder.launch(sums, d)
            if place.is_first:
                return None
            dx = recorder.value(*x.shape)
            recorder.launch(
                lambda d, dx: conv_input_gradient(operations, shape, d, dx, weights), d, dx
            )
            return dx

        return y, backward


@dataclass(frozen=True, slots=True)
class GroupNormalisation:
    """Mean 0 and deviation 1 over pixels and a group's channels; then scale, shift, ReLU.

    fill  what the scale starts as; 0 lets a residual branch begin as nothing (Goyal et al. 2017,
          arXiv:1706.02677, section 5.1)
    """

    groups: int
    relu: bool = False
    fill: float = 1.0

    def __str__(self) -> str:
        return f"norm {self.groups}"

    def result(self, shape: Shape) -> Shape:
        """The same shape. Raises ConfigError if the groups do not divide the channels."""
        channels = image_shape(self, shape)[2]
        if channels % self.groups:
            raise ConfigError(
                f"{self}: {channels} channels cannot be cut into {self.groups} groups"
            )
        return shape

    def tensors(self, name: str, shape: Shape) -> list[TensorSpec]:
        """Scale and shift, (channels,) each."""
        form = (shape[2],)
        return [
            TensorSpec(f"{name}.weight", form, fill=self.fill),
            TensorSpec(f"{name}.bias", form),
        ]

    def products(self, shape: Shape) -> int:
        """None."""
        return 0

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record the normalisation."""
        batch, height, width, channels = x.shape
        operations, parameters = recorder.operations, recorder.parameters
        scale, shift = (recorder.offsets[f"{place.name}.{kind}"] for kind in ("weight", "bias"))
        norm = GroupNorm(batch, height * width, channels, self.groups, scale, shift, self.relu)
        y, stats = recorder.value(*x.shape), recorder.value(batch, self.groups, 2)
        recorder.launch(
            lambda x, y, stats: group_norm_forward(operations, norm, x, parameters, y, stats),
            x, y, stats,
        )  # fmt: skip

        def backward(d: Value) -> Value | None:
            gradient = recorder.gradient
            assert gradient is not None
            dx = recorder.value(*x.shape)
            recorder.launch(
                lambda *arrays: group_norm_backward(
                    operations, norm, GroupNormBackward(*arrays), parameters, gradient
                ),
                x, y, stats, d, dx,
            )  # fmt: skip
            return dx

        return y, backward


@dataclass(frozen=True, slots=True)
class Pooling(WithoutParameters):
    """The maximum or the mean of size x size pixels; windows over the edge are left out."""

    kind: str
    size: int
    stride: int

    def __str__(self) -> str:
        return f"{self.kind}-pool {self.size}"

    def result(self, shape: Shape) -> Shape:
        """Fewer pixels. Raises ConfigError if none is left."""
        height, width, channels = image_shape(self, shape)
        if min(height, width) < self.size:
            raise ConfigError(f"{self}: a picture of {height} x {width} is smaller than the window")
        sides = ((side - self.size) // self.stride + 1 for side in (height, width))
        return (*sides, channels)

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record the pool."""
        operations = recorder.operations
        forward = max_pool_forward if self.kind == "max" else average_pool_forward
        batch, height, width, channels = x.shape
        shape = PoolShape(batch, height, width, channels, self.size, self.stride)
        y = recorder.value(batch, *self.result((height, width, channels)))
        recorder.launch(lambda x, y: forward(operations, shape, x, y), x, y)

        def backward(d: Value) -> Value | None:
            if place.is_first:
                return None
            dx = recorder.value(*x.shape)
            if self.kind == "average":
                recorder.launch(
                    lambda d, dx: average_pool_backward(operations, shape, d, dx), d, dx
                )
                return dx
            recorder.launch(
                lambda x, y, d, dx: max_pool_backward(operations, shape, x, y, d, dx), x, y, d, dx
            )
            return dx

        return y, backward


@dataclass(frozen=True, slots=True)
class PoolingTo(WithoutParameters):
    """Windows that leave side x side pixels of any square picture; they overlap where they must.

    With stride = height // side and size = height - (side - 1) stride the last window ends at the
    edge, so a network keeps its tensors when its pictures get another size.
    """

    kind: str
    side: int

    def __str__(self) -> str:
        return f"{self.kind}-pool to {self.side}"

    def windows(self, shape: Shape) -> Pooling:
        """The pooling of pictures of this shape. Raises ConfigError."""
        height, width, _ = image_shape(self, shape)
        if height != width or height < self.side:
            raise ConfigError(
                f"{self}: needs square pictures of {self.side} x {self.side} pixels or more, and "
                f"{height} x {width} come in"
            )
        stride = height // self.side
        return Pooling(self.kind, height - (self.side - 1) * stride, stride)

    def result(self, shape: Shape) -> Shape:
        """(side, side, channels). Raises ConfigError."""
        return self.windows(shape).result(shape)

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record the pooling."""
        return self.windows(x.shape[1:]).record(recorder, place, x)


@dataclass(frozen=True, slots=True)
class GlobalPooling(WithoutParameters):
    """The mean over all pixels."""

    def __str__(self) -> str:
        return "global-pool"

    def result(self, shape: Shape) -> Shape:
        """(channels,)."""
        return (image_shape(self, shape)[2],)

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record the mean."""
        operations = recorder.operations
        batch, height, width, channels = x.shape
        shape = PoolShape(batch, height, width, channels, 1, 1)
        y = recorder.value(batch, channels)
        recorder.launch(lambda x, y: global_pool_forward(operations, shape, x, y), x, y)

        def backward(d: Value) -> Value | None:
            if place.is_first:
                return None
            dx = recorder.value(*x.shape)
            recorder.launch(lambda d, dx: global_pool_backward(operations, shape, d, dx), d, dx)
            return dx

        return y, backward
