/*
 * gemm: C = A B in float32, with bits that depend on M, N and K alone.
 *
 *   A  M x K   element (m, k) at a_offset + m * a_row + k * a_column   in
 *   B  K x N   element (k, n) at b_offset + k * b_row + n * b_column   in
 *   C  M x N   element (m, n) at c_offset + m * c_row + n              out
 *
 * Strides are free, so a transpose is another pair of strides. M, N, K are at least 1.
 *
 * Canonical order of each element of C: K is cut into chunks of KC = 256; inside a chunk one chain
 * of fused multiply-adds from +0, k ascending; the sums of the chunks are added left to right, and
 * the last of these sums is passed through flush_tiny. KC is a constant of the protocol's
 * arithmetic. Everything else here is layout and changes no bit.
 *
 * Two versions with equal bits:
 *   gemm_naive  one work-item for an element; global size (N, M), any local size. For GPUs and
 *               wherever the contraction probe failed, and as the definition in C.
 *   gemm_tiled  for CPUs, where a work-group of one work-item is one task:
 *
 *                    N in panels of NR = NV * VW             pack_b (panels, chunks of K) lays B out
 *                  +----+----+----+----+                     as [panel][k][NR], padded with zeros;
 *            B   K |    |    |    |    |                     gemm_tiled (panel blocks, row blocks)
 *                  +----+----+----+----+                     copies its rows of A into local memory
 *        M  +---+  +----+                                    as [tile][k][MR], one chunk at a time,
 *  in tiles |   |  | MR |  <- acc[MR][NV] in registers       and then runs over its panels.
 *     of MR +---+  +----+
 *             A       C
 *
 *               tile_block  tiles of MR rows in a group; local memory: tile_block * MR * KC floats
 *               panel_block panels in a group; together they decide how many tasks there are
 *
 * Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008.
 * numpy twin: gemm in p2ptrain/device/reference.py
 */

#include "common.cl"

#define KC 256

#ifndef MR
#define MR 6 /* rows of a register tile */
#endif
#ifndef NV
#define NV 2 /* vectors in a row of it */
#endif
#ifndef VW
#define VW 1 /* values in a vector; above 1 only with CONTRACTED_FMA */
#endif

#define NR (NV * VW)

#if VW == 1
typedef float vector;
#define fused_vector(a, b, c) fused((a), (b), (c))
#define flush_vector(x) flush_tiny(x)
#elif !defined(CONTRACTED_FMA)
#error "VW above 1 needs CONTRACTED_FMA: there is no fma of vectors that every PoCL compiles"
#else
/* Aligned as a float, since panels and rows of C begin anywhere. */
typedef float vector __attribute__((ext_vector_type(VW), aligned(4)));

static inline vector fused_vector(vector a, vector b, vector c)
{
#pragma OPENCL FP_CONTRACT ON
    return a * b + c;
}

/* flush_tiny of each value. */
static inline vector flush_vector(vector x)
{
    typedef int integers __attribute__((ext_vector_type(VW)));
    const integers magnitude = __builtin_astype(x, integers) & 0x7fffffff;
    return magnitude < (integers)(TINY_BITS) ? (vector)(0.0f) : x;
}
#endif

#if VW == 16
/* Without it LLVM prefers two registers of 256 bits to one of 512. */
#define WIDE __attribute__((min_vector_width(512)))
#else
#define WIDE
#endif

__kernel void gemm_naive(__global const float *restrict A, const int a_offset, const int a_row,
                         const int a_column,
                         __global const float *restrict B, const int b_offset, const int b_row,
                         const int b_column,
                         __global float *restrict C, const int c_offset, const int c_row,
                         const int M, const int N, const int K)
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
    C[c_offset + (size_t)m * c_row + n] = flush_tiny(sum);
}

