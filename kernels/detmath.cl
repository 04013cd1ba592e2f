/*
 * detmath: division, square root, exp, log and tanh with the same bits on every device.
 *
 * OpenCL promises 2.5 ulp for division and leaves exp, log and tanh to the implementation, so
 * these are made of operations that are exact everywhere: + - * fma, comparisons, integers.
 *
 *   det_div(a, b)   correctly rounded (half to even)         no other value has its bits
 *   det_sqrt(x)     correctly rounded
 *   det_exp(x)      within 1 ulp; +0 below -87.336 and inf above 88.722
 *   det_log(x)      within 1 ulp for normal x
 *   det_tanh(x)     within 2 ulp
 *
 * Denormals, by rule: a denormal argument counts as zero of its sign, and a quotient that is under
 * 2^-126 when it is rounded to 24 bits is zero of its sign. Every NaN that comes out is 0x7fc00000.
 *
 * Division. The mantissas are divided as numbers in [1, 2), where nothing can overflow, and the
 * exponents subtracted as integers. Newton's iteration gives the correctly rounded reciprocal of
 * all 2^23 mantissas but one, which is set (tests/test_kernels_math.py tries each), from which two
 * steps with an exact fma residual give the correctly rounded quotient: Markstein, Computation of
 * elementary functions on the IBM RISC System/6000 processor, 1990, theorem 8. The square root is
 * built the same way and is tried for all 2^24 mantissas of both exponent parities.
 *
 * exp, log and tanh: reduction as in Cody and Waite, 1980; the polynomials of Moshier's Cephes.
 * Coefficients and the order of operations are constants of the protocol's arithmetic.
 *
 * numpy twins: p2ptrain/device/reference_math.py
 */

#include "common.cl"

#define SIGN_BIT 0x80000000u
#define MAGNITUDE 0x7fffffffu
#define INF_BITS 0x7f800000u
#define NAN_BITS 0x7fc00000u
#define NORMAL_MIN_BITS 0x00800000u
#define MANTISSA 0x007fffffu
#define ONE_BITS 0x3f800000u

/* 1 / m for m in [1, 2), correctly rounded: the line 24/17 - 8/17 m is within 1/17 of it. */
static inline float reciprocal_unit(float m)
{
    float y = fused(-0.470588235f, m, 1.41176471f);
    float e = fused(-m, y, 1.0f);
    y = fused(y, e, y);
    e = fused(-m, y, 1.0f);
    y = fused(y, e, y);
    e = fused(-m, y, 1.0f);
    y = fused(y, e, y);
    e = fused(-m, y, 1.0f);
    y = fused(y, e, y);
    /* The one mantissa that Newton's step leaves at its neighbour, 1/2: all ones. */
    return as_uint(m) == 0x3fffffffu ? as_float(0x3f000001u) : y;
}

/* a / b for a, b in [1, 2), correctly rounded. */
static inline float quotient_unit(float a, float b)
{
    const float y = reciprocal_unit(b);
    float q = a * y;
    q = fused(fused(-b, q, a), y, q);
    return fused(fused(-b, q, a), y, q);
}

static inline float det_div(float a, float b)
{
    const uint sign = (as_uint(a) ^ as_uint(b)) & SIGN_BIT;
    const uint ua = as_uint(a) & MAGNITUDE;
    const uint ub = as_uint(b) & MAGNITUDE;
    const int a_zero = ua < NORMAL_MIN_BITS;
    const int b_zero = ub < NORMAL_MIN_BITS;
    const uint q = as_uint(quotient_unit(as_float((ua & MANTISSA) | ONE_BITS),
                                         as_float((ub & MANTISSA) | ONE_BITS)));
    const int exponent = (int)(q >> 23) + (int)(ua >> 23) - (int)(ub >> 23);
    uint r = (q & MANTISSA) | ((uint)exponent << 23);
    r = exponent >= 255 ? INF_BITS : r;
    r = exponent <= 0 ? 0u : r;
    r = (a_zero | (ub == INF_BITS)) ? 0u : r;
    r = (b_zero | (ua == INF_BITS)) ? INF_BITS : r;
    r |= sign;
    const int invalid = (a_zero & b_zero) | ((ua == INF_BITS) & (ub == INF_BITS))
                      | (ua > INF_BITS) | (ub > INF_BITS);
    return as_float(invalid ? NAN_BITS : r);
}

/* sqrt(m) for m in [1, 4), correctly rounded. */
static inline float sqrt_unit(float m)
{
    float y = as_float(0x5f3759dfu - (as_uint(m) >> 1)); /* 1 / sqrt(m) to within 3.5% */
    const float half_m = 0.5f * m;
    y = y * fused(-half_m * y, y, 1.5f);
    y = y * fused(-half_m * y, y, 1.5f);
    y = y * fused(-half_m * y, y, 1.5f);
    const float half_y = 0.5f * y;
    float g = m * y;
    g = fused(fused(-g, g, m), half_y, g);
    return fused(fused(-g, g, m), half_y, g);
}

