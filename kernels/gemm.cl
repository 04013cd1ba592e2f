/*
 * gemm: C = A B in float32, with bits that depend on M, N and K alone; a dense layer's bias,
 * residual and ReLU on the way out.
 *
 *   A  M x K   element (m, k) at a_offset + m * a_row + k * a_column   in
 *   B  K x N   element (k, n) at b_offset + k * b_row + n * b_column   in
 *   C  M x N   element (m, n) at c_offset + m * c_row + n              out
 *
 * Strides are free, so a transpose is another pair of strides. M, N, K are at least 1.
 *
 * Canonical order of each element of C: K is cut into chunks of KC = 256; inside a chunk one chain
 * of fused multiply-adds from +0, k ascending; the sums of the chunks are added left to right. Then
 *
 *                             t = flush_tiny(sum)
 *   AFTER_BIAS in `after`:    t = flush_tiny(t + parameters[bias_offset + n])
 *   AFTER_RESIDUAL:           t = flush_tiny(residual[place of (m, n) in C] + t)
 *   AFTER_RELU:               t = t <= 0 ? 0 : t        (a NaN passes)
 *
 * and C = t. What `after` does not name is not read. C must not overlap A, B or the residual. KC
 * is a constant of the protocol's arithmetic. Everything else here is layout and changes no bit.
 *
 * Two versions with equal bits:
 *   gemm_naive  one work-item for an element; global size (N, M), any local size. For GPUs and
 *               wherever the contraction probe failed, and as the definition in C.
 *   gemm_tiled  for CPUs, where a work-group of one work-item is one task: row_block rows of C, in
 *               one panel of NR columns.
 *
 *                    N in panels of NR          For each chunk of K the task copies its panel of B
 *                  +----+----+----+----+        into local memory as [k][NR], 16 KiB with NR = 16,
 *            B   K |    |    |    |    |        where it stays in the first cache; if B is stored
 *                  +----+----+----+----+        transposed, by blocks of VW x VW in registers.
 *        M  +---+  +----+                       A is read where it lies: a broadcast from each of
 *  in tiles |   |  | MR |  <- acc[MR][NV]       MR rows for every NR columns costs nothing beside
 *     of MR +---+  +----+     in registers      the multiplications, whatever the strides.
 *             A       C
 *
 *               Over the lower edge the last row is computed again and not stored; over the right
 *               one the last column, or half a panel where that is enough.
 *
 * Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008.
 * numpy twins: gemm and dense in p2ptrain/device/reference.py
 */

#include "tile.cl"

#define KC 256
#define AFTER_BIAS 1
#define AFTER_RESIDUAL 2
#define AFTER_RELU 4

/* What is left to do with a sum; the pointers are those of the element's place. */
static inline float finish(float sum, __global const float *bias, __global const float *residual,
                           const int after)
{
    float t = flush_tiny(sum);
    if (after & AFTER_BIAS)
        t = flush_tiny(t + *bias);
    if (after & AFTER_RESIDUAL)
        t = flush_tiny(*residual + t);
    return (after & AFTER_RELU) && t <= 0.0f ? 0.0f : t;
}

__kernel void gemm_naive(__global const float *restrict A, const int a_offset, const int a_row,
                         const int a_column,
                         __global const float *restrict B, const int b_offset, const int b_row,
                         const int b_column,
                         __global float *restrict C, const int c_offset, const int c_row,
                         const int M, const int N, const int K,
                         __global const float *parameters, const int bias_offset,
                         __global const float *residual, const int after)
{
    const int n = get_global_id(0);
    const int m = get_global_id(1);
    if (n >= N || m >= M)
        return;
    __global const float *a = A + a_offset + (size_t)m * a_row;
    __global const float *b = B + b_offset + (size_t)n * b_column;
    float sum = 0.0f;
    for (int k0 = 0; k0 < K; k0 += KC) {
        float chunk = 0.0f;
        for (int k = k0; k < MIN(K, k0 + KC); k++)
            chunk = fused(a[(size_t)k * a_column], b[(size_t)k * b_row], chunk);
        sum = k0 == 0 ? chunk : sum + chunk;
    }
    const size_t place = c_offset + (size_t)m * c_row + n;
    C[place] = finish(sum, parameters + bias_offset + n, residual + place, after);
}

