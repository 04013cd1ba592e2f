/*
 * conv: convolution of images in two dimensions, forward and both gradients.
 *
 *   x   (batch, height, width, C)            float32, channels last
 *   w   (taps, taps, C, N)                   float32, inside the flat parameters at an offset
 *   z   (batch, out_height, out_width, N)    float32;  d is its gradient, of the same shape
 *
 *   z[b, y, x', n] = bias[n] + sum x[b, y s + ky - p, x' s + kx - p, c] w[ky, kx, c, n]
 *
 * with stride s and padding p; then flush_tiny, then, if asked for, z <= 0 ? 0 : z (a NaN passes).
 *
 * Canonical order. Each result is a matrix product in the order of gemm.cl: K is cut into chunks
 * of KC = 256, in a chunk one chain of fused multiply-adds from +0, the chunks' sums added left
 * to right, and the result flushed. What runs along K:
 *   forward          (ky, kx, c), c fastest. Positions outside x take part as +0.
 *   input gradient   (ky, kx, n), n fastest, ky and kx descending, over those ky and kx alone that
 *                    meet the pixel: ky = y + p modulo s. Positions outside d take part as +0, and
 *                    those between strides take no part. A pixel that no tap meets is +0.
 *   weight gradient  (b, y, x') of the output, x' fastest. Positions outside x take part as +0.
 *
 * Two versions with equal bits:
 *   *_naive  one work-item for a result, 64 in a group; for GPUs and as the definition in C
 *   *_tiled  for CPUs, where a work-group of one work-item is one task:
 *
 *     rows of the image, with borders   copied by each task into local memory ("slots")
 *     weights in panels [panel][K][NR]  by pack_weights or pack_flipped, padded with zeros
 *     a tile of MR results x NR         accumulators in registers. Step k of result m reads
 *                                       slots[steps[k] + at[m]], from two tables in local memory,
 *                                       and broadcasts it to a row of the panel.
 *
 *   Slots: output row y reads slots y row_step + (0 .. taps), row_step = min(stride, taps), so a
 *   row that two output rows read is there once and a row that none reads is not; columns alike.
 *
 *   Input gradient: the pixels of x fall into s x s phases by y mod s and x mod s. All pixels of a
 *   phase meet the same taps, and so it is a correlation of d with stride 1. A task does all phases
 *   of its rows from one copy of d.
 *
 *   Weight gradient: a tile is MR rows of the matrix (K, N) x NR channels, and its steps are the
 *   pixels of a chunk. A task has some tiles and goes through all chunks; or, where there are few
 *   tiles, it has all of them and some chunks, and add_chunks adds the chunks' sums.
 *
 * Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008; Chetlur et al.,
 * cuDNN: efficient primitives for deep learning, 2014, arXiv:1410.0759 (implicit product).
 * numpy twin: p2ptrain/device/reference_conv.py
 */

#include "tile.cl"

#define KC 256

/* --- the simple version ---------------------------------------------------------------------- */

/*
 * a % b for a >= 0. Where a / b of the same type stands beside it, LLVM makes one of the other with
 * an instruction that Oclgrind's check of uninitialised values does not know.
 */
#define REST(a, b) ((int)((uint)(a) % (uint)(b)))

/* One more factor pair of a sum in the canonical order; k counts the pairs, K of them in all. */
#define ADD_PRODUCT(a, b)                                                                   \
    chunk = fused((a), (b), chunk);                                                         \
    k++;                                                                                    \
    if (k % KC == 0 || k == K) {                                                            \
        sum = k <= KC ? chunk : sum + chunk;                                                \
        chunk = 0.0f;                                                                       \
    }

