/*
 * detmath: division, square root, exp, log, tanh and GELU with the same bits on every device.
 *
 * OpenCL promises 2.5 ulp for division and leaves exp, log and tanh to the implementation, so
 * these are made of operations that are exact everywhere: + - * fma, comparisons, integers.
 *
 *   det_div(a, b)         correctly rounded (half to even)       no other value has its bits
 *   det_div_normal(a, b)  the same bits in two thirds of the time, within a domain: see below
 *   det_recip(b)          correctly rounded, for 2^-126 <= |b| < 2^126; not finite for 0 and NaN
 *   det_sqrt(x)           correctly rounded
 *   det_rsqrt(x)          correctly rounded but for two of 2^24 mantissas, within 1 ulp there
 *   det_exp(x)            within 0.91 ulp; +0 below -87.33654 and inf above 88.72283
 *   det_log(x)            within 0.83 ulp for normal x
 *   det_tanh(x)           within 1.4 ulp
 *   det_gelu(x)           within 1.7 ulp; +0 where it is under 2^-63
 *   det_gelu_slope(x)     its derivative, within 2.1e-7
 *
 * The bounds are measured over all 2^32 arguments by benchmarks/ulp.py.
 *
 * Denormals, by rule: a denormal argument counts as zero of its sign, and a quotient that is under
 * 2^-126 when it is rounded to 24 bits is zero of its sign. Every NaN that comes out is 0x7fc00000,
 * but for det_div_normal, det_recip and the two of GELU, whose NaN may have any payload.
 *
 * The domain of det_div_normal: 2^-126 <= |b| < 2^126; a is 0 or 2^-100 <= |a|; the quotient, if it
 * is not 0, is in 2^-126 <= |a / b| < 2^127. A NaN or an infinity in a or b, and b = 0, give what is
 * not finite.
 *
 * Division. An integer subtraction gives the reciprocal to within 5.1%, equally for every exponent,
 * and Newton's iteration the correctly rounded reciprocal of all 2^23 mantissas but one, which is
 * set (tests/test_kernels_math.py tries each). From it two steps with an exact fma residual give
 * the correctly rounded quotient: Markstein, Computation of elementary functions on the IBM RISC
 * System/6000 processor, 1990, theorem 8. det_div divides the mantissas as numbers in [1, 2), where
 * nothing can overflow, and subtracts the exponents as integers. The square root is built the same
 * way with one such step, and is tried for all 2^24 mantissas of both exponent parities.
 *
 * exp, log and tanh: reduction as in Cody and Waite, 1980; the polynomials of log and tanh are
 * those of Moshier's Cephes, the others minimax of the relative error (Remez, coefficients rounded
 * one after the other).
 *
 * GELU in its tanh form, x / 2 (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), is computed
 * as x / (1 + e^-2u): for x far below 0 the sum 1 + tanh u cancels, and this one does not. There
 * e^-2u is large and magnifies the error of u a hundred times, and so u is a pair of floats.
 * Hendrycks and Gimpel, Gaussian error linear units, 2016, arXiv:1606.08415.
 *
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

/* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, half to even; between the two
 * the integer is in the low bits of the float. */
#define ROUNDING 12582912.0f

/* 1 / b within 2^-22 of itself, for normal b below 2^126. */
static inline float reciprocal_rough(float b)
{
    const uint magnitude = 0x7ef311c0u - (as_uint(b) & MAGNITUDE);
    float y = as_float(magnitude | (as_uint(b) & SIGN_BIT)); /* to within 5.1% */
    y = fused(y, fused(-b, y, 1.0f), y);
    y = fused(y, fused(-b, y, 1.0f), y);
    return fused(y, fused(-b, y, 1.0f), y);
}

static inline float det_recip(float b)
{
    const float rough = reciprocal_rough(b);
    const float y = fused(rough, fused(-b, rough, 1.0f), rough);
    /* The one mantissa that Newton's step leaves at its neighbour, 2^-n: all ones. */
    return (as_uint(b) & MANTISSA) == MANTISSA ? as_float(as_uint(y) + 1u) : y;
}

