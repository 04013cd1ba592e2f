/*
 * attention: causal softmax attention of every head, forward and backward.
 *
 *   qkv    (B * T, 3 * C)  float32  in   queries, keys, values of a position, C = H * D each
 *   out    (B * T, C)      float32  out  sum over j <= i of p[i][j] v[j], heads side by side
 *   stats  (B * H, 2, T)   float32  out  of each query: peak, and 1 / sum of the weights
 *   d      (B * T, C)      float32  in   gradient by out
 *   dqkv   (B * T, 3 * C)  float32  out  gradient by qkv
 *
 * For query i of one head and the positions j <= i; later positions take no part in any sum:
 *
 *   s[i][j] = (q[i] . k[j]) * scale              scale = 1 / sqrt(D), rounded by the host
 *   e[i][j] = exp(s[i][j] - peak[i])             +0 where the difference is under -40
 *   out[i]  = flush((sum over j of e[i][j] v[j]) * r[i]),      r[i] = 1 / sum over j of e[i][j]
 *
 *   p[i][j] = flush(e[i][j] * r[i])              backward, with e computed again
 *   delta[i] = d[i] . out[i]
 *   g[i][j] = flush(p[i][j] * flush(d[i] . v[j] - delta[i]) * scale)
 *   dq[i] = flush(sum over j of g[i][j] k[j])    dk[j] = flush(sum over i >= j of g[i][j] q[i])
 *                                                dv[j] = flush(sum over i >= j of p[i][j] d[i])
 *
 * Canonical order. Every sum of products has the order of gemm.cl: chunks of KC = 256, counted
 * from channel 0 or from position 0, one chain of fused multiply-adds from +0 in each, ascending,
 * chunk sums added left to right. The sum of the weights has the lanes of common.cl, position j
 * in lane j mod 64. A weight is at least e^-40, so its product with a flushed value is normal.
 * No T x T matrix of a whole batch is stored: a version holds one row or one panel of it.
 *
 * Two versions with equal bits:
 *   attention_forward, attention_backward_queries, attention_backward_keys
 *       one work-group of 64 for a query, or a key, of a head: global size (64 * T, B * H). Local
 *       memory holds the row of weights (both rows, backward), T floats each. For GPUs and
 *       wherever the contraction probe failed. _queries comes first: it writes delta (B * H, T).
 *   attention_forward_tiled, attention_backward_tiled
 *       for CPUs. A work-group of one work-item takes heads group, group + groups .. and its own
 *       share of a work space. It lays the rows of a head out as [panel of NR channels][T][NR],
 *       padded with zeros, and goes through the queries in panels of NR = NV * VW:
 *
 *            queries i0 .. i0 + NR             weights lie as [key][query], so that
 *            +--------------+                    scores    keep MR keys  x NR queries in registers,
 *       keys | MR x NR tile |                    softmax   works on vectors of queries, and
 *       0 .. +--------------+                    products  find the MR factors of a step side by
 *            | on the diagonal: \                          side or at distance NR.
 *            +--------------+
 *
 *       On the diagonal the products leave out the pairs with j > i, by triangles of MR x MR,
 *       which MR and NR fit as both are powers of two. D is at most KC.
 *
 * Vaswani et al., Attention is all you need, 2017, arXiv:1706.03762; backward by recomputation as
 * in Dao et al., FlashAttention, 2022, arXiv:2205.14135.
 * numpy twins: p2ptrain/device/reference_attention.py
 */

#include "detmath.cl"

#define KC 256
#define NEGLIGIBLE -40.0f
#define GROUP 64 /* work-items of the simple version: one for each lane */

#ifndef MR
#define MR 4 /* rows of a register tile, a power of two */
#endif
#ifndef NV
#define NV 2 /* vectors in a row of it, a power of two */
#endif
#ifndef VW
#define VW 1 /* values in a vector; the tiled version is built above 1 only */
#endif

#define NR (NV * VW)

/* --- the simple version: one work-group for a row of weights -------------------------------- */

static inline float share(float shifted)
{
    return shifted < NEGLIGIBLE ? 0.0f : det_exp(shifted);
}