/* Global size (N, pixels of z). */
__kernel void conv_naive(__global const float *restrict image, const int height, const int width,
                         const int C, __global const float *restrict parameters, const int w_offset,
                         const int bias_offset, const int relu, __global float *restrict z,
                         const int z_height, const int z_width, const int N, const int taps,
                         const int stride, const int padding)
{
    const int n = get_global_id(0);
    const int pixel = get_global_id(1);
    if (n >= N)
        return;
    const int x = REST(pixel, z_width) * stride - padding;
    const int y = REST(pixel / z_width, z_height) * stride - padding;
    const size_t b = pixel / z_width / z_height;
    __global const float *source = image + b * height * width * C;
    __global const float *w = parameters + w_offset + n;
    const int K = taps * taps * C;
    float sum = 0.0f;
    float chunk = 0.0f;
    int k = 0;
    for (int iy = y; iy < y + taps; iy++)
        for (int ix = x; ix < x + taps; ix++) {
            const int is_inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
            for (int c = 0; c < C; c++) {
                const float value = is_inside ? source[((size_t)iy * width + ix) * C + c] : 0.0f;
                ADD_PRODUCT(value, w[(size_t)k * N])
            }
        }
    sum = flush_tiny(bias_offset < 0 ? sum : sum + parameters[bias_offset + n]);
    z[(size_t)pixel * N + n] = relu && sum <= 0.0f ? 0.0f : sum;
}

/* Global size (C, pixels of x). */
__kernel void input_gradient_naive(__global const float *restrict d, const int d_height,
                                   const int d_width, const int N,
                                   __global const float *restrict parameters, const int w_offset,
                                   __global float *restrict dx, const int height, const int width,
                                   const int C, const int taps, const int stride,
                                   const int padding)
{
    const int c = get_global_id(0);
    const int pixel = get_global_id(1);
    if (c >= C)
        return;
    const int x = REST(pixel, width) + padding;
    const int y = REST(pixel / width, height) + padding;
    __global const float *source = d + (size_t)(pixel / width / height) * d_height * d_width * N;
    const int first_y = REST(y, stride);
    const int first_x = REST(x, stride);
    const int taps_y = (taps - first_y + stride - 1) / stride;
    const int taps_x = (taps - first_x + stride - 1) / stride;
    const int K = taps_y * taps_x * N;
    float sum = 0.0f;
    float chunk = 0.0f;
    int k = 0;
    for (int jy = taps_y - 1; jy >= 0; jy--)
        for (int jx = taps_x - 1; jx >= 0; jx--) {
            const int iy = y / stride - jy;
            const int ix = x / stride - jx;
            const int is_inside = iy >= 0 && iy < d_height && ix >= 0 && ix < d_width;
            const int tap = (first_y + jy * stride) * taps + first_x + jx * stride;
            __global const float *w = parameters + w_offset + ((size_t)tap * C + c) * N;
            for (int n = 0; n < N; n++) {
                const float value = is_inside ? source[((size_t)iy * d_width + ix) * N + n] : 0.0f;
                ADD_PRODUCT(value, w[n])
            }
        }
    dx[(size_t)pixel * C + c] = flush_tiny(sum);
}

/* Global size (N, taps taps C). */
__kernel void weight_gradient_naive(
    __global const float *restrict image, const int height, const int width, const int C,
    __global const float *restrict d, const int d_height, const int d_width, const int N,
    __global float *restrict gradient, const int offset, const int taps, const int stride,
    const int padding, const int K)
{
    const int n = get_global_id(0);
    const int row = get_global_id(1);
    if (n >= N)
        return;
    const int c = REST(row, C);
    const int kx = REST(row / C, taps);
    const int ky = row / C / taps;
    float sum = 0.0f;
    float chunk = 0.0f;
    for (int k = 0; k < K;) {
        const int ix = REST(k, d_width) * stride - padding + kx;
        const int iy = REST(k / d_width, d_height) * stride - padding + ky;
        const size_t b = k / d_width / d_height;
        const int is_inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
        const float value = is_inside ? image[((b * height + iy) * width + ix) * C + c] : 0.0f;
        ADD_PRODUCT(value, d[(size_t)k * N + n])
    }
    gradient[offset + (size_t)row * N + n] = flush_tiny(sum);
}

/* --- weights as panels ----------------------------------------------------------------------- */

