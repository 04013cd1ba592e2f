"""Launchers of kernels/groupnorm.cl: group normalisation, with scale, shift and ReLU.

Images are (batch, pixels, channels) float32. On a CPU whose contraction probe passed, a task
takes an image, or some groups of it where there are few images, and makes all passes while the
image is in its cache; elsewhere a work-item takes a group, a channel or a value. The bits are the
same.
"""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray, LocalMemory
from p2ptrain.device.operations import Operations
from p2ptrain.errors import ConfigError

# Values of a vector: 64 bytes, a line of the cache. Where registers are shorter, the compiler takes
# several. So each pass over an image of 16 channels reads every line once.
WIDTH = 16
WORK_ROWS = 4  # arrays of a value a channel that a task holds in local memory
TASKS_PER_CORE = 4  # images are split into groups where there would be fewer tasks


@dataclass(frozen=True, slots=True)
class GroupNorm:
    """A normalisation's shape and where its parameters are.

    batch, pixels, channels     of the images
    groups                      of channels / groups neighbouring channels each
    scale_offset, shift_offset  of (channels,) each in the flat parameters and the flat gradient
    relu                        whether a ReLU follows

    Raises:
      ConfigError  the channels do not divide into the groups
    """

    batch: int
    pixels: int
    channels: int
    groups: int
    scale_offset: int
    shift_offset: int
    relu: bool

    def __post_init__(self) -> None:
        if self.groups < 1 or self.channels % self.groups:
            raise ConfigError(
                f"{self.channels} channels do not divide into {self.groups} groups; "
                "choose a number of groups that divides the channels"
            )

    @property
    def values(self) -> int:
        """Elements of x and y."""
        return self.batch * self.pixels * self.channels

    @property
    def group_channels(self) -> int:
        """Channels of a group."""
        return self.channels // self.groups

    @property
    def scalars(self) -> tuple[np.int32, np.int32, np.int32, np.int32]:
        """The arguments that groupnorm.cl calls SHAPE."""
        images = (np.int32(self.batch), np.int32(self.pixels), np.int32(self.channels))
        return (*images, np.int32(self.groups))

    @property
    def share(self) -> np.float32:
        """The factor that makes the sum over a group its mean."""
        return np.float32(1 / (self.pixels * self.group_channels))

    @property
    def defines(self) -> tuple[str, ...]:
        """The tunable as groupnorm.cl spells it."""
        return (f"RELU={int(self.relu)}",)


@dataclass(frozen=True, slots=True)
class GroupNormBackward:
    """The arrays of a backward pass.

    x      (batch, pixels, channels) what was normalised
    y      the same shape, what came out; read only where a ReLU follows
    stats  (batch, groups, 2) of the forward pass
    d      the gradient behind
    dx     out: the gradient before; not d itself
    """

    x: DeviceArray
    y: DeviceArray
    stats: DeviceArray
    d: DeviceArray
    dx: DeviceArray


def group_norm_forward(
    operations: Operations,
    norm: GroupNorm,
    x: DeviceArray,
    parameters: DeviceArray,
    y: DeviceArray,
    stats: DeviceArray,
) -> list[Launch]:
    """Into y = scale * (x - mean) / std + shift, behind a ReLU if asked for.

    Args:
      stats  (batch, groups, 2) float32, out: mean and 1 / std, which the backward pass reads
    """
    offsets = (np.int32(norm.scale_offset), np.int32(norm.shift_offset))
    if not _takes_images(operations, norm):
        first = (x, stats, *norm.scalars, norm.share)
        second = (x, stats, parameters, y, *norm.scalars, *offsets)
        return [
            _by_index(operations, norm, "stats_simple", norm.batch * norm.groups, first),
            _by_index(operations, norm, "apply_simple", norm.values, second),
        ]
    arguments = (x, parameters, y, stats, *norm.scalars, norm.share, *offsets)
    return [_by_images(operations, norm, "forward_images", arguments)]


def group_norm_backward(
    operations: Operations,
    norm: GroupNorm,
    arrays: GroupNormBackward,
    parameters: DeviceArray,
    gradient: DeviceArray,
) -> list[Launch]:
    """Into arrays.dx the gradient by x; into gradient, at the offsets, those of scale and shift."""
    images = (arrays.x, arrays.y, arrays.stats, arrays.d)
    partial = operations.device.empty((norm.batch, 2, norm.channels))
    scale_offset = np.int32(norm.scale_offset)
    if _takes_images(operations, norm):
        arguments = (*images, partial, parameters, arrays.dx, *norm.scalars, norm.share)
        launches = [_by_images(operations, norm, "backward_images", (*arguments, scale_offset))]
    else:
        terms = operations.device.empty((norm.batch, norm.groups, 2))
        groups, channels = norm.batch * norm.groups, norm.batch * norm.channels
        first = (*images, partial, *norm.scalars)
        second = (arrays.stats, partial, parameters, terms, *norm.scalars, norm.share)
        third = (*images, terms, parameters, arrays.dx, *norm.scalars, scale_offset)
        launches = [
            _by_index(operations, norm, "partial_simple", channels, first),
            _by_index(operations, norm, "terms_simple", groups, (*second, scale_offset)),
            _by_index(operations, norm, "dx_simple", norm.values, third),
        ]
    sums = (partial, gradient, np.int32(norm.batch), np.int32(norm.channels))
    offsets = (np.int32(norm.scale_offset), np.int32(norm.shift_offset))
    name, count = "parameter_gradients", norm.channels
    return [*launches, _by_index(operations, norm, name, count, (*sums, *offsets))]


def _takes_images(operations: Operations, norm: GroupNorm) -> bool:
    """Whether a task takes an image: on CPUs, if a group's channels fit into local memory."""
    return operations.tile is not None and _groups_that_fit(operations, norm) > 0


def _groups_that_fit(operations: Operations, norm: GroupNorm) -> int:
    """Groups for which a task has local memory: a value a channel and a vector in each row."""
    row_values = operations.device.info.local_bytes // (WORK_ROWS * 4)
    return max(0, row_values - WIDTH) // norm.group_channels


def _by_images(
    operations: Operations, norm: GroupNorm, kernel: str, arguments: tuple[Argument, ...]
) -> Launch:
    tasks = TASKS_PER_CORE * operations.device.info.compute_units
    blocks = min(norm.groups, -(-tasks // norm.batch))
    # Not less than a vector of channels to a task: part of one is no faster.
    groups = max(-(-norm.groups // blocks), -(-WIDTH // norm.group_channels))
    groups = min(norm.groups, groups, _groups_that_fit(operations, norm))
    work_bytes = WORK_ROWS * 4 * (groups * norm.group_channels + WIDTH)
    arguments = (*arguments, np.int32(groups), LocalMemory(work_bytes))
    size = (-(-norm.groups // groups), norm.batch)
    defines = (*norm.defines, f"VW={WIDTH}")
    return operations.library.launch(f"groupnorm.{kernel}", size, (1, 1), arguments, defines)


def _by_index(
    operations: Operations,
    norm: GroupNorm,
    kernel: str,
    count: int,
    arguments: tuple[Argument, ...],
) -> Launch:
    size = (ceil_to(count, LOCAL_SIZE),)
    return operations.library.launch(
        f"groupnorm.{kernel}", size, (LOCAL_SIZE,), arguments, norm.defines
    )
