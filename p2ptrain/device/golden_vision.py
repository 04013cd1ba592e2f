"""Golden cases of the kernels of image classifiers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device import (
    reference_groupnorm,
    reference_images,
    reference_pool,
)
from p2ptrain.device.golden_inputs import Array, Case, Floats, finished, joined, uniform
from p2ptrain.device.groupnorm import (
    GroupNorm,
    GroupNormBackward,
    group_norm_backward,
    group_norm_forward,
)
from p2ptrain.device.images import ImageBatch, ImageDraw, gather_images
from p2ptrain.device.operations import Operations, Samples
from p2ptrain.device.pooling import (
    PoolShape,
    average_pool_backward,
    average_pool_forward,
    global_pool_backward,
    global_pool_forward,
    max_pool_backward,
    max_pool_forward,
)

TILED = PoolShape(2, 7, 9, 19, 2, 2)
OVERLAPPING = PoolShape(1, 8, 7, 5, 3, 2)
NORM = GroupNorm(3, 70, 21, 3, 1, 24, relu=True)
DRAW = ImageDraw(8, 6, 3, 4, 6, crop_padding=2, flip=True)
NOISE = 0x0123456789ABCDEF
STEP = 3


def cases() -> list[Case]:
    """Each of these kernels once; pooling with and without overlap."""
    return [
        Case("pool", "max_pool", run_max_pool, twin_max_pool, ("pool.max",)),
        Case("pool", "average_pool", run_average_pool, twin_average_pool, ("pool.mean",)),
        Case("pool", "global_pool", run_global_pool, twin_global_pool, ("pool.global",)),
        *(
            Case("groupnorm", name, run_group_norm(norm), twin_group_norm(norm), used_by)
            for name, norm, used_by in (
                ("group_norm", NORM, ()),
                # At the end of a residual block's branch the ReLU comes behind the addition.
                ("group_norm_alone", replace(NORM, relu=False), ("residual.",)),
            )
        ),
        Case("images", "gather_images", run_images, twin_images),
    ]


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


def run_group_norm(norm: GroupNorm) -> Callable[[Operations], Array]:
    """Forward, statistics and all gradients."""

    def run(operations: Operations) -> Array:
        device = operations.device
        x, d, flat = map(device.upload, (normed(1), normed(2), norm_parameters()))
        y, dx, gradient = device.empty(x.shape), device.empty(x.shape), device.zeros(flat.shape)
        stats = device.empty((norm.batch, norm.groups, 2))
        forward = finished(group_norm_forward(operations, norm, x, flat, y, stats), y)
        arrays = GroupNormBackward(x, y, stats, d, dx)
        backward = finished(group_norm_backward(operations, norm, arrays, flat, gradient), dx)
        return joined(forward, stats.read(), backward, gradient.read())

    return run


def twin_group_norm(norm: GroupNorm) -> Callable[[], Array]:
    """As run_group_norm."""

    def twin() -> Array:
        x, d, scale, relu = normed(1), normed(2), norm_scale(), norm.relu
        shift = norm_parameters()[norm.shift_offset :]
        y, stats = reference_groupnorm.group_norm(x, scale, shift, norm.groups, relu)
        dx, scale_slope, shift_slope = reference_groupnorm.group_norm_backward(
            (x, y, stats), d, scale, relu
        )
        gradient = np.zeros_like(norm_parameters())
        gradient[norm.scale_offset :][: norm.channels] = scale_slope
        gradient[norm.shift_offset :] = shift_slope
        return joined(y, stats, dx, gradient)

    return twin


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