/* The matrix (K, N) at offset as [panel][K][NR]. Global size (panels, taps taps). */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void pack_weights(__global const float *restrict parameters, const int offset,
                  __global float *restrict packed, const int C, const int N)
{
    const int n0 = get_group_id(0) * NR;
    const int k0 = get_group_id(1) * C;
    const int K = get_num_groups(1) * C;
    const int columns = MIN(NR, N - n0);
    __global const float *source = parameters + offset + (size_t)k0 * N + n0;
    __global float *panel = packed + (size_t)n0 * K + (size_t)k0 * NR;
    if (columns == NR)
        for (int c = 0; c < C; c++)
            for (int n = 0; n < NR; n++)
                panel[(size_t)c * NR + n] = source[(size_t)c * N + n];
    else
        for (int c = 0; c < C; c++)
            for (int n = 0; n < NR; n++)
                panel[(size_t)c * NR + n] = n < columns ? source[(size_t)c * N + n] : 0.0f;
}

/* How many of the taps 0, 1 .. belong to phases under this one, in one direction. */
static inline int taps_before(const int taps, const int stride, const int phase)
{
    return taps / stride * phase + MIN(taps % stride, phase);
}

/*
 * The weights by phase (ky mod stride, kx mod stride), and in it as
 * [panel of C][ky, kx descending, n][NR]. Global size (panels, taps taps).
 */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void pack_flipped(__global const float *restrict parameters, const int offset,
                  __global float *restrict packed, const int C, const int N, const int taps,
                  const int stride)
{
    const int c0 = get_group_id(0) * NR;
    const int ky = get_group_id(1) / taps;
    const int kx = get_group_id(1) % taps;
    const int columns = MIN(NR, C - c0);
    const int taps_y = (taps - ky % stride + stride - 1) / stride;
    const int taps_x = (taps - kx % stride + stride - 1) / stride;
    const size_t before = taps_before(taps, stride, ky % stride) * taps +
                          taps_y * taps_before(taps, stride, kx % stride);
    const int place = (taps_y - 1 - ky / stride) * taps_x + taps_x - 1 - kx / stride;
    __global const float *source = parameters + offset + ((size_t)(ky * taps + kx) * C + c0) * N;
    __global float *panel = packed + before * get_num_groups(0) * NR * N +
                            (size_t)c0 * taps_y * taps_x * N + (size_t)place * N * NR;
    for (int c = 0; c < NR; c++)
        for (int n = 0; n < N; n++)
            panel[(size_t)n * NR + c] = c < columns ? source[(size_t)c * N + n] : 0.0f;
}

/* --- rows of the image with their borders ----------------------------------------------------- */

static inline void clear(__local float *restrict to, const int count)
{
    for (int i = 0; i < count; i++)
        to[i] = 0.0f;
}

static inline void copy(__global const float *restrict from, __local float *restrict to,
                        const int count)
{
    for (int i = 0; i < count; i++)
        to[i] = from[i];
}

/* One row of the image as a slot of `columns` pixels. */
static inline void load_row(__global const float *restrict row, __local float *restrict slot,
                            const int width, const int C, const int columns, const int taps_x,
                            const int stride, const int origin_x)
{
    if (stride <= taps_x) {
        const int left = MIN(MAX(-origin_x, 0), columns);
        const int right = MIN(MAX(width - origin_x, left), columns);
        clear(slot, left * C);
        copy(row + (left + origin_x) * C, slot + left * C, (right - left) * C);
        clear(slot + right * C, (columns - right) * C);
        return;
    }
    for (int column = 0; column < columns; column++) {
        const int ix = column / taps_x * stride + column % taps_x + origin_x;
        if (ix >= 0 && ix < width)
            copy(row + ix * C, slot + column * C, C);
        else
            clear(slot + column * C, C);
    }
}

/* About the row of the whole image that an output row begins to read, b * height + y. */
static inline size_t image_row(const int row, const int grid_height, const int height,
                               const int stride)
{
    return (size_t)(row / grid_height) * height + MIN(height, row % grid_height * stride);
}

