"""Matrix products and dense layers: the bits of the twins in every layout, and right gradients."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.device import reference
from p2ptrain.device.dense import (
    Activation,
    Dense,
    bias_gradient,
    dense_forward,
    input_gradient,
    weight_gradient,
)
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary, run
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Batch, Operations, Samples
from p2ptrain.device.products import (
    TILES,
    After,
    Matrix,
    Tile,
    gemm_naive,
    gemm_tiled,
    row_major,
    rows_of_task,
)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
EVERY_TILE = [*TILES.values(), Tile(6, 2, 1), Tile(3, 1, 8)]

few = st.integers(1, 40)
both = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "built-in"])


def assert_same_bits(actual: Floats, wanted: Floats) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), wanted.view(np.uint32))


def stored(values: Floats, offset: int, *, is_transposed: bool) -> Matrix:
    """A matrix on the device behind an offset, by rows or by columns."""
    laid = np.ascontiguousarray(values.T if is_transposed else values)
    array = DEVICE.upload(np.concatenate([np.full(offset, 7, np.float32), laid.ravel()]))
    rows, columns = laid.shape
    matrix = row_major(array, rows, columns, offset)
    return matrix.transposed if is_transposed else matrix


# --- products ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", EVERY_TILE, ids=lambda t: f"{t.rows}x{t.vectors}x{t.width}")
@settings(max_examples=12, deadline=None)
@given(m=few, n=few, k=st.integers(1, 530), flips=st.tuples(st.booleans(), st.booleans()))
def test_a_product_has_the_same_bits_however_its_factors_are_stored(
    tile: Tile, m: int, n: int, k: int, flips: tuple[bool, bool]
) -> None:
    a, b = uniform(m, m, k), uniform(n + 100, k, n)
    naive, tiled = DEVICE.empty((m, n)), DEVICE.empty((m, n))
    left, right = (stored(x, 3, is_transposed=flip) for x, flip in zip((a, b), flips, strict=True))
    plain = [gemm_naive(PLAIN.library, row_of(a), row_of(b), row_major(naive, m, n))]
    fast = [gemm_tiled(OPERATIONS.library, tile, (left, right), row_major(tiled, m, n))]
    assert_same_bits(run(fast, tiled), run(plain, naive))


def row_of(values: Floats) -> Matrix:
    return row_major(DEVICE.upload(values), *values.shape)


@pytest.mark.parametrize("shape", [(1100, 17, 5), (1, 530, 70), (1025, 3, 260)])
def test_bits_do_not_depend_on_how_rows_are_dealt_to_tasks(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    a, b, out = uniform(1, m, k), uniform(2, k, n), DEVICE.empty((m, n))
    launches = OPERATIONS.gemm(row_of(a), row_of(b), row_major(out, m, n))
    assert_same_bits(run(launches, out), reference.gemm(a, b))


@given(
    rows=st.integers(1, 20000),
    columns=st.integers(1, 2000),
    tile=st.sampled_from(EVERY_TILE),
    cores=st.integers(1, 64),
)
def test_tasks_have_whole_tiles_and_cover_all_rows(
    rows: int, columns: int, tile: Tile, cores: int
) -> None:
    block = rows_of_task(rows, columns, tile, cores)
    assert block % tile.rows == 0
    assert 0 < block <= max(512, rows + tile.rows)


def test_one_panel_is_still_work_for_two_cores() -> None:
    """The last layer of a classifier: 10 columns are one panel."""
    assert rows_of_task(128, 10, Tile(6, 2, 8), 2) == 66


@both
def test_what_is_not_finite_passes_and_what_is_tiny_becomes_zero(operations: Operations) -> None:
    x = np.array([[np.nan], [np.inf], [1e-30], [-1e-30], [2.0]], np.float32)
    z = DEVICE.empty((5, 3))
    weight = row_of(np.ones((3, 1), np.float32))
    layer = Dense(row_of(x), weight, z, activation="relu")
    result = run(dense_forward(operations, layer, z), z)
    assert np.isnan(result[0]).all()
    assert np.isinf(result[1]).all()
    assert_same_bits(result[2:], np.array([[0] * 3, [0] * 3, [2] * 3], np.float32))


def test_a_product_refuses_shapes_that_do_not_match_and_its_own_output_as_residual() -> None:
    a, b, c = row_of(uniform(1, 3, 4)), row_of(uniform(2, 5, 6)), DEVICE.empty((3, 6))
    with pytest.raises(AssertionError, match="shapes"):
        OPERATIONS.gemm(a, b, row_major(c, 3, 6))
    with pytest.raises(AssertionError, match="partial sums"):
        After(residual=c).arguments(row_major(c, 3, 6))


# --- dense layers ------------------------------------------------------------------------------


@both
@settings(max_examples=25, deadline=None)
@given(
    rows=few,
    fan_in=st.integers(1, 300),
    fan_out=few,
    has=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_a_layer_has_the_bits_of_its_twin(
    operations: Operations, rows: int, fan_in: int, fan_out: int, has: tuple[bool, bool, bool]
) -> None:
    has_bias, has_residual, is_relu = has
    x, weight = uniform(rows, rows, fan_in), uniform(fan_out, fan_out, fan_in)
    b = uniform(3, fan_out) if has_bias else None
    residual = uniform(4, rows, fan_out) if has_residual else None
    parameters = DEVICE.upload(np.concatenate([weight.ravel(), uniform(3, fan_out)]))
    z = DEVICE.empty((rows, fan_out))
    layer = Dense(
        row_of(x),
        row_major(parameters, fan_out, fan_in),
        z,
        bias_offset=weight.size if has_bias else None,
        activation="relu" if is_relu else "none",
        residual=None if residual is None else DEVICE.upload(residual),
    )
    wanted = reference.dense(x, weight, b, residual, is_relu=is_relu)
    assert_same_bits(run(dense_forward(operations, layer, parameters), z), wanted)


@both
def test_gelu_writes_both_sides_of_the_activation(operations: Operations) -> None:
    x, weight = uniform(1, 33, 7), uniform(2, 50, 7)
    z, a = DEVICE.empty((33, 50)), DEVICE.empty((33, 50))
    layer = Dense(row_of(x), row_of(weight), z, bias_offset=0, activation="gelu", a=a)
    activated = run(dense_forward(operations, layer, DEVICE.upload(uniform(3, 50))), a)
    before = reference.dense(x, weight, uniform(3, 50), None, is_relu=False)
    assert_same_bits(z.read(), before)
    assert_same_bits(activated, reference.gelu(before))


def smooth(name: Activation, z: Doubles) -> Doubles:
    """The activation in float64."""
    if name == "relu":
        return np.maximum(z, 0)
    curve: Doubles = z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    return curve


def slope_of(loss: Callable[[Doubles], float], at: Floats) -> Doubles:
    """The gradient of a float64 function by central differences."""
    step, centre = 1e-6, at.astype(np.float64)
    slope = np.empty(at.shape)
    for index in np.ndindex(at.shape):
        moved = np.zeros(at.shape)
        moved[index] = step
        slope[index] = (loss(centre + moved) - loss(centre - moved)) / (2 * step)
    return slope


@both
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_gradients_are_those_of_finite_differences(
    operations: Operations, activation: Activation
) -> None:
    """Loss: the activation's outputs weighted by fixed numbers."""
    x, weight, b, ahead = uniform(1, 7, 5), uniform(2, 6, 5), uniform(3, 6), uniform(4, 7, 6)

    def loss(x: Doubles, weight: Doubles, b: Doubles) -> float:
        out = smooth(activation, x @ weight.T + b)
        return float((out * ahead).sum())

    parameters = DEVICE.upload(np.concatenate([weight.ravel(), b]))
    gradient, dx = DEVICE.empty((weight.size + b.size,)), DEVICE.empty((7, 5))
    z, a, d = DEVICE.empty((7, 6)), DEVICE.empty((7, 6)), DEVICE.upload(ahead)
    matrix, rows = row_major(parameters, 6, 5), row_major(d, 7, 6)
    layer = Dense(row_of(x), matrix, z, weight.size, activation, a)
    launches = [
        *dense_forward(operations, layer, parameters),
        operations.activation_backward(activation, z, d),
        *weight_gradient(operations, rows, row_of(x), gradient, 0),
        *bias_gradient(operations, d, gradient, weight.size),
        *input_gradient(operations, rows, matrix, dx),
    ]
    flat = run(launches, gradient)
    x64, weight64, b64 = (part.astype(np.float64) for part in (x, weight, b))
    pairs = [
        (flat[: weight.size].reshape(weight.shape), slope_of(lambda w: loss(x64, w, b64), weight)),
        (flat[weight.size :], slope_of(lambda v: loss(x64, weight64, v), b)),
        (dx.read(), slope_of(lambda v: loss(v, weight64, b64), x)),
    ]
    for got, wanted in pairs:
        assert np.linalg.norm(got - wanted) < 1e-5 * np.linalg.norm(wanted)


