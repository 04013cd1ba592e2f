"""Convolution gives the bits of its numpy twin whatever the tile, and the right gradients.

The kernel's contract is the header of kernels/conv.cl.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.device import reference_conv
from p2ptrain.device.convolution import (
    ConvShape,
    ConvWeights,
    conv_forward,
    conv_input_gradient,
    conv_weight_gradient,
)
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary, run
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations, Tile
from p2ptrain.device.reference_math import Floats

Doubles = NDArray[np.float64]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
# The vectors of other CPUs: AVX-512, AVX2, NEON.
OTHERS = [
    Operations(OPERATIONS.library, Tile(*sizes)) for sizes in ((8, 2, 16), (6, 2, 8), (6, 2, 4))
]
ALL = {"tiled": OPERATIONS, "naive": PLAIN} | dict(
    zip(("avx512", "avx2", "neon"), OTHERS, strict=True)
)

by_version = pytest.mark.parametrize("operations", ALL.values(), ids=ALL.keys())


def out_shape(shape: ConvShape) -> tuple[int, ...]:
    return shape.batch, shape.out_height, shape.out_width, shape.channels_out


def inputs(shape: ConvShape) -> tuple[Floats, Floats, Floats, Floats]:
    """x, w, bias and d."""
    x = uniform(1, shape.batch, shape.height, shape.width, shape.channels_in)
    w = uniform(2, shape.kernel, shape.kernel, shape.channels_in, shape.channels_out)
    return x, w, uniform(3, shape.channels_out), uniform(4, *out_shape(shape))


def computed(
    operations: Operations,
    shape: ConvShape,
    values: tuple[Floats, Floats, Floats, Floats],
    activation: str = "relu",
) -> list[Floats]:
    """z, the gradient by x and the gradient by the weights, from a device."""
    x, w, bias, d = values
    flat = np.concatenate([np.full(3, 7, np.float32), w.ravel(), bias])
    weights = ConvWeights(DEVICE.upload(flat), 3, 3 + w.size)
    z, dx = DEVICE.empty(out_shape(shape)), DEVICE.empty(x.shape)
    gradient = DEVICE.upload(np.full(w.size + 9, 5, np.float32))
    x_array, d_array = DEVICE.upload(x), DEVICE.upload(d)
    forward = conv_forward(
        operations, shape, x_array, z, weights, "relu" if activation == "relu" else "none"
    )
    results = [
        run(forward, z),
        run(conv_input_gradient(operations, shape, d_array, dx, weights), dx),
        run(conv_weight_gradient(operations, shape, x_array, d_array, gradient, 2), gradient),
    ]
    assert (results[2][[0, 1, *range(-7, 0)]] == 5).all(), "written outside its place"
    return [*results[:2], results[2][2:-7].reshape(w.shape)]


def expected(
    shape: ConvShape, values: tuple[Floats, Floats, Floats, Floats], activation: str = "relu"
) -> list[Floats]:
    """The same from the twin."""
    x, w, bias, d = values
    geometry = (shape.stride, shape.padding)
    return [
        reference_conv.conv_forward(x, w, bias, geometry, activation),
        reference_conv.conv_input_gradient(d, w, (shape.height, shape.width), geometry),
        reference_conv.conv_weight_gradient(x, d, shape.kernel, geometry),
    ]


def assert_same_bits(found: list[Floats], wanted: list[Floats]) -> None:
    for name, a, b in zip(("z", "dx", "dw"), found, wanted, strict=True):
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32), name)


@st.composite
def shapes(draw: st.DrawFn) -> ConvShape:
    kernel = draw(st.sampled_from([1, 2, 3, 3, 5]))
    padding = draw(st.integers(0, kernel))
    least = max(1, kernel - 2 * padding)
    return ConvShape(
        batch=draw(st.integers(1, 3)),
        height=draw(st.integers(least, 11)),
        width=draw(st.integers(least, 19)),
        channels_in=draw(st.sampled_from([1, 3, 8, 17, 33])),
        channels_out=draw(st.sampled_from([1, 5, 10, 16, 32, 37])),
        kernel=kernel,
        stride=draw(st.integers(1, 4)),
        padding=padding,
    )


@by_version
@settings(max_examples=20, deadline=None)
@given(shape=shapes())
def test_every_version_has_the_bits_of_the_twin(operations: Operations, shape: ConvShape) -> None:
    values = inputs(shape)
    assert_same_bits(computed(operations, shape, values), expected(shape, values))


EDGES = {
    "one pixel": ConvShape(1, 1, 1, 1, 1, 1, 1, 0),
    "batch 1, odd width": ConvShape(1, 7, 29, 3, 33, 3, 1, 1),
    "images smaller than the kernel": ConvShape(5, 2, 3, 4, 17, 5, 1, 2),
    "a stride over the kernel": ConvShape(2, 9, 8, 6, 18, 1, 2, 0),
    "a stride over the image": ConvShape(2, 3, 3, 2, 18, 3, 7, 1),
    "more padding than kernel": ConvShape(2, 3, 4, 2, 9, 2, 3, 5),
    "the largest kernel": ConvShape(1, 12, 13, 2, 19, 11, 4, 5),
    "a sum of exactly one chunk": ConvShape(2, 8, 16, 256, 5, 1, 1, 0),
    "pixels of many images in a chunk": ConvShape(300, 2, 2, 2, 17, 2, 1, 0),
}


@pytest.mark.parametrize("shape", EDGES.values(), ids=EDGES.keys())
def test_edge_shapes_have_the_bits_of_the_twin(shape: ConvShape) -> None:
    values = inputs(shape)
    assert_same_bits(computed(OPERATIONS, shape, values), expected(shape, values))
    assert_same_bits(computed(PLAIN, shape, values), expected(shape, values))


@pytest.mark.parametrize(
    ("name", "value"),
    [("BLOCK_BYTES", 1), ("TASKS_PER_CORE", 50), ("GRADIENT_TASKS", 7), ("TILES_PER_TASK", 10**6)],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_how_work_is_split_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, name: str, value: int, stride: int
) -> None:
    shape = ConvShape(3, 11, 14, 31, 37, kernel=3, stride=stride, padding=1)
    monkeypatch.setattr(f"p2ptrain.device.convolution_tasks.{name}", value)
    values = inputs(shape)
    assert_same_bits(computed(OPERATIONS, shape, values), expected(shape, values))


def test_rows_that_exceed_the_local_memory_are_left_to_the_simple_version() -> None:
    operations = Operations(KernelLibrary(open_device()), OPERATIONS.tile)
    operations.device.info = replace(DEVICE.info, local_bytes=4096)
    shape = ConvShape(1, 6, 40, 9, 17, 3, 1, 1)
    x, z = DEVICE.empty((1, 6, 40, 9)), DEVICE.empty((1, 6, 40, 17))
    weights = ConvWeights(DEVICE.empty((shape.depth * 17,)), 0, None)
    launches = [
        *conv_forward(operations, shape, x, z, weights, "none"),
        *conv_input_gradient(operations, shape, z, x, weights),
        *conv_weight_gradient(operations, shape, x, z, weights.parameters, 0),
    ]
    names = ["conv_naive", "input_gradient_naive", "weight_gradient_naive"]
    assert [launch.name for launch in launches] == names


@by_version
def test_a_convolution_without_bias_and_activation_is_the_sum_alone(
    operations: Operations,
) -> None:
    shape = ConvShape(2, 5, 6, 3, 18, 3, 1, 1)
    x, w, _, _ = inputs(shape)
    z = DEVICE.empty(out_shape(shape))
    weights = ConvWeights(DEVICE.upload(w.ravel()), 0, None)
    found = run(conv_forward(operations, shape, DEVICE.upload(x), z, weights, "none"), z)
    wanted = reference_conv.conv_forward(x, w, None, (1, 1))
    np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))
    assert (found < 0).any()


@by_version
def test_what_is_not_finite_passes_and_what_is_tiny_does_not(operations: Operations) -> None:
    shape = ConvShape(1, 4, 5, 2, 19, 3, 1, 1)
    x, w, bias, d = inputs(shape)
    x[0, 1, 2, 0], d[0, 2, 1, 3] = np.nan, np.inf
    values = (x, w, bias * np.float32(0), d)
    z, dx, dw = computed(operations, shape, values)
    for a, b in zip((z, dx, dw), expected(shape, values), strict=True):
        np.testing.assert_array_equal(a, b)  # the bits of a NaN are the device's own
    assert np.isnan(z[0, 0:3, 1:4]).all()
    assert not np.isfinite(dx[0, 1:4, 0:3]).all()
    small = tuple(value * np.float32(2.0**-35) for value in inputs(shape))
    z, dx, dw = computed(operations, shape, (small[0], small[1], small[2] * 0, small[3]))
    for result in (z, dx, dw):
        assert not result[np.abs(result) < 2.0**-63].view(np.uint32).any(), "flushed to +0"
    assert_same_bits(
        [z, dx, dw], expected(shape, (small[0], small[1], small[2] * np.float32(0), small[3]))
    )


# --- the gradients are those of the forward pass ------------------------------------------------


def convolved(x: Doubles, w: Doubles, shape: ConvShape) -> Doubles:
    """The forward pass in float64, by its definition."""
    p, s = shape.padding, shape.stride
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    z: Doubles = np.zeros(out_shape(shape))
    for ky in range(shape.kernel):
        for kx in range(shape.kernel):
            rows = slice(ky, ky + (shape.out_height - 1) * s + 1, s)
            columns = slice(kx, kx + (shape.out_width - 1) * s + 1, s)
            z += padded[:, rows, columns] @ w[ky, kx]
    return z


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape(2, 5, 6, 3, 4, 3, 1, 1),
        ConvShape(1, 7, 6, 2, 3, 3, 2, 1),
        ConvShape(2, 5, 5, 3, 2, 1, 2, 0),
        ConvShape(1, 9, 8, 2, 2, 5, 3, 2),
    ],
    ids=["3x3", "3x3 stride 2", "1x1 stride 2", "5x5 stride 3"],
)
def test_gradients_agree_with_finite_differences(shape: ConvShape) -> None:
    """The convolution is linear in each argument, so a difference is the derivative itself."""
    x, w, _, d = inputs(shape)
    z, dx, dw = computed(OPERATIONS, shape, (x, w, np.zeros(shape.channels_out, np.float32), d))
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    exact = convolved(x64, w64, shape)
    assert relative(z, np.maximum(exact, 0)) < 1e-6

    def differences(at: Doubles, forward: Callable[[Doubles], Doubles]) -> Doubles:
        derivative: Doubles = np.zeros(at.size)
        for i in range(at.size):
            moved = at.flatten()
            moved[i] += 1
            derivative[i] = ((forward(moved.reshape(at.shape)) - exact) * d).sum()
        return derivative.reshape(at.shape)

    assert relative(dx, differences(x64, lambda moved: convolved(moved, w64, shape))) < 1e-5
    assert relative(dw, differences(w64, lambda moved: convolved(x64, moved, shape))) < 1e-5


def relative(found: Floats, wanted: Doubles) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch": 0}, "at least 1"),
        ({"stride": 0}, "at least 1"),
        ({"padding": -1}, "at least 0"),
        ({"kernel": 6, "padding": 0}, "larger than the padded image"),
    ],
    ids=["no images", "no stride", "negative padding", "no output"],
)
def test_a_shape_without_meaning_is_refused(change: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(ConvShape(2, 5, 6, 3, 4, 3, 1, 1), **change)


def test_the_output_has_the_usual_size() -> None:
    shape = ConvShape(1, 32, 31, 3, 4, 3, 2, 1)
    assert (shape.out_height, shape.out_width) == (16, 16)
    assert replace(shape, kernel=1, padding=0).out_width == 16
