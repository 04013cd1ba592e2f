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
 * Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
 * numpy twin: philox_uniform in p2ptrain/device/reference.py
 */

#include "common.cl"

#define PHILOX_ROUNDS 10
#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

/* The upper half of a 64-bit product; the built-in mul_hi is left out for speed on PoCL 3.0. */
static inline uint high_product(uint a, uint b)
{
    return (uint)(((ulong)a * (ulong)b) >> 32);
}

__kernel void philox_uniform(__global float *restrict out, const int offset, const int count,
                             const uint seed_low, const uint seed_high, const uint stream,
                             const float bound)
{
    const int block = get_global_id(0);
    uint x[4] = {(uint)block, stream, 0u, 0u};
    uint key0 = seed_low;
    uint key1 = seed_high;
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const uint high0 = high_product(MULTIPLIER_0, x[0]);
        const uint high1 = high_product(MULTIPLIER_1, x[2]);
        const uint low0 = MULTIPLIER_0 * x[0];
        const uint low1 = MULTIPLIER_1 * x[2];
        x[0] = high1 ^ x[1] ^ key0;
        x[1] = low1;
        x[2] = high0 ^ x[3] ^ key1;
        x[3] = low0;
        key0 += WEYL_0;
        key1 += WEYL_1;
    }
    for (int word = 0; word < 4; word++) {
        const int i = block * 4 + word;
        const float unit = (float)(x[word] >> 8) * 5.9604644775390625e-8f; /* 2^-24 */
        if (i < count)
            out[offset + i] = fused(2.0f * bound, unit, -bound);
    }
}
