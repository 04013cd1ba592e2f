/*
 * pool: maximum and mean over windows of an image, forward and backward, and over whole images.
 *
 *   x, dx  (N, H, W, C)    float32  channels last
 *   y, d   (N, OH, OW, C)  float32  OH = (H - S) / T + 1, OW likewise; S size, T stride
 *
 * Window (oy, ox) begins at pixel (oy T, ox T). Windows that would hang over an edge are left out.
 *
 *   max_pool       y = flush_tiny(largest); a NaN is larger than all
 *   max_backward   dx = the sum of d over the windows whose first largest value, in rows from the
 *                  top and from the left, is this pixel; 0 elsewhere
 *   mean_pool      y = flush_tiny(sum of the window * share), share = 1 / S^2 as a float32
 *   mean_backward  dx = flush_tiny(sum of d over the windows that hold the pixel * share)
 *   global_pool    y (N, C) = flush_tiny(sum of all pixels * share), share = 1 / (H W)
 *   global_backward  dx = flush_tiny(d * share)
 *
 * Sums of pixels have the order of tree_sum in common.cl, a pixel's number in its window being
 * ky S + kx, in the image y W + x. Sums over the windows that share a pixel (one window where the
 * stride is the size, few otherwise) go from +0 in the order of y.
 *
 * Two versions with equal bits of what a training spends time in:
 *   *_simple   one work-item for an element: global size its number rounded up to 64, local 64.
 *              For GPUs, and as the definition in C.
 *   *_rows     for CPUs: one work-item for a row of y in an image, size (rows, N) and (1, 1); the
 *              loops over VECTOR channels become vector instructions. Backward for S = T only: a
 *              row of windows then owns S rows of dx.
 *   *_bands    backward for CPUs where S is not T: one work-item for `band` rows of windows, size
 *              (bands, N) and (1, 1). It owns the T rows of dx from each of these windows' first
 *              row on, the last band all rows below too. Windows add their gradients there one
 *              after the other, in the order of y, each after one search for its largest value;
 *              those of the band above that reach into it are searched twice.
 *
 * numpy twins: p2ptrain/device/reference_pool.py
 */

#include "common.cl"

#define VECTOR 16
#define SHAPE const int N, const int H, const int W, const int C, const int S, const int T, \
              const int OH, const int OW

static inline int is_larger(float a, float b)
{
    return (a > b) | (a != a);
}

/* Equal, or both NaN. */
static inline int is_same(float a, float b)
{
    return (a == b) | ((a != a) & (b != b));
}

/* The first of the windows, by rows or by columns, that hold pixel p. */
static inline int first_window(const int p, const int S, const int T)
{
    return p < S ? 0 : (p - S) / T + 1;
}

/* --- maximum ---------------------------------------------------------------------------------- */

__kernel void max_pool_simple(__global const float *restrict x, __global float *restrict y, SHAPE)
{
    const int i = get_global_id(0);
    if (i >= N * OH * OW * C)
        return;
    const int c = i % C, ox = i / C % OW, oy = i / (C * OW) % OH, n = i / (C * OW * OH);
    __global const float *window = x + (((size_t)n * H + oy * T) * W + ox * T) * C + c;
    float largest = window[0];
    for (int ky = 0; ky < S; ky++)
        for (int kx = 0; kx < S; kx++) {
            const float v = window[((size_t)ky * W + kx) * C];
            largest = is_larger(v, largest) ? v : largest;
        }
    y[i] = flush_tiny(largest);
}

