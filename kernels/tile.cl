/*
 * tile: what kernels with register tiles share; included after common.cl by those that have one.
 *
 *   vector                 VW float32 values, aligned as a float
 *   fused_vector(a, b, c)  a * b + c in each place, rounded once
 *   flush_vector(x)        flush_tiny of common.cl in each place, with the same bits
 *   relu_vector(x)         x <= 0 ? 0 : x in each place, so that a NaN passes
 *   fetch_lines(from, n, part, parts)  asks for one of so many parts of n floats of global memory
 *                          ahead of their use; it has no result, and is nothing on most devices
 *   WIDE                   attribute of functions that compute with vectors
 *
 * A tile has MR rows of NV vectors of VW values, NR values in a row. VW is above 1 only with
 * CONTRACTED_FMA: pip's PoCL 3.0 aborts the process where a kernel uses the built-in fma of
 * vectors. Tiles change speed, never bits: each value has its own chain of operations.
 *
 * numpy twins: fma and flush_tiny in p2ptrain/device/reference_math.py
 */

#include "common.cl"

#ifndef MR
#define MR 6 /* rows of a register tile */
#endif
#ifndef NV
#define NV 2 /* vectors in a row of it */
#endif
#ifndef VW
#define VW 1 /* values in a vector */
#endif

#define NR (NV * VW)
#define TINY 1.0842021724855044e-19f /* 2^-63 */

#if VW == 1
typedef float vector;
#define fused_vector(a, b, c) fused((a), (b), (c))
#elif !defined(CONTRACTED_FMA)
#error "VW above 1 needs CONTRACTED_FMA: there is no fma of vectors that every PoCL compiles"
#else
/* Aligned as a float, since panels and rows begin anywhere. */
typedef float vector __attribute__((ext_vector_type(VW), aligned(4)));

static inline vector fused_vector(vector a, vector b, vector c)
{
#pragma OPENCL FP_CONTRACT ON
    return a * b + c;
}
#endif

#if VW == 16
/* Without it LLVM prefers two registers of 256 bits to one of 512. */
#define WIDE __attribute__((min_vector_width(512)))
#else
#define WIDE
#endif

static inline WIDE vector flush_vector(vector x)
{
    const vector zero = (vector)(0.0f);
    return (x < (vector)(TINY)) & (x > (vector)(-TINY)) ? zero : x;
}

static inline WIDE vector relu_vector(vector x)
{
    const vector zero = (vector)(0.0f);
    return x <= zero ? zero : x;
}

#if defined(CONTRACTED_FMA) && defined(__clang__) && !defined(WITHOUT_PREFETCH)
/* The detour by an integer: the compiler's prefetch takes no pointer into global memory. A
   simulator that does not know the instruction is given WITHOUT_PREFETCH (tests/same_bits.py). */
static inline void fetch_lines(__global const float *restrict from, const size_t count,
                               const int part, const int parts)
{
    const size_t lines = (count + 15) / 16;
    for (size_t i = lines * part / parts; i < lines * (part + 1) / parts; i++)
        __builtin_prefetch((const void *)(size_t)(from + i * 16), 0, 2);
}
#else
#define fetch_lines(from, count, part, parts)
#endif