/* a . b over D channels. */
static inline float channel_product(__global const float *a, __global const float *b, const int D)
{
    float sum = 0.0f;
    for (int c0 = 0; c0 < D; c0 += KC) {
        float chunk = 0.0f;
        for (int c = c0; c < MIN(D, c0 + KC); c++)
            chunk = fused(a[c], b[c], chunk);
        sum = c0 == 0 ? chunk : sum + chunk;
    }
    return sum;
}

/* The sum over positions first .. last - 1 of weights[position] * values[position * stride]. */
static inline float position_product(__local const float *weights, __global const float *values,
                                     const size_t stride, const int first, const int last)
{
    float sum = 0.0f;
    for (int k = first; k < last;) {
        const int begin = k;
        const int end = MIN(last, (k / KC + 1) * KC);
        float chunk = 0.0f;
        for (; k < end; k++)
            chunk = fused(weights[k], values[k * stride], chunk);
        sum = begin == first ? chunk : sum + chunk;
    }
    return sum;
}

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void attention_forward(__global const float *restrict qkv, __global float *restrict out,
                       __global float *restrict stats, const int T, const int H, const int D,
                       const float scale, __local float *restrict weights)
{
    __local float lane[LANES];
    const int l = get_local_id(0);
    const int i = get_group_id(0);
    const int head = get_group_id(1);
    const int C = H * D;
    const size_t first_row = (size_t)(head / H) * T;
    __global const float *q = qkv + first_row * 3 * C + (head % H) * D;
    __global const float *query = q + (size_t)i * 3 * C;
    for (int j = l; j <= i; j += GROUP)
        weights[j] = channel_product(query, q + C + (size_t)j * 3 * C, D) * scale;
    barrier(CLK_LOCAL_MEM_FENCE);
    float peak = weights[0];
    for (int j = 1; j <= i; j++)
        peak = weights[j] > peak ? weights[j] : peak;
    barrier(CLK_LOCAL_MEM_FENCE);
    float sum = 0.0f;
    for (int j = l; j <= i; j += GROUP) {
        weights[j] = share(weights[j] - peak);
        sum = sum + weights[j];
    }
    lane[l] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = LANES / 2; width > 0; width /= 2) {
        if (l < width)
            lane[l] = lane[l] + lane[l + width];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float r = det_div(1.0f, lane[0]);
    __global float *to = out + (first_row + i) * C + (head % H) * D;
    for (int c = l; c < D; c += GROUP)
        to[c] = flush_tiny(position_product(weights, q + 2 * C + c, (size_t)3 * C, 0, i + 1) * r);
    if (l == 0) {
        stats[(size_t)head * 2 * T + i] = peak;
        stats[(size_t)head * 2 * T + T + i] = r;
    }
}

/* p and g of one pair of positions; product is d . v. */
static inline float probability(float score, float peak, float r)
{
    return flush_tiny(share(score - peak) * r);
}

static inline float score_gradient(float p, float product, float delta, float scale)
{
    return flush_tiny(p * flush_tiny(product - delta) * scale);
}

