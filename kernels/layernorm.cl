/*
 * layernorm: each row to mean 0 and variance 1, then scale and shift, forward and backward.
 *
 *   x, y      (R, C)  float32  in, out
 *   stats     (R, 2)  float32  of each row: mean, rstd = 1 / sqrt(variance + 1e-5)
 *   scale     (C)     float32  inside the flat parameters at scale_offset; shift at shift_offset
 *   d         (R, C)  float32  in   gradient by y
 *   add       (R, C)  float32  in   what the gradient by x is added to; has_add = 0: nothing
 *   dx        (R, C)  float32  out  may be add or d
 *   gradient          float32  out  by scale and shift, at the offsets of the parameters
 *
 *   forward   mean = sum(x) * inverse;  variance = sum((x - mean)^2) * inverse, inverse = 1 / C
 *             y = flush(xhat * scale + shift) with xhat = (x - mean) * rstd
 *   backward  with e = d * scale, a = sum(e) * inverse, b = sum(e * xhat) * inverse:
 *             dx = flush(rstd * (e - a - xhat * b) + add)
 *   columns   by scale: flush(sum over r of d * xhat);  by shift: flush(sum over r of d)
 *
 * Every product that is followed by an addition is fused with it, the squares and products of the
 * sums among them. All sums have the lanes of common.cl: of a row, channel c in lane c mod 64; of
 * a column, row r in lane r mod 64. The division by C is a product with the host's 1 / C.
 *
 * Two versions with equal bits:
 *   layer_norm_forward, layer_norm_backward   one work-group of 64 for a row: global size 64 * R
 *   layer_norm_columns                        one work-item for a column, local size 64
 *       for GPUs and wherever the contraction probe failed
 *   layer_norm_forward_blocked, _backward_blocked   one work-item for ROWS rows
 *   layer_norm_columns_blocked                      one work-item for COLUMNS columns
 *       for CPUs, where a work-group of one work-item is one task; the loops over lanes, over
 *       columns and over the rows' square roots have fixed lengths, which compilers vectorise
 *
 * Ba, Kiros and Hinton, Layer normalization, 2016, arXiv:1607.06450.
 * numpy twins: p2ptrain/device/reference_layernorm.py
 */

#include "detmath.cl"

#define EPSILON 1e-5f
#define GROUP 64 /* work-items of a row: one for each lane */
#define ROWS 16
#define COLUMNS 16
#ifndef VW
#define VW 1 /* values in a vector; the blocked version is built above 1 only */
#endif
#define ONE_TASK __kernel __attribute__((reqd_work_group_size(1, 1, 1)))

static inline float rstd_of(float variance)
{
    return det_div(1.0f, det_sqrt(variance + EPSILON));
}

static inline float input_gradient(float e, float xhat, float a, float b, float rstd, float add)
{
    return flush_tiny(fused(rstd, fused(-xhat, b, e - a), add));
}

/* --- the simple version --------------------------------------------------------------------- */

