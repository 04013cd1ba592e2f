"""One typed launcher for each training kernel: shapes in, launches out.

Each function checks nothing that the types say already, chooses the geometry that the kernel's
header asks for, and returns launches whose arguments are set. Nothing runs until they are
enqueued. Matrix products are in products.py, dense layers in dense.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, KernelLibrary, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.products import CHUNK as CHUNK
from p2ptrain.device.products import (
    NOTHING,
    After,
    best_tile,
    gemm_naive,
    gemm_tiled,
    product_name,
)
from p2ptrain.device.products import Matrix as Matrix
from p2ptrain.device.products import Tile as Tile
from p2ptrain.device.products import row_major as row_major
from p2ptrain.device.tiles import TileChoices

SLOT = 7  # the argument of gather_rows that says which step's indices to take
TASKS_PER_CORE = 4  # work-groups for each core, so that the cores end together
SUM_WIDTH_MIN, SUM_WIDTH_MAX = 16, 64  # columns of a task of column_sums_tiled
ROW_BLOCK = 2048  # values of a row in a task
BLOCK_MIN, BLOCK_MAX = 1024, 8192  # values in a task where rows do not matter


@dataclass(frozen=True, slots=True)
class Samples:
    """A data set on the device: x (samples, C) float32, y (samples,) int32."""

    x: DeviceArray
    y: DeviceArray


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step: x (R, C) float32, y (R,) int32 with -1 for a row that is missing."""

    x: DeviceArray
    y: DeviceArray


@dataclass(frozen=True, slots=True)
class Score:
    """Of each row of each step: loss (steps * R,) float32, correct (steps * R,) int32."""

    loss: DeviceArray
    correct: DeviceArray


@dataclass(frozen=True, slots=True)
class Moments:
    """The inner optimiser's vectors, each (n,) float32; SGD uses the first alone."""

    first: DeviceArray
    second: DeviceArray


class Operations:
    """The training kernels on one device."""

    def __init__(
        self,
        library: KernelLibrary,
        tile: Tile | None = None,
        chosen: Mapping[str, Tile] | None = None,
    ) -> None:
        """Choose the matrix product's version.

        Args:
          library  where the kernels come from
          tile     register tile where none is chosen; None: best_tile decides, which tests override
          chosen   tiles of operations that were tuned, by their names
        """
        self.library = library
        self.device = library.device
        self.tile = tile if tile is not None else best_tile(library)
        self.tiles = TileChoices(self.tile, chosen or {})

    def gemm(self, a: Matrix, b: Matrix, c: Matrix, after: After = NOTHING) -> list[Launch]:
        """C = A B in the canonical order.

        Args:
          a      (M, K)
          b      (K, N)
          c      (M, N), column stride 1; overlaps neither a nor b
          after  bias, residual and ReLU, on the way out
        """
        name = product_name(a, b)
        tile = self.tiles.of(name) if self.tile is not None else None
        if tile is None:
            return [gemm_naive(self.library, a, b, c, after)]
        launch = gemm_tiled(self.library, tile, (a, b), c, after)
        launch.tuned_as = name
        return [launch]

    def gather_rows(self, samples: Samples, index: DeviceArray, out: Batch) -> Launch:
        """Rows index[step * R ..] of the samples into a batch; slot varies."""
        arguments = (samples.x, samples.y, index, out.x, out.y)
        rows, columns = out.x.shape
        shape = (np.int32(rows), np.int32(columns), np.int32(0))
        launch = self._by_row("elementwise.gather_rows", rows, columns, (*arguments, *shape))
        launch.varying = {"slot": SLOT}
        return launch

    def activation(self, name: str, z: DeviceArray, a: DeviceArray) -> Launch:
        """Forward, "relu" or "gelu", into a of z's shape; of "relu" a may be z."""
        return self._by_block(f"elementwise.{name}", z.size, (z, a))

    def activation_backward(self, activation: str, z: DeviceArray, d: DeviceArray) -> Launch:
        """Turn d, the gradient behind the activation, into the one before it; shapes are equal.

        Args:
          z  what went into the activation; of "relu" what came out does as well
        """
        return self._by_block(f"elementwise.{activation}_backward", z.size, (z, d))

    def column_sums(self, d: DeviceArray, out: DeviceArray, offset: int) -> Launch:
        """Sums of d (R, C) over its rows into C values of out at offset."""
        rows, columns = d.shape
        arguments = (d, out, np.int32(offset), np.int32(rows), np.int32(columns))
        if self.tile is None:
            return self._by_index("reduce.column_sums", columns, arguments)
        share = ceil_to(-(-columns // self.device.info.compute_units), SUM_WIDTH_MIN)
        width = min(share, SUM_WIDTH_MAX)
        size, by_width = (-(-columns // width),), (*arguments, np.int32(width))
        return self.library.launch("reduce.column_sums_tiled", size, (1,), by_width)

    def philox_uniform(
        self, out: DeviceArray, offset: int, count: int, seed: int, draw: tuple[int, np.float32]
    ) -> Launch:
        """Count uniform values at offset; draw is (stream, bound), seed 0 .. 2^64 - 1."""
        stream, bound = draw
        words = (np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32), np.uint32(stream))
        place = (out, np.int32(offset), np.int32(count))
        return self._by_index("rng.philox_uniform", -(-count // 4), (*place, *words, bound))

    def _by_index(self, kernel: str, count: int, arguments: tuple[Argument, ...]) -> Launch:
        size = (ceil_to(count, LOCAL_SIZE),)
        return self.library.launch(kernel, size, (LOCAL_SIZE,), arguments)

    def _by_row(
        self, kernel: str, rows: int, columns: int, arguments: tuple[Argument, ...]
    ) -> Launch:
        """A kernel whose work-items take a block of a row each, of which the last argument says."""
        if self.tile is None:
            size, local = (ceil_to(columns, LOCAL_SIZE), rows), (LOCAL_SIZE, 1)
            return self.library.launch(kernel, size, local, (*arguments, np.int32(1)))
        size = (-(-columns // ROW_BLOCK), rows)
        return self.library.launch(kernel, size, (1, 1), (*arguments, np.int32(ROW_BLOCK)))

    def _by_block(self, kernel: str, count: int, arguments: tuple[Argument, ...]) -> Launch:
        """A kernel whose work-items take a block of count values each; count is an argument."""
        arguments = (*arguments, np.int32(count))
        if self.tile is None:
            return self._by_index(kernel, count, (*arguments, np.int32(1)))
        tasks = TASKS_PER_CORE * self.device.info.compute_units
        block = min(max(ceil_to(-(-count // tasks), LOCAL_SIZE), BLOCK_MIN), BLOCK_MAX)
        size = (-(-count // block),)
        return self.library.launch(kernel, size, (1,), (*arguments, np.int32(block)))