/* What output rows row0 .. row1 read, row being b * grid_height + y. */
static inline void load_rows(__global const float *restrict image, __local float *restrict slots,
                             const int height, const int width, const int C, const int row0,
                             const int row1, const int grid_height, const int columns,
                             const int taps_y, const int taps_x, const int stride,
                             const int origin_y, const int origin_x)
{
    const int row_step = MIN(stride, taps_y);
    const int pitch = columns * C;
    size_t b = row0 / grid_height;
    int y = row0 % grid_height;
    int is_first = 1; /* row of its image here: none of its slots is there yet */
    for (int row = row0; row < row1; row++) {
        for (int ky = is_first ? 0 : taps_y - row_step; ky < taps_y; ky++) {
            const int iy = y * stride + origin_y + ky;
            if (iy >= 0 && iy < height)
                load_row(image + (b * height + iy) * width * C, slots + ky * pitch, width, C,
                         columns, taps_x, stride, origin_x);
            else
                clear(slots + ky * pitch, pitch);
        }
        slots += row_step * pitch;
        is_first = 0;
        if (++y == grid_height) {
            y = 0;
            b++;
            is_first = 1;
            slots += (taps_y - row_step) * pitch;
        }
    }
}

/* --- forward and input gradient, tiled -------------------------------------------------------- */

/* Steps of a result: taps_y x taps_x pixels of C values from slots + from on. Returns how many. */
static inline int list_steps(__local int *restrict steps, const int from, const int taps_y,
                             const int taps_x, const int pitch, const int C)
{
    int k = 0;
    for (int ky = 0; ky < taps_y; ky++)
        for (int j = 0; j < taps_x * C; j++)
            steps[k++] = from + ky * pitch + j;
    return k;
}

/*
 * Results of rows row0 .. row1 of a grid, every step-th pixel of the output from (first_y,
 * first_x) on: where each reads (at) and where it goes, from the output's image of row0 on (to);
 * the last is repeated to fill a tile. Returns how many.
 */
static inline int list_results(__local int *restrict at, __local int *restrict to, const int row0,
                               const int row1, const int grid_height, const int grid_width,
                               const int at_row, const int at_image, const int at_pixel,
                               const int first_y, const int first_x, const int step,
                               const int height, const int width, const int N)
{
    const int results = (width - first_x + step - 1) / step;
    int count = 0;
    int y = row0 % grid_height;
    int slot = 0;
    int b = 0;
    for (int row = row0; row < row1; row++) {
        const int out_y = first_y + y * step;
        const int out = ((b * height + out_y) * width + first_x) * N;
        if (out_y < height)
            for (int x = 0; x < results; x++) {
                at[count] = slot + x * at_pixel;
                to[count] = out + x * step * N;
                count++;
            }
        slot += at_row;
        if (++y == grid_height) {
            y = 0;
            b++;
            slot += at_image;
        }
    }
    for (int m = 0; m < MR - 1 && count > 0; m++) {
        at[count + m] = at[count - 1];
        to[count + m] = to[count - 1];
    }
    return count;
}

/* acc[m] += slots[steps[i] + at[m]] * row i of b, for count steps. */
#define MULTIPLY_STEPS(space)                                                               \
    for (int i = 0; i < count; i++) {                                                       \
        const space vector *row = (const space vector *)(b + i * NR);                       \
        __local const float *from = slots + steps[i];                                       \
        _Pragma("unroll") for (int m = 0; m < MR; m++)                                      \
            _Pragma("unroll") for (int v = 0; v < NV; v++)                                  \
                acc[m][v] = fused_vector((vector)(from[at[m]]), row[v], acc[m][v]);         \
    }

/* One chunk of a tile against rows of a panel. */
static inline WIDE void multiply_panel(__local const float *restrict slots,
                                       __local const int *restrict steps, const int *at,
                                       __global const float *restrict b, vector acc[MR][NV],
                                       const int count)
{
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            acc[m][v] = (vector)(0.0f);
    MULTIPLY_STEPS(__global)
}

