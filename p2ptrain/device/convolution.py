"""Launchers of kernels/conv.cl: convolution of images, forward and both gradients.

Theory of operation. On CPUs whose contraction probe passed a convolution runs as register tiles
over rows of the image that a task holds in local memory; elsewhere, and where these rows do not
fit there, by one work-item for a result. Both have the same bits, so what is chosen here is speed
alone: the tile, and how much a task does.

The gradient of the bias is operations.column_sums over the rows of d.
"""

from dataclasses import dataclass
from math import gcd
from typing import Literal

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray, LocalMemory
from p2ptrain.device.operations import CHUNK, Operations, Tile

Activation = Literal["none", "relu"]

FLOAT_BYTES = 4
INT_BYTES = 4
TASKS_PER_CORE = 4  # so that the cores end together
BLOCK_BYTES = 96 * 1024  # of image rows in a task of a correlation: they stay in the L2 cache
GRADIENT_TASKS = 1  # of the weight gradient for each core
TILES_PER_TASK = 4  # of the weight gradient, under which a task's copy of its pixels shows


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


@dataclass(frozen=True, slots=True)
class Rows:
    """How tasks read an image row by row: what conv.cl's load_rows copies, in one direction each.

    count          rows of results in the whole batch, `per_image` of them in an image
    width          results of a row
    channels       of the image
    window         pixels of the image that a result reads, in each direction
    step           slots from one result to the next: min(stride, window)
    """

    count: int
    per_image: int
    width: int
    channels: int
    window: int
    step: int

    def slot_bytes(self, rows: int) -> int:
        """Local memory for what so many rows of results read, wherever they begin."""
        images = min(rows, (rows + self.per_image - 2) // self.per_image + 1)
        slots = rows * self.step + images * (self.window - self.step)
        columns = (self.width - 1) * self.step + self.window
        return slots * columns * self.channels * FLOAT_BYTES


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


def conv_tile(operations: Operations, channels: int) -> Tile | None:
    """The register tile for so many results of a pixel; None: the simple version."""
    if operations.tile is None:
        return None
    width = operations.tile.width
    if channels <= width:
        return Tile(8, 1, width)
    return Tile(operations.tile.rows, 2, width)


@dataclass(frozen=True, slots=True)
class TaskSplit:
    """What one task of a correlation does, and the local memory for it.

    task_rows    rows of results
    row_block    of them at a time
    panel_block  panels of channels
    local_bytes  for rows of the image, for sums, for the tables of steps and results
    """

    task_rows: int
    row_block: int
    panel_block: int
    local_bytes: tuple[int, int, int]


def split_rows(
    operations: Operations, rows: Rows, tile: Tile, panels: int, depth: int
) -> TaskSplit | None:
    """The work of a task; None where not even one row fits into local memory.

    Args:
      panels  of results
      depth   K, steps of a result
    """
    info = operations.device.info
    tasks = TASKS_PER_CORE * info.compute_units
    even = tile.rows // gcd(tile.rows, rows.width)  # rows that make whole tiles
    task_rows = max(1, rows.count // tasks)
    if task_rows >= even:
        task_rows -= task_rows % even
    panel_block = max(1, panels * -(-rows.count // task_rows) // tasks)

    def local_bytes(row_block: int) -> tuple[int, int, int]:
        results = row_block * rows.width + tile.rows
        sums = results * tile.columns if depth > CHUNK else 1
        tables = depth + 2 * results
        return rows.slot_bytes(row_block), sums * FLOAT_BYTES, tables * INT_BYTES

    row_block = task_rows
    while row_block > 1 and sum(local_bytes(row_block)) > min(BLOCK_BYTES, info.local_bytes):
        row_block = row_block * 7 // 8
    if row_block >= even:
        row_block -= row_block % even
    if sum(local_bytes(row_block)) > info.local_bytes:
        return None
    return TaskSplit(task_rows, row_block, panel_block, local_bytes(row_block))


def conv_forward(
    operations: Operations,
    shape: ConvShape,
    x: DeviceArray,
    z: DeviceArray,
    weights: ConvWeights,
    activation: Activation,
) -> list[Launch]:
    """z = conv(x) + bias, flushed, and then ReLU in place if asked for.

    Args:
      x  (batch, height, width, channels_in) float32
      z  (batch, out_height, out_width, channels_out) float32
    """
    library = operations.library
    bias_offset = -1 if weights.bias_offset is None else weights.bias_offset
    bias = integers(bias_offset, activation == "relu")
    image = (x, *integers(shape.height, shape.width, shape.channels_in))
    out = (z, *integers(shape.out_height, shape.out_width, shape.channels_out))
    taps = integers(shape.kernel, shape.stride, shape.padding)
    place = (weights.parameters, np.int32(weights.weight_offset))
    tile = conv_tile(operations, shape.channels_out)
    rows = forward_rows(shape)
    panels = -(-shape.channels_out // tile.columns) if tile else 0
    split = split_rows(operations, rows, tile, panels, shape.depth) if tile else None
    if tile is None or split is None:
        size = (ceil_to(shape.channels_out, LOCAL_SIZE), rows.count * rows.width)
        arguments = (*image, *place, *bias, *out, *taps)
        return [library.launch("conv.conv_naive", size, (LOCAL_SIZE, 1), arguments)]
    launches: list[Launch] = []
    packed = place
    if tile.columns != shape.channels_out:  # else the matrix is one panel
        packed = (operations.device.empty((panels * tile.columns * shape.depth,)), np.int32(0))
        channels = integers(shape.channels_in, shape.channels_out)
        pack = (*place, packed[0], *channels)
        launches.append(
            library.launch(
                "conv.pack_weights", (panels, shape.kernel**2), (1, 1), pack, tile.defines
            )
        )
    arguments = (*image, *packed, weights.parameters, *bias, *out, *taps)
    launches.append(_tiled(operations, "conv.conv_tiled", arguments, (rows, panels, split, tile)))
    return launches


def conv_input_gradient(
    operations: Operations, shape: ConvShape, d: DeviceArray, dx: DeviceArray, weights: ConvWeights
) -> list[Launch]:
    """The gradient by x, flushed, from the gradient by z.

    Args:
      d   (batch, out_height, out_width, channels_out) float32
      dx  (batch, height, width, channels_in) float32, overwritten
    """
    library = operations.library
    image = (d, *integers(shape.out_height, shape.out_width, shape.channels_out))
    out = (dx, *integers(shape.height, shape.width, shape.channels_in))
    taps = integers(shape.kernel, shape.stride, shape.padding)
    place = (weights.parameters, np.int32(weights.weight_offset))
    tile = conv_tile(operations, shape.channels_in)
    rows, origin = gradient_rows(shape)
    panels = -(-shape.channels_in // tile.columns) if tile else 0
    depth = shape.kernel**2 * shape.channels_out
    split = split_rows(operations, rows, tile, panels, depth) if tile else None
    if tile is None or split is None:
        size = (
            ceil_to(shape.channels_in, LOCAL_SIZE),
            shape.batch * shape.height * shape.width,
        )
        arguments = (*image, *place, *out, *taps)
        return [library.launch("conv.input_gradient_naive", size, (LOCAL_SIZE, 1), arguments)]
    packed = operations.device.empty((panels * tile.columns * depth,))
    channels = integers(shape.channels_in, shape.channels_out)
    pack = (*place, packed, *channels, *taps[:2])
    arguments = (*image, packed, *out, *taps, *integers(rows.window, origin))
    return [
        library.launch("conv.pack_flipped", (panels, shape.kernel**2), (1, 1), pack, tile.defines),
        _tiled(operations, "conv.input_gradient_tiled", arguments, (rows, panels, split, tile)),
    ]


def _tiled(
    operations: Operations,
    kernel: str,
    arguments: tuple[Argument, ...],
    work: tuple[Rows, int, TaskSplit, Tile],
) -> Launch:
    rows, panels, split, tile = work
    arguments = (
        *arguments,
        *integers(rows.count, split.task_rows, split.row_block, split.panel_block),
        *(LocalMemory(nbytes) for nbytes in split.local_bytes),
    )
    size = (-(-panels // split.panel_block), -(-rows.count // split.task_rows))
    return operations.library.launch(kernel, size, (1, 1), arguments, tile.defines)


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
    pixels = shape.batch * shape.out_height * shape.out_width
    arguments = (
        *(x, *integers(shape.height, shape.width, shape.channels_in)),
        *(d, *integers(shape.out_height, shape.out_width, shape.channels_out)),
        *(gradient, *integers(weight_offset, shape.kernel, shape.stride, shape.padding, pixels)),
    )
    tile = conv_tile(operations, shape.channels_out)
    split = split_gradient(operations, shape, tile) if tile else None
    if tile is None or split is None:
        size = (ceil_to(shape.channels_out, LOCAL_SIZE), shape.depth)
        name = "conv.weight_gradient_naive"
        return [library.launch(name, size, (LOCAL_SIZE, 1), arguments)]
    tiles, panels = -(-shape.depth // tile.rows), -(-shape.channels_out // tile.columns)
    chunks = -(-pixels // CHUNK)
    blocks = -(-chunks // split.chunk_block)
    size = chunks * tiles * panels * tile.rows * tile.columns
    sums = operations.device.empty((1 if blocks == 1 else size,))
    arguments = (
        *(*arguments, *integers(split.panel_block, split.tile_block, split.chunk_block), sums),
        *(LocalMemory(nbytes) for nbytes in split.local_bytes),
    )
    size3 = (-(-panels // split.panel_block), -(-tiles // split.tile_block), blocks)
    name = "conv.weight_gradient_tiled"
    launches = [library.launch(name, size3, (1, 1, 1), arguments, tile.defines)]
    if blocks > 1:
        added = (
            *(sums, gradient),
            *integers(weight_offset, chunks, shape.depth, shape.channels_out),
        )
        name = "conv.add_chunks"
        launches.append(library.launch(name, (panels, tiles), (1, 1), added, tile.defines))
    return launches


@dataclass(frozen=True, slots=True)
class GradientSplit:
    """What one task of the weight gradient does.

    panel_block  panels of channels
    tile_block   tiles of rows
    chunk_block  chunks of pixels
    local_bytes  local memory for d and sums, for slots, for tables
    """

    panel_block: int
    tile_block: int
    chunk_block: int
    local_bytes: tuple[int, int, int]


def split_gradient(operations: Operations, shape: ConvShape, tile: Tile) -> GradientSplit | None:
    """The work of a task; None where a chunk of x does not fit into local memory."""
    tiles, panels = -(-shape.depth // tile.rows), -(-shape.channels_out // tile.columns)
    chunks = -(-shape.batch * shape.out_height * shape.out_width // CHUNK)
    units = operations.device.info.compute_units
    tasks = GRADIENT_TASKS * units
    panel_block, tile_block, chunk_block = max(1, panels // tasks), tiles, chunks
    tile_block = -(-tiles // max(1, tasks * panel_block // panels))
    if tile_block < TILES_PER_TASK:
        panel_block, tile_block = panels, tiles
        chunk_block = max(1, chunks // (TASKS_PER_CORE * units))
    rows = forward_rows(shape)
    most = min(rows.count, (CHUNK + rows.width - 2) // rows.width + 1)
    sums = 0 if chunk_block < chunks else panel_block * tile_block * tile.rows
    local_bytes = (
        tile.columns * (CHUNK + sums) * FLOAT_BYTES,
        rows.slot_bytes(most),
        (CHUNK + tile_block * tile.rows) * INT_BYTES,
    )
    if sum(local_bytes) > operations.device.info.local_bytes:
        return None
    return GradientSplit(panel_block, tile_block, chunk_block, local_bytes)


def integers(*values: int) -> tuple[np.int32, ...]:
    """Kernel arguments."""
    return tuple(np.int32(value) for value in values)
