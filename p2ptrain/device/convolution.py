"""Launchers of kernels/conv.cl: convolution of images, forward and both gradients.

Theory of operation. Forward and input gradient are correlations of an image with packed weights
(the kernel's header says how the gradient falls into phases), each described by a `Correlation`.
On CPUs whose contraction probe passed they run as register tiles over rows that a task holds in
local memory; elsewhere, and where a row does not fit there, by one work-item for a result. Both
have the same bits, so what is chosen here is speed alone: the tile, and how much a task does.

The gradient of the bias is operations.column_sums over the rows of d.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray, LocalMemory
from p2ptrain.device.operations import CHUNK, Operations, Tile

Activation = Literal["none", "relu"]

FLOAT_BYTES = 4
TASKS_PER_CORE = 4  # so that the cores end together
BLOCK_BYTES = 192 * 1024  # of image rows in a task of a correlation: they stay in the L2 cache
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
class Correlation:
    """Taps that slide over an image (batch, height, width, channels), as conv.cl computes it.

    out_height, out_width, out_channels  of the array that the results go to
    grid    results in each direction (y, x)
    first   pixel of the first result (y, x); the others lie `step` pixels apart
    taps    in each direction (y, x)
    stride  pixels of the image from one result to the next
    origin  pixel of the image under the first tap of the first result (y, x)
    """

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    grid: tuple[int, int]
    first: tuple[int, int]
    step: int
    taps: tuple[int, int]
    stride: int
    origin: tuple[int, int]

    @property
    def rows(self) -> int:
        """Rows of results in the whole batch."""
        return self.batch * self.grid[0]

    def slot_bytes(self, rows: int) -> int:
        """Local memory for what so many rows of results read, wherever they begin."""
        step_y, step_x = min(self.stride, self.taps[0]), min(self.stride, self.taps[1])
        images = min(rows, (rows + self.grid[0] - 2) // self.grid[0] + 1)
        slots = rows * step_y + images * (self.taps[0] - step_y)
        columns = (self.grid[1] - 1) * step_x + self.taps[1]
        return slots * columns * self.channels * FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class Panels:
    """Weights as conv.cl multiplies by them: [panel][K][width] at offset of an array."""

    array: DeviceArray
    offset: int
    width: int


def forward_correlation(shape: ConvShape) -> Correlation:
    """The forward pass as a correlation of x."""
    return Correlation(
        batch=shape.batch,
        height=shape.height,
        width=shape.width,
        channels=shape.channels_in,
        out_height=shape.out_height,
        out_width=shape.out_width,
        out_channels=shape.channels_out,
        grid=(shape.out_height, shape.out_width),
        first=(0, 0),
        step=1,
        taps=(shape.kernel, shape.kernel),
        stride=shape.stride,
        origin=(-shape.padding, -shape.padding),
    )


def gradient_phases(shape: ConvShape) -> list[tuple[tuple[int, int], Correlation]]:
    """The input gradient as correlations of d, each with the first (ky, kx) of its phase."""
    rows = [_phase(shape, shape.height, first) for first in range(shape.stride)]
    columns = [_phase(shape, shape.width, first) for first in range(shape.stride)]
    return [
        (
            (row.tap, column.tap),
            Correlation(
                batch=shape.batch,
                height=shape.out_height,
                width=shape.out_width,
                channels=shape.channels_out,
                out_height=shape.height,
                out_width=shape.width,
                out_channels=shape.channels_in,
                grid=(row.count, column.count),
                first=(row.first, column.first),
                step=shape.stride,
                taps=(row.taps, column.taps),
                stride=1,
                origin=(row.origin, column.origin),
            ),
        )
        for row in rows
        for column in columns
        if row.count and column.count
    ]


@dataclass(frozen=True, slots=True)
class Phase:
    """Every stride-th pixel of x in one direction: its count, its taps and where they lie on d."""

    first: int
    count: int
    tap: int
    taps: int
    origin: int


def _phase(shape: ConvShape, size: int, first: int) -> Phase:
    """Pixel first + stride t meets tap + stride j of the kernel at t + base - j of d."""
    base, tap = divmod(first + shape.padding, shape.stride)
    taps = max(0, -(-(shape.kernel - tap) // shape.stride))
    return Phase(first, max(0, -(-(size - first) // shape.stride)), tap, taps, base - (taps - 1))


def conv_tile(operations: Operations, channels: int) -> Tile | None:
    """The register tile for so many results of a pixel; None: the simple version."""
    if operations.tile is None:
        return None
    width = operations.tile.width
    if channels <= width:
        return Tile(8, 1, width)
    return Tile(operations.tile.rows, 2, width)


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
    correlation = forward_correlation(shape)
    tile = _fitting_tile(operations, correlation)
    width = tile.columns if tile else shape.channels_out
    launches: list[Launch] = []
    if width == shape.channels_out:  # one panel is the matrix itself
        panels = Panels(weights.parameters, weights.weight_offset, width)
    else:
        count = -(-shape.channels_out // width)
        panels = Panels(operations.device.empty((count * width * shape.depth,)), 0, width)
        arguments = (
            *(weights.parameters, np.int32(weights.weight_offset), panels.array),
            *(np.int32(width), np.int32(shape.channels_in), np.int32(shape.channels_out)),
        )
        size = (count, shape.kernel**2)
        launches.append(operations.library.launch("conv.pack_weights", size, (1, 1), arguments))
    bias_offset = -1 if weights.bias_offset is None else weights.bias_offset
    bias = (weights.parameters, np.int32(bias_offset), np.int32(activation == "relu"))
    launches.append(_correlate(operations, tile, correlation, (x, z), panels, bias))
    return launches


def conv_input_gradient(
    operations: Operations, shape: ConvShape, d: DeviceArray, dx: DeviceArray, weights: ConvWeights
) -> list[Launch]:
    """The gradient by x, flushed, from the gradient by z.

    Args:
      d   (batch, out_height, out_width, channels_out) float32
      dx  (batch, height, width, channels_in) float32, overwritten
    """
    launches: list[Launch] = []
    for first_tap, correlation in gradient_phases(shape):
        tile = _fitting_tile(operations, correlation)
        width = tile.columns if tile else shape.channels_in
        count = -(-shape.channels_in // width)
        taps = correlation.taps[0] * correlation.taps[1]
        packed = operations.device.empty((count * width * taps * shape.channels_out,))
        sizes = (width, shape.channels_in, shape.channels_out, shape.kernel, shape.stride)
        arguments = (
            *(weights.parameters, np.int32(weights.weight_offset), packed),
            *(np.int32(value) for value in (*sizes, *first_tap, *correlation.taps)),
        )
        if taps:
            launches.append(
                operations.library.launch("conv.pack_flipped", (count, taps), (1, 1), arguments)
            )
        no_bias = (weights.parameters, np.int32(-1), np.int32(0))
        panels = Panels(packed, 0, width)
        launches.append(_correlate(operations, tile, correlation, (d, dx), panels, no_bias))
    return launches


def _fitting_tile(operations: Operations, correlation: Correlation) -> Tile | None:
    """The tile, unless what one row of results reads exceeds the local memory."""
    if correlation.slot_bytes(1) > operations.device.info.local_bytes:
        return None
    return conv_tile(operations, correlation.out_channels)


def _correlate(
    operations: Operations,
    tile: Tile | None,
    correlation: Correlation,
    arrays: tuple[DeviceArray, DeviceArray],
    panels: Panels,
    bias: tuple[DeviceArray, np.int32, np.int32],
) -> Launch:
    """One correlation from arrays[0] into arrays[1]."""
    image, out = arrays
    c = correlation
    geometry = (c.out_height, c.out_width, c.out_channels, *c.grid, *c.first, c.step)
    taps = (*c.taps, c.stride, *c.origin)
    place = (panels.array, np.int32(panels.offset))
    source = (image, np.int32(c.height), np.int32(c.width), np.int32(c.channels))
    rest = (*bias, out, *(np.int32(value) for value in (*geometry, *taps)))
    if tile is None:
        size = (ceil_to(c.out_channels, LOCAL_SIZE), c.rows * c.grid[1])
        arguments = (*source, *place, np.int32(panels.width), *rest)
        return operations.library.launch(
            "conv.correlate_naive", size, (LOCAL_SIZE, 1), arguments
        )
    tasks = TASKS_PER_CORE * operations.device.info.compute_units
    row_block = rows_of_task(c, tile, tasks, operations.device.info.local_bytes)
    row_blocks, count = -(-c.rows // row_block), -(-c.out_channels // tile.columns)
    panel_block = max(1, count * row_blocks // tasks)
    arguments = (
        *(*source, *place, np.int32(panel_block), *rest),
        *(np.int32(c.rows), np.int32(row_block)),
        LocalMemory(max(FLOAT_BYTES, c.slot_bytes(row_block))),
    )
    size = (-(-count // panel_block), row_blocks)
    return operations.library.launch(
        "conv.correlate_tiled", size, (1, 1), arguments, tile.defines
    )


def rows_of_task(correlation: Correlation, tile: Tile, tasks: int, local_bytes: int) -> int:
    """Rows of results of a task: whole tiles if possible, within the local memory."""
    most = min(BLOCK_BYTES, local_bytes)
    rows = max(1, correlation.rows // tasks)
    while rows > 1 and correlation.slot_bytes(rows) > most:
        rows = rows * 7 // 8
    even = tile.rows // int(np.gcd(tile.rows, correlation.grid[1]))
    return rows - rows % even if rows >= even else rows


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
    sizes = (shape.kernel, shape.stride, -shape.padding)
    pixels = shape.batch * shape.out_height * shape.out_width
    arguments = (
        *(x, np.int32(shape.height), np.int32(shape.width), np.int32(shape.channels_in)),
        *(d, np.int32(shape.out_height), np.int32(shape.out_width), np.int32(shape.channels_out)),
        *(gradient, np.int32(weight_offset), *(np.int32(value) for value in sizes)),
        np.int32(pixels),
    )
    tile = conv_tile(operations, shape.channels_out)
    split = None if tile is None else split_gradient(operations, shape, tile)
    if tile is None or split is None:
        size = (ceil_to(shape.channels_out, LOCAL_SIZE), shape.depth)
        name = "conv.weight_gradient_naive"
        return [operations.library.launch(name, size, (LOCAL_SIZE, 1), arguments)]
    tiles, panels = -(-shape.depth // tile.rows), -(-shape.channels_out // tile.columns)
    chunks = -(-pixels // CHUNK)
    chunk_blocks = -(-chunks // split.chunk_block)
    is_whole = chunk_blocks == 1
    sums = operations.device.empty(
        (1 if is_whole else chunks * tiles * panels * tile.rows * tile.columns,)
    )
    size = (panels, -(-tiles // split.tile_block), chunk_blocks)
    arguments = (
        *(*arguments, np.int32(split.tile_block), np.int32(split.chunk_block), sums),
        LocalMemory(split.local_bytes),
    )
    name = "conv.weight_gradient_tiled"
    launches = [operations.library.launch(name, size, (1, 1, 1), arguments, tile.defines)]
    if not is_whole:
        added = (np.int32(chunks), np.int32(shape.depth), np.int32(shape.channels_out))
        arguments = (sums, gradient, np.int32(weight_offset), *added)
        size = (panels, tiles)
        launches.append(
            operations.library.launch("conv.add_chunks", size, (1, 1), arguments, tile.defines)
        )
    return launches


@dataclass(frozen=True, slots=True)
class GradientSplit:
    """What one task of the weight gradient does.

    tile_block   tiles of rows
    chunk_block  chunks of pixels
    local_bytes  of local memory
    """

    tile_block: int
    chunk_block: int
    local_bytes: int


def split_gradient(operations: Operations, shape: ConvShape, tile: Tile) -> GradientSplit | None:
    """The work of a task; None where a chunk of x does not fit into local memory."""
    tiles, panels = -(-shape.depth // tile.rows), -(-shape.channels_out // tile.columns)
    chunks = -(-shape.batch * shape.out_height * shape.out_width // CHUNK)
    units = operations.device.info.compute_units
    tile_blocks = -(-2 * units // panels)
    tile_block, chunk_block = -(-tiles // tile_blocks), chunks
    if tile_block < TILES_PER_TASK:
        tile_block, chunk_block = tiles, max(1, chunks // (TASKS_PER_CORE * units))
    correlation = forward_correlation(shape)
    rows = min(correlation.rows, (CHUNK + shape.out_width - 2) // shape.out_width + 1)
    local_bytes = correlation.slot_bytes(rows) + CHUNK * tile.columns * FLOAT_BYTES
    local_bytes += tile_block * tile.rows * tile.columns * FLOAT_BYTES
    if local_bytes > operations.device.info.local_bytes:
        return None
    return GradientSplit(tile_block, chunk_block, local_bytes)
