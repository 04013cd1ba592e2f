"""Launchers of kernels/attention.cl: causal multi-head attention, forward and backward.

Two versions with equal bits. On a CPU that contracts a*b+c, a fixed number of work-groups share
the heads, and each keeps its packed rows and one panel of weights in its share of a work space.
Elsewhere a work-group of 64 computes one row, with the weights of that row in local memory; that
is what bounds the context there. `work_bytes` says what the work space takes.
"""

import math
from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray, LocalMemory
from p2ptrain.device.operations import CHUNK, TASKS_PER_CORE, Operations, Tile
from p2ptrain.errors import ConfigError

LANES = 64
LANE_BYTES = 4 * LANES  # of local memory, beside the rows of weights
MATRICES_FORWARD = 2  # keys and values, packed
MATRICES_BACKWARD = 8  # all four inputs, packed, and two sums each of the gradients of k and v
PANELS_BACKWARD = 3  # a panel of q, d and out, transposed


@dataclass(frozen=True, slots=True)
class Attention:
    """Shape of one attention layer.

    batch      sequences
    context    positions of each
    heads      how many
    head_size  channels of each; a row of out has heads * head_size
    """

    batch: int
    context: int
    heads: int
    head_size: int

    @property
    def channels(self) -> int:
        """Channels of a position in out; qkv has three times as many."""
        return self.heads * self.head_size

    @property
    def stats_shape(self) -> tuple[int, int, int]:
        """Shape of stats, float32: for each head of each sequence two rows of context values."""
        return (self.batch * self.heads, 2, self.context)

    @property
    def scale(self) -> np.float32:
        """Factor of the scores, 1 / sqrt(head_size)."""
        return np.float32(1 / math.sqrt(self.head_size))

    @property
    def integers(self) -> tuple[np.int32, np.int32, np.int32]:
        """Context, heads and head size as kernel arguments."""
        return np.int32(self.context), np.int32(self.heads), np.int32(self.head_size)


def attention_forward(
    operations: Operations,
    shape: Attention,
    qkv: DeviceArray,
    out: DeviceArray,
    stats: DeviceArray,
) -> list[Launch]:
    """Causal softmax(q k^T / sqrt(head_size)) v of every head.

    Args:
      qkv    (batch * context, 3 * channels): queries, keys and values, each heads x head_size
      out    (batch * context, channels), written
      stats  shape.stats_shape, written: what the backward pass needs

    Raises:
      ConfigError  the context does not fit the device's local memory
    """
    tile = register_tile(operations, shape)
    if tile is not None:
        arrays = (qkv, out, stats)
        return [_tiled(operations, shape, tile, "attention_forward_tiled", arrays)]
    row = _row_memory(operations, shape, 1)
    size = (LOCAL_SIZE * shape.context, shape.batch * shape.heads)
    arguments = (qkv, out, stats, *shape.integers, shape.scale, row)
    kernel = "attention.attention_forward"
    return [operations.library.launch(kernel, size, (LOCAL_SIZE, 1), arguments)]


def attention_backward(
    operations: Operations,
    shape: Attention,
    forward: tuple[DeviceArray, DeviceArray, DeviceArray],
    d: DeviceArray,
    dqkv: DeviceArray,
) -> list[Launch]:
    """Gradient by queries, keys and values.

    Args:
      forward  qkv, out and stats as attention_forward left them
      d        (batch * context, channels) gradient by out
      dqkv     (batch * context, 3 * channels), written

    Raises:
      ConfigError  the context does not fit the device's local memory
    """
    qkv, out, stats = forward
    tile = register_tile(operations, shape)
    if tile is not None:
        arrays = (qkv, out, stats, d, dqkv)
        return [_tiled(operations, shape, tile, "attention_backward_tiled", arrays)]
    row = _row_memory(operations, shape, 2)
    deltas = operations.device.empty((shape.batch * shape.heads, shape.context))
    size = (LOCAL_SIZE * shape.context, shape.batch * shape.heads)
    numbers = (*shape.integers, shape.scale)
    queries = (qkv, out, stats, d, dqkv, deltas, *numbers, row)
    keys = (qkv, stats, d, dqkv, deltas, *numbers, row, row)
    launch = operations.library.launch
    return [
        launch("attention.attention_backward_queries", size, (LOCAL_SIZE, 1), queries),
        launch("attention.attention_backward_keys", size, (LOCAL_SIZE, 1), keys),
    ]


def register_tile(operations: Operations, shape: Attention) -> Tile | None:
    """The register tile of the tiled version for this shape; None where the simple one runs.

    Rows and vectors are powers of two, as the triangles on the diagonal need; a head that fills
    one vector gets one.
    """
    if operations.tile is None or operations.tile.width == 1 or shape.head_size > CHUNK:
        return None
    width = operations.tile.width
    vectors = 1 if shape.head_size <= width else 2
    return Tile(8 if width == 16 else 4, vectors, width)


def work_size(shape: Attention, tile: Tile, is_backward: bool) -> int:
    """Float32 values of work space that one work-group of the tiled version needs."""
    rows = ceil_to(shape.context, tile.columns)
    matrix = rows * ceil_to(shape.head_size, tile.columns)
    panel = shape.head_size * tile.columns
    weights = rows * tile.columns
    if is_backward:
        total = tile.rows * tile.columns
        return MATRICES_BACKWARD * matrix + PANELS_BACKWARD * panel + total + 2 * weights
    return MATRICES_FORWARD * matrix + panel + LANES * tile.columns + weights


def _tiled(
    operations: Operations,
    shape: Attention,
    tile: Tile,
    kernel: str,
    arrays: tuple[DeviceArray, ...],
) -> Launch:
    heads = shape.batch * shape.heads
    groups = min(heads, TASKS_PER_CORE * operations.device.info.compute_units)
    size = ceil_to(work_size(shape, tile, "backward" in kernel), LOCAL_SIZE)
    work = operations.device.empty((groups, size))
    numbers = (np.int32(size), np.int32(shape.batch), *shape.integers, shape.scale)
    arguments: tuple[Argument, ...] = (*arrays, work, *numbers)
    launch = operations.library.launch
    return launch(f"attention.{kernel}", (groups,), (1,), arguments, tile.defines)


def _row_memory(operations: Operations, shape: Attention, rows: int) -> LocalMemory:
    """Local memory of that many rows of weights.

    Raises:
      ConfigError  it is more than the device has
    """
    local_bytes = operations.device.info.local_bytes
    most = (local_bytes - LANE_BYTES) // (4 * rows)
    if shape.context > most:
        raise ConfigError(
            f"a context of {shape.context} positions does not fit the local memory of "
            f"{operations.device.info.title} ({local_bytes} bytes); take {most} or less"
        )
    return LocalMemory(4 * shape.context)
