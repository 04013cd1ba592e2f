"""kernels/pool.cl: bits of the twin over odd shapes, rules of ties and NaN, true gradients."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device import pooling, reference_pool
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary, Launch, run
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.pooling import PoolShape
from p2ptrain.errors import ConfigError

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))

MANY_CORES = open_device()
MANY_CORES.info = replace(MANY_CORES.info, compute_units=32)
IN_BANDS = Operations(KernelLibrary(MANY_CORES))  # of a row or two of windows each

both = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "built-in"])
all_ways = pytest.mark.parametrize(
    "operations", [OPERATIONS, PLAIN, IN_BANDS], ids=["contracted", "built-in", "in bands"]
)


@st.composite
def pool_shapes(draw: st.DrawFn) -> PoolShape:
    size = draw(st.integers(1, 9))
    stride = draw(st.sampled_from([size, size, 1, 2, size + 1]))
    height, width = draw(st.integers(size, 13)), draw(st.integers(size, 13))
    return PoolShape(draw(st.integers(1, 3)), height, width, draw(st.integers(1, 37)), size, stride)


def images(shape: PoolShape, stream: int = 1) -> Floats:
    """Images with ties, since their values are whole eighths, a few far below the threshold."""
    values = uniform(stream, shape.batch, shape.height, shape.width, shape.channels)
    values = np.round(values * 8).astype(np.float32) / np.float32(8)
    values.ravel()[::7] *= np.float32(2.0**-80)
    return values


def gradients(shape: PoolShape) -> Floats:
    return uniform(2, shape.batch, shape.out_height, shape.out_width, shape.channels)


def forward(
    launcher: Callable[..., list[Launch]], operations: Operations, *given: object
) -> Floats:
    """What a launcher writes last, after uploading the arrays among its arguments."""
    *arguments, out_shape = given
    assert isinstance(out_shape, tuple)
    device = operations.device
    out = device.upload(np.full(out_shape, np.nan, np.float32))
    uploaded = [device.upload(a) if isinstance(a, np.ndarray) else a for a in arguments]
    result: Floats = run(launcher(operations, *uploaded, out), out)
    return result


def assert_same_bits(ours: Floats, twin: Floats) -> None:
    np.testing.assert_array_equal(ours.view(np.uint32), twin.view(np.uint32))


@all_ways
@settings(max_examples=25, deadline=None)
@given(shape=pool_shapes())
def test_maximum_pooling_has_the_bits_of_its_twin(operations: Operations, shape: PoolShape) -> None:
    x, d = images(shape), gradients(shape)
    y = reference_pool.max_pool(x, shape.size, shape.stride)
    assert_same_bits(forward(pooling.max_pool_forward, operations, shape, x, y.shape), y)
    dx = reference_pool.max_pool_backward(x, d, shape.size, shape.stride)
    ours = forward(pooling.max_pool_backward, operations, shape, x, y, d, x.shape)
    assert_same_bits(ours, dx)


@all_ways
@settings(max_examples=25, deadline=None)
@given(shape=pool_shapes())
def test_average_pooling_has_the_bits_of_its_twin(operations: Operations, shape: PoolShape) -> None:
    x, d = images(shape), gradients(shape)
    y = reference_pool.average_pool(x, shape.size, shape.stride)
    assert_same_bits(forward(pooling.average_pool_forward, operations, shape, x, y.shape), y)
    dx = reference_pool.average_pool_backward(d, x, shape.size, shape.stride)
    ours = forward(pooling.average_pool_backward, operations, shape, d, x.shape)
    assert_same_bits(ours, dx)


@both
@settings(max_examples=25, deadline=None)
@given(shape=pool_shapes())
def test_global_pooling_has_the_bits_of_its_twin(operations: Operations, shape: PoolShape) -> None:
    x = images(shape)
    y = reference_pool.global_pool(x)
    assert_same_bits(forward(pooling.global_pool_forward, operations, shape, x, y.shape), y)
    dx = reference_pool.global_pool_backward(y, x)
    assert_same_bits(forward(pooling.global_pool_backward, operations, shape, y, x.shape), dx)


@both
def test_a_not_a_number_is_larger_than_all_and_takes_the_gradient(operations: Operations) -> None:
    shape = PoolShape(1, 2, 4, 1, 2, 2)
    x = np.array([5, np.inf, 1, 1, np.nan, np.nan, 0, 0], np.float32).reshape(1, 2, 4, 1)
    y = forward(pooling.max_pool_forward, operations, shape, x, (1, 1, 2, 1))
    np.testing.assert_array_equal(y.ravel(), [np.nan, 1])
    d = np.array([3, 4], np.float32).reshape(1, 1, 2, 1)
    dx = forward(pooling.max_pool_backward, operations, shape, x, y, d, x.shape)
    np.testing.assert_array_equal(dx.ravel(), [0, 0, 4, 0, 3, 0, 0, 0])


@both
def test_a_mean_over_a_not_a_number_is_none(operations: Operations) -> None:
    shape = PoolShape(1, 4, 4, 17, 2, 2)
    x = np.ones((1, 4, 4, 17), np.float32)
    x[0, 0, 0, 16] = np.nan
    y = forward(pooling.average_pool_forward, operations, shape, x, (1, 2, 2, 17))
    assert np.isnan(y[0, 0, 0, 16])
    assert np.isnan(y).sum() == 1


def mean_of_windows(shape: PoolShape, x: Doubles) -> Doubles:
    windows = reference_pool.windows_of(x, shape.size, shape.stride)  # type: ignore[arg-type]
    mean: Doubles = windows.mean(axis=0)
    return mean


def max_of_windows(shape: PoolShape, x: Doubles) -> Doubles:
    windows = reference_pool.windows_of(x, shape.size, shape.stride)  # type: ignore[arg-type]
    largest: Doubles = windows.max(axis=0).astype(np.float64)
    return largest


def slopes(function: Callable[[Doubles], Doubles], x: Floats, d: Floats) -> Doubles:
    """Central differences of sum(d * function(x)) in float64."""
    wide = x.astype(np.float64)
    result = np.zeros_like(wide)
    for i in range(x.size):
        step = np.zeros_like(wide)
        step.ravel()[i] = 1e-6
        result.ravel()[i] = ((function(wide + step) - function(wide - step)) * d).sum() / 2e-6
    return result


@all_ways
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1), (2, 3)])
def test_gradients_are_those_of_finite_differences(
    operations: Operations, size: int, stride: int
) -> None:
    shape = PoolShape(2, 7, 6, 3, size, stride)
    x, d = uniform(1, 2, 7, 6, 3), gradients(shape)
    y = reference_pool.max_pool(x, size, stride)
    largest = forward(pooling.max_pool_backward, operations, shape, x, y, d, x.shape)
    mean = forward(pooling.average_pool_backward, operations, shape, d, x.shape)
    for ours, function in ((largest, max_of_windows), (mean, mean_of_windows)):
        expected = slopes(lambda wide, f=function: f(shape, wide), x, d)  # type: ignore[misc]
        assert np.linalg.norm(ours - expected) < 1e-5 * np.linalg.norm(expected)


@both
def test_in_windows_that_overlap_one_not_a_number_takes_the_gradients_of_all_that_hold_it(
    operations: Operations,
) -> None:
    shape = PoolShape(1, 5, 5, 17, 3, 1)
    x = np.ones((1, 5, 5, 17), np.float32)
    x[0, 2, 2] = np.nan  # in the middle, so in all nine
    y = forward(pooling.max_pool_forward, operations, shape, x, (1, 3, 3, 17))
    d = np.full((1, 3, 3, 17), 2, np.float32)
    dx = forward(pooling.max_pool_backward, operations, shape, x, y, d, x.shape)
    assert (dx[0, 2, 2] == 18).all()
    assert (dx.sum(axis=(1, 2)) == 18).all()


@given(shape=pool_shapes(), cores=st.integers(1, 64))
def test_bands_are_as_long_as_leaves_tasks_for_every_core(shape: PoolShape, cores: int) -> None:
    band = pooling.rows_of_band(shape, cores)
    assert 1 <= band <= shape.out_height
    tasks = shape.batch * -(-shape.out_height // band)
    assert tasks >= min(cores, shape.batch * shape.out_height)


@pytest.mark.parametrize(("height", "width", "size", "stride"), [(3, 9, 4, 4), (9, 3, 4, 1)])
def test_a_window_larger_than_the_image_is_refused(
    height: int, width: int, size: int, stride: int
) -> None:
    with pytest.raises(ConfigError, match="no pooling window of 4 x 4 fits"):
        PoolShape(1, height, width, 1, size, stride)


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (2, 0)])
def test_windows_and_strides_of_nothing_are_refused(size: int, stride: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        PoolShape(1, 4, 4, 1, size, stride)
