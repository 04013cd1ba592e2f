"""Golden cases of kernels/conv.cl: forward and both gradients, with and without a stride.

Odd sizes: tiles hang over the last pixel and the last channel, sums have two chunks and a short
one, and rows and columns of the strided image belong to phases of different sizes.
"""

import numpy as np

from p2ptrain.device import reference_conv
from p2ptrain.device.convolution import (
    ConvShape,
    ConvWeights,
    conv_forward,
    conv_input_gradient,
    conv_weight_gradient,
)
from p2ptrain.device.golden_inputs import Array, Case, Floats, finished, uniform
from p2ptrain.device.operations import Operations

DENSE = ConvShape(2, 13, 11, 33, 21, kernel=3, stride=1, padding=1)
STRIDED = ConvShape(2, 10, 13, 17, 37, kernel=3, stride=2, padding=1)


def cases() -> list[Case]:
    """Each pass for each of the two shapes."""
    return [
        Case("conv", "conv_forward", lambda o: run_forward(o, DENSE), twin_forward),
        Case(
            "conv",
            "conv_input_gradient",
            lambda o: run_input_gradient(o, DENSE),
            lambda: twin_input_gradient(DENSE),
        ),
        Case(
            "conv",
            "conv_weight_gradient",
            lambda o: run_weight_gradient(o, DENSE),
            lambda: twin_weight_gradient(DENSE),
        ),
        Case(
            "conv",
            "conv_forward_strided",
            lambda o: run_forward(o, STRIDED),
            lambda: reference_conv.conv_forward(x(STRIDED), weights(STRIDED), None, (2, 1)),
        ),
        Case(
            "conv",
            "conv_input_gradient_strided",
            lambda o: run_input_gradient(o, STRIDED),
            lambda: twin_input_gradient(STRIDED),
        ),
        Case(
            "conv",
            "conv_weight_gradient_strided",
            lambda o: run_weight_gradient(o, STRIDED),
            lambda: twin_weight_gradient(STRIDED),
        ),
    ]


def x(shape: ConvShape) -> Floats:
    """The images."""
    return uniform(1, shape.batch, shape.height, shape.width, shape.channels_in)


def weights(shape: ConvShape) -> Floats:
    """The weights (kernel, kernel, channels_in, channels_out)."""
    return uniform(2, shape.kernel, shape.kernel, shape.channels_in, shape.channels_out)


def gradient(shape: ConvShape) -> Floats:
    """The gradient behind the convolution, d."""
    return uniform(3, shape.batch, shape.out_height, shape.out_width, shape.channels_out)


def bias() -> Floats:
    """The bias of the dense case."""
    return uniform(4, DENSE.channels_out)


def place(operations: Operations, shape: ConvShape) -> ConvWeights:
    """The weights on the device, between other parameters; a bias for the dense case."""
    w = weights(shape).ravel()
    flat = np.concatenate([np.ones(5, np.float32), w, bias()])
    offset = 5 + w.size if shape == DENSE else None
    return ConvWeights(operations.device.upload(flat), 5, offset)


def run_forward(operations: Operations, shape: ConvShape) -> Array:
    """With bias and ReLU in the dense case, with neither in the strided one."""
    device = operations.device
    z = device.empty(gradient(shape).shape)
    launches = conv_forward(
        operations,
        shape,
        device.upload(x(shape)),
        z,
        place(operations, shape),
        "relu" if shape == DENSE else "none",
    )
    return finished(launches, z)


def twin_forward() -> Array:
    """As run_forward in the dense case."""
    return reference_conv.conv_forward(x(DENSE), weights(DENSE), bias(), (1, 1), "relu")


def run_input_gradient(operations: Operations, shape: ConvShape) -> Array:
    """The gradient by x."""
    device = operations.device
    dx = device.empty(x(shape).shape)
    d = device.upload(gradient(shape))
    return finished(conv_input_gradient(operations, shape, d, dx, place(operations, shape)), dx)


def twin_input_gradient(shape: ConvShape) -> Array:
    """As run_input_gradient."""
    size, geometry = (shape.height, shape.width), (shape.stride, shape.padding)
    return reference_conv.conv_input_gradient(gradient(shape), weights(shape), size, geometry)


def run_weight_gradient(operations: Operations, shape: ConvShape) -> Array:
    """The gradient by the weights, behind an offset."""
    device = operations.device
    out = device.zeros((3 + weights(shape).size,))
    images, d = device.upload(x(shape)), device.upload(gradient(shape))
    launches = conv_weight_gradient(operations, shape, images, d, out, 3)
    return finished(launches, out)[3:].reshape(weights(shape).shape)


def twin_weight_gradient(shape: ConvShape) -> Array:
    """As run_weight_gradient."""
    geometry = (shape.stride, shape.padding)
    return reference_conv.conv_weight_gradient(x(shape), gradient(shape), shape.kernel, geometry)
