"""Launchers of kernels/pool.cl: the largest or mean value of windows, or of whole images.

Arrays are channel-last, (batch, height, width, channels) float32. On a CPU whose contraction
probe passed, one task takes a row of windows; elsewhere a work-item takes a value. Where windows do
not lie side by side, a task of the backward pass takes several rows of them, since those above its
own reach into its pixels and are searched again. The bits are the same.
"""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import TASKS_PER_CORE, Operations
from p2ptrain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PoolShape:
    """Images and the windows over them; windows that would hang over an edge are left out.

    batch, height, width, channels  of the images
    size                            side of a window in pixels
    stride                          pixels from one window to the next

    Raises:
      ConfigError  not one window fits, or size or stride is under 1
    """

    batch: int
    height: int
    width: int
    channels: int
    size: int
    stride: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise ConfigError(
                f"pooling with size {self.size} and stride {self.stride}: both must be at least 1"
            )
        if self.size > min(self.height, self.width):
            raise ConfigError(
                f"no pooling window of {self.size} x {self.size} fits into "
                f"{self.height} x {self.width} pixels; choose a smaller size or drop the layer"
            )

    @property
    def out_height(self) -> int:
        """Rows of windows."""
        return (self.height - self.size) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Windows in a row."""
        return (self.width - self.size) // self.stride + 1

    @property
    def window_share(self) -> np.float32:
        """The factor that makes a window's sum its mean."""
        return np.float32(1 / self.size**2)

    @property
    def image_share(self) -> np.float32:
        """The factor that makes an image's sum its mean."""
        return np.float32(1 / (self.height * self.width))

    @property
    def has_tiled_windows(self) -> bool:
        """Whether windows lie side by side, so that each pixel is in one at most."""
        return self.stride == self.size

    @property
    def values_in(self) -> int:
        """Elements of x and dx."""
        return self.batch * self.height * self.width * self.channels

    @property
    def values_out(self) -> int:
        """Elements of y and d."""
        return self.batch * self.out_height * self.out_width * self.channels

    @property
    def scalars(self) -> tuple[np.int32, ...]:
        """The arguments that pool.cl calls SHAPE."""
        images = (self.batch, self.height, self.width, self.channels)
        windows = (self.size, self.stride, self.out_height, self.out_width)
        return tuple(np.int32(value) for value in (*images, *windows))


def max_pool_forward(
    operations: Operations, shape: PoolShape, x: DeviceArray, y: DeviceArray
) -> list[Launch]:
    """Into y the largest value of each window; a NaN is larger than all."""
    return _forward(operations, "max_pool", shape, (x, y, *shape.scalars))


def max_pool_backward(
    operations: Operations,
    shape: PoolShape,
    x: DeviceArray,
    y: DeviceArray,
    d: DeviceArray,
    dx: DeviceArray,
) -> list[Launch]:
    """Into dx from d: each window's gradient goes to its first largest value."""
    return _backward(operations, "max_backward", shape, (x, y, d, dx, *shape.scalars))


def average_pool_forward(
    operations: Operations, shape: PoolShape, x: DeviceArray, y: DeviceArray
) -> list[Launch]:
    """Into y the mean of each window."""
    return _forward(operations, "mean_pool", shape, (x, y, *shape.scalars, shape.window_share))


def average_pool_backward(
    operations: Operations, shape: PoolShape, d: DeviceArray, dx: DeviceArray
) -> list[Launch]:
    """Into dx from d: each window's gradient in equal shares to its pixels."""
    arguments: tuple[Argument, ...] = (d, dx, *shape.scalars, shape.window_share)
    return _backward(operations, "mean_backward", shape, arguments)


def global_pool_forward(
    operations: Operations, shape: PoolShape, x: DeviceArray, y: DeviceArray
) -> list[Launch]:
    """Into y (batch, channels) the mean of each image; size and stride count nothing."""
    count = shape.batch * shape.channels
    return [_by_image(operations, "global_pool", shape, count, (x, y))]


def global_pool_backward(
    operations: Operations, shape: PoolShape, d: DeviceArray, dx: DeviceArray
) -> list[Launch]:
    """Into dx from d (batch, channels): each image's gradient in equal shares to its pixels."""
    return [_by_image(operations, "global_backward", shape, shape.values_in, (d, dx))]


def _by_image(
    operations: Operations,
    kernel: str,
    shape: PoolShape,
    values: int,
    arrays: tuple[DeviceArray, DeviceArray],
) -> Launch:
    counts = (shape.batch, shape.height * shape.width, shape.channels)
    scalars = tuple(np.int32(count) for count in counts)
    arguments: tuple[Argument, ...] = (*arrays, *scalars, shape.image_share)
    if operations.tile is None:
        return _by_element(operations, f"{kernel}_simple", values, arguments)
    return operations.library.launch(f"pool.{kernel}_rows", (shape.batch,), (1,), arguments)


def _forward(
    operations: Operations, kernel: str, shape: PoolShape, arguments: tuple[Argument, ...]
) -> list[Launch]:
    if operations.tile is None:
        return [_by_element(operations, f"{kernel}_simple", shape.values_out, arguments)]
    return [_by_row(operations, f"{kernel}_rows", shape, arguments)]


def _backward(
    operations: Operations, kernel: str, shape: PoolShape, arguments: tuple[Argument, ...]
) -> list[Launch]:
    if operations.tile is None:
        return [_by_element(operations, f"{kernel}_simple", shape.values_in, arguments)]
    if shape.has_tiled_windows:
        return [_by_row(operations, f"{kernel}_rows", shape, arguments)]
    band = rows_of_band(shape, operations.device.info.compute_units)
    size = (-(-shape.out_height // band), shape.batch)
    arguments = (*arguments, np.int32(band))
    return [operations.library.launch(f"pool.{kernel}_bands", size, (1, 1), arguments)]


def rows_of_band(shape: PoolShape, cores: int) -> int:
    """Rows of windows in a task of the backward pass: as many as leave some tasks for each core."""
    bands = min(shape.out_height, -(-TASKS_PER_CORE * cores // shape.batch))
    return -(-shape.out_height // bands)


def _by_element(
    operations: Operations, kernel: str, count: int, arguments: tuple[Argument, ...]
) -> Launch:
    size = (ceil_to(count, LOCAL_SIZE),)
    return operations.library.launch(f"pool.{kernel}", size, (LOCAL_SIZE,), arguments)


def _by_row(
    operations: Operations, kernel: str, shape: PoolShape, arguments: tuple[Argument, ...]
) -> Launch:
    size = (shape.out_height, shape.batch)
    return operations.library.launch(f"pool.{kernel}", size, (1, 1), arguments)
