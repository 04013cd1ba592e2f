"""Convolutional networks: the layers of a recipe, fitted together.

A ReLU is taken along by the convolution, norm or linear layer before it, a GELU by a linear one.
Tensors are named layer<i> by the line of the recipe that they come from, counted from 0.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from p2ptrain.config_layers import (
    Activation,
    Conv,
    Dropout,
    GlobalPool,
    LayerText,
    Linear,
    Norm,
    Pool,
    PoolTo,
    Residual,
)
from p2ptrain.device.images import ImageBatch, ImageDraw, gather_images
from p2ptrain.device.operations import Samples
from p2ptrain.errors import ConfigError
from p2ptrain.model.batches import Input, StepShape
from p2ptrain.model.layers import (
    Backward,
    Dense,
    Layer,
    Shape,
    all_products,
    all_tensors,
    record_all,
)
from p2ptrain.model.parameters import Layout
from p2ptrain.model.pointwise import Activate, DropoutLayer
from p2ptrain.model.recorder import Recorder, Value
from p2ptrain.model.residual_block import ResidualBlock
from p2ptrain.model.vision import (
    Conv2d,
    GlobalPooling,
    GroupNormalisation,
    Pooling,
    PoolingTo,
)

Named = list[tuple[str, Layer]]


@dataclass(frozen=True)
class ConvNetSpec:
    """What the network is.

    input   height, width and channels of a picture
    layers  from the picture to the logits
    side    height of the pictures that come in, if they are made smaller first; 0: as they are
    """

    input: tuple[int, int, int]
    layers: tuple[LayerText, ...]
    side: int = 0

    def __post_init__(self) -> None:
        """Refuse layers that do not fit one another.

        Raises:
          ConfigError  with the layer, its place and what would fit
        """
        shape: Shape = self.shape
        for name, layer in self._named:
            try:
                shape = layer.result(shape)
            except ConfigError as error:
                number = name.removeprefix("layer")
                raise ConfigError(f"model.layers[{number}], {error}") from None
        if len(shape) != 1:
            raise ConfigError(
                f"model.layers ends with a picture of {shape[0]} x {shape[1]} pixels: end with "
                "'linear N', N being the number of classes"
            )

    def resized(self, side: int) -> "ConvNetSpec":
        """The same network for pictures of another height. Raises ConfigError if it cannot be."""
        smaller = replace(self, side=side)
        if smaller.layout.schema_hash != self.layout.schema_hash:
            raise ConfigError(
                f"phases: pictures of height {side} make other tensors than full ones: put "
                "'global-pool' before the first linear layer, or 'max-pool to 3'"
            )
        return smaller

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the first layer gets."""
        height, width, channels = self.input
        if not self.side:
            return self.input
        return self.side, width * self.side // height, channels

    @property
    def inputs(self) -> int:
        """Values of a sample."""
        height, width, channels = self.input
        return height * width * channels

    @property
    def classes(self) -> int:
        """Number of logits."""
        shape: Shape = self.shape
        for _, layer in self._named:
            shape = layer.result(shape)
        return shape[0]

    @property
    def rows(self) -> int:
        """Predictions made of one sample."""
        return 1

    @cached_property
    def layout(self) -> Layout:
        """Names, shapes and places of the tensors."""
        return Layout(tuple(all_tensors(self._named, self.shape)))

    @property
    def products(self) -> int:
        """Multiply-adds of the forward pass of one sample."""
        return all_products(self._named, self.shape)

    @cached_property
    def _named(self) -> Named:
        named: Named = []
        for i, text in enumerate(self.layers):
            if isinstance(text, Activation) and named and (taken := _taken(text, named[-1][1])):
                named[-1] = (named[-1][0], taken)
            else:
                named.append((f"layer{i}", _layer(text)))
        return named

    def record_input(
        self, recorder: Recorder, source: Input, shape: StepShape
    ) -> tuple[Value, Value]:
        """Record the gathering of a batch of pictures, shifted, mirrored and made smaller."""
        height, width, channels = self.input
        out_height, out_width, _ = self.shape
        draw = ImageDraw(
            height, width, channels, out_height, out_width, shape.crop_padding, shape.flip
        )
        x = recorder.value(shape.batch, out_height, out_width, channels)
        labels = recorder.value(shape.batch, dtype="int32")
        operations, samples = recorder.operations, Samples(source.x, source.y)
        recorder.launch(
            lambda x, y: gather_images(operations, samples, source.index, ImageBatch(x, y), draw),
            x, labels,
        )  # fmt: skip
        return x, labels

    def record(self, recorder: Recorder, x: Value) -> tuple[Value, Backward]:
        """Record the layers; the logits (batch, classes) and the way back."""
        return record_all(self._named, recorder, x)


def _taken(activation: Activation, before: Layer) -> Layer | None:
    """The layer before with the activation in it; None if it cannot take it."""
    match before:
        case Dense(activation="none"):
            return replace(before, activation="relu" if activation.name == "relu" else "gelu")
        case Conv2d(relu=False) | GroupNormalisation(relu=False) if activation.name == "relu":
            return replace(before, relu=True)
        case _:
            return None


def _layer(text: LayerText) -> Layer:
    match text:
        case Conv():
            return Conv2d(text.kernel, text.channels, text.stride, text.pixels_added, text.bias)
        case Norm():
            return GroupNormalisation(text.groups)
        case Activation():
            return Activate(text.name)
        case Pool():
            return Pooling(text.kind, text.size, text.stride)
        case PoolTo():
            return PoolingTo(text.kind, text.side)
        case GlobalPool():
            return GlobalPooling()
        case Residual():
            return ResidualBlock(text.channels, text.stride, text.groups)
        case Dropout():
            return DropoutLayer(text.rate)
        case Linear():
            return Dense(text.width)