/* Writes dq and delta. */
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void attention_backward_queries(__global const float *restrict qkv,
                                __global const float *restrict out,
                                __global const float *restrict stats,
                                __global const float *restrict d, __global float *restrict dqkv,
                                __global float *restrict deltas, const int T, const int H,
                                const int D, const float scale, __local float *restrict gradients)
{
    const int l = get_local_id(0);
    const int i = get_group_id(0);
    const int head = get_group_id(1);
    const int C = H * D;
    const size_t first_row = (size_t)(head / H) * T;
    const size_t here = (first_row + i) * C + (head % H) * D;
    __global const float *q = qkv + first_row * 3 * C + (head % H) * D;
    const float peak = stats[(size_t)head * 2 * T + i];
    const float r = stats[(size_t)head * 2 * T + T + i];
    const float delta = channel_product(d + here, out + here, D);
    for (int j = l; j <= i; j += GROUP) {
        __global const float *key = q + C + (size_t)j * 3 * C;
        const float score = channel_product(q + (size_t)i * 3 * C, key, D) * scale;
        const float p = probability(score, peak, r);
        gradients[j] = score_gradient(p, channel_product(d + here, key + C, D), delta, scale);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    __global float *to = dqkv + (first_row + i) * 3 * C + (head % H) * D;
    for (int c = l; c < D; c += GROUP)
        to[c] = flush_tiny(position_product(gradients, q + C + c, (size_t)3 * C, 0, i + 1));
    if (l == 0)
        deltas[(size_t)head * T + i] = delta;
}

/* Writes dk and dv. */
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void attention_backward_keys(__global const float *restrict qkv,
                             __global const float *restrict stats,
                             __global const float *restrict d, __global float *restrict dqkv,
                             __global const float *restrict deltas, const int T, const int H,
                             const int D, const float scale, __local float *restrict gradients,
                             __local float *restrict probabilities)
{
    const int l = get_local_id(0);
    const int j = get_group_id(0);
    const int head = get_group_id(1);
    const int C = H * D;
    const size_t first_row = (size_t)(head / H) * T;
    __global const float *q = qkv + first_row * 3 * C + (head % H) * D;
    __global const float *key = q + C + (size_t)j * 3 * C;
    __global const float *head_d = d + first_row * C + (head % H) * D;
    __global const float *head_stats = stats + (size_t)head * 2 * T;
    for (int i = j + l; i < T; i += GROUP) {
        const float score = channel_product(q + (size_t)i * 3 * C, key, D) * scale;
        const float p = probability(score, head_stats[i], head_stats[T + i]);
        const float product = channel_product(head_d + (size_t)i * C, key + C, D);
        probabilities[i] = p;
        gradients[i] = score_gradient(p, product, deltas[(size_t)head * T + i], scale);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    __global float *to = dqkv + (first_row + j) * 3 * C + C + (head % H) * D;
    for (int c = l; c < D; c += GROUP) {
        to[c] = flush_tiny(position_product(gradients, q + c, (size_t)3 * C, j, T));
        to[C + c] = flush_tiny(position_product(probabilities, head_d + c, (size_t)C, j, T));
    }
}

#if VW > 1
#ifndef CONTRACTED_FMA
#error "VW above 1 needs CONTRACTED_FMA: there is no fma of vectors that every PoCL compiles"
#endif

/* --- the tiled version ---------------------------------------------------------------------- */

/* Aligned as a float, since rows of the arguments begin anywhere. */
typedef float vector __attribute__((ext_vector_type(VW), aligned(4)));
typedef int integers __attribute__((ext_vector_type(VW), aligned(4)));
typedef float four __attribute__((ext_vector_type(4), aligned(4)));

#if VW == 16
/* Without it LLVM prefers two registers of 256 bits to one of 512. */
#define WIDE __attribute__((min_vector_width(512)))
#else
#define WIDE
#endif
#define TILED __kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))

#define ROUND_UP(n, to) (((n) + (to) - 1) / (to) * (to))
#define AS_INTEGERS(x) __builtin_astype((x), integers)

static inline vector fused_vector(vector a, vector b, vector c)
{
#pragma OPENCL FP_CONTRACT ON
    return a * b + c;
}

static inline vector flush_tiny_vector(vector x)
{
    return (AS_INTEGERS(x) & 0x7fffffff) < (int)TINY_BITS ? (vector)(0.0f) : x;
}

/* T rows of D channels, stride apart, as [panel][rows][NR] with rows a multiple of NR. */
static inline void pack_rows(__global const float *restrict source, const size_t stride,
                             __global float *restrict packed, const int T, const int D)
{
    const int rows = ROUND_UP(T, NR);
    for (int c0 = 0; c0 < D; c0 += NR) {
        __global float *to = packed + (size_t)c0 * rows;
        const int columns = MIN(NR, D - c0);
        for (int t = 0; t < T; t++) {
            __global const float *from = source + t * stride + c0;
            if (columns == NR) {
#pragma unroll
                for (int v = 0; v < NV; v++)
                    ((__global vector *)(to + (size_t)t * NR))[v] =
                        ((__global const vector *)from)[v];
            } else {
                for (int n = 0; n < NR; n++)
                    to[(size_t)t * NR + n] = n < columns ? from[n] : 0.0f;
            }
        }
        for (int n = T * NR; n < rows * NR; n++)
            to[n] = 0.0f;
    }
}

/* NR rows of D channels, of which count exist, as [D][NR]; by blocks of 4 x 4 where it can. */
static inline void pack_columns(__global const float *restrict source, const size_t stride,
                                __global float *restrict packed, const int count, const int D)
{
    int c = 0;
    for (; count >= NR && c + 4 <= D; c += 4)
#pragma unroll
        for (int n = 0; n < NR; n += 4) {
            const four r0 = *(__global const four *)(source + n * stride + c);
            const four r1 = *(__global const four *)(source + (n + 1) * stride + c);
            const four r2 = *(__global const four *)(source + (n + 2) * stride + c);
            const four r3 = *(__global const four *)(source + (n + 3) * stride + c);
            const four low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
            const four low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
            const four high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
            const four high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
            __global four *to = (__global four *)(packed + c * NR + n);
            to[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
            to[NR / 4] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
            to[2 * NR / 4] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
            to[3 * NR / 4] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
        }
    for (; c < D; c++)
        for (int n = 0; n < NR; n++)
            packed[c * NR + n] = n < count ? source[n * stride + c] : 0.0f;
}

static inline void clear(vector acc[MR][NV])
{
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            acc[m][v] = (vector)(0.0f);
}

/* acc[m][v]: row j0 + m of packed rows times the columns of a panel, over D channels. */
static inline WIDE void multiply_channels(__global const float *restrict rows, const int row_count,
                                          __global const float *restrict columns, const int D,
                                          vector acc[MR][NV])
{
    clear(acc);
    for (int c0 = 0; c0 < D; c0 += NR) {
        const int end = MIN(NR, D - c0);
        __global const float *a = rows + (size_t)c0 * row_count;
        for (int c = 0; c < end; c++) {
            __global const vector *b = (__global const vector *)(columns + (c0 + c) * NR);
#pragma unroll
            for (int m = 0; m < MR; m++)
#pragma unroll
                for (int v = 0; v < NV; v++)
                    acc[m][v] = fused_vector((vector)(a[m * NR + c]), b[v], acc[m][v]);
        }
    }
}

/* acc[m][v] += weights[j][m] * rows[j][v] over positions begin .. end - 1; both are NR wide. */
static inline WIDE void add_positions(__global const float *restrict weights,
                                      __global const float *restrict rows, const int begin,
                                      const int end, vector acc[MR][NV])
{
    for (int j = begin; j < end; j++) {
        __global const vector *b = (__global const vector *)(rows + (size_t)j * NR);
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                acc[m][v] = fused_vector((vector)(weights[(size_t)j * NR + m]), b[v], acc[m][v]);
    }
}

/*
 * acc[m][v]: sum over positions j <= first + m of weights[j][m] * rows[j][v]; MR divides first. The
 * sum of the chunks but the last is kept in total, in memory: the registers are for acc.
 */
static inline WIDE void multiply_positions(__global const float *restrict weights,
                                           __global const float *restrict rows, const int first,
                                           __global float *restrict total, vector acc[MR][NV])
{
    const int last_chunk = first / KC * KC;
    for (int k0 = 0; k0 < last_chunk; k0 += KC) {
        clear(acc);
        add_positions(weights, rows, k0, k0 + KC, acc);
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++) {
                __global vector *kept = (__global vector *)(total + m * NR) + v;
                *kept = k0 == 0 ? acc[m][v] : *kept + acc[m][v];
            }
    }
    clear(acc);
    add_positions(weights, rows, last_chunk, first, acc);
#pragma unroll
    for (int t = 0; t < MR; t++) {
        const size_t j = first + t;
        __global const vector *b = (__global const vector *)(rows + j * NR);
#pragma unroll
        for (int m = t; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                acc[m][v] = fused_vector((vector)(weights[j * NR + m]), b[v], acc[m][v]);
    }
    if (last_chunk > 0) {
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                acc[m][v] = ((__global vector *)(total + m * NR))[v] + acc[m][v];
    }
}

/* Writes a register tile, flushed, to the rows and columns that exist. */
static inline WIDE void store_tile(vector tile[MR][NV], __global float *restrict to,
                                   const size_t stride, const int rows, const int columns)
{
    if (rows >= MR && columns >= NR) {
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                ((__global vector *)(to + m * stride))[v] = flush_tiny_vector(tile[m][v]);
        return;
    }
    float spilled[MR * NR];
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            ((vector *)(spilled + m * NR))[v] = flush_tiny_vector(tile[m][v]);
    for (int m = 0; m < MIN(MR, rows); m++)
        for (int n = 0; n < MIN(NR, columns); n++)
            to[m * stride + n] = spilled[m * NR + n];
}

/* Scores of a panel of queries with the keys 0 .. count - 1, -inf after the diagonal; the peaks. */
static inline WIDE void score_panel(__global const float *restrict keys, const int row_count,
                                    __global const float *restrict queries,
                                    __global float *restrict scores, const int i0, const int D,
                                    const float scale, vector peak[NV])
{
    integers query[NV];
#pragma unroll
    for (int v = 0; v < NV; v++) {
        peak[v] = (vector)(-INFINITY);
#pragma unroll
        for (int n = 0; n < VW; n++)
            query[v][n] = i0 + v * VW + n;
    }
    for (int j0 = 0; j0 < i0 + NR; j0 += MR) {
        vector acc[MR][NV];
        multiply_channels(keys + (size_t)j0 * NR, row_count, queries, D, acc);
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++) {
                vector s = acc[m][v] * (vector)(scale);
                s = query[v] < (integers)(j0 + m) ? (vector)(-INFINITY) : s;
                peak[v] = s > peak[v] ? s : peak[v];
                ((__global vector *)(scores + (size_t)(j0 + m) * NR))[v] = s;
            }
    }
}

/* Scores become weights; sum[n] is the sum of the weights of query n of the panel. */
static inline void weigh_panel(__global float *restrict scores, const int count,
                               const float *restrict peak, __global float *restrict lanes,
                               float *restrict sum)
{
    for (int j = 0; j < count; j++) {
        __global float *row = scores + (size_t)j * NR;
        __global float *lane = lanes + j % LANES * NR;
        for (int n = 0; n < NR; n++)
            row[n] = share(row[n] - peak[n]);
        if (j < LANES)
            for (int n = 0; n < NR; n++)
                lane[n] = row[n];
        else
            for (int n = 0; n < NR; n++)
                lane[n] = lane[n] + row[n];
    }
    /* Lanes from count on would be +0, which adds nothing to a weight. */
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width && l + width < count; l++)
            for (int n = 0; n < NR; n++)
                lanes[l * NR + n] = lanes[l * NR + n] + lanes[(l + width) * NR + n];
    for (int n = 0; n < NR; n++)
        sum[n] = lanes[n];
}

TILED void attention_forward_tiled(__global const float *restrict qkv, __global float *restrict out,
                                   __global float *restrict stats, __global float *restrict work,
                                   const int work_size, const int B, const int T, const int H,
                                   const int D, const float scale)
{
    const int C = H * D;
    const size_t stride = (size_t)3 * C;
    const int rows = ROUND_UP(T, NR);
    const int packed = rows * ROUND_UP(D, NR);
    __global float *keys = work + (size_t)get_group_id(0) * work_size;
    __global float *values = keys + packed;
    __global float *queries = values + packed;
    __global float *lanes = queries + D * NR;
    __global float *weights = lanes + LANES * NR;
    for (int head = get_group_id(0); head < B * H; head += get_num_groups(0)) {
        const size_t first_row = (size_t)(head / H) * T;
        __global const float *q = qkv + first_row * stride + (head % H) * D;
        __global float *to = out + first_row * C + (head % H) * D;
        pack_rows(q + C, stride, keys, T, D);
        pack_rows(q + 2 * C, stride, values, T, D);
        for (int i0 = 0; i0 < T; i0 += NR) {
            vector peak[NV];
            float sum[NR];
            float r[NR];
            pack_columns(q + i0 * stride, stride, queries, T - i0, D);
            score_panel(keys, rows, queries, weights, i0, D, scale, peak);
            weigh_panel(weights, i0 + NR, (float *)peak, lanes, sum);
            for (int n = 0; n < NR; n++)
                r[n] = det_div(1.0f, sum[n]);
            for (int m0 = 0; m0 < MIN(NR, T - i0); m0 += MR)
                for (int c0 = 0; c0 < D; c0 += NR) {
                    vector tile[MR][NV];
                    multiply_positions(weights + m0, values + (size_t)c0 * rows, i0 + m0, lanes,
                                       tile);
#pragma unroll
                    for (int m = 0; m < MR; m++)
#pragma unroll
                        for (int v = 0; v < NV; v++)
                            tile[m][v] = tile[m][v] * (vector)(r[m0 + m]);
                    store_tile(tile, to + (size_t)(i0 + m0) * C + c0, C, T - i0 - m0, D - c0);
                }
            for (int n = 0; n < MIN(NR, T - i0); n++) {
                stats[(size_t)head * 2 * T + i0 + n] = ((float *)peak)[n];
                stats[(size_t)head * 2 * T + T + i0 + n] = r[n];
            }
        }
    }
}

/* delta, peak and r of a panel of queries; r of queries that do not exist is +0. */
static inline WIDE void load_queries(__global const float *restrict gradients,
                                     __global const float *restrict outputs, const int D,
                                     __global const float *restrict stats, const int T,
                                     const int i0, vector delta[NV], vector peak[NV], vector r[NV])
{
#pragma unroll
    for (int v = 0; v < NV; v++)
        delta[v] = (vector)(0.0f);
    for (int c = 0; c < D; c++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            delta[v] = fused_vector(((__global const vector *)(gradients + c * NR))[v],
                                    ((__global const vector *)(outputs + c * NR))[v], delta[v]);
    for (int n = 0; n < NR; n++) {
        ((float *)peak)[n] = i0 + n < T ? stats[i0 + n] : 0.0f;
        ((float *)r)[n] = i0 + n < T ? stats[T + i0 + n] : 0.0f;
    }
}

/* MR rows of products become probabilities. After the diagonal they are of no use, nor are used. */
static inline void weigh_rows(__global float *restrict rows, const float scale,
                              const float *restrict peak, const float *restrict r)
{
    for (int m = 0; m < MR; m++)
        for (int n = 0; n < NR; n++)
            rows[m * NR + n] = probability(rows[m * NR + n] * scale, peak[n], r[n]);
}

/*
 * One panel's share of dk or dv, for keys j0 .. j0 + MR: acc[m][v] += weights[m][i] * rows[i][v]
 * over the panel's queries i >= j0 + m. skipped is j0 - i0 where the tile is on the diagonal.
 */
static inline WIDE void accumulate_queries(__global const float *restrict weights,
                                           __global const float *restrict rows, const int skipped,
                                           const int count, vector acc[MR][NV])
{
    int i = 0;
    if (skipped >= 0) {
#pragma unroll
        for (int t = 0; t < MR; t++) {
            const int n = skipped + t;
            __global const vector *b = (__global const vector *)(rows + n * NR);
            if (n < count) {
#pragma unroll
                for (int m = 0; m <= t; m++)
#pragma unroll
                    for (int v = 0; v < NV; v++)
                        acc[m][v] = fused_vector((vector)(weights[m * NR + n]), b[v], acc[m][v]);
            }
        }
        i = skipped + MR;
    }
    for (; i < count; i++) {
        __global const vector *b = (__global const vector *)(rows + i * NR);
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                acc[m][v] = fused_vector((vector)(weights[m * NR + i]), b[v], acc[m][v]);
    }
}

/* dk or dv of keys j0 .. j0 + MR after one more panel of queries; written when it was the last. */
static inline WIDE void update_keys(__global const float *restrict weights,
                                    __global const float *restrict rows,
                                    __global float *restrict chunk, __global float *restrict total,
                                    __global float *restrict to, const size_t stride, const int j0,
                                    const int i0, const int T, const int columns)
{
    vector acc[MR][NV];
    const int is_fresh = i0 % KC == 0 || j0 >= i0;
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            acc[m][v] = is_fresh ? (vector)(0.0f) : ((__global vector *)(chunk + m * NR))[v];
    accumulate_queries(weights, rows, j0 - i0, MIN(NR, T - i0), acc);
    const int is_last = i0 + NR >= T;
    const int ends_chunk = is_last || (i0 + NR) % KC == 0;
    if (ends_chunk && j0 / KC != i0 / KC) {
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                acc[m][v] = ((__global vector *)(total + m * NR))[v] + acc[m][v];
    }
    if (is_last) {
        store_tile(acc, to, stride, T - j0, columns);
        return;
    }
    __global float *keep = ends_chunk ? total : chunk;
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            ((__global vector *)(keep + m * NR))[v] = acc[m][v];
}

TILED void attention_backward_tiled(__global const float *restrict qkv,
                                    __global const float *restrict out,
                                    __global const float *restrict stats,
                                    __global const float *restrict d, __global float *restrict dqkv,
                                    __global float *restrict work, const int work_size, const int B,
                                    const int T, const int H, const int D, const float scale)
{
    const int C = H * D;
    const size_t stride = (size_t)3 * C;
    const int rows = ROUND_UP(T, NR);
    const int packed = rows * ROUND_UP(D, NR);
    __global float *keys = work + (size_t)get_group_id(0) * work_size;
    __global float *values = keys + packed;
    __global float *queries = values + packed;
    __global float *gradients = queries + packed;
    __global float *dk = gradients + packed;
    __global float *dv = dk + packed;
    __global float *dk_total = dv + packed;
    __global float *dv_total = dk_total + packed;
    __global float *query_columns = dv_total + packed;
    __global float *gradient_columns = query_columns + D * NR;
    __global float *output_columns = gradient_columns + D * NR;
    __global float *total = output_columns + D * NR;
    __global float *p = total + MR * NR;
    __global float *g = p + rows * NR;
    for (int head = get_group_id(0); head < B * H; head += get_num_groups(0)) {
        const size_t first_row = (size_t)(head / H) * T;
        const int column = (head % H) * D;
        __global const float *q = qkv + first_row * stride + column;
        __global const float *head_d = d + first_row * C + column;
        __global float *to = dqkv + first_row * stride + column;
        pack_rows(q, stride, queries, T, D);
        pack_rows(q + C, stride, keys, T, D);
        pack_rows(q + 2 * C, stride, values, T, D);
        pack_rows(head_d, C, gradients, T, D);
        for (int i0 = 0; i0 < T; i0 += NR) {
            const size_t here = (first_row + i0) * C + column;
            vector delta[NV], peak[NV], r[NV];
            pack_columns(q + i0 * stride, stride, query_columns, T - i0, D);
            pack_columns(d + here, C, gradient_columns, T - i0, D);
            pack_columns(out + here, C, output_columns, T - i0, D);
            load_queries(gradient_columns, output_columns, D, stats + (size_t)head * 2 * T, T, i0,
                         delta, peak, r);
            for (int j0 = 0; j0 < MIN(T, i0 + NR); j0 += MR) {
                vector acc[MR][NV];
                multiply_channels(keys + (size_t)j0 * NR, rows, query_columns, D, acc);
#pragma unroll
                for (int m = 0; m < MR; m++)
#pragma unroll
                    for (int v = 0; v < NV; v++)
                        ((__global vector *)(p + (size_t)(j0 + m) * NR))[v] = acc[m][v];
                weigh_rows(p + (size_t)j0 * NR, scale, (float *)peak, (float *)r);
                multiply_channels(values + (size_t)j0 * NR, rows, gradient_columns, D, acc);
#pragma unroll
                for (int m = 0; m < MR; m++)
#pragma unroll
                    for (int v = 0; v < NV; v++) {
                        const vector slope = flush_tiny_vector(acc[m][v] - delta[v]);
                        const vector own = ((__global vector *)(p + (size_t)(j0 + m) * NR))[v];
                        ((__global vector *)(g + (size_t)(j0 + m) * NR))[v] =
                            flush_tiny_vector(own * slope * (vector)(scale));
                    }
            }
            for (int c0 = 0; c0 < D; c0 += NR) {
                const size_t panel = (size_t)c0 * rows;
                for (int m0 = 0; m0 < MIN(NR, T - i0); m0 += MR) {
                    vector tile[MR][NV];
                    multiply_positions(g + m0, keys + panel, i0 + m0, total, tile);
                    store_tile(tile, to + (i0 + m0) * stride + c0, stride, T - i0 - m0, D - c0);
                }
                for (int j0 = 0; j0 < MIN(T, i0 + NR); j0 += MR) {
                    const size_t at = panel + (size_t)j0 * NR;
                    __global float *key_to = to + j0 * stride + C + c0;
                    update_keys(g + (size_t)j0 * NR, queries + panel + (size_t)i0 * NR, dk + at,
                                dk_total + at, key_to, stride, j0, i0, T, D - c0);
                    update_keys(p + (size_t)j0 * NR, gradients + panel + (size_t)i0 * NR, dv + at,
                                dv_total + at, key_to + C, stride, j0, i0, T, D - c0);
                }
            }
        }
    }
}
#endif
