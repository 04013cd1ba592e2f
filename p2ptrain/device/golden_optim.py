"""Golden cases of kernels/optim.cl: the inner optimisers and clipping by the global norm."""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device import reference_optim
from p2ptrain.device.golden_inputs import Array, Case, Floats, finished, uniform
from p2ptrain.device.operations import Moments, Operations
from p2ptrain.device.optimize import (
    BLOCK,
    Stepped,
    adamw_step,
    clip_by_norm,
    mask_entries,
    sgd_step,
)

FLAT = 3 * BLOCK
FACTOR = np.float32(0.75)
SGD = tuple(np.float32(value) for value in (0.1, 0.9, 0.01))
ADAMW = tuple(np.float32(value) for value in (0.05, 0.001, 0.9, 0.1, 0.999, 0.001, 1e-8, 22.366))


def cases() -> list[Case]:
    """Each of these kernels once."""
    return [
        Case("optim", "sgd_step", run_sgd, twin_sgd, ("optim.sgd",)),
        Case("optim", "nesterov_step", run_nesterov, twin_nesterov, ("optim.nesterov",)),
        Case("optim", "adamw_step", run_adamw, twin_adamw, ("optim.adamw",)),
        Case("optim", "clip_factor", run_clip, twin_clip, ("optim.square_sums",)),
    ]


def decays() -> NDArray[np.uint8]:
    """A mask with zeros at odd places."""
    mask = np.ones(FLAT, np.uint8)
    mask[3::7] = 0
    return mask


def gradient() -> Floats:
    """Values, among them some that are flushed."""
    values = uniform(2, FLAT)
    values[::5] *= np.float32(2.0**-58)
    values[:3] = (0, 1e-40, -1e-20)
    return values


def stepped(operations: Operations) -> Stepped:
    """Parameters, gradient, mask and factor on the device."""
    device = operations.device
    values = (uniform(1, FLAT), gradient(), mask_entries(decays()), np.full(1, FACTOR))
    return Stepped(*(device.upload(value) for value in values))


def run_sgd(operations: Operations, nesterov: bool = False) -> Array:
    """Parameters and momentum after a step."""
    vectors, m = stepped(operations), operations.device.upload(uniform(3, FLAT))
    launches = sgd_step(operations, vectors, m, SGD, nesterov)
    return np.stack([finished(launches, vectors.parameters), m.read()])


def run_nesterov(operations: Operations) -> Array:
    """As run_sgd, of Nesterov's step."""
    return run_sgd(operations, nesterov=True)


def twin_sgd(nesterov: bool = False) -> Array:
    """As run_sgd."""
    w, g, m = uniform(1, FLAT), gradient() * FACTOR, uniform(3, FLAT)
    return np.stack(reference_optim.sgd_step(w, g, m, decays(), SGD, nesterov))


def twin_nesterov() -> Array:
    """As run_nesterov."""
    return twin_sgd(nesterov=True)


def run_adamw(operations: Operations) -> Array:
    """Parameters and moments after a step."""
    device = operations.device
    vectors = stepped(operations)
    m, v = device.upload(uniform(3, FLAT)), device.upload(np.square(uniform(4, FLAT)))
    launches = adamw_step(operations, vectors, Moments(m, v), ADAMW)
    return np.stack([finished(launches, vectors.parameters), m.read(), v.read()])


def twin_adamw() -> Array:
    """As run_adamw."""
    state = uniform(1, FLAT), uniform(3, FLAT), np.square(uniform(4, FLAT))
    return np.stack(reference_optim.adamw_step(state, gradient() * FACTOR, decays(), ADAMW))


def run_clip(operations: Operations) -> Array:
    """The factor of a gradient that is clipped."""
    device = operations.device
    factor = device.zeros((1,))
    return finished(
        clip_by_norm(operations, device.upload(gradient()), factor, np.float32(5)), factor
    )


def twin_clip() -> Array:
    """As run_clip."""
    return np.full(1, reference_optim.clip_factor(gradient(), np.float32(5)))
