/*
 * philox: random words from a counter and a key; included after common.cl by those that draw.
 *
 *   high_product(a, b)           the upper half of the 64-bit product of two words
 *   philox(counter, key0, key1)  Philox4x32-10: four words, a function of their arguments alone
 *
 * A draw is recomputed, not stored: whoever knows counter and key knows its words. Each kernel file
 * says what stands in its counter; two kinds of draws under one key differ in their second word.
 *
 * Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
 * numpy twin: philox in p2ptrain/device/reference.py
 */

#include "common.cl"

#define PHILOX_ROUNDS 10
#define MULTIPLIER_0 0xD2511F53u
#define MULTIPLIER_1 0xCD9E8D57u
#define WEYL_0 0x9E3779B9u
#define WEYL_1 0xBB67AE85u

/* The built-in mul_hi is left out for speed on PoCL 3.0. */
static inline uint high_product(const uint a, const uint b)
{
    return (uint)(((ulong)a * (ulong)b) >> 32);
}

static inline uint4 philox(const uint4 counter, uint key0, uint key1)
{
    /* Scalars, by which a loop over counters becomes vector instructions. */
    uint x0 = counter.x, x1 = counter.y, x2 = counter.z, x3 = counter.w;
#pragma unroll
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const uint high0 = high_product(MULTIPLIER_0, x0);
        const uint high1 = high_product(MULTIPLIER_1, x2);
        const uint low0 = MULTIPLIER_0 * x0;
        const uint low1 = MULTIPLIER_1 * x2;
        x0 = high1 ^ x1 ^ key0;
        x1 = low1;
        x2 = high0 ^ x3 ^ key1;
        x3 = low0;
        key0 += WEYL_0;
        key1 += WEYL_1;
    }
    return (uint4)(x0, x1, x2, x3);
}