/* The sum of all work-items' values by the tree; every work-item gets it. */
static inline float group_sum(float value, __local float *lane)
{
    const int l = get_local_id(0);
    barrier(CLK_LOCAL_MEM_FENCE);
    lane[l] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = LANES / 2; width > 0; width /= 2) {
        if (l < width)
            lane[l] = lane[l] + lane[l + width];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return lane[0];
}

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void layer_norm_forward(__global const float *restrict x, __global const float *restrict parameters,
                        __global float *restrict y, __global float *restrict stats, const int R,
                        const int C, const int scale_offset, const int shift_offset,
                        const float inverse)
{
    __local float lane[LANES];
    const int l = get_local_id(0);
    const int r = get_group_id(0);
    __global const float *row = x + (size_t)r * C;
    float sum = 0.0f;
    for (int c = l; c < C; c += GROUP)
        sum = sum + row[c];
    const float mean = group_sum(sum, lane) * inverse;
    sum = 0.0f;
    for (int c = l; c < C; c += GROUP)
        sum = fused(row[c] - mean, row[c] - mean, sum);
    const float rstd = rstd_of(group_sum(sum, lane) * inverse);
    for (int c = l; c < C; c += GROUP)
        y[(size_t)r * C + c] = flush_tiny(fused((row[c] - mean) * rstd,
                                                parameters[scale_offset + c],
                                                parameters[shift_offset + c]));
    if (l == 0) {
        stats[2 * r] = mean;
        stats[2 * r + 1] = rstd;
    }
}

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void layer_norm_backward(__global const float *restrict x,
                         __global const float *restrict parameters,
                         __global const float *restrict stats, __global const float *d,
                         __global const float *add, __global float *dx, const int R, const int C,
                         const int scale_offset, const float inverse, const int has_add)
{
    __local float lane[LANES];
    const int l = get_local_id(0);
    const int r = get_group_id(0);
    const size_t first = (size_t)r * C;
    const float mean = stats[2 * r];
    const float rstd = stats[2 * r + 1];
    float sum = 0.0f;
    float product = 0.0f;
    for (int c = l; c < C; c += GROUP) {
        const float e = d[first + c] * parameters[scale_offset + c];
        sum = sum + e;
        product = fused(e, (x[first + c] - mean) * rstd, product);
    }
    const float a = group_sum(sum, lane) * inverse;
    const float b = group_sum(product, lane) * inverse;
    for (int c = l; c < C; c += GROUP) {
        const float e = d[first + c] * parameters[scale_offset + c];
        const float xhat = (x[first + c] - mean) * rstd;
        dx[first + c] = input_gradient(e, xhat, a, b, rstd, has_add ? add[first + c] : 0.0f);
    }
}

__kernel void layer_norm_columns(__global const float *restrict x,
                                 __global const float *restrict stats,
                                 __global const float *restrict d,
                                 __global float *restrict gradient, const int R, const int C,
                                 const int scale_offset, const int shift_offset)
{
    const int c = get_global_id(0);
    if (c >= C)
        return;
    float by_scale[LANES];
    float by_shift[LANES];
    for (int l = 0; l < LANES; l++) {
        by_scale[l] = 0.0f;
        by_shift[l] = 0.0f;
        for (int r = l; r < R; r += LANES) {
            const float slope = d[(size_t)r * C + c];
            const float xhat = (x[(size_t)r * C + c] - stats[2 * r]) * stats[2 * r + 1];
            by_scale[l] = fused(slope, xhat, by_scale[l]);
            by_shift[l] = by_shift[l] + slope;
        }
    }
    gradient[scale_offset + c] = flush_tiny(tree_sum(by_scale));
    gradient[shift_offset + c] = flush_tiny(tree_sum(by_shift));
}

/* --- the blocked version -------------------------------------------------------------------- */

#if VW > 1
#ifndef CONTRACTED_FMA
#error "VW above 1 needs CONTRACTED_FMA: there is no fma of vectors that every PoCL compiles"
#endif

#define LANE_VECTORS (LANES / VW)
/* Lane l takes lane l + half the width, within a vector. */
#define FOLD(x) ((x).lo + (x).hi)
#if VW == 16
#define FOLD_ALL(x) FOLD(FOLD(FOLD(FOLD(x))))
#elif VW == 8
#define FOLD_ALL(x) FOLD(FOLD(FOLD(x)))
#else
#define FOLD_ALL(x) FOLD(FOLD(x))
#endif

/* Aligned as a float, since rows begin anywhere. */
typedef float vector __attribute__((ext_vector_type(VW), aligned(4)));
typedef __global const vector *vectors;

static inline vector fused_vector(vector a, vector b, vector c)
{
#pragma OPENCL FP_CONTRACT ON
    return a * b + c;
}

/* tree_sum of lanes that are held in registers. */
static inline float tree_vectors(vector lane[LANE_VECTORS])
{
#pragma unroll
    for (int width = LANE_VECTORS / 2; width > 0; width /= 2)
#pragma unroll
        for (int v = 0; v < width; v++)
            lane[v] = lane[v] + lane[v + width];
    return FOLD_ALL(lane[0]);
}

