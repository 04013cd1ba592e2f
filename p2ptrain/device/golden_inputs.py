"""Golden cases: what they are made of, and fixed inputs for them.

Inputs come from the twin of Philox, integers alone, since a generator of numpy may change between
versions. Sizes are odd on purpose: tiles and work-groups hang over every edge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device import reference
from p2ptrain.device.kernels import Launch
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations

Array = NDArray[Any]
Floats = NDArray[np.float32]

SEED = 20
ALL = ("",)  # of Case.used_by: every run
USERS_OF_GELU = ("elementwise.gelu",)
USERS_OF_ROOTS = ("optim.adamw", "optim.square_sums", "groupnorm.", "layernorm.")
PROBED = 4096  # values of each function of detmath
SPECIAL = np.array(
    [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-40,
        -1e-40,
        2.0**-126,
        3.4e38,
        1,
        -1,
        88.7,
        -87.3,
        0.625,
    ],
    np.float32,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel on its fixed input.

    file     of the kernel: kernels/<file>.cl
    name     of the kernel
    run      computes the result on a device
    twin     computes it in numpy
    used_by  beginnings of the "file.kernel" for whose sake it is tried; ("",): always
    """

    file: str
    name: str
    run: Callable[[Operations], Array]
    twin: Callable[[], Array]
    used_by: tuple[str, ...] = ()

    def concerns(self, kernels: frozenset[str]) -> bool:
        """Whether a device must pass it on which these kernels, each "file.kernel", are to run."""
        beginnings = self.used_by or (f"{self.file}.",)
        return any(kernel.startswith(beginnings) for kernel in kernels)


def uniform(stream: int, *shape: int) -> Floats:
    """Fixed values in [-2, 2)."""
    count = int(np.prod(shape))
    return reference.philox_uniform(count, SEED, stream, np.float32(2)).reshape(shape)


def any_bits(stream: int) -> Floats:
    """PROBED fixed values of every exponent: infinities, NaN and denormals among them."""
    counter = np.zeros((PROBED // 4, 4), np.uint32)
    counter[:, 0] = np.arange(PROBED // 4)
    counter[:, 1] = stream
    values = reference.philox(counter, (np.uint32(SEED), np.uint32(0))).ravel().view(np.float32)
    values[::2] = uniform(stream, PROBED)[::2] * np.float32(20)
    values[: SPECIAL.size] = SPECIAL
    return values


def finished(launches: list[Launch], out: DeviceArray) -> Array:
    """Run launches and read a result."""
    for launch in launches:
        launch.enqueue()
    return out.read()


def joined(*arrays: Array) -> Array:
    """Several results as one."""
    return np.concatenate([array.astype(np.float32).ravel() for array in arrays])
