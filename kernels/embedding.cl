/*
 * embedding: bytes of a text as tokens, tokens and positions as vectors, forward and backward.
 *
 * B samples of T positions, R = B * T rows, V tokens, C channels.
 *
 *   stream      (n)          uint8    in   the text
 *   index       (steps * B)  int32    in   where sample b of a step begins, at step * B + b; under
 *                                          0: the sample is missing
 *   tokens      (R)          int32    0 .. V-1; of a missing sample 0
 *   targets     (R)          int32    the byte that follows; of a missing sample -1, which the loss
 *                                     leaves out
 *   parameters               float32  the vectors: tokens (V, C) at token_offset, positions (T, C)
 *                                     at position_offset
 *   y, d        (R, C)       float32  out, and the gradient by it
 *   gradient                 float32  out, at the offsets of the parameters
 *
 *   gather_tokens       tokens and targets of a step
 *   embedding_forward   y[r] = flush(token[tokens[r]] + position[r mod T])
 *   token_gradient      v: flush((has_share ? gradient : +0) + sum of d[r] over rows r of token v);
 *                       has_share where a head that shares the vectors has written its part
 *   position_gradient   t: flush(sum of d[b * T + t] over b)
 *
 * A token that is out of range has a vector of zeros and no gradient. Both sums have the lanes of
 * common.cl: row r in lane r mod 64, sample b in lane b mod 64, rows of other tokens left out.
 *
 * Two versions with equal bits:
 *   embedding_forward, token_gradient, position_gradient   one work-item for a value: global size
 *       (C rounded up, R or V or T), local size (64, 1). A gradient goes through all rows. For
 *       GPUs, and wherever the contraction probe failed. gather_tokens has global size
 *       (T rounded up, B) everywhere.
 *   embedding_forward_blocked, position_gradient_blocked, sort_tokens, token_gradient_sorted
 *       for CPUs, where a work-group of one work-item is one task: ROWS rows, a position, or a
 *       token. sort_tokens comes before token_gradient_sorted and is one task: it writes the rows
 *       in the order of their tokens (a counting sort), those of token v, ascending, at
 *       order[starts[v]] .. order[starts[v + 1] - 1]. A lane without a row is +0 in the
 *       definition; here it is left out, and flushing takes away the one difference, -0.
 *
 * numpy twins: p2ptrain/device/reference_embedding.py
 */

#include "common.cl"

#define COLUMNS 128 /* summed at a time: the lanes take 32 KiB at most */
#define ROWS 16
#define ONE_TASK __kernel __attribute__((reqd_work_group_size(1, 1, 1)))

__kernel void gather_tokens(__global const uchar *restrict stream,
                            __global const int *restrict index, __global int *restrict tokens, __global int *restrict targets,
                            const int B, const int T, const int step)
{
    const int t = get_global_id(0);
    const int b = get_global_id(1);
    if (t >= T)
        return;
    const int start = index[(size_t)step * B + b];
    const size_t at = start < 0 ? 0 : (size_t)start + t;
    const size_t r = (size_t)b * T + t;
    tokens[r] = start < 0 ? 0 : stream[at];
    targets[r] = start < 0 ? -1 : stream[at + 1];
}

__kernel void embedding_forward(__global const int *restrict tokens,
                                __global const float *restrict parameters,
                                __global float *restrict y, const int T, const int V, const int C,
                                const int token_offset, const int position_offset)
{
    const int c = get_global_id(0);
    const int r = get_global_id(1);
    if (c >= C)
        return;
    const int token = tokens[r];
    const int known = token >= 0 && token < V;
    const float value = known ? parameters[token_offset + (size_t)token * C + c] : 0.0f;
    const float position = parameters[position_offset + (size_t)(r % T) * C + c];
    y[(size_t)r * C + c] = flush_tiny(value + position);
}

/* --- the simple version --------------------------------------------------------------------- */

__kernel void token_gradient(__global const int *restrict tokens, __global const float *restrict d,
                             __global float *restrict gradient, const int R, const int C,
                             const int token_offset, const int has_share)
{
    const int c = get_global_id(0);
    const int token = get_global_id(1);
    if (c >= C)
        return;
    float lane[LANES];
    for (int l = 0; l < LANES; l++)
        lane[l] = 0.0f;
    for (int r = 0; r < R; r++)
        if (tokens[r] == token)
            lane[r % LANES] = lane[r % LANES] + d[(size_t)r * C + c];
    __global float *to = gradient + token_offset + (size_t)token * C + c;
    *to = flush_tiny((has_share ? *to : 0.0f) + tree_sum(lane));
}

__kernel void position_gradient(__global const float *restrict d, __global float *restrict gradient,
                                const int B, const int T, const int C, const int position_offset)
{
    const int c = get_global_id(0);
    const int t = get_global_id(1);
    if (c >= C)
        return;
    float lane[LANES];
    for (int l = 0; l < LANES; l++) {
        lane[l] = 0.0f;
        for (int b = l; b < B; b += LANES)
            lane[l] = lane[l] + d[((size_t)b * T + t) * C + c];
    }
    gradient[position_offset + (size_t)t * C + c] = flush_tiny(tree_sum(lane));
}

/* --- the version for CPUs ------------------------------------------------------------------- */