static inline float row_sum(__global const float *restrict row, const int C)
{
    vector lane[LANE_VECTORS];
#pragma unroll
    for (int v = 0; v < LANE_VECTORS; v++)
        lane[v] = (vector)(0.0f);
    int c = 0;
    for (; c + LANES <= C; c += LANES)
#pragma unroll
        for (int v = 0; v < LANE_VECTORS; v++)
            lane[v] = lane[v] + ((vectors)(row + c))[v];
    if (c < C)
        for (int l = 0; c + l < C; l++)
            ((float *)lane)[l] = ((float *)lane)[l] + row[c + l];
    return tree_vectors(lane);
}

static inline float row_squares(__global const float *restrict row, const int C, const float mean)
{
    vector lane[LANE_VECTORS];
#pragma unroll
    for (int v = 0; v < LANE_VECTORS; v++)
        lane[v] = (vector)(0.0f);
    int c = 0;
    for (; c + LANES <= C; c += LANES)
#pragma unroll
        for (int v = 0; v < LANE_VECTORS; v++) {
            const vector centred = ((vectors)(row + c))[v] - (vector)(mean);
            lane[v] = fused_vector(centred, centred, lane[v]);
        }
    if (c < C)
        for (int l = 0; c + l < C; l++)
            ((float *)lane)[l] = fused(row[c + l] - mean, row[c + l] - mean, ((float *)lane)[l]);
    return tree_vectors(lane);
}

/* Global size R / ROWS rounded up. */
ONE_TASK void layer_norm_forward_blocked(__global const float *restrict x,
                                         __global const float *restrict parameters,
                                         __global float *restrict y, __global float *restrict stats,
                                         const int R, const int C, const int scale_offset,
                                         const int shift_offset, const float inverse)
{
    const int r0 = get_group_id(0) * ROWS;
    const int rows = MIN(ROWS, R - r0);
    __global const float *scale = parameters + scale_offset;
    __global const float *shift = parameters + shift_offset;
    float means[ROWS];
    float rstds[ROWS];
    for (int r = 0; r < ROWS; r++)
        rstds[r] = 1.0f;
    for (int r = 0; r < rows; r++) {
        __global const float *row = x + (size_t)(r0 + r) * C;
        means[r] = row_sum(row, C) * inverse;
        rstds[r] = row_squares(row, C, means[r]) * inverse;
    }
    for (int r = 0; r < ROWS; r++)
        rstds[r] = rstd_of(rstds[r]);
    for (int r = 0; r < rows; r++) {
        __global const float *row = x + (size_t)(r0 + r) * C;
        __global float *to = y + (size_t)(r0 + r) * C;
        const float mean = means[r];
        const float rstd = rstds[r];
        for (int c = 0; c < C; c++)
            to[c] = flush_tiny(fused((row[c] - mean) * rstd, scale[c], shift[c]));
        stats[2 * (r0 + r)] = mean;
        stats[2 * (r0 + r) + 1] = rstd;
    }
}

/* The sums of e and of e * xhat over a row, with e = d * scale. */
static inline float2 row_products(__global const float *d, __global const float *restrict scale,
                                  __global const float *restrict x, const int C, const float mean,
                                  const float rstd)
{
    vector sum[LANE_VECTORS];
    vector product[LANE_VECTORS];
#pragma unroll
    for (int v = 0; v < LANE_VECTORS; v++) {
        sum[v] = (vector)(0.0f);
        product[v] = (vector)(0.0f);
    }
    int c = 0;
    for (; c + LANES <= C; c += LANES)
#pragma unroll
        for (int v = 0; v < LANE_VECTORS; v++) {
            const vector e = ((vectors)(d + c))[v] * ((vectors)(scale + c))[v];
            const vector xhat = (((vectors)(x + c))[v] - (vector)(mean)) * (vector)(rstd);
            sum[v] = sum[v] + e;
            product[v] = fused_vector(e, xhat, product[v]);
        }
    if (c < C)
        for (int l = 0; c + l < C; l++) {
            const float e = d[c + l] * scale[c + l];
            const float xhat = (x[c + l] - mean) * rstd;
            ((float *)sum)[l] = ((float *)sum)[l] + e;
            ((float *)product)[l] = fused(e, xhat, ((float *)product)[l]);
        }
    return (float2)(tree_vectors(sum), tree_vectors(product));
}

