"""kernels/residual.cl: bits of the twin over odd sizes, in place or not, and true gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device import reference, reference_residual
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary, run
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.residual import add_forward

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))

both = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "built-in"])
sizes = st.one_of(st.integers(1, 200), st.integers(8100, 8300), st.just(300_001))


def values(size: int, stream: int) -> Floats:
    """Some of them equal and opposite to those of other streams, and some tiny."""
    result = uniform(stream, size)
    result[::3] = 0.25 if stream == 1 else -0.25
    result[1::7] = np.float32(2.0**-70)
    return result


def assert_same_bits(ours: Floats, twin: Floats) -> None:
    np.testing.assert_array_equal(ours.view(np.uint32), twin.view(np.uint32))


@both
@settings(max_examples=20, deadline=None)
@given(size=sizes, relu=st.booleans(), in_place=st.booleans())
def test_an_addition_has_the_bits_of_its_twin(
    operations: Operations, size: int, relu: bool, in_place: bool
) -> None:
    a, b = values(size, 1), values(size, 2)
    left, right = DEVICE.upload(a), DEVICE.upload(b)
    out = right if in_place else DEVICE.empty((size,))
    ours = run(add_forward(operations, left, right, out, relu), out)
    assert_same_bits(ours, reference_residual.add(a, b, relu))


@both
@settings(max_examples=20, deadline=None)
@given(size=sizes)
def test_gradients_have_the_bits_of_their_twins(operations: Operations, size: int) -> None:
    y, d = reference_residual.add(values(size, 1), values(size, 2), relu=True), values(size, 3)
    behind, gradient = DEVICE.upload(y), DEVICE.upload(d)
    ours = run([operations.activation_backward("relu", behind, gradient)], gradient)
    assert_same_bits(ours, reference.relu_backward(y, d))
    total = run(add_forward(operations, gradient, behind, gradient, False), gradient)
    assert_same_bits(total, reference_residual.add(ours, y))


@both
def test_a_not_a_number_passes_both_ways(operations: Operations) -> None:
    a = DEVICE.upload(np.array([np.nan, -1, 2], np.float32))
    b, y = DEVICE.zeros((3,)), DEVICE.empty((3,))
    np.testing.assert_array_equal(run(add_forward(operations, a, b, y, True), y), [np.nan, 0, 2])
    d = DEVICE.upload(np.array([5, 6, np.nan], np.float32))
    backward = operations.activation_backward("relu", y, d)
    np.testing.assert_array_equal(run([backward], d), [5, 0, np.nan])


@both
def test_the_gradient_is_that_of_finite_differences(operations: Operations) -> None:
    a, b, d = (uniform(stream, 60) for stream in (1, 2, 3))
    left, right = (DEVICE.upload(side) for side in (a, b))
    y, gradient = DEVICE.empty((60,)), DEVICE.upload(d)
    launches = add_forward(operations, left, right, y, True)
    ours = run([*launches, operations.activation_backward("relu", y, gradient)], gradient)
    sum_wide = a.astype(np.float64) + b
    rise = np.maximum(sum_wide + 1e-6, 0) - np.maximum(sum_wide - 1e-6, 0)
    expected = rise / 2e-6 * d
    assert np.linalg.norm(ours - expected) < 1e-5 * np.linalg.norm(expected)
