/*
 * quantize_few: error feedback and quantisation to few levels, in one launch: int2 and topk.
 *
 *   gradient  (n)          float32  in
 *   residual  (n)          float32  in, out   what rounding lost before, and what it loses now
 *   q         (n)          int8     out       int2: -1, 0, 1; topk: 0, +-2, +-3
 *   scale     (n / BLOCK)  float32  out       NaN for a block that is not finite
 *   decay                  float32            of the residual
 *   kept                   int32              values of a block that are not 0, at the most;
 *                                             0: int2
 *
 *     sum      = gradient + decay * residual
 *     level    = int2: 1 where |sum| >= CUT * mean |sum| of the block, else 0
 *                topk: 0 but for the `kept` largest |sum|, of equal ones those of lower index;
 *                      of these HIGH where |sum| >= CUT * their mean, else LOW
 *     scale    = (sum of level * |sum|) / (sum of level * level)
 *     q        = level with the sign of sum
 *     residual = flush_tiny(sum - q * scale)
 *
 * |sum| below TINY counts as 0. n is a multiple of BLOCK. One work-group of LANES work-items a
 * block; lane l takes the values l, l + LANES, ... of its block, and sums follow the rule of
 * common.cl. The kept'th largest magnitude is found bit by bit from above, for numbers of one sign
 * are ordered as their bits are; so is the index below which the equal ones are kept.
 *
 * All constants are part of the wire format (protocol/codecs.md section 3) and no tunables.
 *
 * numpy twins: quantise_int2 and quantise_largest in p2ptrain/compress/levels.py
 * Li et al., Ternary Weight Networks, 2016, arXiv:1605.04711; Sarfi et al., SparseLoCo, 2025,
 * arXiv:2508.15706.
 */

#include "detmath.cl"

#define BLOCK 4096
#define CUT 0.96875f
#define LOW 2
#define HIGH 3

/* The values of a block that belong to this work-item. */
#define EACH(i) (int i = get_local_id(0); i < BLOCK; i += LANES)

static inline float magnitude(float x)
{
    const uint bits = as_uint(x) & MAGNITUDE;
    return bits < TINY_BITS ? 0.0f : as_float(bits);
}

/* The sum over all lanes, for each of them. Counts up to 2^24 are exact. */
static inline float group_sum(__local float *lanes, float own)
{
    const int lane = get_local_id(0);
    lanes[lane] = own;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = LANES / 2; width > 0; width /= 2) {
        if (lane < width)
            lanes[lane] = lanes[lane] + lanes[lane + width];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float sum = lanes[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return sum;
}

/* The largest c of which at least `kept` sizes have bits >= c; 0 if fewer are above 0. */
static inline uint cut_of(__local float *lanes, __local const float *sizes, int kept)
{
    uint cut = 0;
    for (uint bit = 1u << 30; bit > 0; bit >>= 1) {
        int count = 0;
        for EACH (i)
            count += as_uint(sizes[i]) >= (cut | bit);
        cut |= group_sum(lanes, (float)count) >= (float)kept ? bit : 0;
    }
    return cut;
}

/* The largest index with at most `kept` sizes above the cut, or equal to it and before the index. */
static inline int bound_of(__local float *lanes, __local const float *sizes, int kept, uint cut)
{
    int bound = 0;
    for (int bit = BLOCK; bit > 0; bit >>= 1) {
        const int next = bound | bit;
        int count = 0;
        for EACH (i)
            count += as_uint(sizes[i]) > cut || (as_uint(sizes[i]) == cut && i < next);
        const int fits = group_sum(lanes, (float)count) <= (float)kept;
        bound = next <= BLOCK && fits ? next : bound;
    }
    return bound;
}

/* topk: 1 for the values that are kept, then LOW or HIGH. */
static inline void level_largest(__local float *lanes, __local const float *sizes,
                                 __local char *levels, int kept)
{
    const uint cut = cut_of(lanes, sizes, kept);
    const int bound = bound_of(lanes, sizes, kept, cut);
    float own = 0.0f;
    int count = 0;
    for EACH (i) {
        const uint bits = as_uint(sizes[i]);
        levels[i] = bits > 0 && (bits > cut || (bits == cut && i < bound));
        own = own + (levels[i] ? sizes[i] : 0.0f);
        count += levels[i];
    }
    const float total = group_sum(lanes, own);
    const float counts = group_sum(lanes, (float)count);
    const float high = CUT * (counts > 0.0f ? det_div(total, counts) : 0.0f);
    for EACH (i)
        levels[i] = levels[i] ? (sizes[i] >= high ? HIGH : LOW) : 0;
}

__kernel __attribute__((reqd_work_group_size(LANES, 1, 1)))
void quantize_few(__global const float *restrict gradient,
                  __global float *restrict residual,
                  __global char *restrict q,
                  __global float *restrict scale,
                  const float decay,
                  const int kept)
{
    __local float lanes[LANES];
    __local float sizes[BLOCK];
    __local char levels[BLOCK];
    const size_t first = get_group_id(0) * (size_t)BLOCK;

    float own = 0.0f;
    for EACH (i) {
        sizes[i] = magnitude(gradient[first + i] + decay * residual[first + i]);
        own = own + sizes[i];
    }
    const float total = group_sum(lanes, own);
    const int finite = (as_uint(total) & MAGNITUDE) < INF_BITS;
    const float cut = CUT * (total * (1.0f / BLOCK));
    if (kept > 0)
        level_largest(lanes, sizes, levels, kept);
    else
        for EACH (i)
            levels[i] = sizes[i] > 0.0f && sizes[i] >= cut;

    float product = 0.0f;
    int square = 0;
    for EACH (i) {
        product = product + sizes[i] * (float)levels[i];
        square += levels[i] * levels[i];
    }
    const float products = group_sum(lanes, product);
    const float squares = group_sum(lanes, (float)square);
    const float block_scale = squares > 0.0f ? det_div(products, squares) : 0.0f;
    if (get_local_id(0) == 0)
        scale[get_group_id(0)] = finite ? block_scale : as_float(NAN_BITS);
    for EACH (i) {
        const float sum = gradient[first + i] + decay * residual[first + i];
        const int rounded = as_uint(sum) >> 31 ? -levels[i] : levels[i];
        q[first + i] = (char)rounded;
        residual[first + i] = flush_tiny(sum - (float)rounded * block_scale);
    }
}
