"""kernels/common.cl and kernels/detmath.cl again in numpy, equal bit for bit.

This is what the functions mean. Where the kernel computes what IEEE 754 defines, division and
square root, the twin takes numpy's own and so checks the algorithm rather than repeats it. Where
the kernel defines the result, such as exp, tanh and GELU, the twin repeats the order of operations.

All functions take and return float32 arrays of any one shape. Overflow and invalid operations
are part of the definitions, so numpy is asked to be silent about them.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LANES = 64
TINY = np.float32(2.0**-63)
NORMAL_MIN = np.float32(2.0**-126)
QUIET = {"over": "ignore", "under": "ignore", "invalid": "ignore", "divide": "ignore"}
CANONICAL_NAN = np.uint32(0x7FC00000).view(np.float32)

ROUNDING = np.float32(12582912.0)
EXP_LOW = np.float32(float.fromhex("-0x1.5d589ep+6"))
EXP_HIGH = np.float32(float.fromhex("0x1.62e42ep+6"))
EXP_COEFFICIENTS = (
    1.38198247e-3,
    8.36868770e-3,
    4.16682772e-2,
    1.66665211e-1,
    4.99999940e-1,
    1.0,
    1.0,
)
LOG_COEFFICIENTS = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
TANH_COEFFICIENTS = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)
EXP2_COEFFICIENTS = (
    1.53278394e-4,
    1.33909972e-3,
    9.61850304e-3,
    5.55035956e-2,
    2.40226477e-1,
    6.93147182e-1,
    1.0,
)
GELU_A, GELU_A_LOW = np.float32(2.30220795), np.float32(2.51366970e-7)
GELU_B, GELU_B_LOW = np.float32(0.102943242), np.float32(-2.01619854e-9)
GELU_SLOPE_A, GELU_SLOPE_B = np.float32(1.59576917), np.float32(0.214064449)
GELU_ONE, GELU_ZERO = np.float32(6), np.float32(-9)
ONE = np.float32(1)
HALF = np.float32(0.5)


def fma(a: Floats | np.float32, b: Floats | np.float32, c: Floats | np.float32) -> Floats:
    """The fused a * b + c, rounded once.

    numpy has no fused operation, and float64 rounded to float32 rounds twice. The float64 sum is
    therefore rounded to odd first: when it is not exact and its last bit is even, it moves to the
    odd neighbour on the side of the exact sum, and 53 bits to odd then 24 bits to nearest equals
    24 bits to nearest. Boldo and Melquiond, Emulation of FMA and correctly rounded sums, 2008.
    """
    product = np.multiply(a, b, dtype=np.float64)  # exact: 24 + 24 bits
    with np.errstate(**QUIET):  # type: ignore[arg-type]  # the stubs want literals
        total = np.asarray(product + c)
        shift = total - product
        error = (product - (total - shift)) + (c - shift)  # Knuth's two-sum: what total lost
        bits = total.view(np.int64)
        towards = np.where((error > 0) == (total > 0), bits + 1, bits - 1)
        inexact = np.isfinite(error) & (error != 0)
        odd = np.where(inexact & (bits & 1 == 0), towards, bits).view(np.float64)
        return odd.astype(np.float32)


def flush_tiny(x: Floats) -> Floats:
    """+0 for |x| < 2^-63, else x; NaN stays NaN."""
    return np.where(np.abs(x) < TINY, np.float32(0), x).astype(np.float32)


def flush_denormal(x: Floats) -> Floats:
    """+0 for |x| < 2^-126, else x."""
    return np.where(np.abs(x) < NORMAL_MIN, np.float32(0), x).astype(np.float32)


def lane_sum(values: Floats) -> Floats:
    """Sum over the first axis: value i to lane i mod 64 in order, then a fixed binary tree.

    Args:
      values  (n, ...) float32

    Returns:
      (...) float32
    """
    lanes = np.zeros((LANES, *values.shape[1:]), np.float32)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        for start in range(0, len(values), LANES):
            part = values[start : start + LANES]
            lanes[: len(part)] += part
        width = LANES // 2
        while width:
            lanes[:width] += lanes[width : 2 * width]
            width //= 2
    return np.array(lanes[0], np.float32)


def without_denormals(x: Floats) -> Floats:
    """A denormal argument counts as the zero of its sign."""
    return np.where(np.abs(x) < NORMAL_MIN, np.copysign(np.float32(0), x), x).astype(np.float32)


def canonical_nan(x: Floats) -> Floats:
    """Every NaN as 0x7fc00000."""
    return np.where(np.isnan(x), CANONICAL_NAN, x).astype(np.float32)


def div(a: Floats, b: Floats) -> Floats:
    """The quotient, correctly rounded; zero of its sign where its 24 bits are under 2^-126."""
    a, b = np.broadcast_arrays(without_denormals(np.asarray(a)), without_denormals(np.asarray(b)))
    mantissa_a, exponent_a = np.frexp(a)
    mantissa_b, exponent_b = np.frexp(b)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        quotient = (mantissa_a / mantissa_b).astype(np.float64)
        scaled = np.ldexp(quotient, exponent_a - exponent_b)
        small = np.abs(scaled) < NORMAL_MIN
        scaled = np.where(small, np.copysign(0.0, scaled), scaled)
        special = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b)
        return canonical_nan(np.where(special, a / b, scaled.astype(np.float32)))


def div_normal(a: Floats, b: Floats) -> Floats:
    """The quotient, correctly rounded; NaN where b is 0 and where a or b is not finite.

    This and recip are the kernel's within the domains that detmath.cl states; outside of them the
    kernel's result may be another one that is not finite.
    """
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        defined = np.isfinite(a) & np.isfinite(b) & (np.asarray(b) != 0)
        return np.where(defined, np.divide(a, b), CANONICAL_NAN).astype(np.float32)


def recip(b: Floats) -> Floats:
    """1 / b, correctly rounded; NaN for 0, infinity and NaN."""
    return div_normal(np.ones_like(b), b)


def reciprocal_rough(b: Floats) -> Floats:
    """1 / b within 2^-22 of itself, for normal b below 2^126."""
    bits = np.asarray(b).view(np.uint32)
    magnitude = np.uint32(0x7EF311C0) - (bits & np.uint32(0x7FFFFFFF))
    y = (magnitude | (bits & np.uint32(0x80000000))).view(np.float32)
    for _ in range(3):
        y = fma(y, fma(-b, y, ONE), y)
    return y


def sqrt(x: Floats) -> Floats:
    """Square root, correctly rounded; NaN below zero."""
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        return canonical_nan(np.sqrt(without_denormals(np.asarray(x))))


def rsqrt(x: Floats) -> Floats:
    """1 / sqrt(x), correctly rounded but for two mantissas; NaN below zero, 0 for infinity."""
    x = np.asarray(x)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        y = (np.uint32(0x5F3759DF) - (x.view(np.uint32) >> np.uint32(1))).view(np.float32)
        half_x = HALF * x
        for _ in range(3):
            y = y * fma(-half_x * y, y, np.float32(1.5))
        g = x * y
        error = fma(-fma(x, y, -g), y, fma(-g, y, ONE))
        y = fma(HALF * y, error, y)
    y = np.where(np.signbit(x) | np.isnan(x), CANONICAL_NAN, np.where(np.isinf(x), 0, y))
    y = np.where(np.isneginf(x), CANONICAL_NAN, y)
    infinite = np.copysign(np.float32(np.inf), x)
    return np.where(np.abs(x) < NORMAL_MIN, infinite, y).astype(np.float32)


def exp(x: Floats) -> Floats:
    """e^x within 0.91 ulp; +0 below -87.33654, inf above 88.72283."""
    x = np.asarray(x)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        rounded = fma(x, np.float32(1.44269504), ROUNDING)
        n = rounded - ROUNDING
        r = fma(n, np.float32(-0.693359375), x)
        r = fma(n, np.float32(2.12194440e-4), r)
        y = times_power(polynomial(EXP_COEFFICIENTS, r), rounded)
    y = np.where(x < EXP_LOW, np.float32(0), np.where(x > EXP_HIGH, np.float32(np.inf), y))
    return np.where(np.isnan(x), CANONICAL_NAN, y).astype(np.float32)


def log(x: Floats) -> Floats:
    """Natural logarithm within 0.83 ulp; -inf for zeros and denormals, NaN below zero."""
    x = np.asarray(x)
    bits = x.view(np.uint32)
    above = ((bits & 0x7FFFFF) >= 0x3504F3).astype(np.uint32)
    m = ((bits & 0x7FFFFF) | ((np.uint32(127) - above) << 23)).view(np.float32) - np.float32(1)
    e = (((bits >> 23) & 255).astype(np.int32) - 127 + above.astype(np.int32)).astype(np.float32)
    z = m * m
    y = polynomial(LOG_COEFFICIENTS, m) * m * z
    y = fma(e, np.float32(-2.12194440e-4), y)
    y = fma(np.float32(-0.5), z, y)
    y = fma(e, np.float32(0.693359375), m + y)
    y = np.where(np.isposinf(x), x, y)
    y = np.where(np.signbit(x) | np.isnan(x), CANONICAL_NAN, y)
    return np.where(np.abs(x) < NORMAL_MIN, np.float32(-np.inf), y).astype(np.float32)


def tanh(x: Floats) -> Floats:
    """Hyperbolic tangent within 1.4 ulp, odd; x itself for |x| < 1e-4."""
    x = np.asarray(x)
    a = np.abs(x)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        z = a * a
        near_zero = fma(polynomial(TANH_COEFFICIENTS, z) * z, a, a)
        far = ONE - div_normal(np.full_like(a, 2), exp(a + a) + ONE)
    y = np.where(a < np.float32(0.625), near_zero, far)
    y = np.where(a > np.float32(9.011), np.float32(1), y)
    y = np.where(a < np.float32(1e-4), a, y)
    return np.where(np.isnan(x), CANONICAL_NAN, np.copysign(y, x)).astype(np.float32)


def gelu_power(x: Floats) -> Floats:
    """e^-2u of GELU's tanh form, for x between GELU_ZERO and GELU_ONE."""
    square = x * x
    square_low = fma(x, x, -square)
    h = fma(GELU_B, square, GELU_A)
    h_low = fma(GELU_B, square, GELU_A - h)
    h_low = h_low + fma(GELU_B, square_low, fma(GELU_B_LOW, square, GELU_A_LOW))
    w = x * h
    w_low = fma(x, h_low, fma(x, h, -w))
    rounded = ROUNDING - w
    f = ((ROUNDING - rounded) - w) - w_low
    return times_power(polynomial(EXP2_COEFFICIENTS, f), rounded)


