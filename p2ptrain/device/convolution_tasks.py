"""What one task of a tiled convolution does: rows, tiles and chunks, and local memory for them.

Theory of operation. A task of kernels/conv.cl first copies the rows of the image that it reads
into local memory, so it has enough rows that few are copied twice and few enough that they stay in
the second cache. There are several tasks for each core, so that the cores end together. Tasks of
the weight gradient go through all pixels, and so each copies them all: there are as few as cores.
Nothing here changes a bit of a result.
"""

from dataclasses import dataclass
from math import gcd

from p2ptrain.device.operations import CHUNK, Operations, Tile

FLOAT_BYTES = 4
INT_BYTES = 4
TASKS_PER_CORE = 4  # so that the cores end together
BLOCK_BYTES = 96 * 1024  # of image rows in a task of a correlation: they stay in the L2 cache
GRADIENT_TASKS = 1  # of the weight gradient for each core
TILES_PER_TASK = 4  # of the weight gradient, under which a task's copy of its pixels shows


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


def conv_tile(operations: Operations, channels: int, name: str) -> Tile | None:
    """The register tile for so many results of a pixel; None: the simple version.

    Args:
      name  of the operation in tiles.py
    """
    chosen = operations.tiles.of(name) if operations.tile is not None else None
    if operations.tile is None or chosen is None:
        return None
    if channels <= chosen.width:
        return Tile(max(8, chosen.rows), 1, chosen.width)
    return chosen


def conv_name(rows: Rows, channels: int, depth: int) -> str:
    """What tuning calls a correlation: its results, their channels and steps."""
    return f"conv {rows.count * rows.width}x{channels}x{depth}"


def gradient_name(rows: Rows, channels: int, depth: int) -> str:
    """What tuning calls a weight gradient: its matrix, and the pixels that it sums over."""
    return f"conv-gradient {depth}x{channels}x{rows.count * rows.width}"


@dataclass(frozen=True, slots=True)
class TaskSplit:
    """What one task of a correlation does, and the local memory for it.

    tile         of results
    panels       of channels, panel_block of them in a task
    rows         of results, task_rows of them in a task, row_block of these at a time
    local_bytes  for rows of the image, for sums, for the tables of steps and results
    """

    tile: Tile
    panels: int
    panel_block: int
    rows: int
    task_rows: int
    row_block: int
    local_bytes: tuple[int, int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Tasks."""
        return -(-self.panels // self.panel_block), -(-self.rows // self.task_rows)


def split_rows(operations: Operations, rows: Rows, channels: int, depth: int) -> TaskSplit | None:
    """The work of a task; None for the simple version, as where no row fits into local memory.

    Args:
      channels  of the results
      depth     K, steps of a result
    """
    tile = conv_tile(operations, channels, conv_name(rows, channels, depth))
    if tile is None:
        return None
    info = operations.device.info
    tasks = TASKS_PER_CORE * info.compute_units
    panels = -(-channels // tile.columns)
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
    found = local_bytes(row_block)
    if sum(found) > info.local_bytes:
        return None
    return TaskSplit(tile, panels, panel_block, rows.count, task_rows, row_block, found)


@dataclass(frozen=True, slots=True)
class GradientSplit:
    """What one task of the weight gradient does, and the local memory for it.

    tile         of the matrix of weights
    panels       of its columns, panel_block of them in a task
    tiles        of its rows, tile_block of them in a task
    chunks       of pixels, chunk_block of them in a task
    local_bytes  for d and sums, for rows of the image, for the tables of pixels and rows
    """

    tile: Tile
    panels: int
    panel_block: int
    tiles: int
    tile_block: int
    chunks: int
    chunk_block: int
    local_bytes: tuple[int, int, int]

    @property
    def size(self) -> tuple[int, int, int]:
        """Tasks."""
        return (
            -(-self.panels // self.panel_block),
            -(-self.tiles // self.tile_block),
            -(-self.chunks // self.chunk_block),
        )

    @property
    def sums(self) -> int:
        """Floats for the sums of the chunks, where not one task adds them all."""
        values = self.panels * self.tiles * self.tile.rows * self.tile.columns
        return 1 if self.size[2] == 1 else self.chunks * values


def split_gradient(
    operations: Operations, rows: Rows, channels: int, depth: int
) -> GradientSplit | None:
    """The work of a task; None for the simple version, as where no chunk fits into local memory.

    Args:
      rows      of the forward pass
      channels  columns of the matrix of weights
      depth     rows of it
    """
    tile = conv_tile(operations, channels, gradient_name(rows, channels, depth))
    if tile is None:
        return None
    units = operations.device.info.compute_units
    panels, tiles = -(-channels // tile.columns), -(-depth // tile.rows)
    chunks = -(-rows.count * rows.width // CHUNK)
    tasks = GRADIENT_TASKS * units
    panel_block, chunk_block = max(1, panels // tasks), chunks
    tile_block = -(-tiles // max(1, tasks * panel_block // panels))
    if tile_block < TILES_PER_TASK:
        panel_block, tile_block = panels, tiles
        chunk_block = -(-chunks // (TASKS_PER_CORE * units))
    read = min(rows.count, (CHUNK + rows.width - 2) // rows.width + 1)
    sums = 0 if chunk_block < chunks else panel_block * tile_block * tile.rows
    local_bytes = (
        tile.columns * (CHUNK + sums) * FLOAT_BYTES,
        rows.slot_bytes(read),
        (CHUNK + tile_block * tile.rows) * INT_BYTES,
    )
    if sum(local_bytes) > operations.device.info.local_bytes:
        return None
    return GradientSplit(
        tile, panels, panel_block, tiles, tile_block, chunks, chunk_block, local_bytes
    )
