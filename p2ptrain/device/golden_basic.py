"""Golden cases of the kernels that every network trains with.

Products, activations, sums, random numbers, and detmath value by value.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device import reference, reference_math
from p2ptrain.device.dense import Dense, dense_forward
from p2ptrain.device.golden_inputs import (
    ALL,
    PROBED,
    SEED,
    USERS_OF_GELU,
    USERS_OF_ROOTS,
    Array,
    Case,
    Floats,
    any_bits,
    finished,
    uniform,
)
from p2ptrain.device.kernels import LOCAL_SIZE
from p2ptrain.device.operations import Batch, Matrix, Operations, Samples, row_major

ROWS, COLUMNS, DEPTH = 37, 45, 600  # of the matrix product: three chunks, the last one short


def cases() -> list[Case]:
    """Each of these kernels once."""
    probed = [
        Case("selftest", f"probe_{name}", probe(f"probe_{name}"), twin, used_by)
        for name, twin, used_by in (
            (
                "fma",
                lambda: reference_math.fma(uniform(1, PROBED), uniform(2, PROBED), third()),
                ALL,
            ),
            ("div", lambda: reference_math.div(any_bits(1), any_bits(2)[::-1]), ALL),
            ("sqrt", lambda: reference_math.sqrt(any_bits(1)), USERS_OF_ROOTS),
            ("exp", lambda: reference_math.exp(any_bits(1)), ALL),
            ("log", lambda: reference_math.log(any_bits(1)), ALL),
            ("tanh", lambda: reference_math.tanh(any_bits(1)), USERS_OF_GELU),
        )
    ]
    return [
        *probed,
        Case("gemm", "gemm", run_gemm, lambda: reference.gemm(left(), right())),
        Case("gemm", "dense", run_dense, twin_dense),
        Case("elementwise", "gather_rows", run_gather, twin_gather, ("elementwise.gather",)),
        *(
            Case(
                "elementwise",
                name,
                run_activation(name),
                activated(function),
                (f"elementwise.{name}",),
            )
            for name, function in (("relu", reference.relu), ("gelu", reference.gelu))
        ),
        Case(
            "elementwise",
            "relu_backward",
            lambda o: run_backward(o, "relu"),
            lambda: reference.relu_backward(rows(1), rows(2)),
            ("elementwise.relu",),
        ),
        Case(
            "elementwise",
            "gelu_backward",
            lambda o: run_backward(o, "gelu"),
            lambda: reference.gelu_backward(rows(1), rows(2)),
            ("elementwise.gelu",),
        ),
        Case(
            "reduce",
            "column_sums",
            run_sums,
            lambda: reference.column_sums(uniform(1, 200, COLUMNS)),
        ),
        Case("rng", "philox_uniform", run_philox, lambda: uniform(9, COLUMNS), ALL),
    ]


def probe(kernel: str) -> Callable[[Operations], Array]:
    """Run one of the probes of selftest.cl on its inputs."""

    def run(operations: Operations) -> Array:
        device = operations.device
        is_fma = kernel == "probe_fma"
        a = uniform(1, PROBED) if is_fma else any_bits(1)
        b = uniform(2, PROBED) if is_fma else any_bits(2)[::-1]
        out = device.empty((PROBED,))
        arguments = (device.upload(a), device.upload(b), device.upload(third()), out)
        size, name = (PROBED,), f"selftest.{kernel}"
        return finished([operations.library.launch(name, size, (LOCAL_SIZE,), arguments)], out)

    return run


def third() -> Floats:
    """The addend of the fma probe, which nearly cancels the product."""
    return -(uniform(1, PROBED) * uniform(2, PROBED))


def rows(stream: int) -> Floats:
    """A (ROWS, COLUMNS) matrix with values on both sides of every branch of the activations."""
    return uniform(stream, ROWS, COLUMNS) * np.float32(4)


# --- gemm.cl -----------------------------------------------------------------------------------


def left() -> Floats:
    """A of the matrix product; the products of its row 7 are tiny."""
    values = uniform(1, ROWS, DEPTH)
    values[7] *= np.float32(1e-21)
    return values


def right() -> Floats:
    """B of the matrix product."""
    return uniform(2, DEPTH, COLUMNS)


def run_gemm(operations: Operations) -> Array:
    """A B, with B stored transposed behind an offset."""
    device = operations.device
    stored = np.concatenate([np.ones(3, np.float32), right().T.ravel()])
    b = row_major(device.upload(stored), COLUMNS, DEPTH, 3).transposed
    out = device.empty((ROWS, COLUMNS))
    c = Matrix(out, ROWS, COLUMNS, 0, COLUMNS, 1)
    a = row_major(device.upload(left()), ROWS, DEPTH)
    return finished(operations.gemm(a, b, c), out)


def run_dense(operations: Operations) -> Array:
    """A layer with bias, residual and ReLU, x stored transposed behind an offset."""
    device = operations.device
    stored = np.concatenate([np.ones(5, np.float32), left().T.ravel()])
    x = row_major(device.upload(stored), DEPTH, ROWS, 5).transposed
    weight = row_major(device.upload(right().T), COLUMNS, DEPTH)
    parameters = device.upload(np.concatenate([np.ones(2, np.float32), uniform(3, COLUMNS)]))
    z, residual = device.empty((ROWS, COLUMNS)), device.upload(rows(1))
    layer = Dense(x, weight, z, bias_offset=2, activation="relu", residual=residual)
    return finished(dense_forward(operations, layer, parameters), z)


def twin_dense() -> Array:
    """As run_dense."""
    return reference.dense(left(), right().T, uniform(3, COLUMNS), rows(1), is_relu=True)


# --- elementwise.cl and reduce.cl --------------------------------------------------------------


def gathered() -> tuple[Floats, NDArray[np.int32], NDArray[np.int32]]:
    """Samples, their labels and the indices of a batch."""
    x = uniform(1, ROWS, COLUMNS)
    x[5] = 1e-30  # flushed
    return x, np.arange(ROWS, dtype=np.int32), np.array([5, -1, 36, 0, 5, 7, 8], np.int32)


def run_gather(operations: Operations) -> Array:
    """The rows and the labels of the batch in one array."""
    device = operations.device
    x, y, index = gathered()
    samples = Samples(device.upload(x), device.upload(y))
    batch = Batch(device.empty((len(index), COLUMNS)), device.empty((len(index),), np.int32))
    launch = operations.gather_rows(samples, device.upload(index), batch)
    gathered_rows = finished([launch], batch.x)
    return np.column_stack([gathered_rows, batch.y.read().astype(np.float32)])


def twin_gather() -> Array:
    """As run_gather."""
    gathered_rows, gathered_labels = reference.gather_rows(*gathered())
    return np.column_stack([gathered_rows, gathered_labels.astype(np.float32)])


def run_activation(name: str) -> Callable[[Operations], Array]:
    """An activation."""

    def run(operations: Operations) -> Array:
        device = operations.device
        z, out = device.upload(rows(1)), device.empty((ROWS, COLUMNS))
        return finished([operations.activation(name, z, out)], out)

    return run


def activated(function: Callable[[Floats], Floats]) -> Callable[[], Array]:
    """As run_activation."""
    return lambda: function(rows(1))


def run_backward(operations: Operations, activation: str) -> Array:
    """The activation's backward pass."""
    device = operations.device
    d = device.upload(rows(2))
    return finished([operations.activation_backward(activation, device.upload(rows(1)), d)], d)


def run_sums(operations: Operations) -> Array:
    """Column sums over more rows than lanes."""
    device = operations.device
    out = device.empty((COLUMNS,))
    d = device.upload(uniform(1, 200, COLUMNS))
    return finished([operations.column_sums(d, out, 0)], out)


# --- rng.cl --------------------------------------------------------------------------------------


def run_philox(operations: Operations) -> Array:
    """Uniform values behind an offset."""
    out = operations.device.zeros((COLUMNS + 1,))
    launch = operations.philox_uniform(out, 1, COLUMNS, SEED, (9, np.float32(2)))
    return finished([launch], out)[1:]