/* Global size R / ROWS rounded up. */
ONE_TASK void layer_norm_backward_blocked(__global const float *restrict x,
                                          __global const float *restrict parameters,
                                          __global const float *restrict stats,
                                          __global const float *d, __global const float *add,
                                          __global float *dx, const int R, const int C,
                                          const int scale_offset, const float inverse,
                                          const int has_add)
{
    const int r0 = get_group_id(0) * ROWS;
    __global const float *scale = parameters + scale_offset;
    for (int r = r0; r < MIN(R, r0 + ROWS); r++) {
        const size_t first = (size_t)r * C;
        const float mean = stats[2 * r];
        const float rstd = stats[2 * r + 1];
        const float2 sums = row_products(d + first, scale, x + first, C, mean, rstd);
        const float a = sums.x * inverse;
        const float b = sums.y * inverse;
        /* By way of a private block: dx may be add or d, and then no compiler vectorises. */
        for (int c = 0; c < C; c += LANES) {
            float block[LANES];
            const int count = MIN(LANES, C - c);
            const size_t at = first + c;
            if (has_add)
                for (int l = 0; l < count; l++)
                    block[l] = input_gradient(d[at + l] * scale[c + l], (x[at + l] - mean) * rstd,
                                              a, b, rstd, add[at + l]);
            else
                for (int l = 0; l < count; l++)
                    block[l] = input_gradient(d[at + l] * scale[c + l], (x[at + l] - mean) * rstd,
                                              a, b, rstd, 0.0f);
            for (int l = 0; l < count; l++)
                dx[at + l] = block[l];
        }
    }
}

/* Adds one row's values of count columns to the lane of that row. */
static inline void add_row(__global const float *restrict d, __global const float *restrict x,
                           const float mean, const float rstd, float *restrict by_scale,
                           float *restrict by_shift, const int count)
{
    for (int c = 0; c < count; c++) {
        by_scale[c] = fused(d[c], (x[c] - mean) * rstd, by_scale[c]);
        by_shift[c] = by_shift[c] + d[c];
    }
}

/* Global size C / COLUMNS rounded up. */
ONE_TASK void layer_norm_columns_blocked(__global const float *restrict x,
                                         __global const float *restrict stats,
                                         __global const float *restrict d,
                                         __global float *restrict gradient, const int R,
                                         const int C, const int scale_offset,
                                         const int shift_offset)
{
    const int c0 = get_group_id(0) * COLUMNS;
    const int columns = MIN(COLUMNS, C - c0);
    float by_scale[LANES * COLUMNS];
    float by_shift[LANES * COLUMNS];
    for (int n = 0; n < LANES * COLUMNS; n++) {
        by_scale[n] = 0.0f;
        by_shift[n] = 0.0f;
    }
    for (int r = 0; r < R; r++) {
        const size_t at = (size_t)r * C + c0;
        const int lane = r % LANES * COLUMNS;
        if (columns == COLUMNS)
            add_row(d + at, x + at, stats[2 * r], stats[2 * r + 1], by_scale + lane,
                    by_shift + lane, COLUMNS);
        else
            add_row(d + at, x + at, stats[2 * r], stats[2 * r + 1], by_scale + lane,
                    by_shift + lane, columns);
    }
    for (int width = LANES / 2 * COLUMNS; width >= COLUMNS; width /= 2)
        for (int n = 0; n < width; n++) {
            by_scale[n] = by_scale[n] + by_scale[n + width];
            by_shift[n] = by_shift[n] + by_shift[n + width];
        }
    for (int c = 0; c < columns; c++) {
        gradient[scale_offset + c0 + c] = flush_tiny(by_scale[c]);
        gradient[shift_offset + c0 + c] = flush_tiny(by_shift[c]);
    }
}
#endif
