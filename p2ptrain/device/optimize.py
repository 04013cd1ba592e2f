"""Launchers of the inner optimisers and of clipping: kernels/optim.cl.

Every vector is flat and as long as the parameters, a multiple of BLOCK. The gradient is multiplied
with a factor that lies on the device: clip_by_norm writes it there, so that no step waits for the
host, and without clipping it is 1 for ever. Rates and the corrections of AdamW change from step to
step; their places among the kernel's arguments are named here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import TASKS_PER_CORE, Moments, Operations

BLOCK = 4096  # of optim.cl: values whose squares have one sum
SGD_RATE = 5  # arguments of sgd_step and nesterov_step
ADAMW_RATE, ADAMW_SHRINK, ADAMW_SPREAD = 6, 7, 13  # arguments of adamw_step and adamw_parts


@dataclass(frozen=True, slots=True)
class Stepped:
    """What an optimiser's step reads and writes.

    parameters  (n,) float32, n a multiple of BLOCK
    gradient    (n,) float32
    decays      (n,) int8, -1 where weight decay applies: mask_entries
    factor      (1,) float32 that the gradient is multiplied with
    """

    parameters: DeviceArray
    gradient: DeviceArray
    decays: DeviceArray
    factor: DeviceArray


def mask_entries(decay_mask: NDArray[np.uint8]) -> NDArray[np.int8]:
    """A mask of 0 and 1 as the kernels read it: all bits of an entry are equal."""
    assert decay_mask.max(initial=0) <= 1, "a mask is 0 or 1"
    return -decay_mask.astype(np.int8)


def sgd_step(
    operations: Operations,
    vectors: Stepped,
    momentum: DeviceArray,
    scalars: tuple[np.float32, ...],
    nesterov: bool = False,
) -> list[Launch]:
    """One step of SGD with momentum (n,); scalars rate, momentum, decay as in optim.cl."""
    places = (vectors.parameters, vectors.gradient, momentum, vectors.decays, vectors.factor)
    kernel = "optim.nesterov_step" if nesterov else "optim.sgd_step"
    return [_launch(operations, kernel, vectors.parameters.size, (*places, *scalars))]


def adamw_step(
    operations: Operations, vectors: Stepped, moments: Moments, scalars: tuple[np.float32, ...]
) -> list[Launch]:
    """One step of AdamW; scalars rate .. spread as in optim.cl."""
    places = (
        vectors.parameters,
        vectors.gradient,
        moments.first,
        moments.second,
        vectors.decays,
        vectors.factor,
    )
    kernel = "optim.adamw_parts" if operations.tile is not None else "optim.adamw_step"
    return [_launch(operations, kernel, vectors.parameters.size, (*places, *scalars))]


def clip_by_norm(
    operations: Operations, gradient: DeviceArray, factor: DeviceArray, most: np.float32
) -> list[Launch]:
    """Write the factor that makes the gradient's norm at most `most`.

    Args:
      gradient  (n,) float32, n a multiple of BLOCK
      factor    (1,) float32
    """
    blocks = gradient.size // BLOCK
    assert blocks * BLOCK == gradient.size, "a flat vector is padded to whole blocks"
    workers = 1 if operations.tile is not None else LOCAL_SIZE
    sums = operations.device.empty((blocks,))
    library = operations.library
    squares = library.launch(
        "optim.square_sums",
        (blocks * workers,),
        (workers,),
        (gradient, sums),
        (f"WORKERS={workers}",),
    )
    arguments = (sums, factor, np.int32(blocks), most)
    return [squares, library.launch("optim.clip_factor", (1,), (1,), arguments)]


def _launch(
    operations: Operations, kernel: str, size: int, arguments: tuple[Argument, ...]
) -> Launch:
    assert size % BLOCK == 0, "a flat vector is padded to whole blocks"
    if operations.tile is None:
        each, items, local = 1, ceil_to(size, LOCAL_SIZE), LOCAL_SIZE
    else:
        tasks = TASKS_PER_CORE * operations.device.info.compute_units
        each = BLOCK * max(1, -(-size // (BLOCK * tasks)))
        items, local = -(-size // each), 1
    last = (np.int32(size), np.int32(each))
    return operations.library.launch(kernel, (items,), (local,), (*arguments, *last))
