"""Golden cases of what ends a network of any kind, and of what its branches meet in."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device import reference, reference_loss, reference_residual
from p2ptrain.device.golden_inputs import Array, Case, Floats, finished, joined, uniform
from p2ptrain.device.loss import cross_entropy
from p2ptrain.device.operations import Operations, Score
from p2ptrain.device.residual import add_forward

ADDED = 1000
SCORED, CLASSES, SMOOTHING = 37, 65, 0.1


def cases() -> list[Case]:
    """Each of these kernels once."""
    return [
        Case("residual", "residual", run_residual, twin_residual),
        *(
            Case("softmax_xent", name, run_loss(smoothing), twin_loss(smoothing))
            for name, smoothing in (("softmax_xent", 0.0), ("softmax_xent_smoothed", SMOOTHING))
        ),
    ]


# --- residual.cl -------------------------------------------------------------------------------


def run_residual(operations: Operations) -> Array:
    """The sum, the gradient before its ReLU and a sum of gradients."""
    device = operations.device
    a, b, d = (device.upload(uniform(stream, ADDED)) for stream in (1, 2, 3))
    y, total = device.empty((ADDED,)), device.empty((ADDED,))
    summed = finished(add_forward(operations, a, b, y, True), y)
    gradient = finished([operations.activation_backward("relu", y, d)], d)
    return joined(summed, gradient, finished(add_forward(operations, a, b, total, False), total))


def twin_residual() -> Array:
    """As run_residual."""
    a, b, d = (uniform(stream, ADDED) for stream in (1, 2, 3))
    y = reference_residual.add(a, b, relu=True)
    gradient = reference.relu_backward(y, d)
    return joined(y, gradient, reference_residual.add(a, b))


# --- softmax_xent.cl ---------------------------------------------------------------------------


def scored() -> tuple[Floats, NDArray[np.int32]]:
    """Logits and labels, one of them missing."""
    labels = (np.arange(SCORED) * 7 % CLASSES).astype(np.int32)
    labels[3] = -1
    return uniform(1, SCORED, CLASSES) * np.float32(16), labels


def run_loss(smoothing: float) -> Callable[[Operations], Array]:
    """Gradient, loss and hits."""

    def run(operations: Operations) -> Array:
        device = operations.device
        z, labels = (device.upload(values) for values in scored())
        score = Score(device.empty((SCORED,)), device.empty((SCORED,), np.int32))
        d = device.empty(z.shape)
        launches = cross_entropy(operations, z, labels, d, score, 1 / SCORED, smoothing)
        return joined(finished(launches, d), score.loss.read(), score.correct.read())

    return run


def twin_loss(smoothing: float) -> Callable[[], Array]:
    """As run_loss."""
    scale = np.float32(1 / SCORED)
    return lambda: joined(*reference_loss.softmax_xent(*scored(), scale, smoothing))