def gelu(x: Floats) -> Floats:
    """GELU in its tanh form within 1.7 ulp; +0 where it is under 2^-63."""
    x = np.asarray(x)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        power = gelu_power(x)
        more, less = np.where(power > 1, power, ONE), np.where(power > 1, ONE, power)
        d = more + less
        d_low = less - (d - more)
        y = reciprocal_rough(d)
        q = x * y
        g = fma(fma(-d_low, q, fma(-d, q, x)), y, q)
    g = np.where(x > GELU_ONE, x, g)
    return flush_tiny(np.where(x < GELU_ZERO, np.float32(0), g))


def gelu_slope(x: Floats) -> Floats:
    """The derivative of GELU, within 2.1e-7."""
    x = np.asarray(x)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        power = gelu_power(x)
        d = ONE + power
        rough = reciprocal_rough(d)
        share = fma(fma(-d, rough, ONE), rough, rough)
        v = x * fma(GELU_SLOPE_B, x * x, GELU_SLOPE_A)
        g = fma(share * (power * share), v, share)
    g = np.where(x < GELU_ZERO, np.float32(0), np.where(x > GELU_ONE, ONE, g))
    return np.where(np.isnan(x), x, g).astype(np.float32)


def polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """Horner's scheme in fused steps, the highest power's coefficient first."""
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        value = np.full_like(x, coefficients[0])
        for coefficient in coefficients[1:]:
            value = fma(value, x, np.float32(coefficient))
        return value


def times_power(p: Floats, rounded: Floats) -> Floats:
    """Multiply p by 2^n: add n to the exponent, for a normal result; rounded is ROUNDING + n."""
    return (p.view(np.uint32) + (rounded.view(np.uint32) << np.uint32(23))).view(np.float32)
