"""Convolution gives the bits of its numpy twin whatever the tile, and the right gradients.

The kernel's contract is the header of kernels/conv.cl.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
# Narrow vectors, as a CPU with AVX2 or NEON has them.
NARROW = [Operations(OPERATIONS.library, Tile(6, 2, width)) for width in (8, 4)]
ALL = {"tiled": OPERATIONS, "naive": PLAIN, "avx2": NARROW[0], "neon": NARROW[1]}

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
@settings(max_examples=12, deadline=None)
@given(shape=shapes())
def test_every_version_has_the_bits_of_the_twin(operations: Operations, shape: ConvShape) -> None:
    values = inputs(shape)
    assert_same_bits(computed(operations, shape, values), expected(shape, values))
