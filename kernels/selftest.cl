/*
 * selftest: probes of a device's arithmetic, and detmath one value at a time.
 *
 *   a, b, c  (n)  float32  in
 *   out      (n)  float32  out
 *
 *   probe_fma                fused(a, b, c)
 *   probe_contraction        a * b + c with two roundings: contraction must be off
 *   probe_denormal           a * b, where denormal results must be kept
 *   probe_div, probe_div_normal   of a and b
 *   probe_recip, probe_sqrt, probe_rsqrt, probe_exp, probe_log, probe_tanh, probe_gelu,
 *   probe_gelu_slope              of a
 *   probe_vector_width       out[0] = float32 values in a vector register, 1 where that is unknown
 *
 * One work-item for each value. Used by p2ptrain/device/selftest.py and by tests; numpy twins in
 * p2ptrain/device/reference_math.py.
 */

#include "detmath.cl"

#define PROBE(NAME, EXPRESSION)                                                             \
    __kernel void NAME(__global const float *a, __global const float *b,                    \
                       __global const float *c, __global float *out)                        \
    {                                                                                       \
        const int i = get_global_id(0);                                                     \
        out[i] = EXPRESSION;                                                                \
    }

PROBE(probe_fma, fused(a[i], b[i], c[i]))
PROBE(probe_contraction, a[i] * b[i] + c[i])
PROBE(probe_denormal, a[i] * b[i])
PROBE(probe_div, det_div(a[i], b[i]))
PROBE(probe_div_normal, det_div_normal(a[i], b[i]))
PROBE(probe_recip, det_recip(a[i]))
PROBE(probe_sqrt, det_sqrt(a[i]))
PROBE(probe_rsqrt, det_rsqrt(a[i]))
PROBE(probe_exp, det_exp(a[i]))
PROBE(probe_log, det_log(a[i]))
PROBE(probe_tanh, det_tanh(a[i]))
PROBE(probe_gelu, det_gelu(a[i]))
PROBE(probe_gelu_slope, det_gelu_slope(a[i]))

__kernel void probe_vector_width(__global float *out)
{
#if defined(__AVX512F__)
    out[0] = 16.0f;
#elif defined(__AVX__)
    out[0] = 8.0f;
#elif defined(__SSE2__) || defined(__ARM_NEON)
    out[0] = 4.0f;
#else
    out[0] = 1.0f;
#endif
}