/* Bias, flush, ReLU, and out to z + to[m] for the first `rows` rows. */
static inline WIDE void finish_tile(vector sum[MR][NV], __global const float *restrict bias,
                                    const int has_bias, const int relu, __global float *restrict z,
                                    __local const int *restrict to, const int rows,
                                    const int columns)
{
    if (columns >= NR) {
#pragma unroll
        for (int v = 0; v < NV; v++) {
            vector added = (vector)(0.0f);
            if (has_bias)
                added = ((__global const vector *)bias)[v];
#pragma unroll
            for (int m = 0; m < MR; m++) {
                const vector value = flush_vector(has_bias ? sum[m][v] + added : sum[m][v]);
                if (m < rows)
                    ((__global vector *)(z + to[m]))[v] = relu ? relu_vector(value) : value;
            }
        }
        return;
    }
    /* The tile hangs over the last channel: spill it, then copy what is inside. */
    float spilled[MR * NR];
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            ((vector *)(spilled + m * NR))[v] = sum[m][v];
    for (int m = 0; m < MIN(MR, rows); m++)
        for (int n = 0; n < columns; n++) {
            const float raw = spilled[m * NR + n];
            const float value = flush_tiny(has_bias ? raw + bias[n] : raw);
            z[to[m] + n] = relu && value <= 0.0f ? 0.0f : value;
        }
}

/*
 * All listed results, for panels panel0 .. panel1 of N channels. The loop over tiles is inside the
 * one over chunks, so that a chunk of a panel stays in the L1 cache; the sums of the chunks so far
 * wait in `sums`, [tile][MR][NR]. Meanwhile `ahead`, what is read next, comes into the cache.
 */
static inline WIDE void correlate(__local const float *restrict slots,
                                  __local const int *restrict steps, const int K,
                                  __local const int *restrict at, __local const int *restrict to,
                                  const int results, __local float *restrict sums,
                                  __global const float *restrict panels,
                                  __global const float *restrict bias, const int has_bias,
                                  const int relu, __global float *restrict z, const int panel0,
                                  const int panel1, const int N,
                                  __global const float *restrict ahead, const size_t ahead_count)
{
    const int parts = (panel1 - panel0) * ((results + MR - 1) / MR);
    for (int p = panel0; p < panel1; p++)
        for (int k0 = 0; k0 < K; k0 += KC) {
            __global const float *b = panels + (size_t)p * NR * K + k0 * NR;
            const int is_last = K - k0 <= KC;
            for (int i = 0; i < results; i += MR) {
                __local vector *total = (__local vector *)(sums + i * NR);
                int at_m[MR];
#pragma unroll
                for (int m = 0; m < MR; m++)
                    at_m[m] = at[i + m];
                vector acc[MR][NV];
                if (k0 == 0)
                    fetch_lines(ahead, ahead_count,
                                (p - panel0) * ((results + MR - 1) / MR) + i / MR, parts);
                multiply_panel(slots, steps + k0, at_m, b, acc, MIN(KC, K - k0));
                if (k0 > 0)
#pragma unroll
                    for (int m = 0; m < MR; m++)
#pragma unroll
                        for (int v = 0; v < NV; v++)
                            acc[m][v] = total[m * NV + v] + acc[m][v];
                if (is_last)
                    finish_tile(acc, bias + p * NR, has_bias, relu, z + p * NR, to + i,
                                results - i, N - p * NR);
                else
#pragma unroll
                    for (int m = 0; m < MR; m++)
#pragma unroll
                        for (int v = 0; v < NV; v++)
                            total[m * NV + v] = acc[m][v];
            }
        }
}

/*
 * Global size (panel blocks, tasks of task_rows rows); rows is batch * z_height, and row_block rows
 * are done at a time. Local memory: the slots of row_block rows; NR (row_block * z_width + MR)
 * floats of sums, if K is above KC; and K + 2 (row_block * z_width + MR) integers.
 */
