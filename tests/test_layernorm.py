"""Layer normalisation: both versions give the bits of the twin, and its gradients are right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.device import reference_layernorm
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.layernorm import LayerNorm, layer_norm_backward, layer_norm_forward
from p2ptrain.device.opencl import DeviceArray, open_device
from p2ptrain.device.operations import Operations, Tile

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Doubles = NDArray[np.float64]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
WIDE = Operations(KernelLibrary(DEVICE), Tile(8, 2, 16))
NARROW = Operations(KernelLibrary(DEVICE), Tile(4, 2, 4))
BEFORE, BETWEEN = 3, 2  # other parameters in the flat vector

by_library = pytest.mark.parametrize(
    "operations", [OPERATIONS, PLAIN, WIDE, NARROW], ids=["contracted", "plain", "wide", "narrow"]
)


def on_device(
    operations: Operations, x: Floats, flat: Floats, d: Floats, add: Floats | None, in_place: str
) -> tuple[Floats, ...]:
    """Y, stats, dx, and the gradients by scale and shift, as the twin returns them."""
    rows, channels = x.shape
    norm = LayerNorm(rows, channels, BEFORE, BEFORE + channels + BETWEEN)
    arrays = DEVICE.upload(x), DEVICE.upload(flat), DEVICE.empty((rows, 2))
    y, gradient = DEVICE.empty(x.shape), DEVICE.upload(flat)
    slope, given_add = DEVICE.upload(d), None if add is None else DEVICE.upload(add)
    places: dict[str, DeviceArray | None] = {"d": slope, "add": given_add}
    dx = places.get(in_place) or DEVICE.empty(x.shape)
    launches = layer_norm_forward(operations, norm, *arrays[:2], y, arrays[2])
    launches += layer_norm_backward(operations, norm, arrays, slope, (dx, gradient), given_add)
    for launch in launches:
        launch.enqueue()
    got = gradient.read()
    scales, shifts = got[BEFORE:][:channels], got[norm.shift_offset :]
    between = slice(BEFORE + channels, norm.shift_offset)
    for part in (slice(0, BEFORE), between):
        np.testing.assert_array_equal(got[part], flat[part])
    return y.read(), arrays[2].read(), dx.read(), scales, shifts


def inputs(rows: int, channels: int) -> tuple[Floats, Floats, Floats, Floats]:
    """The input, flat parameters, the gradient by y, and what dx is added to."""
    flat = uniform(2, BEFORE + 2 * channels + BETWEEN)
    x, d, add = (uniform(stream, rows, channels) for stream in (1, 3, 4))
    return x + np.float32(1), flat, d, add


@by_library
@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 140),
    channels=st.integers(1, 200),
    has_add=st.booleans(),
    in_place=st.sampled_from(["", "d", "add"]),
)
def test_the_kernels_have_the_bits_of_their_twins(
    operations: Operations, rows: int, channels: int, has_add: bool, in_place: str
) -> None:
    x, flat, d, add = inputs(rows, channels)
    scale, shift = flat[BEFORE:][:channels], flat[-channels:]
    given_add = add if has_add else None
    y, stats = reference_layernorm.layer_norm(x, scale, shift)
    expected = (y, stats, *reference_layernorm.layer_norm_backward(x, scale, stats, d, given_add))
    got = on_device(operations, x, flat, d, given_add, in_place)
    for mine, twin in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine.view(np.uint32), twin.view(np.uint32))


def exact(x: Doubles, scale: Doubles, shift: Doubles) -> Doubles:
    """The forward pass in float64."""
    centred = x - x.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-5)
    result: Doubles = centred / deviation * scale + shift
    return result


@by_library
def test_the_gradients_are_finite_differences(operations: Operations) -> None:
    rows, channels, step = 6, 21, 1e-6
    x, flat, d, add = inputs(rows, channels)
    got = on_device(operations, x, flat, d, add, "")[2:]
    arguments = [v.astype(np.float64) for v in (x, flat[BEFORE:][:channels], flat[-channels:])]
    for which, mine in enumerate(got):
        values = arguments[which]
        expected = np.zeros_like(values)
        for at in np.ndindex(values.shape):
            kept, sides = values[at], []
            for sign in (1, -1):
                values[at] = kept + sign * step
                sides.append(np.sum(exact(arguments[0], arguments[1], arguments[2]) * d))
            values[at] = kept
            expected[at] = (sides[0] - sides[1]) / (2 * step)
        expected = expected + (add if which == 0 else 0)
        assert np.linalg.norm(mine - expected) < 1e-5 * np.linalg.norm(expected)


@by_library
def test_rows_that_are_constant_stay_finite(operations: Operations) -> None:
    _, flat, d, _ = inputs(3, 70)
    y, stats, *rest = on_device(operations, np.full((3, 70), 7, np.float32), flat, d, None, "")
    assert all(np.isfinite(values).all() for values in (y, stats, *rest))
    assert abs(stats[0, 1] - 1e5**0.5) < 0.1


@by_library
def test_a_nan_shows_in_its_own_row(operations: Operations) -> None:
    x, flat, d, _ = inputs(5, 33)
    x[2, 7] = np.nan
    y, _, dx, by_scale, by_shift = on_device(operations, x, flat, d, None, "")
    for values in (y, dx):
        assert np.isnan(values).all(axis=1).tolist() == [False, False, True, False, False]
    assert np.isnan(by_scale).all()
    assert np.isfinite(by_shift).all()
