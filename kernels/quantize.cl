/*
 * quantize_feedback: error feedback and blockwise quantisation in one launch.
 *
 *   gradient  (n)          float32  in
 *   residual  (n)          float32  in, out   what rounding lost before, and what it loses now
 *   q         (n)          int8     out       in [-PEAK, PEAK]
 *   scale     (n / BLOCK)  float32  out       NaN for a block that is not finite
 *
 *     sum      = gradient + residual
 *     peak     = max |sum| of the block, +0 below TINY
 *     scale    = peak * fl(1 / PEAK)
 *     q        = rint(sum * (1 / scale))
 *     residual = flush_tiny(sum - q * scale)
 *
 * n is a multiple of BLOCK. One work-group of LANES work-items a block; lane l takes the values
 * l, l + LANES, ... of its block. A maximum has no order, so LANES does not enter the bits.
 *
 * BLOCK and PEAK (127: int8, 7: int4) are part of the wire format (protocol/codecs.md sections 2
 * and 3) and no tunables.
 *
 * numpy twin: quantise_with_feedback in p2ptrain/compress/feedback.py
 * Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022, arXiv:2110.02861.
 */

#include "detmath.cl"

#ifndef LANES
#define LANES 64 /* work-items of a group, a power of two that divides BLOCK */
#endif

#define BLOCK 4096

__kernel __attribute__((reqd_work_group_size(LANES, 1, 1)))
void quantize_feedback(__global const float *restrict gradient,
                       __global float *restrict residual,
                       __global char *restrict q,
                       __global float *restrict scale,
                       const float peak_reciprocal)
{
    __local uint peaks[LANES];
    const int lane = get_local_id(0);
    const size_t first = get_group_id(0) * (size_t)BLOCK;

    /* Magnitudes compare like their bits, and NaN and infinity stand above every number. */
    uint lane_peak = 0;
    for (int i = lane; i < BLOCK; i += LANES) {
        const float sum = gradient[first + i] + residual[first + i];
        lane_peak = max(lane_peak, as_uint(sum) & MAGNITUDE);
    }
    peaks[lane] = lane_peak;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int half_width = LANES / 2; half_width > 0; half_width /= 2) {
        if (lane < half_width)
            peaks[lane] = max(peaks[lane], peaks[lane + half_width]);
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    const uint peak = peaks[0];
    const int finite = peak < INF_BITS;
    const int some = finite & (peak >= TINY_BITS);
    const float block_scale = some ? as_float(peak) * peak_reciprocal : 0.0f;
    const float inverse = some ? det_div(1.0f, block_scale) : 0.0f;
    if (lane == 0)
        scale[get_group_id(0)] = finite ? block_scale : as_float(NAN_BITS);
    for (int i = lane; i < BLOCK; i += LANES) {
        const float sum = gradient[first + i] + residual[first + i];
        const int rounded = some ? (int)rint(sum * inverse) : 0;
        q[first + i] = (char)rounded;
        residual[first + i] = flush_tiny(sum - (float)rounded * block_scale);
    }
}