/* A part of a matrix: strides and how much of it there is. */
typedef struct {
    __global const float *values;
    int row;    /* elements from one row to the next */
    int column; /* elements from one column to the next */
} view;

/* Where the sums of a task or a tile go. */
typedef struct {
    __global float *values;
    __global const float *bias;
    __global const float *residual;
    int row;     /* elements from one row to the next, of the residual too */
    int rows;    /* that are left below and */
    int columns; /* right of the first element */
    int after;   /* what is done with finished sums */
} target;

#if VW > 1

/* The first halves of two vectors, one value of each in turn, and the second halves. */
static inline WIDE vector interleave_low(vector a, vector b)
{
    vector r;
    r.even = a.lo;
    r.odd = b.lo;
    return r;
}

static inline WIDE vector interleave_high(vector a, vector b)
{
    vector r;
    r.even = a.hi;
    r.odd = b.hi;
    return r;
}

/* A block of VW rows and VW columns with the rows' values side by side, to the panel. One round
 * rotates the bits of an index (row, column) by one, and log2(VW) rounds exchange the two. */
static inline WIDE void transpose_block(__global const float *b, const int b_column,
                                        const int columns, __local float *panel)
{
    vector x[VW], y[VW];
#pragma unroll
    for (int i = 0; i < VW; i++)
        x[i] = *(__global const vector *)(b + (size_t)MIN(i, columns - 1) * b_column);
#pragma unroll
    for (int round = 1; round < VW; round *= 2) {
#pragma unroll
        for (int i = 0; i < VW / 2; i++) {
            y[2 * i] = interleave_low(x[i], x[i + VW / 2]);
            y[2 * i + 1] = interleave_high(x[i], x[i + VW / 2]);
        }
#pragma unroll
        for (int i = 0; i < VW; i++)
            x[i] = y[i];
    }
#pragma unroll
    for (int i = 0; i < VW; i++)
        *(__local vector *)(panel + i * NR) = x[i];
}

#else
#define transpose_block(b, b_column, columns, panel)
#endif

/* kc rows of B into the panel; columns over the edge repeat the last one. */
static inline WIDE void pack_panel(const view b, const int columns, const int kc,
                                   __local float *panel)
{
    if (VW > 1 && b.row == 1) {
        const int whole = kc / VW * VW;
        for (int n = 0; n < MIN(NR, columns); n += VW) {
            __global const float *source = b.values + (size_t)n * b.column;
            for (int k = 0; k < whole; k += VW)
                transpose_block(source + k, b.column, columns - n, panel + k * NR + n);
            for (int k = whole; k < kc; k++)
                for (int i = 0; i < VW; i++)
                    panel[k * NR + n + i] = source[(size_t)MIN(i, columns - n - 1) * b.column + k];
        }
    } else if (b.column == 1 && columns >= NR) {
        for (int k = 0; k < kc; k++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                ((__local vector *)(panel + k * NR))[v] =
                    ((__global const vector *)(b.values + (size_t)k * b.row))[v];
    } else {
        for (int k = 0; k < kc; k++)
            for (int n = 0; n < NR; n++)
                panel[k * NR + n] =
                    b.values[(size_t)k * b.row + (size_t)MIN(n, columns - 1) * b.column];
    }
}

static inline WIDE vector finish_vector(vector sum, __global const float *bias,
                                        __global const float *residual, const int after)
{
    vector t = flush_vector(sum);
    if (after & AFTER_BIAS)
        t = flush_vector(t + *(__global const vector *)bias);
    if (after & AFTER_RESIDUAL)
        t = flush_vector(*(__global const vector *)residual + t);
    return after & AFTER_RELU ? relu_vector(t) : t;
}

/* The sums of one chunk of K, set into C or added to it, and finished if they are complete. */
static inline WIDE void store_tile(vector acc[MR][NV], const target c, const int is_first,
                                   const int is_last)
{
    if (c.rows >= MR && c.columns >= NR) {
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++) {
                const size_t place = (size_t)m * c.row + v * VW;
                __global vector *out = (__global vector *)(c.values + place);
                const vector sum = is_first ? acc[m][v] : *out + acc[m][v];
                *out = is_last ? finish_vector(sum, c.bias + v * VW, c.residual + place, c.after)
                               : sum;
            }
        return;
    }
    /* The tile hangs over an edge of C: spill it, then copy what is inside. */
    float spilled[MR * NR];
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            ((vector *)(spilled + m * NR))[v] = acc[m][v];
    for (int m = 0; m < MIN(MR, c.rows); m++)
        for (int n = 0; n < MIN(NR, c.columns); n++) {
            const size_t place = (size_t)m * c.row + n;
            const float chunk = spilled[m * NR + n];
            const float sum = is_first ? chunk : c.values[place] + chunk;
            c.values[place] = is_last ? finish(sum, c.bias + n, c.residual + place, c.after) : sum;
        }
}

