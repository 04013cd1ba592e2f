"""Golden cases of detmath.cl beyond those in golden_basic: quotients within a domain, and GELU.

Each function value by value, on inputs within its domain (the header of detmath.cl).
"""

from collections.abc import Callable

import numpy as np

from p2ptrain.device import reference_math
from p2ptrain.device.golden_inputs import (
    ALL,
    PROBED,
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
from p2ptrain.device.operations import Operations


def cases() -> list[Case]:
    """Each function once."""
    functions: list[
        tuple[str, Callable[[], Floats], Callable[[Floats], Floats], tuple[str, ...]]
    ] = [
        ("div_normal", divisors, lambda b: reference_math.div_normal(uniform(6, PROBED), b), ALL),
        ("recip", divisors, reference_math.recip, ALL),
        ("rsqrt", lambda: any_bits(3), reference_math.rsqrt, USERS_OF_ROOTS),
        ("gelu", curved, reference_math.gelu, USERS_OF_GELU),
        ("gelu_slope", curved, reference_math.gelu_slope, USERS_OF_GELU),
    ]
    return [
        Case("selftest", f"probe_{name}", probe(name, inputs), twin(inputs, function), used_by)
        for name, inputs, function, used_by in functions
    ]


def probe(name: str, inputs: Callable[[], Floats]) -> Callable[[Operations], Array]:
    """Run one of the probes of selftest.cl; its inputs are a, or b where there are two."""

    def run(operations: Operations) -> Array:
        device = operations.device
        values = device.upload(inputs())
        a = device.upload(uniform(6, PROBED)) if name == "div_normal" else values
        out = device.empty((PROBED,))
        arguments = (a, values, values, out)
        launch = operations.library.launch(
            f"selftest.probe_{name}", (PROBED,), (LOCAL_SIZE,), arguments
        )
        return finished([launch], out)

    return run


def twin(inputs: Callable[[], Floats], function: Callable[[Floats], Floats]) -> Callable[[], Array]:
    """The function on the inputs in numpy."""
    return lambda: function(inputs())


def divisors() -> Floats:
    """Values of both signs and many mantissas between 2^-40 and 2^41."""
    exponents = (np.arange(PROBED) % 81 - 40).astype(np.int32)
    mantissas = np.copysign(1 + np.abs(uniform(4, PROBED)) / 2, uniform(5, PROBED))
    return np.ldexp(mantissas.astype(np.float32), exponents).astype(np.float32)


def curved() -> Floats:
    """Values over both ends of GELU's curve, tiny ones and infinities among them; no NaN."""
    values = any_bits(4)
    values[1::4] = uniform(7, PROBED)[1::4] * np.float32(5)
    return np.where(np.isnan(values), np.float32(-0.75), values).astype(np.float32)
