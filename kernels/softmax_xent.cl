/*
 * softmax_xent: softmax and cross-entropy with smoothed labels, forward and backward, and the hits.
 *
 *   z        (R, C)          float32  in   logits
 *   labels   (R)             int32    in   0 .. C-1, or -1: the row counts nothing
 *   d        (R, C)          float32  out  flush_tiny((p - t) * scale); not if has_d is 0
 *   loss     (steps * R)     float32  out  at slot * R + r: -sum over c of t log p
 *   correct  (steps * R)     int32    out  at slot * R + r: 1 if the label is the first maximum
 *
 * p is the softmax, exp(z - largest) / sum, as a product with the correctly rounded 1 / sum. The
 * target t is off = s / C for every class and on = 1 - s more for the label, where s is the
 * smoothing, 0 in evaluation; so loss = log(sum) - (off * sum of (z - largest) + on * (z[label] -
 * largest)). It is not flushed, being no factor of anything.
 *
 * scale is 1 / batch in training, so that d is the gradient of the mean loss. Differences to the
 * largest under -40 count as probability 0 (their share is under 5e-18), by which no gradient is
 * denormal. Sums over the classes have the order of tree_sum in common.cl. With a NaN among its
 * logits a row's loss and gradient are NaN and it is no hit.
 *
 * Two versions with equal bits:
 *   cross_entropy_simple   one work-item for a row: global size R rounded up to the local size 64
 *   cross_entropy_rows     for CPUs: one work-item for ROWS rows, global size R / ROWS rounded up,
 *                          local size 1; its loops over classes, and over rows for what comes once
 *                          a row, become vector instructions. d holds exp(z - largest) in between.
 *
 * Szegedy et al., Rethinking the inception architecture, 2015, arXiv:1512.00567 (section 7).
 * numpy twin: p2ptrain/device/reference_loss.py
 */

#include "detmath.cl"

#define NEGLIGIBLE -40.0f
#define ROWS 16
#define VECTOR 16 /* classes side by side; the classes of a row are padded to it */

static inline float exponential(float shifted)
{
    return shifted < NEGLIGIBLE ? 0.0f : det_exp(shifted);
}

static inline float row_loss(float sum, float at_label, float spread, float on, float off)
{
    const float plain = on * at_label;
    /* Without smoothing an infinite spread must not become a NaN. */
    return det_log(sum) - (off == 0.0f ? plain : fused(off, spread, plain));
}

static inline void score_row(__global const float *restrict row, __global float *restrict out,
                             __global float *restrict loss, __global int *restrict correct,
                             const int label, const int C, const int has_d, const float scale,
                             const float on, const float off)
{
    if (label < 0) {
        for (int c = 0; has_d && c < C; c++)
            out[c] = 0.0f;
        *loss = 0.0f;
        *correct = 0;
        return;
    }
    float largest = as_float(INF_BITS | SIGN_BIT);
    int best = -1;
    for (int c = 0; c < C; c++)
        if (row[c] > largest) {
            largest = row[c];
            best = c;
        }
    float lane[LANES], spread_lane[LANES];
    for (int l = 0; l < LANES; l++) {
        lane[l] = 0.0f;
        spread_lane[l] = 0.0f;
        for (int c = l; c < C; c += LANES) {
            lane[l] = lane[l] + exponential(row[c] - largest);
            spread_lane[l] = spread_lane[l] + (row[c] - largest);
        }
    }
    const float sum = tree_sum(lane);
    const float inverse = det_div(1.0f, sum);
    for (int c = 0; has_d && c < C; c++) {
        const float p = exponential(row[c] - largest) * inverse;
        out[c] = flush_tiny((p - (c == label ? on + off : off)) * scale);
    }
    *loss = row_loss(sum, row[label] - largest, tree_sum(spread_lane), on, off);
    *correct = best == label && sum == sum;
}

__kernel void cross_entropy_simple(__global const float *restrict z,
                                   __global const int *restrict labels, __global float *restrict d,
                                   __global float *restrict loss, __global int *restrict correct,
                                   const int R, const int C, const int has_d, const float scale,
                                   const float on, const float off, const int slot)
{
    const int r = get_global_id(0);
    const size_t at = (size_t)slot * R + r;
    if (r < R)
        score_row(z + (size_t)r * C, d + (size_t)r * C, loss + at, correct + at, labels[r], C,
                  has_d, scale, on, off);
}

/* --- by rows ---------------------------------------------------------------------------------- */

