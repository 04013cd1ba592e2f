/*
 * reduce: sums over the rows of a matrix, for the gradient of a bias.
 *
 *   d    (R, C)  float32  in
 *   out  (C)     float32  out, inside the flat gradient at offset: sum over r of d[r][c]
 *
 * The order is that of tree_sum in common.cl: row r goes to lane r mod 64. One work-item for a
 * column: global size C rounded up to the local size of 64.
 *
 * numpy twin: column_sums in p2ptrain/device/reference.py
 */

#include "common.cl"

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
    out[offset + c] = tree_sum(lane);
}
