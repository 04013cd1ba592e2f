"""kernels/detmath.cl: correctly rounded division and square root, the rest within its bounds."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device import reference_math
from p2ptrain.device.kernels import LOCAL_SIZE, KernelLibrary
from p2ptrain.device.opencl import open_device

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

DEVICE = open_device()
LIBRARY = KernelLibrary(DEVICE)
MANTISSAS = 1 << 23

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def on_device(name: str, a: Floats, b: Floats | None = None) -> Floats:
    """One probe of selftest.cl over arrays whose length is a multiple of 64."""
    out = DEVICE.empty(a.shape)
    second = DEVICE.upload(a if b is None else b)
    arguments = (DEVICE.upload(a), second, second, out)
    LIBRARY.launch(f"selftest.probe_{name}", a.shape, (LOCAL_SIZE,), arguments).enqueue()
    result: Floats = out.read()
    return result


def all_mantissas(exponent: int) -> Floats:
    """Every float32 in [2^exponent, 2^(exponent + 1))."""
    first = np.uint32((127 + exponent) << 23)
    return (np.arange(MANTISSAS, dtype=np.uint32) + first).view(np.float32)


def test_the_reciprocal_of_every_mantissa_is_correctly_rounded() -> None:
    """The premise of Markstein's theorem on the quotient."""
    values = all_mantissas(0)
    np.testing.assert_array_equal(on_device("recip", values), np.float32(1) / values)
    for exponent in (-126, 125):
        scaled = all_mantissas(exponent)[:: 1 << 7]
        np.testing.assert_array_equal(on_device("recip", -scaled), np.float32(-1) / scaled)


def test_the_square_root_of_every_mantissa_is_correctly_rounded() -> None:
    for exponent in (0, 1):
        values = all_mantissas(exponent)
        np.testing.assert_array_equal(on_device("sqrt", values), np.sqrt(values))


def test_all_but_two_mantissas_have_a_correctly_rounded_reciprocal_root() -> None:
    misrounded = 0
    for exponent in (0, 1):
        values = all_mantissas(exponent)
        exact = 1 / np.sqrt(values.astype(np.float64))
        got = on_device("rsqrt", values)
        misrounded += int((got != exact.astype(np.float32)).sum())
        assert (np.abs(got - exact) < np.spacing(got)).all()
    assert misrounded == 2


def test_quotients_of_all_mantissas_by_hard_divisors_are_correctly_rounded() -> None:
    """Divisors next to a power of two, where a quotient comes closest to half a unit."""
    values = all_mantissas(0)
    for bits in (0x3F800001, 0x3FFFFFFF, 0x3FFFFFFE, 0x3FB504F3):
        divisor = np.full_like(values, np.uint32(bits).view(np.float32))
        for name in ("div", "div_normal"):
            np.testing.assert_array_equal(on_device(name, values, divisor), values / divisor)


factor = st.floats(1, 2, width=32, exclude_max=True)


@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(factor, factor), min_size=64, max_size=64), shift=st.data())
def test_both_quotients_are_those_of_ieee_754(
    pairs: list[tuple[float, float]], shift: st.DataObject
) -> None:
    a, b = np.array(pairs, np.float32).T
    a = np.ldexp(a, shift.draw(st.integers(-100, 100))).astype(np.float32)
    b = np.ldexp(b, shift.draw(st.integers(-25, 25))).astype(np.float32)
    for name in ("div", "div_normal"):
        np.testing.assert_array_equal(on_device(name, a, -b), a / -b)


@pytest.mark.parametrize(("a", "b"), [(1, 0), (0, 0), (np.inf, 1), (1, np.inf), (np.nan, 1)])
def test_the_quotient_of_normal_numbers_shows_what_is_outside_of_its_domain(
    a: float, b: float
) -> None:
    """A diverged training must not go on with a number."""
    values = np.full(64, a, np.float32), np.full(64, b, np.float32)
    assert not np.isfinite(on_device("div_normal", *values)).any()


@settings(max_examples=300)
@given(a=finite, b=finite, c=finite)
def test_the_twin_of_fma_rounds_the_exact_result_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    x, y, z = (np.array([value], np.float32) for value in (a, b, c))
    got = reference_math.fma(x, y, z)[0]
    if np.isinf(got):
        assert abs(exact) > Fraction(float(np.finfo(np.float32).max))
        return
    for neighbour in (
        np.nextafter(got, np.float32(-np.inf)),
        np.nextafter(got, np.float32(np.inf)),
    ):
        if np.isfinite(neighbour):
            nearer = abs(Fraction(float(got)) - exact)
            assert nearer <= abs(Fraction(float(neighbour)) - exact)


def test_the_twin_of_fma_survives_the_known_double_rounding() -> None:
    """float64 then float32 gives 1 + 2^-23 here, as the float64 sum falls on the tie."""
    a = np.array([1 + 2.0**-12], np.float32)
    b = np.array([1 + 2.0**-12], np.float32)
    c = np.array([-(2.0**-11) - 2.0**-60], np.float32)
    assert reference_math.fma(a, b, c)[0] == np.float32(1)


