/*
 * softmax_xent: softmax and cross-entropy, forward and backward in one pass, and the hits.
 *
 *   z        (R, C)          float32  in   logits
 *   labels   (R)             int32    in   0 .. C-1, or -1: the row counts nothing
 *   d        (R, C)          float32  out  flush_tiny((softmax(z) - onehot) * scale)
 *   loss     (steps * R)     float32  out  at step * R + r: log(sum of exp) - z[label]
 *   correct  (steps * R)     int32    out  at step * R + r: 1 if the label is the first maximum
 *
 * scale is 1 / batch in training, so that d is the gradient of the mean loss. Differences to the
 * maximum under -40 count as probability 0 (their share is under 5e-18), by which no gradient is
 * denormal. The sum over the classes has the order of tree_sum in common.cl.
 *
 * One work-item for a row: global size R rounded up to the local size of 64.
 *
 * numpy twin: softmax_xent in p2ptrain/device/reference.py
 */

#include "detmath.cl"

#define NEGLIGIBLE -40.0f

static inline float share(float shifted)
{
    return shifted < NEGLIGIBLE ? 0.0f : det_exp(shifted);
}

__kernel void softmax_xent(__global const float *restrict z, __global const int *restrict labels,
                           __global float *restrict d, __global float *restrict loss,
                           __global int *restrict correct, const int R, const int C,
                           const float scale, const int step)
{
    const int r = get_global_id(0);
    if (r >= R)
        return;
    __global const float *row = z + (size_t)r * C;
    __global float *out = d + (size_t)r * C;
    const size_t slot = (size_t)step * R + r;
    const int label = labels[r];
    if (label < 0) {
        for (int c = 0; c < C; c++)
            out[c] = 0.0f;
        loss[slot] = 0.0f;
        correct[slot] = 0;
        return;
    }
    float peak = row[0];
    int best = 0;
    for (int c = 1; c < C; c++)
        if (row[c] > peak) {
            peak = row[c];
            best = c;
        }
    float lane[LANES];
    for (int l = 0; l < LANES; l++) {
        lane[l] = 0.0f;
        for (int c = l; c < C; c += LANES) {
            const float e = share(row[c] - peak);
            out[c] = e;
            lane[l] = lane[l] + e;
        }
    }
    const float sum = tree_sum(lane);
    for (int c = 0; c < C; c++) {
        const float p = det_div(out[c], sum);
        out[c] = flush_tiny((c == label ? p - 1.0f : p) * scale);
    }
    loss[slot] = det_log(sum) - (row[label] - peak);
    correct[slot] = best == label;
}
