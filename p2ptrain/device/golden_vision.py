"""Golden cases of the kernels of image classifiers, and of the loss."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device import (
    reference,
    reference_groupnorm,
    reference_images,
    reference_loss,
    reference_pool,
    reference_residual,
)
from p2ptrain.device.golden_inputs import Array, Case, Floats, finished, uniform
from p2ptrain.device.groupnorm import (
    GroupNorm,
    GroupNormBackward,
    group_norm_backward,
    group_norm_forward,
)
from p2ptrain.device.images import ImageBatch, ImageDraw, gather_images
from p2ptrain.device.loss import cross_entropy
from p2ptrain.device.operations import Operations, Samples, Score
from p2ptrain.device.pooling import (
    PoolShape,
    average_pool_backward,
    average_pool_forward,
    global_pool_backward,
    global_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from p2ptrain.device.residual import add_forward

TILED = PoolShape(2, 7, 9, 19, 2, 2)
OVERLAPPING = PoolShape(1, 8, 7, 5, 3, 2)
NORM = GroupNorm(3, 70, 21, 3, 1, 24, relu=True)
DRAW = ImageDraw(8, 6, 3, 4, 6, crop_padding=2, flip=True)
NOISE = 0x0123456789ABCDEF
STEP = 3
ADDED = 1000
SCORED, CLASSES, SMOOTHING = 37, 65, 0.1


def cases() -> list[Case]:
    """Each of these kernels once; pooling with and without overlap."""
    return [
        Case("pool", "max_pool", run_max_pool, twin_max_pool),
        Case("pool", "average_pool", run_average_pool, twin_average_pool),
        Case("pool", "global_pool", run_global_pool, twin_global_pool),
        Case("groupnorm", "group_norm", run_group_norm, twin_group_norm),
        Case("images", "gather_images", run_images, twin_images),
        Case("residual", "residual", run_residual, twin_residual),
        *(
            Case("softmax_xent", name, run_loss(smoothing), twin_loss(smoothing))
            for name, smoothing in (("softmax_xent", 0.0), ("softmax_xent_smoothed", SMOOTHING))
        ),
    ]


def joined(*arrays: Array) -> Array:
    """Several results as one."""
    return np.concatenate([array.astype(np.float32).ravel() for array in arrays])


# --- pool.cl -----------------------------------------------------------------------------------


def images(shape: PoolShape) -> Floats:
    """Whole eighths, so that windows hold equal maxima."""
    values = uniform(1, shape.batch, shape.height, shape.width, shape.channels)
    return np.asarray(np.round(values * np.float32(8)) / np.float32(8), np.float32)


def pooled_gradients(shape: PoolShape) -> Floats:
    """The gradient behind the pooling."""
    return uniform(2, shape.batch, shape.out_height, shape.out_width, shape.channels)


def run_max_pool(operations: Operations) -> Array:
    """Forward and backward."""
    device = operations.device
    results = []
    for shape in (TILED, OVERLAPPING):
        x, d = device.upload(images(shape)), device.upload(pooled_gradients(shape))
        y, dx = device.empty(d.shape), device.empty(x.shape)
        results.append(finished(max_pool_forward(operations, shape, x, y), y))
        results.append(finished(max_pool_backward(operations, shape, x, y, d, dx), dx))
    return joined(*results)


def twin_max_pool() -> Array:
    """As run_max_pool."""
    results = []
    for shape in (TILED, OVERLAPPING):
        x, d = images(shape), pooled_gradients(shape)
        results.append(reference_pool.max_pool(x, shape.size, shape.stride))
        results.append(reference_pool.max_pool_backward(x, d, shape.size, shape.stride))
    return joined(*results)


def run_average_pool(operations: Operations) -> Array:
    """Forward and backward."""
    device = operations.device
    results = []
    for shape in (TILED, OVERLAPPING):
        x, d = device.upload(images(shape)), device.upload(pooled_gradients(shape))
        y, dx = device.empty(d.shape), device.empty(x.shape)
        results.append(finished(average_pool_forward(operations, shape, x, y), y))
        results.append(finished(average_pool_backward(operations, shape, d, dx), dx))
    return joined(*results)


def twin_average_pool() -> Array:
    """As run_average_pool."""
    results = []
    for shape in (TILED, OVERLAPPING):
        x, d = images(shape), pooled_gradients(shape)
        results.append(reference_pool.average_pool(x, shape.size, shape.stride))
        results.append(reference_pool.average_pool_backward(d, x, shape.size, shape.stride))
    return joined(*results)


def run_global_pool(operations: Operations) -> Array:
    """Forward, and backward of what came out."""
    device = operations.device
    x = device.upload(images(TILED))
    y, dx = device.empty((TILED.batch, TILED.channels)), device.empty(x.shape)
    mean = finished(global_pool_forward(operations, TILED, x, y), y)
    return joined(mean, finished(global_pool_backward(operations, TILED, y, dx), dx))


def twin_global_pool() -> Array:
    """As run_global_pool."""
    mean = reference_pool.global_pool(images(TILED))
    return joined(mean, reference_pool.global_pool_backward(mean, images(TILED)))


# --- groupnorm.cl ------------------------------------------------------------------------------


def normed(stream: int) -> Floats:
    """Images, or gradients behind the normalisation."""
    return uniform(stream, NORM.batch, NORM.pixels, NORM.channels)


def norm_parameters() -> Floats:
    """The flat vector that scale and shift are in."""
    return uniform(3, NORM.shift_offset + NORM.channels)


def norm_scale() -> Floats:
    """The scale in it."""
    return norm_parameters()[NORM.scale_offset :][: NORM.channels]


def run_group_norm(operations: Operations) -> Array:
    """Forward, statistics and all gradients."""
    device = operations.device
    x, d, flat = (device.upload(values) for values in (normed(1), normed(2), norm_parameters()))
    y, dx, gradient = device.empty(x.shape), device.empty(x.shape), device.zeros(flat.shape)
    stats = device.empty((NORM.batch, NORM.groups, 2))
    forward = finished(group_norm_forward(operations, NORM, x, flat, y, stats), y)
    arrays = GroupNormBackward(x, y, stats, d, dx)
    backward = finished(group_norm_backward(operations, NORM, arrays, flat, gradient), dx)
    return joined(forward, stats.read(), backward, gradient.read())


def twin_group_norm() -> Array:
    """As run_group_norm."""
    shift = norm_parameters()[NORM.shift_offset :]
    y, stats = reference_groupnorm.group_norm(normed(1), norm_scale(), shift, NORM.groups, True)
    dx, scale_slope, shift_slope = reference_groupnorm.group_norm_backward(
        (normed(1), y, stats), normed(2), norm_scale(), True
    )
    gradient = np.zeros_like(norm_parameters())
    gradient[NORM.scale_offset :][: NORM.channels] = scale_slope
    gradient[NORM.shift_offset :] = shift_slope
    return joined(y, stats, dx, gradient)


# --- images.cl ---------------------------------------------------------------------------------


def samples() -> tuple[Floats, NDArray[np.int32], NDArray[np.int32]]:
    """Images, their labels and the indices of a batch."""
    x = uniform(1, 5, DRAW.height * DRAW.width * DRAW.channels)
    return x, np.arange(5, dtype=np.int32), np.array([4, 0, -1, 2, 2, 1, 3], np.int32)


def run_images(operations: Operations) -> Array:
    """A batch with crops and flips, and its labels."""
    device = operations.device
    x, y, index = (device.upload(values) for values in samples())
    shape = (index.size, DRAW.out_height, DRAW.out_width, DRAW.channels)
    batch = ImageBatch(device.empty(shape), device.empty((index.size,), np.int32))
    launches = gather_images(operations, Samples(x, y), index, batch, DRAW)
    for launch in launches:
        launch.set_scalar(launch.varying["step"], np.uint32(STEP))
        launch.set_scalar(launch.varying["noise_low"], np.uint32(NOISE & 0xFFFFFFFF))
        launch.set_scalar(launch.varying["noise_high"], np.uint32(NOISE >> 32))
    return joined(finished(launches, batch.x), batch.y.read())


def twin_images() -> Array:
    """As run_images."""
    x, y, index = samples()
    return joined(*reference_images.gather_images((x, y), index, DRAW, STEP, NOISE))


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
