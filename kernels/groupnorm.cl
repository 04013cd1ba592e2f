/*
 * groupnorm: group normalisation with scale, shift and ReLU, forward and backward.
 *
 *   x, y, d, dx  (N, P, C)  float32  N images of P pixels, channels last
 *   stats        (N, G, 2)  float32  mean and 1 / sqrt(variance + 1e-5) of each group of an image;
 *                                    group g is channels g Q .. g Q + Q - 1, Q = C / G
 *   scale, shift (C)        float32  inside the flat parameters, at their offsets; their gradients
 *                                    at the same offsets of the flat gradient
 *   partial      (N, 2, C)  float32  work space: sums over the pixels of an image, below
 *
 * Forward:  y = (x - mean) * (scale / std) + shift, then 0 where it is <= 0 if RELU.
 * Backward: e = RELU and y <= 0 ? 0 : d, and u = x - mean, everything sums over pixels,
 *           partial[n][0][c] = sum of e;  partial[n][1][c] = (sum of e u) / std
 *           a = mean over the group of e scale;  b = mean over the group of e scale u / std
 *           dx = (e scale - a - b u / std) / std
 *           gradients of shift and scale: sums of partial over the images
 *
 * Canonical order. A sum over a group is first one over the pixels in each channel, pixel p in
 * lane p mod 64, and then one over the channels of the group, channel q in lane q mod 64, both by
 * tree_sum of common.cl; the sum times share, which is 1 / (P Q) as a float32, is the mean. So one
 * pass over the pixels serves the group and the gradients of scale and shift, and runs along the
 * channels as they lie. Sums of products are chains of fused() inside a lane. The variance takes
 * a pass of its own, as the mean of u^2. Whatever becomes a factor (u, stats, partial, the
 * coefficients of dx) is flushed by flush_tiny, as is all that is written.
 *
 * Two versions with equal bits:
 *   *_simple   one work-item for a group of an image (stats, terms), a channel of an image
 *              (partial) or an element (apply, dx): global size rounded up to the local size of 64
 *   forward_images, backward_images   one work-item for some groups of an image, for CPUs: global
 *              size (blocks of GB groups, N), local size (1, 1), local memory 4 (GB Q + VW) floats.
 *              All passes run while the image is in the cache, VW channels at a time (tile.cl).
 *   parameter_gradients   in both: one work-item for a channel, local size 64.
 *
 * Wu and He, Group normalization, 2018, arXiv:1803.08494.
 * numpy twin: p2ptrain/device/reference_groupnorm.py
 */

#include "detmath.cl"
#include "tile.cl"

#define EPSILON 1e-5f
#define SIDE 8 /* groups whose 1 / std is computed side by side */

#ifndef RELU
#define RELU 0 /* 1: a ReLU behind the normalisation */
#endif

#define SHAPE const int N, const int P, const int C, const int G

/* --- simple ----------------------------------------------------------------------------------- */

__kernel void stats_simple(__global const float *restrict x, __global float *restrict stats,
                           SHAPE, const float share)
{
    const int i = get_global_id(0);
    if (i >= N * G)
        return;
    const int Q = C / G;
    __global const float *image = x + (size_t)(i / G) * P * C + i % G * Q;
    float mean = 0.0f, variance = 0.0f;
    for (int pass = 0; pass < 2; pass++) {
        float group[LANES], lane[LANES];
        for (int l = 0; l < LANES; l++)
            group[l] = 0.0f;
        for (int q = 0; q < Q; q++) {
            for (int l = 0; l < LANES; l++) {
                lane[l] = 0.0f;
                for (int p = l; p < P; p += LANES) {
                    const float value = image[(size_t)p * C + q];
                    const float u = flush_tiny(value - mean);
                    lane[l] = pass == 0 ? lane[l] + value : fused(u, u, lane[l]);
                }
            }
            group[q % LANES] = group[q % LANES] + tree_sum(lane);
        }
        const float result = tree_sum(group) * share;
        mean = pass == 0 ? flush_tiny(result) : mean;
        variance = result;
    }
    stats[2 * i] = mean;
    stats[2 * i + 1] = flush_tiny(det_div(1.0f, det_sqrt(variance + EPSILON)));
}

__kernel void apply_simple(__global const float *restrict x, __global const float *restrict stats,
                           __global const float *restrict parameters, __global float *restrict y,
                           SHAPE, const int scale_offset, const int shift_offset)
{
    const int i = get_global_id(0);
    if (i >= N * P * C)
        return;
    const int c = i % C;
    const int g = i / (P * C) * G + c / (C / G);
    const float factor = flush_tiny(parameters[scale_offset + c] * stats[2 * g + 1]);
    const float value = fused(flush_tiny(x[i] - stats[2 * g]), factor,
                              parameters[shift_offset + c]);
    y[i] = (RELU && value <= 0.0f) ? 0.0f : flush_tiny(value);
}

