"""One typed launcher for each training kernel: shapes in, launches out.

Each function checks nothing that the types say already, chooses the geometry that the kernel's
header asks for, and returns launches whose arguments are set. Nothing runs until they are
enqueued. Matrices are views: an array with an offset and two strides, so that a weight inside
the flat parameters and its transpose are the same bytes.
"""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, KernelLibrary, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray, LocalMemory

CHUNK = 256  # KC of gemm.cl
GATHER_STEP = 7  # the argument of gather_rows that says which step's indices to take
XENT_STEP = 8  # the argument of softmax_xent that says where the step's losses go
ADAMW_UNBIAS1 = 11  # the two arguments of adamw that change from step to step
ADAMW_UNBIAS2 = 12
TASKS_PER_CORE = 4  # work-groups of a GEMM for each core, so that the cores end together
TILE_BLOCK = 8  # register tiles of rows that a work-group packs: 48 KiB of float32 at 6 rows


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
        """The tunables as gemm.cl spells them."""
        return (f"MR={self.rows}", f"NV={self.vectors}", f"VW={self.width}")


# A tile's accumulators, a row of B and one broadcast of A fill the registers: 16 up to AVX2, where
# 6 x 2 is the classical choice, and 32 with AVX-512, where 8 x 2 was measured best.
TILES = {16: Tile(8, 2, 16), 8: Tile(6, 2, 8), 4: Tile(6, 2, 4)}


