/*
 * common: what every kernel file includes first.
 *
 *   fused(a, b, c)    a * b + c, rounded once
 *   flush_tiny(x)     +0 for |x| < 2^-63, else x (NaN stays NaN)
 *   flush_denormal(x) +0 for |x| < 2^-126, else x
 *   tree_sum(lane)    the sum of 64 lanes by a fixed binary tree: lane l takes lane l + 32, + 16 ..
 *
 * Contraction is off: a*b+c is a multiplication and an addition wherever it is written, and the
 * only fused operations are those that a kernel spells as fused(). This decides bits, so it is
 * part of the protocol's arithmetic (recipe key `arithmetic`).
 *
 * CONTRACTED_FMA spells fused() as a*b+c inside functions of their own where contraction is on.
 * The host defines it only after a probe on this very device (p2ptrain/device/kernels.py): it
 * exists because PoCL 3.0 from pip calls its built-in fma as a function on some CPUs (and aborts
 * the process where a kernel uses the built-in fma of vectors, so no kernel does).
 *
 * Why 2^-63. Two factors of at least 2^-63 have a normal product, so a matrix product of flushed
 * values never meets denormal numbers, over which CPUs run 165 times slower and on which some
 * devices differ. Values are flushed where they enter the next product: gathered inputs,
 * activations, gradients, updated weights and moments. The integer comparison makes the rule
 * itself independent of how a device compares denormals.
 *
 * Why 64 lanes. Every sum that is no matrix product adds value i to lane i mod 64, in ascending
 * order from +0, and then the lanes by the tree: an order that depends on the length alone, with
 * enough parallel lanes for any device. The number is part of the protocol's arithmetic.
 *
 * numpy twins: fma, flush_tiny, flush_denormal and lane_sum in p2ptrain/device/reference_math.py
 */

#pragma OPENCL FP_CONTRACT OFF

#define TINY_BITS 0x20000000u /* 2^-63 as float bits */
#define LANES 64
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#ifdef CONTRACTED_FMA

static inline float fused(float a, float b, float c)
{
#pragma OPENCL FP_CONTRACT ON
    return a * b + c;
}

#else

#define fused(a, b, c) fma((a), (b), (c))

#endif

static inline float flush_tiny(float x)
{
    return (as_uint(x) & 0x7fffffffu) < TINY_BITS ? 0.0f : x;
}

static inline float flush_denormal(float x)
{
    return (as_uint(x) & 0x7f800000u) == 0u ? 0.0f : x;
}

/* Overwrites the lanes. */
static inline float tree_sum(float *lane)
{
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lane[l] = lane[l] + lane[l + width];
    return lane[0];
}