__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void conv_tiled(__global const float *restrict image, const int height, const int width,
                const int C, __global const float *restrict panels, const int panels_offset,
                __global const float *restrict parameters, const int bias_offset, const int relu,
                __global float *restrict z, const int z_height, const int z_width, const int N,
                const int taps, const int stride, const int padding, const int rows,
                const int task_rows, const int row_block, const int panel_block,
                __local float *restrict slots, __local float *restrict sums,
                __local int *restrict tables)
{
    const int end = MIN(rows, (int)(get_group_id(1) + 1) * task_rows);
    const int panel0 = get_group_id(0) * panel_block;
    const int panel1 = MIN((N + NR - 1) / NR, panel0 + panel_block);
    const int step = MIN(stride, taps);
    const int columns = (z_width - 1) * step + taps;
    const int pitch = columns * C;
    const int K = list_steps(tables, 0, taps, taps, pitch, C);
    __local int *at = tables + K;
    __local int *to = at + row_block * z_width + MR;
    for (int row0 = get_group_id(1) * task_rows; row0 < end; row0 += row_block) {
        const int row1 = MIN(end, row0 + row_block);
        const size_t x0 = image_row(row1, z_height, height, stride) * width * C;
        const size_t x1 =
            image_row(MIN(end, row1 + row_block), z_height, height, stride) * width * C;
        load_rows(image, slots, height, width, C, row0, row1, z_height, columns, taps, taps,
                  stride, -padding, -padding);
        const int results =
            list_results(at, to, row0, row1, z_height, z_width, step * pitch,
                         (taps - step) * pitch, step * C, 0, 0, 1, z_height, z_width, N);
        correlate(slots, tables, K, at, to, results, sums, panels + panels_offset,
                  parameters + MAX(0, bias_offset), bias_offset >= 0, relu,
                  z + (size_t)(row0 / z_height) * z_height * z_width * N, panel0, panel1, N,
                  image + x0, x1 - x0);
    }
}

/*
 * A row of the grid is `stride` rows of x, of which the last image rows may be missing; rows is
 * batch * ceil(height / stride). The window is what all phases of a pixel of the grid read of d, in
 * each direction: `window` pixels from `origin` on. Global size (panel blocks of C, tasks); local
 * memory as in conv_tiled, with the pixels of d's grid.
 */
__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void input_gradient_tiled(__global const float *restrict d, const int d_height, const int d_width,
                          const int N, __global const float *restrict panels,
                          __global float *restrict dx, const int height, const int width,
                          const int C, const int taps, const int stride, const int padding,
                          const int window, const int origin, const int rows, const int task_rows,
                          const int row_block, const int panel_block,
                          __local float *restrict slots, __local float *restrict sums,
                          __local int *restrict tables)
{
    const int end = MIN(rows, (int)(get_group_id(1) + 1) * task_rows);
    const int all_panels = (C + NR - 1) / NR;
    const int panel0 = get_group_id(0) * panel_block;
    const int panel1 = MIN(all_panels, panel0 + panel_block);
    const int grid_height = (height + stride - 1) / stride;
    const int grid_width = (width + stride - 1) / stride;
    const int columns = grid_width - 1 + window;
    const int pitch = columns * N;
    __local int *at = tables;
    __local int *to = at + row_block * grid_width + MR;
    __local int *steps = to + row_block * grid_width + MR;
    for (int row0 = get_group_id(1) * task_rows; row0 < end; row0 += row_block) {
        const int row1 = MIN(end, row0 + row_block);
        __global float *out = dx + (size_t)(row0 / grid_height) * height * width * C;
        size_t d0 = image_row(row1, grid_height, d_height, 1) * d_width * N;
        const size_t d1 =
            image_row(MIN(end, row1 + row_block), grid_height, d_height, 1) * d_width * N;
        load_rows(d, slots, d_height, d_width, N, row0, row1, grid_height, columns, window, window,
                  1, origin, origin);
        for (int y = 0; y < MIN(stride, height); y++)
            for (int x = 0; x < MIN(stride, width); x++) {
                const int ky = (y + padding) % stride;
                const int kx = (x + padding) % stride;
                const int taps_y = (taps - ky + stride - 1) / stride;
                const int taps_x = (taps - kx + stride - 1) / stride;
                const int results =
                    list_results(at, to, row0, row1, grid_height, grid_width, pitch,
                                 (window - 1) * pitch, N, y, x, stride, height, width, C);
                if (taps_y * taps_x == 0) {
                    for (int i = 0; i < results && panel0 == 0; i++)
                        for (int c = 0; c < C; c++)
                            out[to[i] + c] = 0.0f;
                    continue;
                }
                const int from_y = (y + padding) / stride - (taps_y - 1) - origin;
                const int from_x = (x + padding) / stride - (taps_x - 1) - origin;
                const int K =
                    list_steps(steps, from_y * pitch + from_x * N, taps_y, taps_x, pitch, N);
                const size_t before = taps_before(taps, stride, ky) * taps +
                                      taps_y * taps_before(taps, stride, kx);
                correlate(slots, steps, K, at, to, results, sums,
                          panels + before * all_panels * NR * N, out, 0, 0, out, panel0, panel1, C,
                          d + d0, d1 - d0);
                d0 = d1; /* asked for by the first phase */
            }
    }
}