__kernel void partial_simple(__global const float *restrict x, __global const float *restrict y,
                             __global const float *restrict stats, __global const float *restrict d,
                             __global float *restrict partial, SHAPE)
{
    const int i = get_global_id(0);
    if (i >= N * C)
        return;
    const int n = i / C, c = i % C, g = n * G + c / (C / G);
    const size_t first = (size_t)n * P * C + c;
    float plain[LANES], product[LANES];
    for (int l = 0; l < LANES; l++) {
        plain[l] = 0.0f;
        product[l] = 0.0f;
        for (int p = l; p < P; p += LANES) {
            const size_t at = first + (size_t)p * C;
            const float e = (RELU && y[at] <= 0.0f) ? 0.0f : d[at];
            plain[l] = plain[l] + e;
            product[l] = fused(e, flush_tiny(x[at] - stats[2 * g]), product[l]);
        }
    }
    partial[(size_t)(2 * n) * C + c] = flush_tiny(tree_sum(plain));
    partial[(size_t)(2 * n + 1) * C + c] = flush_tiny(tree_sum(product) * stats[2 * g + 1]);
}

/* terms[n][g] = the level and the slope of dx in a group of an image. */
__kernel void terms_simple(__global const float *restrict stats,
                           __global const float *restrict partial,
                           __global const float *restrict parameters,
                           __global float *restrict terms, SHAPE, const float share,
                           const int scale_offset)
{
    const int i = get_global_id(0);
    if (i >= N * G)
        return;
    const int n = i / G, Q = C / G;
    const float inverse = stats[2 * i + 1];
    for (int part = 0; part < 2; part++) {
        float group[LANES];
        for (int l = 0; l < LANES; l++) {
            group[l] = 0.0f;
            for (int q = l; q < Q; q += LANES) {
                const int c = i % G * Q + q;
                group[l] = group[l] + partial[(size_t)(2 * n + part) * C + c]
                                          * parameters[scale_offset + c];
            }
        }
        const float scaled = tree_sum(group) * share * inverse;
        terms[2 * i + part] = flush_tiny(part == 0 ? scaled : scaled * inverse);
    }
}

__kernel void dx_simple(__global const float *restrict x, __global const float *restrict y,
                        __global const float *restrict stats, __global const float *restrict d,
                        __global const float *restrict terms,
                        __global const float *restrict parameters, __global float *restrict dx,
                        SHAPE, const int scale_offset)
{
    const int i = get_global_id(0);
    if (i >= N * P * C)
        return;
    const int c = i % C, g = i / (P * C) * G + c / (C / G);
    const float factor = flush_tiny(parameters[scale_offset + c] * stats[2 * g + 1]);
    const float e = (RELU && y[i] <= 0.0f) ? 0.0f : d[i];
    const float u = flush_tiny(x[i] - stats[2 * g]);
    dx[i] = flush_tiny(fused(e, factor, fused(u, -terms[2 * g + 1], -terms[2 * g])));
}

__kernel void parameter_gradients(__global const float *restrict partial,
                                  __global float *restrict gradient, const int N, const int C,
                                  const int scale_offset, const int shift_offset)
{
    const int c = get_global_id(0);
    if (c >= C)
        return;
    for (int part = 0; part < 2; part++) {
        float lane[LANES];
        for (int l = 0; l < LANES; l++) {
            lane[l] = 0.0f;
            for (int n = l; n < N; n += LANES)
                lane[l] = lane[l] + partial[(size_t)(2 * n + part) * C + c];
        }
        gradient[(part == 0 ? shift_offset : scale_offset) + c] = flush_tiny(tree_sum(lane));
    }
}

/* --- by images -------------------------------------------------------------------------------- */

/* Inlined, since the count of channels is a constant but at the last of them. */
#define INLINE static inline WIDE __attribute__((always_inline))
/* A vector on two lines of the cache takes twice as long. */
#define ON_A_LINE __attribute__((aligned(64)))

/* The first count values; what is behind them is neither read nor written. */
INLINE vector load(__global const float *from, const int count)
{
    if (count == VW)
        return *(__global const vector *)from;
    vector x = (vector)(0.0f);
    for (int v = 0; v < MIN(VW, count); v++)
        ((float *)&x)[v] = from[v];
    return x;
}

INLINE void store(vector x, __global float *to, const int count)
{
    if (count == VW)
        *(__global vector *)to = x;
    else
        for (int v = 0; v < MIN(VW, count); v++)
            to[v] = ((float *)&x)[v];
}

INLINE vector gradient_before_relu(__global const float *y, const vector d, const int count)
{
#if RELU
    const vector zero = (vector)(0.0f);
    return load(y, count) <= zero ? zero : d;
#else
    return d;
#endif
}

