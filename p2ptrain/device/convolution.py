"""Launchers of kernels/conv.cl: convolution of images, forward and both gradients.

Theory of operation. On CPUs whose contraction probe passed a convolution runs as register tiles
over rows of the image that a task holds in local memory; elsewhere, and where these rows do not
fit there, by one work-item for a result. Both have the same bits, so what is chosen here is speed
alone: the tile, and how much a task does.

The gradient of the bias is operations.column_sums over the rows of d.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from p2ptrain.device.convolution_tasks import (
    Rows,
    TaskSplit,
    conv_name,
    gradient_name,
    split_gradient,
    split_rows,
)
from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray, LocalMemory
from p2ptrain.device.operations import Operations

Activation = Literal["none", "relu"]


@dataclass(frozen=True, slots=True)
class ConvShape:
    """A convolution's sizes.

    batch, height, width, channels_in  of x
    channels_out                       of z
    kernel                             taps in each direction
    stride, padding                    in both directions, in pixels

    Raises:
      ValueError  a size is not positive, the padding is negative, or there is no output
    """

    batch: int
    height: int
    width: int
    channels_in: int
    channels_out: int
    kernel: int
    stride: int
    padding: int

    def __post_init__(self) -> None:
        sizes = (self.batch, self.height, self.width, self.channels_in, self.channels_out)
        if min(*sizes, self.kernel, self.stride) < 1 or self.padding < 0:
            raise ValueError(f"sizes and stride are at least 1 and padding at least 0: {self}")
        if min(self.out_height, self.out_width) < 1:
            raise ValueError(f"the kernel is larger than the padded image: {self}")

    @property
    def out_height(self) -> int:
        """Rows of z."""
        return (self.height + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Columns of z."""
        return (self.width + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def depth(self) -> int:
        """Rows of the weights as a matrix, (ky, kx, c_in)."""
        return self.kernel * self.kernel * self.channels_in


@dataclass(frozen=True, slots=True)
class ConvWeights:
    """Where the weights (kernel, kernel, channels_in, channels_out) and the bias are.

    parameters     flat float32 vector
    weight_offset  of the first weight
    bias_offset    of the channels_out values of the bias; None: there is none
    """

    parameters: DeviceArray
    weight_offset: int
    bias_offset: int | None


def forward_rows(shape: ConvShape) -> Rows:
    """Rows of z, from x."""
    return Rows(
        count=shape.batch * shape.out_height,
        per_image=shape.out_height,
        width=shape.out_width,
        channels=shape.channels_in,
        window=shape.kernel,
        step=min(shape.stride, shape.kernel),
    )


def gradient_rows(shape: ConvShape) -> tuple[Rows, int]:
    """Rows of the grid of the input gradient, from d, and the origin of the window.

    A pixel of the grid is stride x stride pixels of x. Pixel t stride + f of x meets the taps
    that are f + padding modulo stride, at pixel t + (f + padding) // stride of d and those before.
    """
    firsts = range(shape.padding, shape.padding + shape.stride)
    last = [first // shape.stride for first in firsts]
    taps = [-(-(shape.kernel - first % shape.stride) // shape.stride) for first in firsts]
    origin = min(place - count + 1 for place, count in zip(last, taps, strict=True) if count > 0)
    window = max(last) - origin + 1
    per_image = -(-shape.height // shape.stride)
    width = -(-shape.width // shape.stride)
    count = shape.batch * per_image
    return Rows(count, per_image, width, shape.channels_out, window, 1), origin


def conv_forward(
    operations: Operations,
    shape: ConvShape,
    x: DeviceArray,
    z: DeviceArray,
    weights: ConvWeights,
    activation: Activation,
) -> list[Launch]:
    """The convolution z = conv(x) + bias, flushed, and then ReLU in place if asked for.

    Args:
      x  (batch, height, width, channels_in) float32
      z  (batch, out_height, out_width, channels_out) float32
    """
    library = operations.library
    bias_offset = -1 if weights.bias_offset is None else weights.bias_offset
    bias = integers(bias_offset, activation == "relu")
    place: tuple[Argument, ...] = (weights.parameters, np.int32(weights.weight_offset))
    rest = (*bias, *_output(shape, z), *_taps(shape))
    rows = forward_rows(shape)
    split = split_rows(operations, rows, shape.channels_out, shape.depth)
    if split is None:
        arguments = (*_input(shape, x), *place, *rest)
        results = (shape.channels_out, rows.count * rows.width)
        return [_by_result(operations, "conv.conv_naive", results, arguments)]
    tile = split.tile
    launches: list[Launch] = []
    if tile.columns != shape.channels_out:  # else the matrix is one panel
        packed = operations.device.empty((split.panels * tile.columns * shape.depth,))
        channels = integers(shape.channels_in, shape.channels_out)
        size = (split.panels, shape.kernel**2)
        arguments = (*place, packed, *channels)
        launches.append(library.launch("conv.pack_weights", size, (1, 1), arguments, tile.defines))
        place = (packed, np.int32(0))
    arguments = (*_input(shape, x), *place, weights.parameters, *rest)
    launches.append(_by_task(operations, "conv.conv_tiled", split, arguments))
    return named(launches, conv_name(rows, shape.channels_out, shape.depth))


def conv_input_gradient(
    operations: Operations, shape: ConvShape, d: DeviceArray, dx: DeviceArray, weights: ConvWeights
) -> list[Launch]:
    """The gradient by x, flushed, from the gradient by z.

    Args:
      d   (batch, out_height, out_width, channels_out) float32
      dx  (batch, height, width, channels_in) float32, overwritten
    """
    place = (weights.parameters, np.int32(weights.weight_offset))
    rest = (*_input(shape, dx), *_taps(shape))
    rows, origin = gradient_rows(shape)
    depth = shape.kernel**2 * shape.channels_out
    split = split_rows(operations, rows, shape.channels_in, depth)
    if split is None:
        results = (shape.channels_in, shape.batch * shape.height * shape.width)
        arguments = (*_output(shape, d), *place, *rest)
        return [_by_result(operations, "conv.input_gradient_naive", results, arguments)]
    packed = operations.device.empty((split.panels * split.tile.columns * depth,))
    sizes = (shape.channels_in, shape.channels_out, shape.kernel, shape.stride)
    size = (split.panels, shape.kernel**2)
    pack = operations.library.launch(
        *("conv.pack_flipped", size, (1, 1)),
        (*place, packed, *integers(*sizes)),
        split.tile.defines,
    )
    arguments = (*_output(shape, d), packed, *rest, *integers(rows.window, origin))
    launches = [pack, _by_task(operations, "conv.input_gradient_tiled", split, arguments)]
    return named(launches, conv_name(rows, shape.channels_in, depth))


def conv_weight_gradient(
    operations: Operations,
    shape: ConvShape,
    x: DeviceArray,
    d: DeviceArray,
    gradient: DeviceArray,
    weight_offset: int,
) -> list[Launch]:
    """The gradient by the weights, flushed, written at weight_offset of the flat gradient.

    Args:
      x  (batch, height, width, channels_in) float32
      d  (batch, out_height, out_width, channels_out) float32
    """
    library = operations.library
    rows = forward_rows(shape)
    to = (gradient, np.int32(weight_offset))
    pixels = np.int32(rows.count * rows.width)
    arguments: tuple[Argument, ...]
    arguments = (*_input(shape, x), *_output(shape, d), *to, *_taps(shape), pixels)
    split = split_gradient(operations, rows, shape.channels_out, shape.depth)
    if split is None:
        results = (shape.channels_out, shape.depth)
        return [_by_result(operations, "conv.weight_gradient_naive", results, arguments)]
    defines = split.tile.defines
    sums = operations.device.empty((split.sums,))
    arguments = (
        *(*arguments, *integers(split.panel_block, split.tile_block, split.chunk_block), sums),
        *(LocalMemory(nbytes) for nbytes in split.local_bytes),
    )
    name = "conv.weight_gradient_tiled"
    launches = [library.launch(name, split.size, (1, 1, 1), arguments, defines)]
    if split.size[2] > 1:
        arguments = (sums, *to, *integers(split.chunks, shape.depth, shape.channels_out))
        size = (split.panels, split.tiles)
        launches.append(library.launch("conv.add_chunks", size, (1, 1), arguments, defines))
    return named(launches, gradient_name(rows, shape.channels_out, shape.depth))


def _input(shape: ConvShape, array: DeviceArray) -> tuple[Argument, ...]:
    """An array of the shape of x, as the kernels take it."""
    return array, *integers(shape.height, shape.width, shape.channels_in)


def _output(shape: ConvShape, array: DeviceArray) -> tuple[Argument, ...]:
    """An array of the shape of z."""
    return array, *integers(shape.out_height, shape.out_width, shape.channels_out)


def _taps(shape: ConvShape) -> tuple[Argument, ...]:
    return integers(shape.kernel, shape.stride, shape.padding)


def named(launches: list[Launch], name: str) -> list[Launch]:
    """Launches of one operation, whose tile tuning may choose."""
    for launch in launches:
        launch.tuned_as = name
    return launches


def integers(*values: int) -> tuple[np.int32, ...]:
    """Kernel arguments."""
    return tuple(np.int32(value) for value in values)


def _by_result(
    operations: Operations, kernel: str, results: tuple[int, int], arguments: tuple[Argument, ...]
) -> Launch:
    """The simple version: a work-item for each channel of each row of results."""
    size = (ceil_to(results[0], LOCAL_SIZE), results[1])
    return operations.library.launch(kernel, size, (LOCAL_SIZE, 1), arguments)


def _by_task(
    operations: Operations, kernel: str, split: TaskSplit, arguments: tuple[Argument, ...]
) -> Launch:
    """The tiled version of a correlation."""
    arguments = (
        *arguments,
        *integers(split.rows, split.task_rows, split.row_block, split.panel_block),
        *(LocalMemory(nbytes) for nbytes in split.local_bytes),
    )
    return operations.library.launch(kernel, split.size, (1, 1), arguments, split.tile.defines)
