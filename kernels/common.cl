/*
 * common: what every kernel file includes first.
 *
 *   fused(a, b, c)    a * b + c, rounded once
 *   flush_tiny(x)     +0 for |x| < 2^-63, else x (NaN stays NaN)
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
 * numpy twins: fma and flush_tiny in p2ptrain/device/reference_math.py
 */

#pragma OPENCL FP_CONTRACT OFF

#define TINY_BITS 0x20000000u /* 2^-63 as float bits */
#define MIN(a, b) ((a) < (b) ? (a) : (b))

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