/* The tree of tree_sum. Lanes past `used` hold +0, which no addition of it would change, so they
   are left out. */
INLINE vector sum_lanes(vector *lane, const int used)
{
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < MIN(width, used - width); l++)
            lane[l] = lane[l] + lane[l + width];
    return lane[0];
}

/* The sum of count values that lie side by side: value q in lane q mod 64. */
static inline float group_sum(__local const float *values, const int count)
{
    float lane[LANES];
    const int used = MIN(LANES, count);
    for (int l = 0; l < used; l++) {
        lane[l] = 0.0f;
        for (int q = l; q < count; q += LANES)
            lane[l] = lane[l] + values[q];
    }
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < MIN(width, used - width); l++)
            lane[l] = lane[l] + lane[l + width];
    return lane[0];
}

/* Local arrays hold VW values behind the last channel, so whole vectors are read and written. What
   a task before this one left there may be denormal, and slow; the results are not stored. */
INLINE void zero_behind(__local float *end)
{
    *(__local vector *)end = (vector)(0.0f);
}

INLINE void sum_values(__global const float *restrict x, __local float *sums, const int P,
                       const int C, const int count)
{
    ON_A_LINE vector lane[LANES];
    for (int p = 0; p < MIN(LANES, P); p++)
        lane[p] = 0.0f + load(x + (size_t)p * C, count);
    for (int p = LANES; p < P; p++)
        lane[p & (LANES - 1)] += load(x + (size_t)p * C, count);
    *(__local vector *)sums = sum_lanes(lane, MIN(LANES, P));
}

INLINE void sum_squares(__global const float *restrict x, __local const float *mean,
                        __local float *sums, const int P, const int C, const int count)
{
    ON_A_LINE vector lane[LANES];
    const vector m = *(__local const vector *)mean;
    for (int p = 0; p < MIN(LANES, P); p++) {
        const vector u = flush_vector(load(x + (size_t)p * C, count) - m);
        lane[p] = u * u;
    }
    for (int p = LANES; p < P; p++) {
        const vector u = flush_vector(load(x + (size_t)p * C, count) - m);
        lane[p & (LANES - 1)] = fused_vector(u, u, lane[p & (LANES - 1)]);
    }
    *(__local vector *)sums = sum_lanes(lane, MIN(LANES, P));
}

INLINE void apply(__global const float *restrict x, __global float *restrict y,
                  __local const float *mean, __local const float *factor,
                  __global const float *restrict shift, const int P, const int C, const int count)
{
    const vector m = *(__local const vector *)mean;
    const vector f = *(__local const vector *)factor;
    const vector s = load(shift, count);
    for (int p = 0; p < P; p++) {
        const vector u = flush_vector(load(x + (size_t)p * C, count) - m);
        const vector value = flush_vector(fused_vector(u, f, s));
        store(RELU ? relu_vector(value) : value, y + (size_t)p * C, count);
    }
}

/* Calls for VW channels at a time, the first of them AT, and once more for what is left. */
#define FOR_CHANNELS(WIDTH, CALL, ...) \
    do { \
        int AT = 0; \
        for (; AT + VW <= (WIDTH); AT += VW) \
            CALL(__VA_ARGS__, VW); \
        if (AT < (WIDTH)) \
            CALL(__VA_ARGS__, (WIDTH) - AT); \
    } while (0)

__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void forward_images(__global const float *restrict x, __global const float *restrict parameters,
                    __global float *restrict y, __global float *restrict stats, SHAPE,
                    const float share, const int scale_offset, const int shift_offset,
                    const int GB, __local float *restrict work)
{
    const int Q = C / G, n = get_group_id(1), g0 = get_group_id(0) * GB;
    const int groups = MIN(GB, G - g0), width = groups * Q;
    const size_t first = (size_t)n * P * C + g0 * Q;
    __global float *stat = stats + 2 * ((size_t)n * G + g0);
    __global const float *scale = parameters + scale_offset + g0 * Q;
    __global const float *shift = parameters + shift_offset + g0 * Q;
    __local float *mean = work, *sums = work + GB * Q + VW;
    zero_behind(mean + width);
    FOR_CHANNELS(width, sum_values, x + first + AT, sums + AT, P, C);
    for (int g = 0; g < groups; g++) {
        const float m = flush_tiny(group_sum(sums + g * Q, Q) * share);
        stat[2 * g] = m;
        for (int q = 0; q < Q; q++)
            mean[g * Q + q] = m;
    }
    FOR_CHANNELS(width, sum_squares, x + first + AT, mean + AT, sums + AT, P, C);
    for (int g1 = 0; g1 < groups; g1 += SIDE) {
        const int some = MIN(SIDE, groups - g1);
        float inverse[SIDE];
        for (int i = 0; i < SIDE; i++)
            inverse[i] = i < some ? group_sum(sums + (g1 + i) * Q, Q) * share : 1.0f;
        for (int i = 0; i < SIDE; i++) /* side by side: each alone is a long chain */
            inverse[i] = flush_tiny(det_div(1.0f, det_sqrt(inverse[i] + EPSILON)));
        for (int i = 0; i < some; i++) {
            stat[2 * (g1 + i) + 1] = inverse[i];
            for (int c = (g1 + i) * Q; c < (g1 + i + 1) * Q; c++)
                sums[c] = flush_tiny(scale[c] * inverse[i]);
        }
    }
    FOR_CHANNELS(width, apply, x + first + AT, y + first + AT, mean + AT, sums + AT, shift + AT,
                 P, C);
}