/* --- weight gradient, tiled ------------------------------------------------------------------- */

/* One chunk of a tile against pixels of d. */
static inline WIDE void multiply_pixels(__local const float *restrict slots,
                                        __local const int *restrict steps, const int *at,
                                        __local const float *restrict b, vector acc[MR][NV],
                                        const int count)
{
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int v = 0; v < NV; v++)
            acc[m][v] = (vector)(0.0f);
    MULTIPLY_STEPS(__local)
}

/* Where pixels p0 .. p1 of the output begin in the slots. */
static inline void list_pixels(__local int *restrict steps, const int p0, const int p1,
                               const int height, const int width, const int at_row,
                               const int at_image, const int at_pixel)
{
    int x = p0 % width;
    int y = p0 / width % height;
    int slot = 0;
    for (int p = p0; p < p1; p++) {
        *steps++ = slot + x * at_pixel;
        if (++x == width) {
            x = 0;
            slot += at_row;
            if (++y == height) {
                y = 0;
                slot += at_image;
            }
        }
    }
}

/* Pixels p0 .. p1 of d, channels n0 .. n0 + NR, as [pixel][NR] with zeros behind the last. */
static inline void load_gradient(__global const float *restrict d, __local float *restrict to,
                                 const int p0, const int p1, const int n0, const int N)
{
    const int columns = MIN(NR, N - n0);
    for (int p = p0; p < p1; p++) {
        __global const float *from = d + (size_t)p * N + n0;
        if (columns == NR)
            for (int n = 0; n < NR; n++)
                to[n] = from[n];
        else
            for (int n = 0; n < NR; n++)
                to[n] = n < columns ? from[n] : 0.0f;
        to += NR;
    }
}

/* A tile of sums out into the matrix (K, N) at offset, flushed. */
static inline void store_gradient(const float *sums, __global float *restrict gradient,
                                  const int offset, const int row0, const int n0, const int K,
                                  const int N)
{
    for (int m = 0; m < MIN(MR, K - row0); m++)
        for (int n = 0; n < MIN(NR, N - n0); n++)
            gradient[offset + (size_t)(row0 + m) * N + n0 + n] = flush_tiny(sums[m * NR + n]);
}

/*
 * Global size (panel blocks, tile blocks, chunk blocks). Local memory: NR (KC +
 * panel_block tile_block MR) floats of d and sums; the slots of a chunk; KC + tile_block MR
 * integers. With one chunk block the result goes to gradient, else the sum of each chunk to sums,
 * as [chunk][tile][panel][MR][NR].
 */
