"""kernels/groupnorm.cl: bits of the twin over odd shapes, and true gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device import reference_groupnorm
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.groupnorm import (
    GroupNorm,
    GroupNormBackward,
    group_norm_backward,
    group_norm_forward,
)
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.errors import ConfigError

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
SCALE_OFFSET, SHIFT_BEHIND = 3, 5  # odd places in the flat vector

both = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "built-in"])


@st.composite
def norms(draw: st.DrawFn) -> GroupNorm:
    groups = draw(st.integers(1, 9))
    channels = groups * draw(st.sampled_from([1, 2, 3, 4, 7, 8, 66]))
    batch, pixels = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 5, 36, 63, 64, 65, 200]))
    shift = SCALE_OFFSET + channels + SHIFT_BEHIND
    return GroupNorm(batch, pixels, channels, groups, SCALE_OFFSET, shift, draw(st.booleans()))


def images(norm: GroupNorm, stream: int) -> Floats:
    return uniform(stream, norm.batch, norm.pixels, norm.channels)


def parameters(norm: GroupNorm) -> tuple[Floats, Floats, Floats]:
    """The flat vector, and scale and shift in it."""
    flat = uniform(7, norm.shift_offset + norm.channels)
    scale = flat[norm.scale_offset :][: norm.channels]
    return flat, scale, flat[norm.shift_offset :][: norm.channels]


def on_device(operations: Operations, norm: GroupNorm, x: Floats, d: Floats) -> list[Floats]:
    """What the twins return: y, stats, dx, slopes of scale and shift."""
    flat, _, _ = parameters(norm)
    weights, gradient = DEVICE.upload(flat), DEVICE.zeros(flat.shape)
    given, out, dx = DEVICE.upload(x), DEVICE.empty(x.shape), DEVICE.empty(x.shape)
    stats = DEVICE.empty((norm.batch, norm.groups, 2))
    arrays = GroupNormBackward(given, out, stats, DEVICE.upload(d), dx)
    for launch in (
        *group_norm_forward(operations, norm, given, weights, out, stats),
        *group_norm_backward(operations, norm, arrays, weights, gradient),
    ):
        launch.enqueue()
    slopes = gradient.read()
    scale_slope = slopes[norm.scale_offset :][: norm.channels].copy()
    shift_slope = slopes[norm.shift_offset :][: norm.channels].copy()
    slopes[norm.scale_offset :][: norm.channels] = 0
    slopes[norm.shift_offset :][: norm.channels] = 0
    assert not slopes.any(), "written outside of the two tensors"
    return [out.read(), stats.read(), dx.read(), scale_slope, shift_slope]


@both
@settings(max_examples=25, deadline=None)
@given(norm=norms())
def test_group_norm_has_the_bits_of_its_twin(operations: Operations, norm: GroupNorm) -> None:
    x, d = images(norm, 1), images(norm, 2)
    x.ravel()[::5] *= np.float32(2.0**-80)
    _, scale, shift = parameters(norm)
    y, stats = reference_groupnorm.group_norm(x, scale, shift, norm.groups, norm.relu)
    slopes = reference_groupnorm.group_norm_backward((x, y, stats), d, scale, norm.relu)
    for ours, twin in zip(on_device(operations, norm, x, d), (y, stats, *slopes), strict=True):
        np.testing.assert_array_equal(ours.view(np.uint32), twin.view(np.uint32))


def normalised(norm: GroupNorm, x: Doubles, scale: Doubles, shift: Doubles) -> Doubles:
    grouped = x.reshape(norm.batch, norm.pixels, norm.groups, -1)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    y: Doubles = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * scale + shift
    return np.maximum(y, 0) if norm.relu else y


@both
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_are_those_of_finite_differences(operations: Operations, relu: bool) -> None:
    norm = GroupNorm(2, 15, 6, 3, SCALE_OFFSET, 20, relu)
    x, d = images(norm, 1), images(norm, 2)
    _, scale, shift = parameters(norm)
    wide = [values.astype(np.float64) for values in (x, scale, shift)]
    y, _, *ours = on_device(operations, norm, x, d)
    np.testing.assert_allclose(y, normalised(norm, *wide), atol=3e-6)
    for which, gradient in enumerate(ours):
        expected = np.zeros_like(wide[which])
        for i in range(expected.size):
            losses = []
            for sign in (1, -1):
                moved = [values.copy() for values in wide]
                moved[which].ravel()[i] += sign * 1e-5
                losses.append((normalised(norm, *moved) * d).sum())
            expected.ravel()[i] = (losses[0] - losses[1]) / 2e-5
        assert np.linalg.norm(gradient - expected) < 1e-5 * np.linalg.norm(expected)


def test_groups_that_no_local_memory_holds_are_taken_by_the_simple_version() -> None:
    channels = DEVICE.info.local_bytes // 16
    norm = GroupNorm(1, 2, channels, 1, 0, channels, relu=False)
    x, d = images(norm, 1), images(norm, 2)
    _, scale, shift = parameters(norm)
    y, *_ = on_device(OPERATIONS, norm, x, d)
    twin, _ = reference_groupnorm.group_norm(x, scale, shift, 1, relu=False)
    np.testing.assert_array_equal(y.view(np.uint32), twin.view(np.uint32))


@both
def test_an_image_of_one_value_becomes_the_shift(operations: Operations) -> None:
    norm = GroupNorm(1, 70, 4, 2, 0, 4, relu=False)
    x = np.full((1, 70, 4), 0.7, np.float32)
    y, stats, *_ = on_device(operations, norm, x, x)
    np.testing.assert_allclose(y, np.broadcast_to(parameters(norm)[2], x.shape), atol=1e-4)
    np.testing.assert_allclose(stats[0, :, 1], 1 / np.sqrt(1e-5), rtol=1e-4)


@both
def test_a_not_a_number_spoils_its_own_group_alone(operations: Operations) -> None:
    norm = GroupNorm(2, 9, 6, 3, 0, 6, relu=True)
    x, d = images(norm, 1), images(norm, 2)
    x[1, 4, 3] = np.nan
    y, stats, dx, *_ = on_device(operations, norm, x, d)
    for values in (y, dx):
        assert np.isnan(values[1, :, 2:4]).all()
        assert np.isnan(values).sum() == 18
    assert np.isnan(stats[1, 1]).all()


@pytest.mark.parametrize("groups", [0, 5, 9])
def test_groups_that_do_not_divide_the_channels_are_refused(groups: int) -> None:
    with pytest.raises(ConfigError, match=f"8 channels do not divide into {groups} groups"):
        GroupNorm(1, 1, 8, groups, 0, 8, relu=False)