INLINE void sum_gradients(__global const float *restrict x, __global const float *restrict y,
                          __global const float *restrict d, __local const float *mean,
                          __local float *plain_sums, __local float *product_sums,
                          const int P, const int C, const int count)
{
    ON_A_LINE vector plain[LANES], product[LANES];
    const vector m = *(__local const vector *)mean;
    for (int p = 0; p < P; p++) {
        const size_t at = (size_t)p * C;
        const int l = p & (LANES - 1);
        const vector e = gradient_before_relu(y + at, load(d + at, count), count);
        const vector u = flush_vector(load(x + at, count) - m);
        plain[l] = p < LANES ? 0.0f + e : plain[l] + e;
        product[l] = fused_vector(e, u, p < LANES ? (vector)(0.0f) : product[l]);
    }
    *(__local vector *)plain_sums = sum_lanes(plain, MIN(LANES, P));
    *(__local vector *)product_sums = sum_lanes(product, MIN(LANES, P));
}

INLINE void differentiate(__global const float *restrict x, __global const float *restrict y,
                          __global const float *restrict d, __global float *restrict dx,
                          __local const float *mean, __local const float *factor,
                          __local const float *slope, __local const float *level,
                          const int P, const int C, const int count)
{
    const vector m = *(__local const vector *)mean;
    const vector f = *(__local const vector *)factor;
    const vector s = -*(__local const vector *)slope;
    const vector k = -*(__local const vector *)level;
    for (int p = 0; p < P; p++) {
        const size_t at = (size_t)p * C;
        const vector e = gradient_before_relu(y + at, load(d + at, count), count);
        const vector u = flush_vector(load(x + at, count) - m);
        store(flush_vector(fused_vector(e, f, fused_vector(u, s, k))), dx + at, count);
    }
}

__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void backward_images(__global const float *restrict x, __global const float *restrict y,
                     __global const float *restrict stats, __global const float *restrict d,
                     __global float *restrict partial, __global const float *restrict parameters,
                     __global float *restrict dx, SHAPE, const float share,
                     const int scale_offset, const int GB, __local float *restrict work)
{
    const int Q = C / G, n = get_group_id(1), g0 = get_group_id(0) * GB;
    const int groups = MIN(GB, G - g0), width = groups * Q, row = GB * Q + VW;
    const size_t first = (size_t)n * P * C + g0 * Q;
    __global const float *stat = stats + 2 * ((size_t)n * G + g0);
    __global const float *scale = parameters + scale_offset + g0 * Q;
    __global float *out = partial + (size_t)(2 * n) * C + g0 * Q;
    __local float *mean = work, *plain = work + row, *product = work + 2 * row;
    __local float *factor = work + 3 * row;
    zero_behind(mean + width);
    zero_behind(factor + width);
    for (int c = 0; c < width; c++)
        mean[c] = stat[2 * (c / Q)];
    FOR_CHANNELS(width, sum_gradients, x + first + AT, y + first + AT, d + first + AT, mean + AT,
                 plain + AT, product + AT, P, C);
    for (int g = 0; g < groups; g++) {
        const float inverse = stat[2 * g + 1];
        for (int c = g * Q; c < (g + 1) * Q; c++) {
            out[c] = flush_tiny(plain[c]);
            out[C + c] = flush_tiny(product[c] * inverse);
            factor[c] = flush_tiny(scale[c] * inverse);
            plain[c] = out[c] * scale[c];
            product[c] = out[C + c] * scale[c];
        }
        const float level = flush_tiny(group_sum(plain + g * Q, Q) * share * inverse);
        const float slope = flush_tiny(group_sum(product + g * Q, Q) * share * inverse * inverse);
        for (int c = g * Q; c < (g + 1) * Q; c++) {
            plain[c] = level;
            product[c] = slope;
        }
    }
    FOR_CHANNELS(width, differentiate, x + first + AT, y + first + AT, d + first + AT,
                 dx + first + AT, mean + AT, factor + AT, product + AT, plain + AT, P, C);
}
