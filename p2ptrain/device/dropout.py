"""Launcher of kernels/dropout.cl: inverted dropout, forward and backward alike."""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations
from p2ptrain.errors import ConfigError

VALUES = 256  # of one task of the blocked version
VARYING_ARGUMENTS = {"step": 6, "noise_low": 7, "noise_high": 8}


@dataclass(frozen=True, slots=True)
class Dropout:
    """One place in a model where values are dropped.

    size    values
    rate    share that is dropped, 0 <= rate < 1
    stream  number of the place, so that no two draw the same mask; 0 .. 2^32 - 1

    Raises:
      ConfigError  the rate is out of range
    """

    size: int
    rate: float
    stream: int

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError(f"a dropout rate of {self.rate} drops no share; take 0 <= rate < 1")

    @property
    def threshold(self) -> np.uint32:
        """The rate as a part of 2^32: random words under it drop their value."""
        return np.uint32(min(round(self.rate * 2.0**32), 2**32 - 1))

    @property
    def keep_scale(self) -> np.float32:
        """Factor of the values that stay."""
        return np.float32(1 / (1 - self.rate))


def dropout(operations: Operations, drop: Dropout, x: DeviceArray, y: DeviceArray) -> list[Launch]:
    """Drop values of x and scale the others into y; in the backward pass x is the gradient.

    Varying step, noise_low and noise_high, from which the mask is drawn: the same mask forward
    and backward.

    Args:
      x  drop.size values
      y  drop.size values, written; may be x
    """
    numbers = (np.int32(drop.size), drop.threshold, drop.keep_scale, np.uint32(drop.stream))
    drawn = (np.uint32(0), np.uint32(0), np.uint32(0))
    arguments = (x, y, *numbers, *drawn)
    launch, varying = operations.library.launch, VARYING_ARGUMENTS
    if operations.tile is not None:
        tasks = (-(-drop.size // VALUES),)
        return [launch("dropout.dropout_blocked", tasks, (1,), arguments, varying=varying)]
    size = (ceil_to(-(-drop.size // 4), LOCAL_SIZE),)
    return [launch("dropout.dropout", size, (LOCAL_SIZE,), arguments, varying=varying)]
