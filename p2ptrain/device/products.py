"""Matrix products: the views that they take, their launchers and their geometry.

Theory of operation. A matrix is a view, an array with an offset and two strides, so that a weight
inside the flat parameters and its transpose are the same bytes. kernels/gemm.cl has two versions
with equal bits: one work-item for an element, for GPUs, and register tiles, for CPUs, where a task
multiplies a block of rows by one panel of columns. Which rows make a block is decided here, so
that the cores end together and each packed panel serves enough rows.

A product can finish its sums on the way out (`After`): a bias, a residual, a ReLU. To write z and
read it again for each of these costs more than to do them in registers.
"""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, KernelLibrary, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray, LocalMemory

CHUNK = 256  # KC of gemm.cl
# The flags of gemm.cl.
AFTER_BIAS = 1
AFTER_RESIDUAL = 2
AFTER_RELU = 4
ROWS_MAX = 512  # of a task: its part of A, one chunk wide, is half of the second cache
PACKING = 1.5  # what a task spends on its panel, in register tiles


@dataclass(frozen=True, slots=True)
class Matrix:
    """A float32 matrix inside an array.

    offset         index of element (0, 0)
    row_stride     elements from one row to the next
    column_stride  elements from one column to the next
    """

    array: DeviceArray
    rows: int
    columns: int
    offset: int
    row_stride: int
    column_stride: int

    @property
    def transposed(self) -> "Matrix":
        """The same bytes with rows and columns exchanged."""
        return Matrix(
            self.array, self.columns, self.rows, self.offset, self.column_stride, self.row_stride
        )

    @property
    def place(self) -> tuple[DeviceArray, np.int32, np.int32, np.int32]:
        """The four kernel arguments that say where the elements are."""
        return (
            self.array,
            np.int32(self.offset),
            np.int32(self.row_stride),
            np.int32(self.column_stride),
        )


def row_major(array: DeviceArray, rows: int, columns: int, offset: int = 0) -> Matrix:
    """A matrix whose rows lie one behind the other."""
    return Matrix(array, rows, columns, offset, columns, 1)


@dataclass(frozen=True, slots=True)
class After:
    """What is done with each sum of C (M, N) before it is written, in this order.

    parameters, bias_offset  N bias values to add at an offset of the array; None: no bias
    residual                 an array to add, laid out as C's and not C's own; None: nothing
    is_relu                  whether values up to 0 become 0
    """

    parameters: DeviceArray | None = None
    bias_offset: int = 0
    residual: DeviceArray | None = None
    is_relu: bool = False

    def arguments(self, c: Matrix) -> tuple[Argument, ...]:
        """The last four arguments of both kernels; what is not there is not read."""
        assert self.residual is not c.array, "C holds partial sums while the product runs"
        flags = AFTER_BIAS * (self.parameters is not None)
        flags |= AFTER_RESIDUAL * (self.residual is not None) | AFTER_RELU * self.is_relu
        parameters = c.array if self.parameters is None else self.parameters
        residual = c.array if self.residual is None else self.residual
        return (parameters, np.int32(self.bias_offset), residual, np.int32(flags))


NOTHING = After()


@dataclass(frozen=True, slots=True)
class Tile:
    """The register tile of gemm_tiled; it changes speed, never bits.

    rows     MR
    vectors  NV
    width    VW, values of a vector
    """

    rows: int
    vectors: int
    width: int

    @property
    def columns(self) -> int:
        """NR, the columns of a panel."""
        return self.vectors * self.width

    @property
    def defines(self) -> tuple[str, ...]:
        """The tunables as tile.cl spells them."""
        return (f"MR={self.rows}", f"NV={self.vectors}", f"VW={self.width}")


# A tile's accumulators, a row of B and one broadcast of A fill the registers: 16 up to AVX2, where
# 6 x 2 is the classical choice, and 32 with AVX-512, where 8 x 2 was measured best.
TILES = {16: Tile(8, 2, 16), 8: Tile(6, 2, 8), 4: Tile(6, 2, 4)}


def best_tile(library: KernelLibrary) -> Tile | None:
    """The register tile for this device; None where the naive kernel is the better choice."""
    if not library.device.info.is_cpu or not library.contracted_fma:
        return None
    out = library.device.zeros((1,))
    library.launch("selftest.probe_vector_width", (1,), (1,), (out,)).enqueue()
    return TILES.get(int(out.read()[0]))


def gemm_naive(
    library: KernelLibrary, a: Matrix, b: Matrix, c: Matrix, after: After = NOTHING
) -> Launch:
    """C = A B by one work-item for an element."""
    size = (ceil_to(c.columns, LOCAL_SIZE), c.rows)
    arguments = _arguments(a, b, c, after)
    return library.launch("gemm.gemm_naive", size, (LOCAL_SIZE, 1), arguments)


def gemm_tiled(
    library: KernelLibrary,
    tile: Tile,
    factors: tuple[Matrix, Matrix],
    c: Matrix,
    after: After = NOTHING,
) -> Launch:
    """C = A B by panels and register tiles, with the bits of gemm_naive; factors is (A, B)."""
    rows = rows_of_task(c.rows, c.columns, tile, library.device.info.compute_units)
    panel = LocalMemory(CHUNK * tile.columns * 4)
    arguments = (*_arguments(*factors, c, after), np.int32(rows), panel)
    size = (-(-c.columns // tile.columns), -(-c.rows // rows))
    return library.launch("gemm.gemm_tiled", size, (1, 1), arguments, tile.defines)


def product_name(a: Matrix, b: Matrix) -> str:
    """What tuning calls A B: its shape, and which of the two lie by columns."""
    by = "".join("r" if matrix.column_stride == 1 else "c" for matrix in (a, b))
    return f"gemm {a.rows}x{b.columns}x{a.columns} {by}"


def rows_of_task(rows: int, columns: int, tile: Tile, cores: int) -> int:
    """Rows of C in a task, a multiple of the tile's, such that the busiest core ends first.

    Args:
      rows     M
      columns  N
      tile     register tile
      cores    tasks that run at once

    Returns:
      the choice that costs least when tasks are dealt out equally; of equals the largest
    """
    panels, tiles = -(-columns // tile.columns), -(-rows // tile.rows)
    tiles_max = max(1, ROWS_MAX // tile.rows)
    least = -(-tiles // tiles_max)
    best, best_cost = tiles, float("inf")
    for blocks in range(least, min(tiles, least + 4 * cores) + 1):
        tiles_of_task = -(-tiles // blocks)
        tasks = panels * -(-tiles // tiles_of_task)
        cost = -(-tasks // cores) * (tiles_of_task + PACKING)
        if cost < best_cost:
            best, best_cost = tiles_of_task, cost
    return best * tile.rows


def _arguments(a: Matrix, b: Matrix, c: Matrix, after: After) -> tuple[Argument, ...]:
    """The arguments that both kernels begin with."""
    assert (a.rows, a.columns, b.columns) == (c.rows, b.rows, c.columns), "shapes of a product"
    assert c.column_stride == 1, "C is stored by rows"
    shape = (np.int32(c.rows), np.int32(c.columns), np.int32(a.columns))
    return (*a.place, *b.place, *c.place[:3], *shape, *after.arguments(c))
