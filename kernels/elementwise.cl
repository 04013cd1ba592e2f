/*
 * elementwise: gathering a batch, bias and activations, forward and backward.
 *
 * R rows, C columns, row-major; one work-item for an element: global size (C rounded up to the
 * local size, R), local size (64, 1).
 *
 *   gather_rows      out[r] = flush_tiny(x[index[step * R + r]]), labels beside it; an index
 *                    under 0 gives a row of zeros with label -1, which the loss leaves out
 *   bias             z = flush_tiny(z + b)                        (the last layer: logits)
 *   bias_relu        z = flush_tiny(z + b);  a = z <= 0 ? 0 : z   a may be z itself
 *   bias_gelu        z = flush_tiny(z + b);  a = flush_tiny(gelu(z))
 *   relu_backward    d = a <= 0 ? 0 : flush_tiny(d)               z does as well as a
 *   gelu_backward    d = flush_tiny(d * gelu'(z))
 *
 *   x  (samples, C) float32, y (samples) int32, index (steps * R) int32
 *   z, a, d (R, C) float32;  b (C) float32 inside the flat parameters, at b_offset
 *
 * The backward pass of ReLU needs its output alone, so it may work in place; that of GELU needs z,
 * the value before it. A NaN passes through both activations: to hide it would hide a training
 * that has diverged.
 *
 * GELU in its tanh form: g(z) = z/2 (1 + tanh u), u = z (p + q z^2), p = sqrt(2/pi),
 * q = 0.044715 p. Its derivative is (1 + t)/2 + z/2 (1 - t^2)(p + 3 q z^2) with t = tanh u.
 * Hendrycks and Gimpel, Gaussian error linear units, 2016, arXiv:1606.08415.
 *
 * numpy twins: the functions of these names in p2ptrain/device/reference.py
 */

#include "detmath.cl"

#define GELU_P 0.797884561f
#define GELU_Q 0.0356774081f
#define GELU_3Q 0.107032224f

__kernel void gather_rows(__global const float *restrict x, __global const int *restrict y,
                          __global const int *restrict index, __global float *restrict out,
                          __global int *restrict labels, const int R, const int C, const int step)
{
    const int c = get_global_id(0);
    const int r = get_global_id(1);
    if (c >= C)
        return;
    const int sample = index[(size_t)step * R + r];
    out[(size_t)r * C + c] = sample < 0 ? 0.0f : flush_tiny(x[(size_t)sample * C + c]);
    if (c == 0)
        labels[r] = sample < 0 ? -1 : y[sample];
}

__kernel void bias(__global float *restrict z, __global const float *restrict parameters,
                   const int b_offset, const int C)
{
    const int c = get_global_id(0);
    const size_t i = (size_t)get_global_id(1) * C + c;
    if (c < C)
        z[i] = flush_tiny(z[i] + parameters[b_offset + c]);
}

/* a may be z, hence no restrict. */
__kernel void bias_relu(__global float *z, __global const float *restrict parameters,
                        __global float *a, const int b_offset, const int C)
{
    const int c = get_global_id(0);
    const size_t i = (size_t)get_global_id(1) * C + c;
    if (c >= C)
        return;
    const float value = flush_tiny(z[i] + parameters[b_offset + c]);
    z[i] = value;
    a[i] = value <= 0.0f ? 0.0f : value;
}

__kernel void bias_gelu(__global float *restrict z, __global const float *restrict parameters,
                        __global float *restrict a, const int b_offset, const int C)
{
    const int c = get_global_id(0);
    const size_t i = (size_t)get_global_id(1) * C + c;
    if (c >= C)
        return;
    const float value = flush_tiny(z[i] + parameters[b_offset + c]);
    const float t = det_tanh(value * fused(GELU_Q, value * value, GELU_P));
    z[i] = value;
    a[i] = flush_tiny(0.5f * value * (1.0f + t));
}

__kernel void relu_backward(__global const float *restrict a, __global float *restrict d,
                            const int C)
{
    const int c = get_global_id(0);
    const size_t i = (size_t)get_global_id(1) * C + c;
    if (c < C)
        d[i] = a[i] <= 0.0f ? 0.0f : flush_tiny(d[i]);
}

__kernel void gelu_backward(__global const float *restrict z, __global float *restrict d,
                            const int C)
{
    const int c = get_global_id(0);
    const size_t i = (size_t)get_global_id(1) * C + c;
    if (c >= C)
        return;
    const float value = z[i];
    const float square = value * value;
    const float t = det_tanh(value * fused(GELU_Q, square, GELU_P));
    const float slope = (1.0f - t * t) * fused(GELU_3Q, square, GELU_P);
    /* Far from 0 tanh is flat, and the square may be infinite: 0 * inf must not become a NaN. */
    const float curved = t * t == 1.0f ? 0.0f : 0.5f * value * slope;
    d[i] = flush_tiny(d[i] * (0.5f * (1.0f + t) + curved));
}