static inline void max_channels(__global const float *restrict window, __global float *restrict y,
                                const int S, const size_t row, const int C, const int count)
{
    float largest[VECTOR];
    for (int l = 0; l < count; l++)
        largest[l] = window[l];
    for (int ky = 0; ky < S; ky++)
        for (int kx = 0; kx < S; kx++) {
            __global const float *pixel = window + ky * row + (size_t)kx * C;
            for (int l = 0; l < count; l++)
                largest[l] = is_larger(pixel[l], largest[l]) ? pixel[l] : largest[l];
        }
    for (int l = 0; l < count; l++)
        y[l] = flush_tiny(largest[l]);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void max_pool_rows(__global const float *restrict x, __global float *restrict y, SHAPE)
{
    const int oy = get_global_id(0);
    const int n = get_global_id(1);
    const size_t row = (size_t)W * C;
    for (int ox = 0; ox < OW; ox++) {
        __global const float *window = x + ((size_t)n * H + oy * T) * row + (size_t)ox * T * C;
        __global float *out = y + (((size_t)n * OH + oy) * OW + ox) * C;
        int c = 0;
        for (; c + VECTOR <= C; c += VECTOR)
            max_channels(window + c, out + c, S, row, C, VECTOR);
        if (c < C)
            max_channels(window + c, out + c, S, row, C, C - c);
    }
}

__kernel void max_backward_simple(__global const float *restrict x,
                                  __global const float *restrict y,
                                  __global const float *restrict d, __global float *restrict dx,
                                  SHAPE)
{
    const int i = get_global_id(0);
    if (i >= N * H * W * C)
        return;
    const int c = i % C, px = i / C % W, py = i / (C * W) % H, n = i / (C * W * H);
    const float value = flush_tiny(x[i]);
    float sum = 0.0f;
    for (int oy = first_window(py, S, T); oy < MIN(OH, py / T + 1); oy++)
        for (int ox = first_window(px, S, T); ox < MIN(OW, px / T + 1); ox++) {
            const size_t o = (((size_t)n * OH + oy) * OW + ox) * C + c;
            int is_first = is_same(value, y[o]);
            /* The pixels of the window before this one. */
            const int before = (py - oy * T) * S + px - ox * T;
            for (int k = 0; k < before; k++) {
                const size_t row = (size_t)n * H + oy * T + k / S;
                is_first &= !is_same(flush_tiny(x[(row * W + ox * T + k % S) * C + c]), y[o]);
            }
            sum = is_first ? sum + d[o] : sum;
        }
    dx[i] = flush_tiny(sum);
}

static inline void max_gradients(__global const float *restrict window,
                                 __global const float *restrict y,
                                 __global const float *restrict d, __global float *restrict out,
                                 const int S, const size_t row, const int C, const int count)
{
    float largest[VECTOR], gradient[VECTOR];
    int open[VECTOR]; /* whether the largest value is still to come */
    for (int l = 0; l < count; l++) {
        largest[l] = y[l];
        gradient[l] = flush_tiny(d[l]);
        open[l] = 1;
    }
    for (int ky = 0; ky < S; ky++)
        for (int kx = 0; kx < S; kx++) {
            const size_t k = ky * row + (size_t)kx * C;
            for (int l = 0; l < count; l++) {
                const int is_first = open[l] & is_same(flush_tiny(window[k + l]), largest[l]);
                out[k + l] = is_first ? gradient[l] : 0.0f;
                open[l] &= !is_first;
            }
        }
}

static inline void clear(__global float *restrict out, const size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = 0.0f;
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void max_backward_rows(__global const float *restrict x, __global const float *restrict y,
                       __global const float *restrict d, __global float *restrict dx, SHAPE)
{
    const int oy = get_global_id(0);
    const int n = get_global_id(1);
    const size_t row = (size_t)W * C;
    const size_t first = ((size_t)n * H + oy * S) * row;
    for (int ox = 0; ox < OW; ox++) {
        const size_t in = first + (size_t)ox * S * C;
        const size_t o = (((size_t)n * OH + oy) * OW + ox) * C;
        int c = 0;
        for (; c + VECTOR <= C; c += VECTOR)
            max_gradients(x + in + c, y + o + c, d + o + c, dx + in + c, S, row, C, VECTOR);
        if (c < C)
            max_gradients(x + in + c, y + o + c, d + o + c, dx + in + c, S, row, C, C - c);
    }
    /* Pixels in no window: right of the last one and, for the last row, below. */
    for (int ky = 0; ky < S; ky++)
        clear(dx + first + ky * row + (size_t)OW * S * C, (size_t)(W - OW * S) * C);
    if (oy == OH - 1)
        clear(dx + first + S * row, (H - OH * S) * row);
}

/* Adds the gradient of one window to its first largest value, in rows ky0 .. ky1 of the window. */
static inline void add_gradient_of_max(__global const float *restrict window,
                                       __global const float *restrict y,
                                       __global const float *restrict d,
                                       __global float *restrict out, const int S, const int ky0,
                                       const int ky1, const size_t row, const int C,
                                       const int count)
{
    int first[VECTOR]; /* the number of the pixel */
    for (int l = 0; l < count; l++)
        first[l] = -1;
    for (int ky = S - 1; ky >= 0; ky--)
        for (int kx = S - 1; kx >= 0; kx--) {
            __global const float *pixel = window + ky * row + (size_t)kx * C;
            for (int l = 0; l < count; l++)
                first[l] = is_same(flush_tiny(pixel[l]), y[l]) ? ky * S + kx : first[l];
        }
    for (int ky = ky0; ky < ky1; ky++)
        for (int kx = 0; kx < S; kx++) {
            __global float *pixel = out + ky * row + (size_t)kx * C;
            for (int l = 0; l < count; l++)
                pixel[l] = pixel[l] + (first[l] == ky * S + kx ? d[l] : 0.0f);
        }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void max_backward_bands(__global const float *restrict x, __global const float *restrict y,
                        __global const float *restrict d, __global float *restrict dx, SHAPE,
                        const int band)
{
    const int n = get_global_id(1);
    const int end = MIN(OH, (int)(get_global_id(0) + 1) * band);
    const int y0 = get_global_id(0) * band * T;
    const int y1 = end == OH ? H : end * T;
    const size_t row = (size_t)W * C;
    __global float *owned = dx + ((size_t)n * H + y0) * row;
    clear(owned, (y1 - y0) * row);
    for (int oy = first_window(y0, S, T); oy < end; oy++) {
        const int ky0 = MAX(0, y0 - oy * T);
        const int ky1 = MIN(S, y1 - oy * T);
        for (int ox = 0; ox < OW; ox++) {
            const size_t in = ((size_t)n * H + oy * T) * row + (size_t)ox * T * C;
            const size_t o = (((size_t)n * OH + oy) * OW + ox) * C;
            int c = 0;
            for (; c + VECTOR <= C; c += VECTOR)
                add_gradient_of_max(x + in + c, y + o + c, d + o + c, dx + in + c, S, ky0, ky1,
                                    row, C, VECTOR);
            if (c < C)
                add_gradient_of_max(x + in + c, y + o + c, d + o + c, dx + in + c, S, ky0, ky1,
                                    row, C, C - c);
        }
    }
    for (size_t i = 0; i < (y1 - y0) * row; i++)
        owned[i] = flush_tiny(owned[i]);
}

/* --- mean ------------------------------------------------------------------------------------- */

/* One channel over a window of height x width pixels, whose rows are `row` values apart. */
static inline float window_sum(__global const float *restrict window, const int height,
                               const int width, const size_t row, const int C)
{
    float lane[LANES];
    for (int l = 0; l < LANES; l++) {
        lane[l] = 0.0f;
        for (int k = l; k < height * width; k += LANES)
            lane[l] = lane[l] + window[k / width * row + (size_t)(k % width) * C];
    }
    return tree_sum(lane);
}

__kernel void mean_pool_simple(__global const float *restrict x, __global float *restrict y, SHAPE,
                               const float share)
{
    const int i = get_global_id(0);
    if (i >= N * OH * OW * C)
        return;
    const int c = i % C, ox = i / C % OW, oy = i / (C * OW) % OH, n = i / (C * OW * OH);
    __global const float *window = x + (((size_t)n * H + oy * T) * W + ox * T) * C + c;
    y[i] = flush_tiny(window_sum(window, S, S, (size_t)W * C, C) * share);
}

__kernel void mean_backward_simple(__global const float *restrict d, __global float *restrict dx,
                                   SHAPE, const float share)
{
    const int i = get_global_id(0);
    if (i >= N * H * W * C)
        return;
    const int c = i % C, px = i / C % W, py = i / (C * W) % H, n = i / (C * W * H);
    float sum = 0.0f;
    for (int oy = first_window(py, S, T); oy < MIN(OH, py / T + 1); oy++)
        for (int ox = first_window(px, S, T); ox < MIN(OW, px / T + 1); ox++)
            sum = sum + d[(((size_t)n * OH + oy) * OW + ox) * C + c];
    dx[i] = flush_tiny(sum * share);
}

/* As window_sum for count channels side by side. Lanes past the window's end hold +0, which no
   addition of the tree would change, so they are left out. */
static inline void mean_channels(__global const float *restrict window, __global float *restrict y,
                                 const int height, const int width, const size_t row, const int C,
                                 const float share, const int count)
{
    if (height == 2 && width == 2) { /* the same four additions, in registers */
        for (int v = 0; v < count; v++) {
            const float left = window[v] + window[row + v];
            const float right = window[C + v] + window[row + C + v];
            y[v] = flush_tiny((left + right) * share);
        }
        return;
    }
    float lane[LANES][VECTOR];
    const int used = MIN(LANES, height * width);
    for (int l = 0; l < used; l++)
        for (int v = 0; v < count; v++)
            lane[l][v] = 0.0f;
    int k = 0;
    for (int ky = 0; ky < height; ky++)
        for (int kx = 0; kx < width; kx++, k = (k + 1) % LANES) {
            __global const float *pixel = window + ky * row + (size_t)kx * C;
            for (int v = 0; v < count; v++)
                lane[k][v] = lane[k][v] + pixel[v];
        }
    for (int half_width = LANES / 2; half_width > 0; half_width /= 2)
        for (int l = 0; l < MIN(half_width, used - half_width); l++)
            for (int v = 0; v < count; v++)
                lane[l][v] = lane[l][v] + lane[l + half_width][v];
    for (int v = 0; v < count; v++)
        y[v] = flush_tiny(lane[0][v] * share);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void mean_pool_rows(__global const float *restrict x, __global float *restrict y, SHAPE,
                    const float share)
{
    const int oy = get_global_id(0);
    const int n = get_global_id(1);
    const size_t row = (size_t)W * C;
    for (int ox = 0; ox < OW; ox++) {
        __global const float *window = x + ((size_t)n * H + oy * T) * row + (size_t)ox * T * C;
        __global float *out = y + (((size_t)n * OH + oy) * OW + ox) * C;
        int c = 0;
        for (; c + VECTOR <= C; c += VECTOR)
            mean_channels(window + c, out + c, S, S, row, C, share, VECTOR);
        if (c < C)
            mean_channels(window + c, out + c, S, S, row, C, share, C - c);
    }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void mean_backward_rows(__global const float *restrict d, __global float *restrict dx, SHAPE,
                        const float share)
{
    const int oy = get_global_id(0);
    const int n = get_global_id(1);
    const size_t row = (size_t)W * C;
    const size_t first = ((size_t)n * H + oy * S) * row;
    for (int ky = 0; ky < S; ky++) {
        for (int ox = 0; ox < OW; ox++)
            for (int kx = 0; kx < S; kx++) {
                __global const float *from = d + (((size_t)n * OH + oy) * OW + ox) * C;
                __global float *out = dx + first + ky * row + (size_t)(ox * S + kx) * C;
                for (int c = 0; c < C; c++)
                    out[c] = flush_tiny(from[c] * share);
            }
        clear(dx + first + ky * row + (size_t)OW * S * C, (size_t)(W - OW * S) * C);
    }
    if (oy == OH - 1)
        clear(dx + first + S * row, (H - OH * S) * row);
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void mean_backward_bands(__global const float *restrict d, __global float *restrict dx, SHAPE,
                         const float share, const int band)
{
    const int n = get_global_id(1);
    const int end = MIN(OH, (int)(get_global_id(0) + 1) * band);
    const int y0 = get_global_id(0) * band * T;
    const int y1 = end == OH ? H : end * T;
    const size_t row = (size_t)W * C;
    __global float *owned = dx + ((size_t)n * H + y0) * row;
    clear(owned, (y1 - y0) * row);
    for (int oy = first_window(y0, S, T); oy < end; oy++)
        for (int ox = 0; ox < OW; ox++) {
            __global const float *from = d + (((size_t)n * OH + oy) * OW + ox) * C;
            for (int py = MAX(y0, oy * T); py < MIN(y1, oy * T + S); py++)
                for (int kx = 0; kx < S; kx++) {
                    __global float *out =
                        dx + ((size_t)n * H + py) * row + (size_t)(ox * T + kx) * C;
                    for (int c = 0; c < C; c++)
                        out[c] = out[c] + from[c];
                }
        }
    for (size_t i = 0; i < (y1 - y0) * row; i++)
        owned[i] = flush_tiny(owned[i] * share);
}

/* --- whole images: P pixels ------------------------------------------------------------------- */

__kernel void global_pool_simple(__global const float *restrict x, __global float *restrict y,
                                 const int N, const int P, const int C, const float share)
{
    const int i = get_global_id(0);
    if (i >= N * C)
        return;
    __global const float *image = x + (size_t)(i / C) * P * C + i % C;
    y[i] = flush_tiny(window_sum(image, 1, P, 0, C) * share);
}

/* Global size (N), local size (1). */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void global_pool_rows(__global const float *restrict x, __global float *restrict y,
                      const int N, const int P, const int C, const float share)
{
    __global const float *image = x + (size_t)get_global_id(0) * P * C;
    __global float *out = y + (size_t)get_global_id(0) * C;
    int c = 0;
    for (; c + VECTOR <= C; c += VECTOR)
        mean_channels(image + c, out + c, 1, P, 0, C, share, VECTOR);
    if (c < C)
        mean_channels(image + c, out + c, 1, P, 0, C, share, C - c);
}

__kernel void global_backward_simple(__global const float *restrict d, __global float *restrict dx,
                                     const int N, const int P, const int C, const float share)
{
    const int i = get_global_id(0);
    if (i < N * P * C)
        dx[i] = flush_tiny(d[i / (P * C) * C + i % C] * share);
}

/* Global size (N), local size (1). */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void global_backward_rows(__global const float *restrict d, __global float *restrict dx,
                          const int N, const int P, const int C, const float share)
{
    __global const float *from = d + (size_t)get_global_id(0) * C;
    __global float *image = dx + (size_t)get_global_id(0) * P * C;
    for (int p = 0; p < P; p++)
        for (int c = 0; c < C; c++)
            image[(size_t)p * C + c] = flush_tiny(from[c] * share);
}