static inline float det_sqrt(float x)
{
    const uint u = as_uint(x);
    const uint magnitude = u & MAGNITUDE;
    /* Biased exponents are odd for even powers: 127 stands for 2^0. */
    const uint odd = 1u - ((magnitude >> 23) & 1u);
    const uint root = as_uint(sqrt_unit(as_float((magnitude & MANTISSA) | ((127u + odd) << 23))));
    const int half_exponent = ((int)(magnitude >> 23) - 127 - (int)odd) / 2;
    uint r = root + ((uint)half_exponent << 23);
    r = magnitude == INF_BITS ? INF_BITS : r;
    r = ((u & SIGN_BIT) | (magnitude > INF_BITS)) ? NAN_BITS : r;
    r = magnitude < NORMAL_MIN_BITS ? (u & SIGN_BIT) : r;
    return as_float(r);
}

static inline float det_exp(float x)
{
    /* Out of range the value is thrown away below, but the integer conversion must stay defined. */
    const int low = x < -87.336f;
    const int high = x > 88.722f;
    const float xc = low ? 0.0f : high ? 0.0f : x == x ? x : 0.0f;
    /* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, half to even. */
    const float n = fused(xc, 1.44269504f, 12582912.0f) - 12582912.0f;
    float r = fused(n, -0.693359375f, xc);
    r = fused(n, 2.12194440e-4f, r);
    float p = fused(1.9875691500e-4f, r, 1.3981999507e-3f);
    p = fused(p, r, 8.3334519073e-3f);
    p = fused(p, r, 4.1665795894e-2f);
    p = fused(p, r, 1.6666665459e-1f);
    p = fused(p, r, 5.0000001201e-1f);
    p = fused(p, r * r, r) + 1.0f;
    /* 2^128 is no float32: the power is applied in two halves, and neither rounds. */
    const int i = (int)n;
    const int half_i = i / 2;
    float y = p * as_float((uint)(half_i + 127) << 23) * as_float((uint)(i - half_i + 127) << 23);
    y = low ? 0.0f : high ? as_float(INF_BITS) : y;
    return x == x ? y : as_float(NAN_BITS);
}

static inline float det_log(float x)
{
    const uint u = as_uint(x);
    /* x = m * 2^e with m in [sqrt(1/2), sqrt(2)): 0x3504f3 is the mantissa of sqrt(2). */
    const int above = (u & MANTISSA) >= 0x3504f3u;
    const float m = as_float((u & MANTISSA) | ((127u - (uint)above) << 23)) - 1.0f;
    const float e = (float)((int)((u >> 23) & 255u) - 127 + above);
    const float z = m * m;
    float p = fused(7.0376836292e-2f, m, -1.1514610310e-1f);
    p = fused(p, m, 1.1676998740e-1f);
    p = fused(p, m, -1.2420140846e-1f);
    p = fused(p, m, 1.4249322787e-1f);
    p = fused(p, m, -1.6668057665e-1f);
    p = fused(p, m, 2.0000714765e-1f);
    p = fused(p, m, -2.4999993993e-1f);
    p = fused(p, m, 3.3333331174e-1f);
    float y = p * m * z;
    y = fused(e, -2.12194440e-4f, y);
    y = fused(-0.5f, z, y);
    y = fused(e, 0.693359375f, m + y);
    y = u == INF_BITS ? as_float(INF_BITS) : y;
    y = ((u & SIGN_BIT) | ((u & MAGNITUDE) > INF_BITS)) ? as_float(NAN_BITS) : y;
    return (u & MAGNITUDE) < NORMAL_MIN_BITS ? as_float(INF_BITS | SIGN_BIT) : y;
}

static inline float det_tanh(float x)
{
    const uint sign = as_uint(x) & SIGN_BIT;
    const float a = as_float(as_uint(x) & MAGNITUDE);
    const float z = a * a;
    float p = fused(-5.70498872745e-3f, z, 2.06390887954e-2f);
    p = fused(p, z, -5.37397155531e-2f);
    p = fused(p, z, 1.33314422036e-1f);
    p = fused(p, z, -3.33332819422e-1f);
    const float near_zero = fused(p * z, a, a);
    const float far = 1.0f - det_div(2.0f, det_exp(a + a) + 1.0f);
    float y = a < 0.625f ? near_zero : far;
    y = a > 9.011f ? 1.0f : y;
    y = a < 1.0e-4f ? a : y; /* where z and its powers may be denormal */
    return a == a ? as_float(as_uint(y) | sign) : as_float(NAN_BITS);
}
