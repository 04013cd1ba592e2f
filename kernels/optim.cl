/*
 * optim: one step of an inner optimiser over the whole flat vector, and clipping before it.
 *
 *   w       (n)         float32  in, out   parameters, padded with zeros, which stay zeros
 *   g       (n)         float32  in        gradient of the mean loss
 *   m       (n)         float32  in, out   momentum (SGD) or first moment (AdamW)
 *   v       (n)         float32  in, out   second moment (AdamW), never below 0
 *   decays  (n)         int8     in        -1 where weight decay applies, else 0
 *   factor  (1)         float32  in        what the gradient is multiplied with: clip_factor's
 *   sums    (n / 4096)  float32            sums of squares
 *
 *   sgd_step       p = decay * w + G;  m = momentum * m + p;  w = w - rate * m
 *   nesterov_step  the same, and then  w = w - rate * (momentum * m + p)
 *                  both with PyTorch's convention: the rate is outside the momentum.
 *   adamw_step     m = beta1 * m + rest1 * G;  v = beta2 * v + rest2 * G^2
 *                  w = (w - shrink * w) - rate * m / (sqrt(v) * spread + epsilon)
 *                  rest = 1 - beta, shrink = rate * decay, and rate and spread with the
 *                  corrections of the bias in them come from the host, where
 *                  p2ptrain/train/optimizers.py says how they are computed.
 *   square_sums    sums[b] = sum of the squares of block b of g, by 64 lanes
 *   clip_factor    factor = norm > most ? most / norm : 1, with norm = sqrt(sum of sums), by lanes
 *
 * The decay is decoupled in AdamW. A norm that is NaN clips nothing, so that a training that has
 * diverged shows it.
 *
 * G is the gradient times the factor, and +0 where it is small: under 2^-63 in SGD (flush_tiny),
 * under 2^-56 in AdamW, so that rest2 * G^2 is a normal number for every beta2 up to 0.9999. w and
 * m are flushed by flush_tiny, v where it would be denormal. A vanishing gradient costs no more
 * than another: it is flushed before the product too, which changes no bit, since the factor is at
 * most 1, and spares processors a product of denormal numbers.
 *
 * Root and quotient of AdamW. An update need not be rounded as well as a weight, of which it is a
 * thousandth part, so both are shorter than det_sqrt and det_div: a first guess from the integer,
 * then for the root a polynomial in t = v * guess^2, which is between 1.5 and 1.6875, and for the
 * quotient a cubic step and Newton's. m / (sqrt(v) + epsilon) is within 2^-20 of itself. Infinite v
 * gives no finite w.
 *
 * Geometry. n is a multiple of 4096. A step: each work-item has `each` values behind one another,
 * 1 (local size 64), or on a CPU a multiple of 4096 (local size 1), so that a thread has few tasks.
 * adamw_parts is adamw_step for such tasks: it goes through PART values in three loops, since the
 * chain of operations from g to w is too long for a core to overlap two values of it; 1.5 times as
 * fast as one loop on AVX2. square_sums: a work-group of WORKERS work-items a block, 64 or 1, each
 * with 64 / WORKERS lanes. clip_factor: one work-item. No bit depends on `each` or WORKERS.
 *
 * Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
 * Loshchilov and Hutter, Decoupled weight decay regularization, 2019, arXiv:1711.05101.
 * Pascanu et al., On the difficulty of training recurrent neural networks, 2013, arXiv:1211.5063.
 *
 * numpy twins: p2ptrain/device/reference_optim.py
 */

#include "detmath.cl"

#ifndef WORKERS
#define WORKERS 64
#endif
#define BLOCK 4096
#define PART 512
/* Four vectors at once: a core has too few places for operations that wait for others. */
#define OVERLAP _Pragma("clang loop interleave_count(4)")
#define LANES_EACH (LANES / WORKERS)
#define SQUARE_TINY_BITS 0x23800000u /* 2^-56 as float bits */

static inline float flush_square_tiny(float x)
{
    return (as_uint(x) & 0x7fffffffu) < SQUARE_TINY_BITS ? 0.0f : x;
}

/* x where the entry of the mask is -1, +0 where it is 0. */
static inline float where(char entry, float x)
{
    return as_float(as_uint(x) & (uint)(int)entry);
}

/* Square root of 0 or a normal number, within 11 ulp. */
static inline float root_of_moment(float v)
{
    const float guess = as_float(0x5f600000u - (as_uint(v) >> 1));
    const float near = v * guess;
    const float t = near * guess;
    float p = fused(-0.06135182f, t, 0.41057897f);
    p = fused(p, t, -1.0897195f);
    p = fused(p, t, 1.7343353f);
    return near * p;
}

/* a / d for d between 2^-120 and 2^120, within 2 ulp. */
static inline float quotient_by_positive(float a, float d)
{
    float r = as_float(0x7ef31000u - as_uint(d)); /* 1 / d to within 5.1% */
    const float e = fused(-d, r, 1.0f);
    r = fused(r, fused(e, e, e), r);
    const float q = a * r;
    return fused(q, fused(-d, r, 1.0f), q);
}