/* starts (V + 1) int32, order (R) int32; global size 1. */
ONE_TASK void sort_tokens(__global const int *restrict tokens, __global int *restrict starts,
                          __global int *restrict order, const int R, const int V)
{
    for (int v = 0; v <= V; v++)
        starts[v] = 0;
    for (int r = 0; r < R; r++)
        if (tokens[r] >= 0 && tokens[r] < V)
            starts[tokens[r]]++;
    int end = 0;
    for (int v = 0; v <= V; v++) {
        end += starts[v];
        starts[v] = end;
    }
    /* Backwards: each start comes down from the end of its rows to their beginning. */
    for (int r = R - 1; r >= 0; r--)
        if (tokens[r] >= 0 && tokens[r] < V)
            order[--starts[tokens[r]]] = r;
}

/* Global size R / ROWS rounded up. */
ONE_TASK void embedding_forward_blocked(__global const int *restrict tokens,
                                        __global const float *restrict parameters,
                                        __global float *restrict y, const int R, const int T,
                                        const int V, const int C, const int token_offset,
                                        const int position_offset)
{
    const int r0 = get_group_id(0) * ROWS;
    for (int r = r0; r < MIN(R, r0 + ROWS); r++) {
        const int token = tokens[r];
        __global const float *position = parameters + position_offset + (size_t)(r % T) * C;
        __global float *to = y + (size_t)r * C;
        if (token < 0 || token >= V) {
            for (int c = 0; c < C; c++)
                to[c] = flush_tiny(position[c]);
            continue;
        }
        __global const float *value = parameters + token_offset + (size_t)token * C;
        for (int c = 0; c < C; c++)
            to[c] = flush_tiny(value[c] + position[c]);
    }
}

/*
 * Lanes that are in use, bit l of used for lane l, each with COLUMNS sums in a slot of its own:
 * what a lane hands on to one that is not in use is the slot, and nothing is copied.
 */
static inline ulong add_to_lane(float *restrict sums, int *restrict slot, const ulong used,
                                const int l, __global const float *restrict row, const int columns)
{
    if (used >> l & 1) {
        float *restrict sum = sums + slot[l] * COLUMNS;
        for (int c = 0; c < columns; c++)
            sum[c] = sum[c] + row[c];
        return used;
    }
    int count = 0;
    for (ulong rest = used; rest != 0; rest &= rest - 1)
        count++;
    slot[l] = count;
    float *restrict sum = sums + count * COLUMNS;
    for (int c = 0; c < columns; c++)
        sum[c] = row[c];
    return used | 1UL << l;
}

/* The tree over the lanes in use, of which there is one; the index of the slot with the sum. */
static inline int tree_of_lanes(float *restrict sums, int *restrict slot, ulong used,
                                const int columns)
{
    for (int width = LANES / 2; width > 0; width /= 2) {
        const ulong high = used >> width;
        for (int l = 0; l < width && high >> l != 0; l++) {
            if (!(high >> l & 1))
                continue;
            if (used >> l & 1) {
                float *restrict to = sums + slot[l] * COLUMNS;
                float *restrict from = sums + slot[l + width] * COLUMNS;
                for (int c = 0; c < columns; c++)
                    to[c] = to[c] + from[c];
            } else {
                slot[l] = slot[l + width];
            }
        }
        used = (used | high) & ((1UL << width) - 1UL);
    }
    return slot[0];
}

/* Global size V. */
ONE_TASK void token_gradient_sorted(__global const int *restrict starts,
                                    __global const int *restrict order,
                                    __global const float *restrict d,
                                    __global float *restrict gradient, const int C,
                                    const int token_offset, const int has_share)
{
    const int token = get_group_id(0);
    const int begin = starts[token];
    const int end = starts[token + 1];
    __global float *to = gradient + token_offset + (size_t)token * C;
    float sums[LANES * COLUMNS];
    int slot[LANES];
    for (int c0 = 0; c0 < C; c0 += COLUMNS) {
        const int columns = MIN(COLUMNS, C - c0);
        ulong used = 0;
        for (int n = begin; n < end; n++)
            used = add_to_lane(sums, slot, used, order[n] % LANES, d + (size_t)order[n] * C + c0,
                               columns);
        if (used == 0) {
            for (int c = c0; c < c0 + columns; c++)
                to[c] = has_share ? flush_tiny(to[c]) : 0.0f;
            continue;
        }
        const float *restrict sum = sums + tree_of_lanes(sums, slot, used, columns) * COLUMNS;
        if (has_share)
            for (int c = 0; c < columns; c++)
                to[c0 + c] = flush_tiny(to[c0 + c] + sum[c]);
        else
            for (int c = 0; c < columns; c++)
                to[c0 + c] = flush_tiny(sum[c]);
    }
}

/* Global size T. */
ONE_TASK void position_gradient_blocked(__global const float *restrict d,
                                        __global float *restrict gradient, const int B,
                                        const int T, const int C, const int position_offset)
{
    const int t = get_group_id(0);
    float sums[LANES * COLUMNS];
    int slot[LANES];
    for (int c0 = 0; c0 < C; c0 += COLUMNS) {
        const int columns = MIN(COLUMNS, C - c0);
        ulong used = 0;
        for (int b = 0; b < B; b++)
            used = add_to_lane(sums, slot, used, b % LANES, d + ((size_t)b * T + t) * C + c0,
                               columns);
        const float *restrict sum = sums + tree_of_lanes(sums, slot, used, columns) * COLUMNS;
        for (int c = 0; c < columns; c++)
            gradient[position_offset + (size_t)t * C + c0 + c] = flush_tiny(sum[c]);
    }
}
