/*
 * reduce: sums over the rows of a matrix, for the gradient of a bias.
 *
 *   d    (R, C)  float32  in
 *   out  (C)     float32  out, inside the flat gradient at offset: flush_tiny of the sum over r of
 *                         d[r][c]
 *
 * The order is that of tree_sum in common.cl: row r goes to lane r mod 64. Two versions with equal
 * bits:
 *   column_sums        one work-item for a column: global size C rounded up to the local size of
 *                      64. For GPUs.
 *   column_sums_tiled  for CPUs: a group of one work-item takes `width` columns, at most WIDTH_MAX,
 *                      and walks down the rows once with 64 lanes for each, all in the first
 *                      cache. Global size: C / width rounded up.
 *
 * numpy twin: column_sums in p2ptrain/device/reference.py
 */

#include "common.cl"

#define WIDTH_MAX 64
#define ROWS 6 /* of one lane that are added in one go; 4 and 8 were measured slower */

__kernel void column_sums(__global const float *restrict d, __global float *restrict out,
                          const int offset, const int R, const int C)
{
    const int c = get_global_id(0);
    if (c >= C)
        return;
    float lane[LANES];
    for (int l = 0; l < LANES; l++) {
        lane[l] = 0.0f;
        for (int r = l; r < R; r += LANES)
            lane[l] = lane[l] + d[(size_t)r * C + c];
    }
    out[offset + c] = flush_tiny(tree_sum(lane));
}

/* Adds rows r, r + 64, .. of a lane to it, one after the other. */
static inline void add_rows(float *restrict lane, __global const float *restrict row,
                            const size_t step, const int columns, const int count)
{
    const int whole = count == ROWS ? columns / 16 * 16 : 0;
    for (int c = 0; c < whole; c += 16)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float sum = lane[c + i];
#pragma unroll
            for (int j = 0; j < ROWS; j++)
                sum = sum + row[j * step + c + i];
            lane[c + i] = sum;
        }
    for (int j = 0; j < count; j++)
        for (int c = whole; c < columns; c++)
            lane[c] = lane[c] + row[j * step + c];
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void column_sums_tiled(__global const float *restrict d, __global float *restrict out,
                       const int offset, const int R, const int C, const int width)
{
    float lanes[LANES * WIDTH_MAX]; /* [lane][column] */
    const int c0 = get_group_id(0) * width;
    const int columns = MIN(width, C - c0);
    const size_t step = (size_t)LANES * C;
    for (int i = 0; i < LANES * columns; i++)
        lanes[i] = 0.0f;
    for (int r0 = 0; r0 < R; r0 += ROWS * LANES)
        for (int l = 0; l < MIN(LANES, R - r0); l++) {
            const int count = MIN(ROWS, (R - r0 - l + LANES - 1) / LANES);
            __global const float *row = d + (size_t)(r0 + l) * C + c0;
            add_rows(lanes + l * columns, row, step, columns, count);
        }
    for (int below = LANES / 2; below > 0; below /= 2)
        for (int i = 0; i < below * columns; i++)
            lanes[i] = lanes[i] + lanes[below * columns + i];
    for (int c = 0; c < columns; c++)
        out[offset + c0 + c] = flush_tiny(lanes[c]);
}
