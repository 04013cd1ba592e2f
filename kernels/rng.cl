/*
 * rng: uniform random float32 from Philox4x32-10, for initial parameters.
 *
 *   out  float32  out   count values at offset, uniform in [-bound, bound)
 *
 * Value i is word i mod 4 of the block with counter (i / 4, stream, 0, 0) under the key
 * (seed_low, seed_high): a function of seed, stream and index alone, whatever computes it.
 * Integer to float is exact: the upper 24 bits u give u * 2^-24, then 2 * bound * that - bound,
 * fused.
 *
 * One work-item for a block of four values: global size count / 4 rounded up to the local size.
 *
 * numpy twin: philox_uniform in p2ptrain/device/reference.py
 */

#include "philox.cl"

__kernel void philox_uniform(__global float *restrict out, const int offset, const int count,
                             const uint seed_low, const uint seed_high, const uint stream,
                             const float bound)
{
    const int block = get_global_id(0);
    const uint4 words = philox((uint4)((uint)block, stream, 0u, 0u), seed_low, seed_high);
    const uint drawn[4] = {words.x, words.y, words.z, words.w};
    for (int word = 0; word < 4; word++) {
        const int i = block * 4 + word;
        const float unit = (float)(drawn[word] >> 8) * 5.9604644775390625e-8f; /* 2^-24 */
        if (i < count)
            out[offset + i] = fused(2.0f * bound, unit, -bound);
    }
}