class Operations:
    """The training kernels on one device."""

    def __init__(self, library: KernelLibrary, tile: Tile | None = None) -> None:
        """Choose the matrix product's version.

        Args:
          library  where the kernels come from
          tile     register tile of gemm_tiled; None: best_tile decides, which tests override
        """
        self.library = library
        self.device = library.device
        self.tile = tile if tile is not None else best_tile(library)

    def gemm(self, a: Matrix, b: Matrix, c: Matrix) -> list[Launch]:
        """C = A B in the canonical order.

        Args:
          a  (M, K)
          b  (K, N)
          c  (M, N), column stride 1
        """
        if self.tile is None:
            return [self.gemm_naive(a, b, c)]
        return self.gemm_tiled(self.tile, a, b, c)

    def gemm_naive(self, a: Matrix, b: Matrix, c: Matrix) -> Launch:
        """C = A B by one work-item for an element."""
        shape = (np.int32(a.rows), np.int32(b.columns), np.int32(a.columns))
        arguments = (*a.place, *b.place, *c.place[:3], *shape)
        return self._by_element("gemm.gemm_naive", a.rows, b.columns, arguments)

    def gemm_tiled(self, tile: Tile, a: Matrix, b: Matrix, c: Matrix) -> list[Launch]:
        """C = A B by packed panels and register tiles, with the bits of gemm_naive."""
        n, k = np.int32(b.columns), np.int32(a.columns)
        panels, tiles = -(-b.columns // tile.columns), -(-a.rows // tile.rows)
        packed = self.device.empty((panels * tile.columns * a.columns,))
        chunks = -(-a.columns // CHUNK)
        pack_arguments = (*b.place, packed, n, k)
        pack = self.library.launch(
            "gemm.pack_b", (panels, chunks), (1, 1), pack_arguments, tile.defines
        )
        tile_bytes = tile.rows * CHUNK * 4
        tile_block = min(TILE_BLOCK, tiles, max(1, self.device.info.local_bytes // tile_bytes))
        row_blocks = -(-tiles // tile_block)
        tasks = TASKS_PER_CORE * self.device.info.compute_units
        panel_block = max(1, panels * row_blocks // tasks)
        arguments = (
            *a.place,
            packed,
            *c.place[:3],
            *(np.int32(a.rows), n, k, np.int32(panel_block), np.int32(tile_block)),
            LocalMemory(tile_block * tile_bytes),
        )
        size = (-(-panels // panel_block), row_blocks)
        return [pack, self.library.launch("gemm.gemm_tiled", size, (1, 1), arguments, tile.defines)]

    def gather_rows(self, samples: Samples, index: DeviceArray, out: Batch) -> Launch:
        """Rows index[step * R ..] of the samples into a batch; scalar GATHER_STEP is the step."""
        arguments = (samples.x, samples.y, index, out.x, out.y)
        rows, columns = out.x.shape
        shape = (np.int32(rows), np.int32(columns), np.int32(0))
        return self._by_element("elementwise.gather_rows", rows, columns, (*arguments, *shape))

    def bias(self, z: DeviceArray, parameters: DeviceArray, offset: int) -> Launch:
        """Add C bias values at offset to z (R, C)."""
        rows, columns = z.shape
        arguments = (z, parameters, np.int32(offset), np.int32(columns))
        return self._by_element("elementwise.bias", rows, columns, arguments)

    def bias_activation(
        self, activation: str, z: DeviceArray, parameters: DeviceArray, a: DeviceArray, offset: int
    ) -> Launch:
        """Add the bias at offset to z (R, C); a = activation(z), "relu" or "gelu"."""
        rows, columns = z.shape
        arguments = (z, parameters, a, np.int32(offset), np.int32(columns))
        return self._by_element(f"elementwise.bias_{activation}", rows, columns, arguments)

    def activation_backward(self, activation: str, z: DeviceArray, d: DeviceArray) -> Launch:
        """Turn d (R, C), the gradient behind the activation, into the one before it."""
        rows, columns = z.shape
        arguments = (z, d, np.int32(columns))
        return self._by_element(f"elementwise.{activation}_backward", rows, columns, arguments)

    def column_sums(self, d: DeviceArray, out: DeviceArray, offset: int) -> Launch:
        """Sums of d (R, C) over its rows into C values of out at offset."""
        rows, columns = d.shape
        arguments = (d, out, np.int32(offset), np.int32(rows), np.int32(columns))
        return self._by_index("reduce.column_sums", columns, arguments)

    def softmax_xent(
        self, z: DeviceArray, labels: DeviceArray, d: DeviceArray, score: Score, scale: np.float32
    ) -> Launch:
        """Loss, hits and gradient of logits z (R, C); scalar XENT_STEP is the step."""
        rows, columns = z.shape
        arguments = (z, labels, d, score.loss, score.correct)
        shape = (np.int32(rows), np.int32(columns), scale, np.int32(0))
        return self._by_index("softmax_xent.softmax_xent", rows, (*arguments, *shape))

    def sgd(
        self, w: DeviceArray, g: DeviceArray, m: DeviceArray, scalars: tuple[np.float32, ...]
    ) -> Launch:
        """One step of SGD; scalars rate, momentum, decay as in optim.cl."""
        return self._by_index("optim.sgd", w.size, (w, g, m, *scalars))

    def adamw(
        self, w: DeviceArray, g: DeviceArray, moments: Moments, scalars: tuple[np.float32, ...]
    ) -> Launch:
        """One step of AdamW; scalars rate .. unbias2 as in optim.cl."""
        vectors = (w, g, moments.first, moments.second)
        return self._by_index("optim.adamw", w.size, (*vectors, *scalars))

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

    def _by_element(
        self, kernel: str, rows: int, columns: int, arguments: tuple[Argument, ...]
    ) -> Launch:
        size = (ceil_to(columns, LOCAL_SIZE), rows)
        return self.library.launch(kernel, size, (LOCAL_SIZE, 1), arguments)


def best_tile(library: KernelLibrary) -> Tile | None:
    """The register tile for this device; None where the naive kernel is the better choice."""
    if not library.device.info.is_cpu or not library.contracted_fma:
        return None
    out = library.device.zeros((1,))
    library.launch("selftest.probe_vector_width", (1,), (1,), (out,)).enqueue()
    return TILES.get(int(out.read()[0]))
