/*
 * dropout: random values to zero, the others scaled so that the mean stays; its own backward.
 *
 *   x  (n)  float32  in
 *   y  (n)  float32  out, may be x:  y[i] = word(i) < threshold ? +0 : flush(x[i] * keep_scale)
 *
 * threshold is the rate as a part of 2^32, keep_scale = 1 / (1 - rate), rounded by the host. The
 * backward pass is the same kernel over the gradient: the mask is not stored but drawn again.
 *
 * word(i) is word i mod 4 of Philox4x32-10 with counter (i / 4, stream, step, 0) under the key
 * (noise_low, noise_high): a function of index, layer, step and round alone, whatever computes it.
 *
 * Two versions with equal bits:
 *   dropout          one work-item for four values: global size n / 4 rounded up to the local 64
 *   dropout_blocked  for CPUs: one work-item for BLOCKS draws of four values, whose loop over the
 *                    draws has a fixed length, which compilers vectorise
 *
 * Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, 2014.
 * numpy twin: p2ptrain/device/reference_dropout.py
 */

#include "philox.cl"

#define BLOCKS 64

static inline float dropped(float x, uint word, uint threshold, float keep_scale)
{
    return word < threshold ? 0.0f : flush_tiny(x * keep_scale);
}

__kernel void dropout(__global const float *x, __global float *y, const int n, const uint threshold,
                      const float keep_scale, const uint stream, const uint step,
                      const uint noise_low, const uint noise_high)
{
    const int block = get_global_id(0);
    const uint4 words = philox((uint4)((uint)block, stream, step, 0u), noise_low, noise_high);
    const uint word[4] = {words.x, words.y, words.z, words.w};
    for (int w = 0; w < 4; w++) {
        const int i = block * 4 + w;
        if (i < n)
            y[i] = dropped(x[i], word[w], threshold, keep_scale);
    }
}

/* Global size n / (4 * BLOCKS) rounded up, local size 1. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void dropout_blocked(__global const float *x, __global float *y, const int n, const uint threshold,
                     const float keep_scale, const uint stream, const uint step,
                     const uint noise_low, const uint noise_high)
{
    const int first = get_group_id(0) * BLOCKS;
    const int count = MIN(4 * BLOCKS, n - 4 * first);
    uint words[4 * BLOCKS];
    float kept[4 * BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        const uint4 counter = (uint4)((uint)(first + b), stream, step, 0u);
        const uint4 word = philox(counter, noise_low, noise_high);
        words[4 * b] = word.x;
        words[4 * b + 1] = word.y;
        words[4 * b + 2] = word.z;
        words[4 * b + 3] = word.w;
    }
    /* By way of a private block: y may be x, and then no compiler vectorises. */
    for (int i = 0; i < count; i++)
        kept[i] = dropped(x[4 * first + i], words[i], threshold, keep_scale);
    for (int i = 0; i < count; i++)
        y[4 * first + i] = kept[i];
}