def gelu(x: Doubles) -> Doubles:
    """GELU in its tanh form, without cancellation."""
    exact: Doubles = x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return exact


ULP_BOUNDS: list[tuple[str, Callable[[Doubles], Doubles], float, tuple[float, float]]] = [
    ("exp", np.exp, 0.91, (-87.33, 88.722)),
    ("log", np.log, 0.83, (1e-37, 1e37)),
    ("tanh", np.tanh, 1.4, (-12.0, 12.0)),
    ("gelu", gelu, 1.7, (-8.3, 9.0)),
]


@pytest.mark.parametrize(("name", "exact", "ulp_max", "between"), ULP_BOUNDS)
def test_functions_stay_within_their_bounds(
    name: str, exact: Callable[[Doubles], Doubles], ulp_max: float, between: tuple[float, float]
) -> None:
    low, high = between
    values = np.linspace(low, high, 1 << 18).astype(np.float32)
    values[: 1 << 17] = np.geomspace(1e-7, high, 1 << 17)
    wanted = exact(values.astype(np.float64))
    unit = np.spacing(np.abs(wanted).astype(np.float32)).astype(np.float64)
    error = np.abs(on_device(name, values).astype(np.float64) - wanted) / unit
    assert error.max() <= ulp_max


def test_the_slope_of_gelu_is_its_derivative() -> None:
    """Against central differences of the exact function, which are right to about 1e-10."""
    values = np.linspace(-9.5, 7, 1 << 16).astype(np.float32)
    at, step = values.astype(np.float64), 1e-5
    slope = (gelu(at + step) - gelu(at - step)) / (2 * step)
    assert np.abs(on_device("gelu_slope", values) - slope).max() < 2.1e-7


def test_gelu_is_zero_where_it_is_tiny_and_passes_what_is_not_finite() -> None:
    values = np.zeros(64, np.float32)
    values[:8] = np.inf, -np.inf, np.nan, 1e38, -1e38, 2.0**-63, -(2.0**-63), 1e-42
    assert on_device("gelu", values)[:8].tolist() == pytest.approx(
        [np.inf, 0, np.nan, 1e38, 0, 0, 0, 0], nan_ok=True
    )
    slope = on_device("gelu_slope", values)[:8].tolist()
    assert slope == pytest.approx([1, 0, np.nan, 1, 0, 0.5, 0.5, 0.5], nan_ok=True)
    assert not np.signbit(on_device("gelu", values)[:8]).any()


SPECIAL: list[tuple[str, float, float, float]] = [
    ("div", 1.0, 0.0, np.inf),
    ("div", -1.0, 0.0, -np.inf),
    ("div", 0.0, 0.0, np.nan),
    ("div", np.inf, np.inf, np.nan),
    ("div", 1.0, np.inf, 0.0),
    ("div", 3e38, 1e-10, np.inf),
    ("div", 1e-30, 1e30, 0.0),
    ("div", 1e-40, 1.0, 0.0),
    ("div", 1.0, 1e-40, np.inf),
    ("sqrt", -1.0, 0.0, np.nan),
    ("sqrt", np.inf, 0.0, np.inf),
    ("sqrt", 1e-40, 0.0, 0.0),
    ("rsqrt", 4.0, 0.0, 0.5),
    ("rsqrt", 0.0, 0.0, np.inf),
    ("rsqrt", -0.0, 0.0, -np.inf),
    ("rsqrt", 1e-40, 0.0, np.inf),
    ("rsqrt", np.inf, 0.0, 0.0),
    ("rsqrt", -1.0, 0.0, np.nan),
    ("rsqrt", -np.inf, 0.0, np.nan),
    ("rsqrt", np.nan, 0.0, np.nan),
    ("exp", 88.72283, 0.0, 3.4027985e38),
    ("exp", 100.0, 0.0, np.inf),
    ("exp", -100.0, 0.0, 0.0),
    ("exp", -np.inf, 0.0, 0.0),
    ("exp", np.nan, 0.0, np.nan),
    ("log", 0.0, 0.0, -np.inf),
    ("log", 1.0, 0.0, 0.0),
    ("log", -1.0, 0.0, np.nan),
    ("log", np.inf, 0.0, np.inf),
    ("tanh", np.inf, 0.0, 1.0),
    ("tanh", -np.inf, 0.0, -1.0),
    ("tanh", np.nan, 0.0, np.nan),
]


@pytest.mark.parametrize(("name", "a", "b", "expected"), SPECIAL)
def test_special_values_are_defined(name: str, a: float, b: float, expected: float) -> None:
    result = on_device(name, np.full(64, a, np.float32), np.full(64, b, np.float32))
    np.testing.assert_array_equal(result, np.full(64, expected, np.float32))
    if np.isnan(expected):
        assert (result.view(np.uint32) == 0x7FC00000).all()
