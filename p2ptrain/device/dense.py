"""Dense layers: launchers of the forward pass and of each part of the backward pass.

Theory of operation. With weight W (out, in), bias b, input x (R, in) and output z (R, out):

    forward    z = x W^T, then, in this order and flushed after each:  + b,  residual +,  ReLU
               a = GELU(z), where that is the activation
    backward   given d = dL/dz:  dW = d^T x;  db = column sums of d;  dx = d W

Bias, residual and ReLU happen while the product's sums are in registers (gemm.cl), so that z is
written once. ReLU overwrites z, since its backward pass needs the output alone; GELU keeps z.
Matrix products with other transposes are the same kernel: a transpose is a pair of strides.
"""

from dataclasses import dataclass
from typing import Literal

from p2ptrain.device.kernels import Launch
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations
from p2ptrain.device.products import After, Matrix, row_major

Activation = Literal["none", "relu", "gelu"]


@dataclass(frozen=True, slots=True)
class Dense:
    """The forward pass of one layer.

    x            (R, in)
    weight       (out, in)
    z            (R, out) output; before the activation if that is "gelu", else behind it
    bias_offset  where the bias is in the parameters; None: the layer has none
    activation   "none", "relu" or "gelu"
    a            (R, out) output behind "gelu", otherwise None
    residual     (R, out) added to the product and the bias, not z itself; None: nothing
    """

    x: Matrix
    weight: Matrix
    z: DeviceArray
    bias_offset: int | None = None
    activation: Activation = "none"
    a: DeviceArray | None = None
    residual: DeviceArray | None = None


def dense_forward(operations: Operations, layer: Dense, parameters: DeviceArray) -> list[Launch]:
    """Forward pass: x W^T + b, with residual and activation; parameters holds the bias."""
    after = After(
        parameters=None if layer.bias_offset is None else parameters,
        bias_offset=layer.bias_offset or 0,
        residual=layer.residual,
        is_relu=layer.activation == "relu",
    )
    z = row_major(layer.z, layer.x.rows, layer.weight.rows)
    launches = operations.gemm(layer.x, layer.weight.transposed, z, after)
    if layer.activation == "gelu":
        assert layer.a is not None, "GELU keeps z and writes a"
        launches.append(operations.activation("gelu", layer.z, layer.a))
    return launches


def weight_gradient(
    operations: Operations, d: Matrix, x: Matrix, gradient: DeviceArray, offset: int
) -> list[Launch]:
    """Write d^T x, (out, in), into the gradient at an offset; d is (R, out), x (R, in)."""
    out = row_major(gradient, d.columns, x.columns, offset)
    return operations.gemm(d.transposed, x, out)


def bias_gradient(
    operations: Operations, d: DeviceArray, gradient: DeviceArray, offset: int
) -> list[Launch]:
    """Write the column sums of d (R, out) into the gradient at an offset."""
    return [operations.column_sums(d, gradient, offset)]


def input_gradient(
    operations: Operations, d: Matrix, weight: Matrix, dx: DeviceArray
) -> list[Launch]:
    """Write d W into dx (R, in); d is (R, out), weight (out, in)."""
    return operations.gemm(d, weight, row_major(dx, d.rows, weight.columns))