/* One register tile over one chunk of K. */
static inline WIDE void multiply_tile(const view a, __local const float *panel, const target c,
                                      const int kc, const int is_first, const int is_last)
{
    __global const float *row[MR];
#pragma unroll
    for (int m = 0; m < MR; m++)
        row[m] = a.values + (size_t)MIN(m, c.rows - 1) * a.row;
    vector acc[MR][NV];
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            acc[m][v] = (vector)(0.0f);
    size_t i = 0;
    if (c.columns <= VW) {
        for (int k = 0; k < kc; k++, i += a.column) {
            const vector b = *(__local const vector *)(panel + k * NR);
#pragma unroll
            for (int m = 0; m < MR; m++)
                acc[m][0] = fused_vector((vector)(row[m][i]), b, acc[m][0]);
        }
    } else {
        for (int k = 0; k < kc; k++, i += a.column) {
            __local const vector *b = (__local const vector *)(panel + k * NR);
#pragma unroll
            for (int m = 0; m < MR; m++)
#pragma unroll
                for (int v = 0; v < NV; v++)
                    acc[m][v] = fused_vector((vector)(row[m][i]), b[v], acc[m][v]);
        }
    }
    store_tile(acc, c, is_first, is_last);
}

/* Global size (panels, row blocks), local size (1, 1); row_block is a multiple of MR. */
__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void gemm_tiled(__global const float *restrict A, const int a_offset, const int a_row,
                const int a_column,
                __global const float *restrict B, const int b_offset, const int b_row,
                const int b_column,
                __global float *restrict C, const int c_offset, const int c_row,
                const int M, const int N, const int K,
                __global const float *parameters, const int bias_offset,
                __global const float *residual, const int after,
                const int row_block, __local float *restrict panel)
{
    const int n0 = get_group_id(0) * NR;
    const int m0 = get_group_id(1) * row_block;
    const int m1 = MIN(M, m0 + row_block);
    for (int k0 = 0; k0 < K; k0 += KC) {
        const int kc = MIN(KC, K - k0);
        const view b = {B + b_offset + (size_t)k0 * b_row + (size_t)n0 * b_column, b_row, b_column};
        pack_panel(b, N - n0, kc, panel);
        for (int m = m0; m < m1; m += MR) {
            const size_t place = c_offset + (size_t)m * c_row + n0;
            const view a = {A + a_offset + (size_t)m * a_row + (size_t)k0 * a_column, a_row,
                            a_column};
            const target c = {C + place, parameters + bias_offset + n0, residual + place, c_row,
                              m1 - m, N - n0, after};
            multiply_tile(a, panel, c, kc, k0 == 0, k0 + KC >= K);
        }
    }
}
