"""Launchers of kernels/layernorm.cl: layer normalisation, forward and backward."""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations

ROWS = 16  # of one task of the blocked version
COLUMNS = 16


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Shape of one layer normalisation and where its parameters are.

    rows          values that are normalised apart, batch * context
    channels      values of each row
    scale_offset  index of the first of channels scales in the flat vector of parameters
    shift_offset  the same of the shifts
    """

    rows: int
    channels: int
    scale_offset: int
    shift_offset: int

    @property
    def size(self) -> tuple[np.int32, np.int32]:
        """Rows and channels as kernel arguments."""
        return np.int32(self.rows), np.int32(self.channels)

    @property
    def offsets(self) -> tuple[np.int32, np.int32]:
        """Both offsets as kernel arguments."""
        return np.int32(self.scale_offset), np.int32(self.shift_offset)

    @property
    def inverse(self) -> np.float32:
        """1 / channels, correctly rounded: what a sum is multiplied by for the mean."""
        return np.float32(1) / np.float32(self.channels)


def layer_norm_forward(
    operations: Operations,
    norm: LayerNorm,
    x: DeviceArray,
    parameters: DeviceArray,
    y: DeviceArray,
    stats: DeviceArray,
) -> list[Launch]:
    """Normalise each row: y = scale * (x - mean) / sqrt(variance + 1e-5) + shift.

    Args:
      x      (rows, channels)
      y      (rows, channels), written
      stats  (rows, 2), written: mean and 1 / deviation, what the backward pass needs
    """
    arguments = (x, parameters, y, stats, *norm.size, *norm.offsets, norm.inverse)
    return [_by_row(operations, norm, "layer_norm_forward", arguments)]


def layer_norm_backward(
    operations: Operations,
    norm: LayerNorm,
    forward: tuple[DeviceArray, DeviceArray, DeviceArray],
    d: DeviceArray,
    gradients: tuple[DeviceArray, DeviceArray],
    add: DeviceArray | None = None,
) -> list[Launch]:
    """Gradient by the input, and by scale and shift.

    Args:
      forward    x, parameters and stats as layer_norm_forward had and left them
      d          (rows, channels) gradient by y
      gradients  dx (rows, channels), which may be d or add, and the flat gradient; both written
      add        (rows, channels) what dx is added to, the gradient of a residual branch
    """
    x, parameters, stats = forward
    dx, gradient = gradients
    columns_arguments = (x, stats, d, gradient, *norm.size, *norm.offsets)
    given = d if add is None else add
    scale_offset, has_add = np.int32(norm.scale_offset), np.int32(add is not None)
    vectors = (x, parameters, stats, d, given, dx)
    row_arguments = (*vectors, *norm.size, scale_offset, norm.inverse, has_add)
    return [
        _by_column(operations, norm, columns_arguments),  # first, since dx may be d
        _by_row(operations, norm, "layer_norm_backward", row_arguments),
    ]


def _by_row(
    operations: Operations, norm: LayerNorm, kernel: str, arguments: tuple[Argument, ...]
) -> Launch:
    launch = operations.library.launch
    if operations.tile is not None and operations.tile.width > 1:
        defines = (f"VW={operations.tile.width}",)
        tasks = -(-norm.rows // ROWS)
        return launch(f"layernorm.{kernel}_blocked", (tasks,), (1,), arguments, defines)
    return launch(f"layernorm.{kernel}", (norm.rows * LOCAL_SIZE,), (LOCAL_SIZE,), arguments)


def _by_column(operations: Operations, norm: LayerNorm, arguments: tuple[Argument, ...]) -> Launch:
    launch = operations.library.launch
    if operations.tile is not None and operations.tile.width > 1:
        defines = (f"VW={operations.tile.width}",)
        tasks = -(-norm.channels // COLUMNS)
        return launch("layernorm.layer_norm_columns_blocked", (tasks,), (1,), arguments, defines)
    size = (ceil_to(norm.channels, LOCAL_SIZE),)
    return launch("layernorm.layer_norm_columns", size, (LOCAL_SIZE,), arguments)