static inline float largest_of(__global const float *restrict row, const int C)
{
    float largest[VECTOR];
    for (int l = 0; l < VECTOR; l++)
        largest[l] = as_float(INF_BITS | SIGN_BIT);
    int c = 0;
    for (; c + VECTOR <= C; c += VECTOR)
        for (int l = 0; l < VECTOR; l++)
            largest[l] = row[c + l] > largest[l] ? row[c + l] : largest[l];
    for (int l = 0; c + l < C; l++)
        largest[l] = row[c + l] > largest[l] ? row[c + l] : largest[l];
    for (int width = VECTOR / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            largest[l] = largest[l + width] > largest[l] ? largest[l + width] : largest[l];
    return largest[0];
}

/* tree_sum with widths that the compiler knows, for vector instructions. */
static inline float wide_tree_sum(float *lane)
{
#pragma unroll
    for (int width = LANES / 2; width > 0; width /= 2)
#pragma unroll
        for (int l = 0; l < width; l++)
            lane[l] = lane[l] + lane[l + width];
    return lane[0];
}

/* The sum of the exponentials of a row, which go to out if has_d. */
static inline float sum_exponentials(__global const float *restrict row,
                                     __global float *restrict out, const float largest,
                                     const int C, const int has_d)
{
    float lane[LANES], e[LANES];
    for (int l = 0; l < LANES; l++)
        lane[l] = 0.0f;
    int c0 = 0;
    for (; c0 + LANES <= C; c0 += LANES) {
        for (int l = 0; l < LANES; l++) {
            e[l] = exponential(row[c0 + l] - largest);
            lane[l] = lane[l] + e[l];
        }
        for (int l = 0; has_d && l < LANES; l++)
            out[c0 + l] = e[l];
    }
    const int count = C - c0;
    for (int l0 = 0; l0 < count; l0 += VECTOR) {
        const int n = MIN(VECTOR, count - l0);
        /* Behind the last class the exponential is +0, which adds nothing. */
        for (int l = 0; l < VECTOR; l++)
            e[l] = as_float(INF_BITS | SIGN_BIT);
        for (int l = 0; l < n; l++)
            e[l] = row[c0 + l0 + l] - largest;
        for (int l = 0; l < VECTOR; l++) {
            e[l] = exponential(e[l]);
            lane[l0 + l] = lane[l0 + l] + e[l];
        }
        for (int l = 0; has_d && l < n; l++)
            out[c0 + l0 + l] = e[l];
    }
    return wide_tree_sum(lane);
}

static inline float sum_spread(__global const float *restrict row, const float largest, const int C)
{
    float lane[LANES];
    for (int l = 0; l < LANES; l++)
        lane[l] = 0.0f;
    for (int c0 = 0; c0 < C; c0 += LANES)
        for (int l = 0; l < MIN(LANES, C - c0); l++)
            lane[l] = lane[l] + (row[c0 + l] - largest);
    return wide_tree_sum(lane);
}

/* Whether the label is the first maximum. */
static inline int is_hit(__global const float *restrict row, const int label, const float largest)
{
    if (row[label] != largest)
        return 0;
    int earlier = 0;
    for (int c = 0; c < label; c++)
        earlier |= row[c] == largest;
    return !earlier;
}

static inline void subtract_targets(__global float *restrict out, const int label, const int C,
                                    const float inverse, const float scale, const float on,
                                    const float off)
{
    const float at_label = out[label];
    for (int c = 0; c < C; c++)
        out[c] = flush_tiny((out[c] * inverse - off) * scale);
    out[label] = flush_tiny((at_label * inverse - (on + off)) * scale);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void cross_entropy_rows(__global const float *restrict z, __global const int *restrict labels,
                        __global float *restrict d, __global float *restrict loss,
                        __global int *restrict correct, const int R, const int C, const int has_d,
                        const float scale, const float on, const float off, const int slot)
{
    const int first = get_global_id(0) * ROWS;
    const int rows = MIN(ROWS, R - first);
    float largest[ROWS], sum[ROWS], at_label[ROWS], spread[ROWS], inverse[ROWS];
    for (int i = 0; i < rows; i++) {
        __global const float *row = z + (size_t)(first + i) * C;
        largest[i] = largest_of(row, C);
        sum[i] = sum_exponentials(row, d + (size_t)(first + i) * C, largest[i], C, has_d);
        spread[i] = off == 0.0f ? 0.0f : sum_spread(row, largest[i], C);
        at_label[i] = row[labels[first + i] < 0 ? 0 : labels[first + i]] - largest[i];
    }
    for (int i = rows; i < ROWS; i++)
        largest[i] = sum[i] = spread[i] = at_label[i] = 1.0f; /* computed with, never written */
    for (int i = 0; i < ROWS; i++) {
        inverse[i] = det_div(1.0f, sum[i]);
        at_label[i] = row_loss(sum[i], at_label[i], spread[i], on, off);
    }
    for (int i = 0; i < rows; i++) {
        const int r = first + i, label = labels[r];
        const size_t at = (size_t)slot * R + r;
        __global float *out = d + (size_t)r * C;
        loss[at] = label < 0 ? 0.0f : at_label[i];
        correct[at] = label >= 0 && sum[i] == sum[i]
                      && is_hit(z + (size_t)r * C, label, largest[i]);
        if (has_d && label >= 0)
            subtract_targets(out, label, C, inverse[i], scale, on, off);
        for (int c = 0; has_d && label < 0 && c < C; c++)
            out[c] = 0.0f;
    }
}