# --- elementwise.cl and reduce.cl, over more than one block ------------------------------------


@both
@pytest.mark.parametrize("shape", [(700, 90), (257, 65), (50, 130), (1, 1)])
def test_column_sums_have_the_bits_of_their_twin(
    operations: Operations, shape: tuple[int, int]
) -> None:
    d, out = uniform(1, *shape), DEVICE.zeros((shape[1] + 2,))
    d[-1, -1] = np.nan
    launch = operations.column_sums(DEVICE.upload(d), out, 2)
    sums = run([launch], out)[2:]
    assert np.isnan(sums[-1])
    assert_same_bits(sums[:-1], reference.column_sums(d)[:-1])


@both
@pytest.mark.parametrize("count", [1, 63, 9001, 70000])
@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_activations_have_the_bits_of_their_twins_whatever_the_block(
    operations: Operations, count: int, name: str
) -> None:
    z, d = uniform(1, count) * np.float32(4), uniform(2, count)
    out, difference = DEVICE.empty((count,)), DEVICE.upload(d)
    forward, backward = (getattr(reference, name + end) for end in ("", "_backward"))
    assert_same_bits(run([operations.activation(name, DEVICE.upload(z), out)], out), forward(z))
    launch = operations.activation_backward(name, DEVICE.upload(z), difference)
    assert_same_bits(run([launch], difference), backward(z, d))


@both
def test_long_rows_are_gathered_whole(operations: Operations) -> None:
    x, y = uniform(1, 5, 4100), np.arange(5, dtype=np.int32)
    index = np.array([4, -1, 0, 4], np.int32)
    samples = Samples(DEVICE.upload(x), DEVICE.upload(y))
    batch = Batch(DEVICE.empty((4, 4100)), DEVICE.empty((4,), np.int32))
    launch = operations.gather_rows(samples, DEVICE.upload(index), batch)
    rows, labels = reference.gather_rows(x, y, index)
    assert_same_bits(run([launch], batch.x), rows)
    np.testing.assert_array_equal(batch.y.read(), labels)
