/*
 * elementwise: gathering a batch; activations, forward and backward.
 *
 * R rows, C columns, row-major, n = R * C.
 *
 *   gather_rows      out[r] = flush_tiny(x[index[step * R + r]]), labels beside it; an index
 *                    under 0 gives a row of zeros with label -1, which the loss leaves out
 *   relu             a = z <= 0 ? 0 : flush_tiny(z)
 *   gelu             a = gelu(z)                                  flushed by itself
 *   relu_backward    d = a <= 0 ? 0 : flush_tiny(d)               z does as well as a
 *   gelu_backward    d = flush_tiny(d * gelu'(z))
 *
 *   x  (samples, C) float32, y (samples) int32, index (steps * R) int32
 *   z, a, d (R, C) float32; of relu a may be z itself
 *
 * Geometry: a work-item takes `block` values that lie side by side, of a row in gather_rows
 * (global size: blocks of a row, R; local size (64, 1)), else of the whole (global size: blocks;
 * local size 64). A block of 1 is for GPUs. On a CPU a group of one work-item loops over a long block, which compilers
 * turn into vector instructions; behind a condition on the work-item's own index they do not.
 *
 * The backward pass of ReLU needs its output alone, so it may work in place; that of GELU needs z,
 * the value before it. A NaN passes through both activations: to hide it would hide a training
 * that has diverged.
 *
 * numpy twins: the functions of these names in p2ptrain/device/reference.py; of GELU and its slope
 * those in p2ptrain/device/reference_math.py
 */

#include "detmath.cl"

__kernel void gather_rows(__global const float *restrict x, __global const int *restrict y,
                          __global const int *restrict index, __global float *restrict out,
                          __global int *restrict labels, const int R, const int C, const int step,
                          const int block)
{
    const int c0 = get_global_id(0) * block;
    const int r = get_global_id(1);
    const int sample = index[(size_t)step * R + r];
    __global const float *row = x + (size_t)(sample < 0 ? 0 : sample) * C;
    for (int c = c0; c < MIN(C, c0 + block); c++)
        out[(size_t)r * C + c] = sample < 0 ? 0.0f : flush_tiny(row[c]);
    if (c0 == 0)
        labels[r] = sample < 0 ? -1 : y[sample];
}

__kernel void relu(__global const float *z, __global float *a, const int n, const int block)
{
    const int i0 = get_global_id(0) * block;
    for (int i = i0; i < MIN(n, i0 + block); i++)
        a[i] = z[i] <= 0.0f ? 0.0f : flush_tiny(z[i]);
}

__kernel void gelu(__global const float *restrict z, __global float *restrict a, const int n,
                   const int block)
{
    const int i0 = get_global_id(0) * block;
    for (int i = i0; i < MIN(n, i0 + block); i++)
        a[i] = det_gelu(z[i]);
}

__kernel void relu_backward(__global const float *restrict a, __global float *restrict d,
                            const int n, const int block)
{
    const int i0 = get_global_id(0) * block;
    for (int i = i0; i < MIN(n, i0 + block); i++)
        d[i] = a[i] <= 0.0f ? 0.0f : flush_tiny(d[i]);
}

__kernel void gelu_backward(__global const float *restrict z, __global float *restrict d,
                            const int n, const int block)
{
    const int i0 = get_global_id(0) * block;
    for (int i = i0; i < MIN(n, i0 + block); i++)
        d[i] = flush_tiny(d[i] * det_gelu_slope(z[i]));
}