static inline float det_div_normal(float a, float b)
{
    const float y = det_recip(b);
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
    const uint q = as_uint(det_div_normal(as_float((ua & MANTISSA) | ONE_BITS),
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

/* 1 / sqrt(x) within 2^-22 of itself, for normal x. */
static inline float rsqrt_rough(float x)
{
    float y = as_float(0x5f3759dfu - (as_uint(x) >> 1)); /* to within 3.5% */
    const float half_x = 0.5f * x;
    y = y * fused(-half_x * y, y, 1.5f);
    y = y * fused(-half_x * y, y, 1.5f);
    return y * fused(-half_x * y, y, 1.5f);
}

static inline float det_sqrt(float x)
{
    const uint u = as_uint(x);
    /* Below 2^-64 the residual of the last steps would be denormal. */
    const int small = u < 0x1f800000u;
    const float m = small ? x * 0x1p64f : x;
    const float y = rsqrt_rough(m);
    const float half_y = 0.5f * y;
    const float near = m * y;
    const float g = fused(fused(-near, near, m), half_y, near);
    uint r = as_uint(small ? g * 0x1p-32f : g);
    r = u >= INF_BITS ? NAN_BITS : r;
    r = u == INF_BITS ? INF_BITS : r;
    return as_float((u & MAGNITUDE) < NORMAL_MIN_BITS ? u & SIGN_BIT : r);
}

static inline float det_rsqrt(float x)
{
    const uint u = as_uint(x);
    const float y = rsqrt_rough(x);
    /* One more of Newton's steps, with the square of x y to twice the precision. */
    const float g = x * y;
    const float error = fused(-fused(x, y, -g), y, fused(-g, y, 1.0f));
    uint r = as_uint(fused(0.5f * y, error, y));
    r = u >= INF_BITS ? NAN_BITS : r;
    r = u == INF_BITS ? 0u : r;
    return as_float((u & MAGNITUDE) < NORMAL_MIN_BITS ? (u & SIGN_BIT) | INF_BITS : r);
}

/* Between them e^x is a normal number: the float above -126 ln 2, and the one below 128 ln 2. */
#define EXP_LOW -0x1.5d589ep+6f
#define EXP_HIGH 0x1.62e42ep+6f

static inline float det_exp(float x)
{
    const float rounded = fused(x, 1.44269504f, ROUNDING);
    const float n = rounded - ROUNDING;
    float r = fused(n, -0.693359375f, x);
    r = fused(n, 2.12194440e-4f, r);
    float p = fused(1.38198247e-3f, r, 8.36868770e-3f);
    p = fused(p, r, 4.16682772e-2f);
    p = fused(p, r, 1.66665211e-1f);
    p = fused(p, r, 4.99999940e-1f);
    p = fused(p, r, 1.0f);
    p = fused(p, r, 1.0f);
    /* Times 2^n: where x is in range the result is normal, so that its exponent can be added to. */
    float y = as_float(as_uint(p) + (as_uint(rounded) << 23));
    y = x < EXP_LOW ? 0.0f : y;
    y = x > EXP_HIGH ? as_float(INF_BITS) : y;
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
    const float far = 1.0f - det_div_normal(2.0f, det_exp(a + a) + 1.0f);
    float y = a < 0.625f ? near_zero : far;
    y = a > 9.011f ? 1.0f : y;
    y = a < 1.0e-4f ? a : y; /* where z and its powers may be denormal */
    return a == a ? as_float(as_uint(y) | sign) : as_float(NAN_BITS);
}

/* 2 sqrt(2 / pi) log2(e), and that times 0.044715, each with its next bits */
#define GELU_A 2.30220795f /* a multiple of 2^-20 */
#define GELU_A_LOW 2.51366970e-7f
#define GELU_B 0.102943242f
#define GELU_B_LOW -2.01619854e-9f
#define GELU_SLOPE_A 1.59576917f  /* 2 sqrt(2 / pi) */
#define GELU_SLOPE_B 0.214064449f /* that times 3 * 0.044715 */
/* Over the first GELU is x to 24 bits, and below the second less than 2^-63. */
#define GELU_ONE 6.0f
#define GELU_ZERO -9.0f

/* e^-2u = 2^-w with w = x (A + B x^2), for x between GELU_ZERO and GELU_ONE. */
static inline float gelu_power(float x)
{
    const float square = x * x;
    const float square_low = fused(x, x, -square);
    const float h = fused(GELU_B, square, GELU_A);
    /* A - h is exact: both are multiples of the last bit of h, which is below 16. */
    float h_low = fused(GELU_B, square, GELU_A - h);
    h_low = h_low + fused(GELU_B, square_low, fused(GELU_B_LOW, square, GELU_A_LOW));
    const float w = x * h;
    const float w_low = fused(x, h_low, fused(x, h, -w));
    const float rounded = ROUNDING - w;
    const float f = ((ROUNDING - rounded) - w) - w_low;
    float p = fused(1.53278394e-4f, f, 1.33909972e-3f);
    p = fused(p, f, 9.61850304e-3f);
    p = fused(p, f, 5.55035956e-2f);
    p = fused(p, f, 2.40226477e-1f);
    p = fused(p, f, 6.93147182e-1f);
    p = fused(p, f, 1.0f);
    return as_float(as_uint(p) + (as_uint(rounded) << 23));
}

static inline float det_gelu(float x)
{
    const float power = gelu_power(x);
    const float more = power > 1.0f ? power : 1.0f;
    const float less = power > 1.0f ? 1.0f : power;
    const float d = more + less;
    const float d_low = less - (d - more);
    const float y = reciprocal_rough(d);
    const float q = x * y;
    float g = fused(fused(-d_low, q, fused(-d, q, x)), y, q);
    g = x > GELU_ONE ? x : g;
    g = x < GELU_ZERO ? 0.0f : g;
    return flush_tiny(g);
}

static inline float det_gelu_slope(float x)
{
    const float power = gelu_power(x);
    const float d = 1.0f + power;
    const float rough = reciprocal_rough(d);
    const float share = fused(fused(-d, rough, 1.0f), rough, rough); /* 1 / (1 + e^-2u) */
    const float rest = power * share;                                /* 1 - share */
    const float v = x * fused(GELU_SLOPE_B, x * x, GELU_SLOPE_A);
    float g = fused(share * rest, v, share);
    g = x > GELU_ONE ? 1.0f : g;
    g = x < GELU_ZERO ? 0.0f : g;
    return x == x ? g : x;
}