__kernel void sgd_step(__global float *restrict w, __global const float *restrict g,
                       __global float *restrict m, __global const char *restrict decays,
                       __global const float *restrict factor, const float rate,
                       const float momentum, const float decay, const int n, const int each)
{
    const float scale = factor[0];
    const size_t begin = (size_t)get_global_id(0) * each;
    const size_t end = MIN(begin + each, (size_t)n);
    OVERLAP
    for (size_t i = begin; i < end; i++) {
        const float gradient = flush_tiny(flush_tiny(g[i]) * scale);
        const float push = fused(where(decays[i], decay), w[i], gradient);
        const float moved = flush_tiny(fused(momentum, m[i], push));
        m[i] = moved;
        w[i] = flush_tiny(fused(-rate, moved, w[i]));
    }
}

__kernel void nesterov_step(__global float *restrict w, __global const float *restrict g,
                            __global float *restrict m, __global const char *restrict decays,
                            __global const float *restrict factor, const float rate,
                            const float momentum, const float decay, const int n, const int each)
{
    const float scale = factor[0];
    const size_t begin = (size_t)get_global_id(0) * each;
    const size_t end = MIN(begin + each, (size_t)n);
    OVERLAP
    for (size_t i = begin; i < end; i++) {
        const float gradient = flush_tiny(flush_tiny(g[i]) * scale);
        const float push = fused(where(decays[i], decay), w[i], gradient);
        const float moved = flush_tiny(fused(momentum, m[i], push));
        m[i] = moved;
        w[i] = flush_tiny(fused(-rate, fused(momentum, moved, push), w[i]));
    }
}

__kernel void adamw_step(__global float *restrict w, __global const float *restrict g,
                         __global float *restrict m, __global float *restrict v,
                         __global const char *restrict decays,
                         __global const float *restrict factor,
                         const float rate, const float shrink, const float beta1,
                         const float rest1, const float beta2, const float rest2,
                         const float epsilon, const float spread, const int n, const int each)
{
    const float scale = factor[0];
    const size_t begin = (size_t)get_global_id(0) * each;
    const size_t end = MIN(begin + each, (size_t)n);
    for (size_t i = begin; i < end; i++) {
        const float gradient = flush_square_tiny(flush_square_tiny(g[i]) * scale);
        const float first = flush_tiny(fused(beta1, m[i], rest1 * gradient));
        const float second = flush_denormal(fused(rest2 * gradient, gradient, beta2 * v[i]));
        const float size = fused(root_of_moment(second), spread, epsilon);
        const float kept = fused(where(decays[i], -shrink), w[i], w[i]);
        m[i] = first;
        v[i] = second;
        w[i] = flush_tiny(fused(-rate, quotient_by_positive(first, size), kept));
    }
}

__kernel void adamw_parts(__global float *restrict w, __global const float *restrict g,
                          __global float *restrict m, __global float *restrict v,
                          __global const char *restrict decays,
                          __global const float *restrict factor,
                          const float rate, const float shrink, const float beta1,
                          const float rest1, const float beta2, const float rest2,
                          const float epsilon, const float spread, const int n, const int each)
{
    const float scale = factor[0];
    const size_t begin = (size_t)get_global_id(0) * each;
    const size_t end = MIN(begin + each, (size_t)n);
    for (size_t part = begin; part < end; part += PART) {
        float size[PART];
        OVERLAP
        for (size_t k = 0; k < PART; k++) {
            const size_t i = part + k;
            const float gradient = flush_square_tiny(flush_square_tiny(g[i]) * scale);
            m[i] = flush_tiny(fused(beta1, m[i], rest1 * gradient));
            v[i] = flush_denormal(fused(rest2 * gradient, gradient, beta2 * v[i]));
        }
        OVERLAP
        for (size_t k = 0; k < PART; k++)
            size[k] = fused(root_of_moment(v[part + k]), spread, epsilon);
        OVERLAP
        for (size_t k = 0; k < PART; k++) {
            const size_t i = part + k;
            const float kept = fused(where(decays[i], -shrink), w[i], w[i]);
            w[i] = flush_tiny(fused(-rate, quotient_by_positive(m[i], size[k]), kept));
        }
    }
}

__kernel void square_sums(__global const float *restrict g, __global float *restrict sums)
{
    __local float lane[LANES];
    const size_t block = get_group_id(0);
    const int first = get_local_id(0) * LANES_EACH;
    float mine[LANES_EACH];
    for (int l = 0; l < LANES_EACH; l++)
        mine[l] = 0.0f;
    for (size_t i = block * BLOCK + first; i < (block + 1) * BLOCK; i += LANES)
        for (int l = 0; l < LANES_EACH; l++) {
            const float gradient = flush_tiny(g[i + l]);
            mine[l] = fused(gradient, gradient, mine[l]);
        }
    for (int l = 0; l < LANES_EACH; l++)
        lane[first + l] = mine[l];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (first == 0) {
        float all[LANES];
        for (int l = 0; l < LANES; l++)
            all[l] = lane[l];
        sums[block] = tree_sum(all);
    }
}

__kernel void clip_factor(__global const float *restrict sums, __global float *restrict factor,
                          const int blocks, const float most)
{
    float lane[LANES];
    for (int l = 0; l < LANES; l++)
        lane[l] = 0.0f;
    for (int b = 0; b < blocks; b++)
        lane[b % LANES] = lane[b % LANES] + sums[b];
    const float norm = det_sqrt(tree_sum(lane));
    factor[0] = norm > most ? det_div(most, norm) : 1.0f;
}