__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void weight_gradient_tiled(
    __global const float *restrict image, const int height, const int width, const int C,
    __global const float *restrict d, const int d_height, const int d_width, const int N,
    __global float *restrict gradient, const int offset, const int taps, const int stride,
    const int padding, const int pixels, const int panel_block, const int tile_block,
    const int chunk_block, __global float *restrict sums, __local float *restrict chunk_d,
    __local float *restrict slots, __local int *restrict tables)
{
    const int K = taps * taps * C;
    const int tiles = (K + MR - 1) / MR;
    const int panels = (N + NR - 1) / NR;
    const int panel0 = get_group_id(0) * panel_block;
    const int panel1 = MIN(panels, panel0 + panel_block);
    const int tile0 = get_group_id(1) * tile_block;
    const int tile1 = MIN(tiles, tile0 + tile_block);
    const int begin = get_group_id(2) * chunk_block * KC;
    const int end = get_group_id(2) + 1 == get_num_groups(2) ? pixels : begin + chunk_block * KC;
    const int is_whole = get_num_groups(2) == 1;
    const int step = MIN(stride, taps);
    const int columns = (d_width - 1) * step + taps;
    const int pitch = columns * C;
    __local float *totals = chunk_d + KC * NR;
    __local int *at = tables + KC;
    for (int i = tile0 * MR; i < tile1 * MR; i++) {
        const int row = MIN(i, K - 1); /* rows behind the last repeat it */
        at[i - tile0 * MR] = row / (taps * C) * pitch + row % (taps * C);
    }
    for (int p0 = begin; p0 < end; p0 += KC) {
        const int p1 = MIN(end, p0 + KC);
        load_rows(image, slots, height, width, C, p0 / d_width, (p1 - 1) / d_width + 1, d_height,
                  columns, taps, taps, stride, -padding, -padding);
        list_pixels(tables, p0, p1, d_height, d_width, step * pitch, (taps - step) * pitch,
                    step * C);
        /* The next chunk comes into the cache while this one is computed. */
        const int next = MIN(end, p1 + KC);
        const size_t row = (size_t)width * C;
        const size_t x0 = image_row(p1 / d_width, d_height, height, stride) * row;
        const size_t x1 =
            next == p1 ? x0 : image_row(next / d_width, d_height, height, stride) * row;
        const int parts = (panel1 - panel0) * (tile1 - tile0);
        for (int p = panel0; p < panel1; p++) {
            load_gradient(d, chunk_d, p0, p1, p * NR, N);
            for (int t = tile0; t < tile1; t++) {
                int at_m[MR];
#pragma unroll
                for (int m = 0; m < MR; m++)
                    at_m[m] = at[(t - tile0) * MR + m];
                vector acc[MR][NV];
                multiply_pixels(slots, tables, at_m, chunk_d, acc, p1 - p0);
                const int part = (p - panel0) * (tile1 - tile0) + t - tile0;
                fetch_lines(image + x0, x1 - x0, part, parts);
                for (int i = p1 + (next - p1) * part / parts;
                     i < p1 + (next - p1) * (part + 1) / parts; i++)
                    fetch_lines(d + (size_t)i * N + panel0 * NR, (panel1 - panel0) * NR, 0, 1);
                const int place = (p - panel0) * tile_block + t - tile0;
                __local vector *total = (__local vector *)(totals + place * MR * NR);
                const size_t chunk_place = ((size_t)(p0 / KC) * tiles + t) * panels + p;
                __global vector *out = (__global vector *)(sums + chunk_place * MR * NR);
#pragma unroll
                for (int m = 0; m < MR; m++)
#pragma unroll
                    for (int v = 0; v < NV; v++) {
                        const int i = m * NV + v;
                        if (!is_whole)
                            out[i] = acc[m][v];
                        else
                            total[i] = p0 == 0 ? acc[m][v] : total[i] + acc[m][v];
                    }
            }
        }
    }
    for (int p = panel0; p < panel1 && is_whole; p++)
        for (int t = tile0; t < tile1; t++) {
            float total[MR * NR];
            for (int i = 0; i < MR * NR; i++)
                total[i] = totals[((p - panel0) * tile_block + t - tile0) * MR * NR + i];
            store_gradient(total, gradient, offset, t * MR, p * NR, K, N);
        }
}

/* The sums of the chunks, left to right. Global size (panels, tiles). */
__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void add_chunks(__global const float *restrict sums, __global float *restrict gradient,
                const int offset, const int chunks, const int K, const int N)
{
    const int panel = get_group_id(0);
    const int t = get_group_id(1);
    const size_t chunk_pitch = (size_t)get_num_groups(0) * get_num_groups(1) * MR * NR;
    sums += ((size_t)t * get_num_groups(0) + panel) * MR * NR;
    float total[MR * NR];
    for (int i = 0; i < MR * NR; i++)
        total[i] = sums[i];
    for (int chunk = 1; chunk < chunks; chunk++) {
        sums += chunk_pitch;
        for (int i = 0; i < MR * NR; i++)
            total[i] = total[i] + sums[i];
    }
    store_gradient(total, gradient, offset, t * MR, panel * NR, K, N);
}
