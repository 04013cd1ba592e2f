/*
 * embedding: bytes of a text as tokens, tokens and positions as vectors, forward and backward.
 *
 * B samples of T positions, R = B * T rows, V tokens, C channels.
 *
 *   stream      (n)          uint8    in   the text
 *   index       (steps * B)  int32    in   sample b of a step begins at stream[index[step * B + b]];
 *                                          under 0: the sample is missing
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
 *   token_gradient      v: flush((has_share ? gradient : +0) + sum of d[r] over rows r with token v);
 *                       has_share where a head that shares the vectors has written its part
 *   position_gradient   t: flush(sum of d[b * T + t] over b)
 *
 * A token that is out of range has a vector of zeros and no gradient. Both sums have the lanes of
 * common.cl: row r in lane r mod 64, sample b in lane b mod 64, rows of other tokens left out.
 *
 * Two versions with equal bits:
 *   token_gradient, position_gradient   one work-item for a value: global size (C rounded up, V or
 *       T), local size (64, 1). Each goes through all rows. For GPUs, and wherever the contraction
 *       probe failed. gather_tokens (T, B) and embedding_forward (C, R) are launched in that way
 *       on every device.
 *   sort_tokens, then token_gradient_sorted, and position_gradient_blocked   for CPUs, where a
 *       work-group of one work-item is one task. sort_tokens, one task, writes the rows in the
 *       order of their tokens (a counting sort): those of token v are order[starts[v]] ..
 *       order[starts[v + 1] - 1], ascending. The others have a task for a token, or a position,
 *       and keep the lanes of COLUMNS channels at a time. A lane without a row is +0 in the
 *       definition; here it is left out, and flushing takes away the one difference, -0.
 *
 * numpy twins: p2ptrain/device/reference_embedding.py
 */

#include "common.cl"

#define COLUMNS 32
#define ONE_TASK __kernel __attribute__((reqd_work_group_size(1, 1, 1)))

__kernel void gather_tokens(__global const uchar *restrict stream, __global const int *restrict index,
                            __global int *restrict tokens, __global int *restrict targets,
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

/* Sets a lane's columns, or adds to them. */
static inline void add_to_lane(float *restrict lane, __global const float *restrict row,
                               const int is_first, const int columns)
{
    if (is_first && columns == COLUMNS)
        for (int c = 0; c < COLUMNS; c++)
            lane[c] = row[c];
    else if (columns == COLUMNS)
        for (int c = 0; c < COLUMNS; c++)
            lane[c] = lane[c] + row[c];
    else
        for (int c = 0; c < columns; c++)
            lane[c] = is_first ? row[c] : lane[c] + row[c];
}

/* The tree over the lanes of a set, bit l for lane l; the sum is then in lane 0 if it is in use. */
static inline void tree_of_lanes(float *restrict lanes, ulong used)
{
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++) {
            const ulong low = 1UL << l;
            const ulong high = low << width;
            if (!(used & high))
                continue;
            float *restrict to = lanes + l * COLUMNS;
            float *restrict from = to + width * COLUMNS;
            if (used & low)
                for (int c = 0; c < COLUMNS; c++)
                    to[c] = to[c] + from[c];
            else
                for (int c = 0; c < COLUMNS; c++)
                    to[c] = from[c];
            used |= low;
        }
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
    float lanes[LANES * COLUMNS];
    for (int c0 = 0; c0 < C; c0 += COLUMNS) {
        const int columns = MIN(COLUMNS, C - c0);
        ulong used = 0;
        for (int n = begin; n < end; n++) {
            const int r = order[n];
            const int l = r % LANES;
            add_to_lane(lanes + l * COLUMNS, d + (size_t)r * C + c0, !(used >> l & 1), columns);
            used |= 1UL << l;
        }
        tree_of_lanes(lanes, used);
        for (int c = 0; c < columns; c++)
            to[c0 + c] = flush_tiny((has_share ? to[c0 + c] : 0.0f)
                                    + (end > begin ? lanes[c] : 0.0f));
    }
}

/* Global size T. */
ONE_TASK void position_gradient_blocked(__global const float *restrict d,
                                        __global float *restrict gradient, const int B,
                                        const int T, const int C, const int position_offset)
{
    const int t = get_group_id(0);
    float lanes[LANES * COLUMNS];
    for (int c0 = 0; c0 < C; c0 += COLUMNS) {
        const int columns = MIN(COLUMNS, C - c0);
        for (int b = 0; b < B; b++)
            add_to_lane(lanes + b % LANES * COLUMNS, d + ((size_t)b * T + t) * C + c0, b < LANES,
                        columns);
        tree_of_lanes(lanes, B >= LANES ? ~0UL : (1UL << B) - 1UL);
        for (int c = 0; c < columns; c++)
            gradient[position_offset + (size_t)t * C + c0 + c] = flush_tiny(lanes[c]);
    }
}