/* Global size (panels, chunks of K), local size (1, 1). */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void pack_b(__global const float *restrict B, const int b_offset, const int b_row,
            const int b_column, __global float *restrict packed, const int N, const int K)
{
    const int n0 = get_group_id(0) * NR;
    const int k0 = get_group_id(1) * KC;
    const int k1 = MIN(K, k0 + KC);
    const int columns = MIN(NR, N - n0);
    __global const float *source = B + b_offset + (size_t)n0 * b_column;
    __global float *panel = packed + (size_t)n0 * K;
    if (columns == NR && b_column == 1) {
        for (int k = k0; k < k1; k++)
            for (int n = 0; n < NR; n++)
                panel[(size_t)k * NR + n] = source[(size_t)k * b_row + n];
        return;
    }
    for (int n = 0; n < NR; n++)
        for (int k = k0; k < k1; k++)
            panel[(size_t)k * NR + n] =
                n < columns ? source[(size_t)k * b_row + (size_t)n * b_column] : 0.0f;
}

/* Rows m0 .. m0 + MR of a chunk of A, as [k][MR], with zeros below the last row. */
static inline void pack_a(__global const float *restrict A, const int a_row, const int a_column,
                          __local float *restrict tile, const int rows, const int kc)
{
    if (rows >= MR) {
        for (int k = 0; k < kc; k++)
            for (int m = 0; m < MR; m++)
                tile[k * MR + m] = A[(size_t)m * a_row + (size_t)k * a_column];
        return;
    }
    for (int k = 0; k < kc; k++)
        for (int m = 0; m < MR; m++)
            tile[k * MR + m] = m < rows ? A[(size_t)m * a_row + (size_t)k * a_column] : 0.0f;
}

/* One register tile over one chunk of K, set into C or added to it. */
static inline WIDE void multiply_tile(__local const float *restrict a,
                                      __global const float *restrict b,
                                      __global float *restrict c, const int c_row, const int rows,
                                      const int columns, const int kc, const int is_first,
                                      const int is_last)
{
    vector acc[MR][NV];
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            acc[m][v] = (vector)(0.0f);
    for (int k = 0; k < kc; k++) {
        __global const vector *row = (__global const vector *)(b + (size_t)k * NR);
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                acc[m][v] = fused_vector((vector)(a[k * MR + m]), row[v], acc[m][v]);
    }
    if (rows >= MR && columns >= NR) {
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++) {
                __global vector *out = (__global vector *)(c + (size_t)m * c_row) + v;
                const vector sum = is_first ? acc[m][v] : *out + acc[m][v];
                *out = is_last ? flush_vector(sum) : sum;
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
    for (int m = 0; m < MIN(MR, rows); m++)
        for (int n = 0; n < MIN(NR, columns); n++) {
            __global float *out = c + (size_t)m * c_row + n;
            const float sum = is_first ? spilled[m * NR + n] : *out + spilled[m * NR + n];
            *out = is_last ? flush_tiny(sum) : sum;
        }
}

/* Global size (panel blocks, tile blocks), local size (1, 1). */
__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void gemm_tiled(__global const float *restrict A, const int a_offset, const int a_row,
                const int a_column, __global const float *restrict packed,
                __global float *restrict C, const int c_offset, const int c_row,
                const int M, const int N, const int K,
                const int panel_block, const int tile_block, __local float *restrict a_tiles)
{
    const int panels = (N + NR - 1) / NR;
    const int tiles = (M + MR - 1) / MR;
    const int panel0 = get_group_id(0) * panel_block;
    const int panel1 = MIN(panels, panel0 + panel_block);
    const int tile0 = get_group_id(1) * tile_block;
    const int tile1 = MIN(tiles, tile0 + tile_block);
    for (int k0 = 0; k0 < K; k0 += KC) {
        const int kc = MIN(KC, K - k0);
        for (int t = tile0; t < tile1; t++)
            pack_a(A + a_offset + (size_t)t * MR * a_row + (size_t)k0 * a_column, a_row, a_column,
                   a_tiles + (t - tile0) * MR * KC, M - t * MR, kc);
        for (int p = panel0; p < panel1; p++)
            for (int t = tile0; t < tile1; t++)
                multiply_tile(a_tiles + (t - tile0) * MR * KC,
                              packed + (size_t)p * NR * K + (size_t)k0 * NR,
                              C + c_offset + (size_t)t * MR * c_row + p * NR, c_row,
                              M - t * MR, N - p * NR, kc, k0 == 0, k0 + KC >= K);
    }
}
