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
 *                    meet a pixel of the output's grid: ky = y + p modulo s. Pixels that lie
 *                    outside d take part as +0; positions between strides take no part.
 *   weight gradient  (b, y, x') of the output, x' fastest. Positions outside x take part as +0.
 *
 * Correlation. Forward and input gradient are one kernel, which slides taps_y x taps_x taps over an
 * image with a stride, from an origin on. The gradient falls into s x s phases, the pixels of x that
 * meet the same ky and kx: each is a correlation of d with stride 1, whose results lie `step` pixels
 * apart. Pixels of a phase without taps are +0.
 *
 * Two versions with equal bits:
 *   *_naive  one work-item for a result, 64 in a group; for GPUs and as the definition in C
 *   *_tiled  for CPUs, where a work-group of one work-item is one task:
 *
 *     weights in panels [panel][K][NR]    pack_weights or pack_flipped, padded with zeros
 *     rows of the image, with borders     copied by each task into local memory, so that the
 *                                         values of a result lie in taps_y runs of taps_x C floats
 *     MR results x NR channels            accumulators in registers; one value of the image is
 *                                         broadcast to a row of them
 *
 *   For the weight gradient a tile is MR rows of the matrix (K, N) x NR channels, and a task has
 *   a few tiles and goes through all chunks; or, where there are few tiles, it has all tiles and a
 *   few chunks, whose sums add_chunks adds up.
 *
 * Image rows in local memory ("slots"): output row y reads slots base + y row_step + (0 .. taps_y),
 * where row_step = min(stride, taps_y): rows that two output rows share are there once, rows that
 * none reads are not. The same holds for columns.
 *
 * Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008; Chetlur et al.,
 * cuDNN: efficient primitives for deep learning, 2014, arXiv:1410.0759 (implicit product).
 * numpy twin: p2ptrain/device/reference_conv.py
 */

#include "tile.cl"

#define KC 256
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* --- the simple version ---------------------------------------------------------------------- */

/* Global size (N, pixels of the grid); weights as [panel][K][panel width]. */
__kernel void correlate_naive(
    __global const float *restrict image, const int height, const int width, const int C,
    __global const float *restrict weights, const int w_offset, const int panel_width,
    __global const float *restrict bias, const int bias_offset, const int relu,
    __global float *restrict z, const int z_height, const int z_width, const int N,
    const int grid_height, const int grid_width, const int first_y, const int first_x,
    const int step, const int taps_y, const int taps_x, const int stride, const int origin_y,
    const int origin_x)
{
    const int n = get_global_id(0);
    if (n >= N)
        return;
    const int pixel = get_global_id(1);
    const int x = pixel % grid_width;
    const int y = pixel / grid_width % grid_height;
    const size_t b = pixel / grid_width / grid_height;
    const int K = taps_y * taps_x * C;
    __global const float *w = weights + w_offset + (size_t)(n / panel_width) * panel_width * K +
                              n % panel_width;
    float sum = 0.0f;
    float chunk = 0.0f;
    int k = 0;
    for (int ky = 0; ky < taps_y; ky++)
        for (int kx = 0; kx < taps_x; kx++) {
            const int iy = y * stride + origin_y + ky;
            const int ix = x * stride + origin_x + kx;
            const int inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
            for (int c = 0; c < C; c++) {
                const float value =
                    inside ? image[((b * height + iy) * width + ix) * C + c] : 0.0f;
                chunk = fused(value, w[(size_t)k * panel_width], chunk);
                k++;
                if (k % KC == 0 || k == K) {
                    sum = k <= KC ? chunk : sum + chunk;
                    chunk = 0.0f;
                }
            }
        }
    if (bias_offset >= 0)
        sum = sum + bias[bias_offset + n];
    sum = flush_tiny(sum);
    const size_t to = (b * z_height + first_y + y * step) * z_width + first_x + x * step;
    z[to * N + n] = relu && sum <= 0.0f ? 0.0f : sum;
}

/* Global size (N, taps taps C). */
__kernel void weight_gradient_naive(
    __global const float *restrict image, const int height, const int width, const int C,
    __global const float *restrict d, const int d_height, const int d_width, const int N,
    __global float *restrict gradient, const int offset, const int taps, const int stride,
    const int origin, const int pixels)
{
    const int n = get_global_id(0);
    if (n >= N)
        return;
    const int row = get_global_id(1);
    const int c = row % C;
    const int kx = row / C % taps;
    const int ky = row / C / taps;
    float sum = 0.0f;
    for (int p0 = 0; p0 < pixels; p0 += KC) {
        float chunk = 0.0f;
        for (int p = p0; p < MIN(pixels, p0 + KC); p++) {
            const int ix = p % d_width * stride + origin + kx;
            const int iy = p / d_width % d_height * stride + origin + ky;
            const size_t b = p / d_width / d_height;
            const int inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
            const float value = inside ? image[((b * height + iy) * width + ix) * C + c] : 0.0f;
            chunk = fused(value, d[(size_t)p * N + n], chunk);
        }
        sum = p0 == 0 ? chunk : sum + chunk;
    }
    gradient[offset + (size_t)row * N + n] = flush_tiny(sum);
}

/* --- weights as panels ----------------------------------------------------------------------- */

/* The matrix (K, N) at offset as [panel][K][panel_width]. Global size (panels, taps). */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void pack_weights(__global const float *restrict parameters, const int offset,
                  __global float *restrict packed, const int panel_width, const int C, const int N)
{
    const int n0 = get_group_id(0) * panel_width;
    const int k0 = get_group_id(1) * C;
    const int K = get_num_groups(1) * C;
    const int columns = MIN(panel_width, N - n0);
    __global const float *source = parameters + offset + (size_t)k0 * N + n0;
    __global float *panel = packed + (size_t)n0 * K + (size_t)k0 * panel_width;
    for (int c = 0; c < C; c++)
        for (int n = 0; n < panel_width; n++)
            panel[(size_t)c * panel_width + n] = n < columns ? source[(size_t)c * N + n] : 0.0f;
}

/*
 * The taps of one phase, last tap first and with the channels exchanged, as
 * [panel of C][taps_y taps_x N][panel_width]. Global size (panels, taps_y taps_x).
 */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void pack_flipped(__global const float *restrict parameters, const int offset,
                  __global float *restrict packed, const int panel_width, const int C, const int N,
                  const int taps, const int stride, const int phase_y, const int phase_x,
                  const int taps_y, const int taps_x)
{
    const int c0 = get_group_id(0) * panel_width;
    const int tap = get_group_id(1);
    const int columns = MIN(panel_width, C - c0);
    const int ky = phase_y + stride * (taps_y - 1 - tap / taps_x);
    const int kx = phase_x + stride * (taps_x - 1 - tap % taps_x);
    __global const float *source = parameters + offset + ((size_t)(ky * taps + kx) * C + c0) * N;
    __global float *panel = packed + (size_t)c0 * taps_y * taps_x * N +
                            (size_t)tap * N * panel_width;
    for (int n = 0; n < N; n++)
        for (int c = 0; c < panel_width; c++)
            panel[(size_t)n * panel_width + c] = c < columns ? source[(size_t)c * N + n] : 0.0f;
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

/* --- correlation, tiled ------------------------------------------------------------------------ */

/* The sums of a tile: row m of it reads runs of the image from source + at[m] on. */
static inline WIDE void correlate_tile(__local const float *restrict source, const int *at,
                                       __global const float *restrict panel,
                                       vector sum[MR][NV], const int run, const int pitch,
                                       const int K)
{
    int j = 0; /* place in the run */
    for (int k0 = 0; k0 < K; k0 += KC) {
        vector acc[MR][NV];
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                acc[m][v] = (vector)(0.0f);
        for (int left = MIN(KC, K - k0); left > 0;) {
            const int count = MIN(run - j, left);
            __local const float *from = source + j;
            for (int i = 0; i < count; i++) {
                __global const vector *row = (__global const vector *)panel;
#pragma unroll
                for (int m = 0; m < MR; m++)
#pragma unroll
                    for (int v = 0; v < NV; v++)
                        acc[m][v] = fused_vector((vector)(from[at[m]]), row[v], acc[m][v]);
                from++;
                panel += NR;
            }
            left -= count;
            j += count;
            if (j == run) {
                j = 0;
                source += pitch;
            }
        }
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int v = 0; v < NV; v++)
                sum[m][v] = k0 == 0 ? acc[m][v] : sum[m][v] + acc[m][v];
    }
}

/* Bias, flush, ReLU, and out to z + to[m] for the first `rows` rows. */
static inline WIDE void finish_tile(vector sum[MR][NV], __global const float *restrict bias,
                                    const int has_bias, const int relu, __global float *restrict z,
                                    const size_t *to, const int rows, const int columns)
{
    if (columns >= NR) {
#pragma unroll
        for (int v = 0; v < NV; v++) {
            const vector added =
                has_bias ? ((__global const vector *)bias)[v] : (vector)(0.0f);
#pragma unroll
            for (int m = 0; m < MR; m++) {
                vector value = has_bias ? sum[m][v] + added : sum[m][v];
                value = flush_vector(value);
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
 * Global size (panel blocks, row blocks); local memory: the slots of row_block rows of the grid.
 * rows is batch * grid_height.
 */
__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void correlate_tiled(
    __global const float *restrict image, const int height, const int width, const int C,
    __global const float *restrict weights, const int w_offset, const int panel_block,
    __global const float *restrict bias, const int bias_offset, const int relu,
    __global float *restrict z, const int z_height, const int z_width, const int N,
    const int grid_height, const int grid_width, const int first_y, const int first_x,
    const int step, const int taps_y, const int taps_x, const int stride, const int origin_y,
    const int origin_x, const int rows, const int row_block, __local float *restrict slots)
{
    const int K = taps_y * taps_x * C;
    const int row0 = get_group_id(1) * row_block;
    const int row1 = MIN(rows, row0 + row_block);
    const int row_step = MIN(stride, taps_y);
    const int column_step = MIN(stride, taps_x);
    const int columns = (grid_width - 1) * column_step + taps_x;
    const int pitch = columns * C;
    const int pixels = (row1 - row0) * grid_width;
    const int panels = (N + NR - 1) / NR;
    const int panel0 = get_group_id(0) * panel_block;
    const int has_bias = bias_offset >= 0;
    load_rows(image, slots, height, width, C, row0, row1, grid_height, columns, taps_y, taps_x,
              stride, origin_y, origin_x);
    for (int p = panel0; p < MIN(panels, panel0 + panel_block); p++) {
        size_t b = row0 / grid_height;
        int y = row0 % grid_height;
        int x = 0;
        int slot = 0;
        for (int pixel = 0; pixel < pixels; pixel += MR) {
            int at[MR];
            size_t to[MR];
#pragma unroll
            for (int m = 0; m < MR; m++) {
                const int is_last = pixel + m >= pixels - 1; /* rows behind it repeat it */
                at[m] = slot * pitch + x * column_step * C;
                to[m] = ((b * z_height + first_y + y * step) * z_width + first_x + x * step) * N +
                        p * NR;
                x += !is_last;
                if (x == grid_width) {
                    x = 0;
                    y++;
                    slot += row_step;
                }
                if (y == grid_height) {
                    y = 0;
                    b++;
                    slot += taps_y - row_step;
                }
            }
            vector sum[MR][NV];
#pragma unroll
            for (int m = 0; m < MR; m++)
#pragma unroll
                for (int v = 0; v < NV; v++)
                    sum[m][v] = (vector)(0.0f);
            correlate_tile(slots, at, weights + w_offset + (size_t)p * NR * K, sum, taps_x * C,
                           pitch, K);
            finish_tile(sum, bias + bias_offset + p * NR, has_bias, relu, z, to, pixels - pixel,
                        N - p * NR);
        }
    }
}

/* --- weight gradient, tiled -------------------------------------------------------------------- */

/* A tile of a chunk: row m reads slots + at[m], once for each pixel p0 .. p1 of the output. */
static inline WIDE void gradient_tile(__local const float *restrict slots, const int *at,
                                      __local const float *restrict d, vector acc[MR][NV],
                                      const int p0, const int p1, const int grid_height,
                                      const int grid_width, const int row_pitch,
                                      const int image_pitch, const int pixel_pitch)
{
    int x = p0 % grid_width;
    int y = p0 / grid_width % grid_height;
    for (int p = p0; p < p1;) {
        const int count = MIN(grid_width - x, p1 - p);
        __local const float *from = slots + x * pixel_pitch;
        for (int i = 0; i < count; i++) {
            __local const vector *row = (__local const vector *)d;
#pragma unroll
            for (int m = 0; m < MR; m++)
#pragma unroll
                for (int v = 0; v < NV; v++)
                    acc[m][v] = fused_vector((vector)(from[at[m]]), row[v], acc[m][v]);
            from += pixel_pitch;
            d += NR;
        }
        p += count;
        x = 0;
        slots += row_pitch;
        if (++y == grid_height) {
            y = 0;
            slots += image_pitch;
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
 * Global size (panels, tile blocks, chunk blocks); local memory: KC NR floats of d, tile_block
 * MR NR floats of sums, the slots of a chunk. With one chunk block the result goes to gradient,
 * else the sum of each chunk to sums, as [chunk][tile][panel][MR][NR].
 */
__kernel WIDE __attribute__((reqd_work_group_size(1, 1, 1)))
void weight_gradient_tiled(
    __global const float *restrict image, const int height, const int width, const int C,
    __global const float *restrict d, const int d_height, const int d_width, const int N,
    __global float *restrict gradient, const int offset, const int taps, const int stride,
    const int origin, const int pixels, const int tile_block, const int chunk_block,
    __global float *restrict sums, __local float *restrict memory)
{
    const int K = taps * taps * C;
    const int run = taps * C;
    const int tiles = (K + MR - 1) / MR;
    const int panel = get_group_id(0);
    const int tile0 = get_group_id(1) * tile_block;
    const int tile1 = MIN(tiles, tile0 + tile_block);
    const int begin = get_group_id(2) * chunk_block * KC;
    const int end = get_group_id(2) + 1 == get_num_groups(2) ? pixels : begin + chunk_block * KC;
    const int is_whole = get_num_groups(2) == 1;
    const int step = MIN(stride, taps);
    const int columns = (d_width - 1) * step + taps;
    const int pitch = columns * C;
    __local float *chunk_d = memory;
    __local float *totals = chunk_d + KC * NR;
    __local float *slots = totals + tile_block * MR * NR;
    for (int p0 = begin; p0 < end; p0 += KC) {
        const int p1 = MIN(end, p0 + KC);
        load_gradient(d, chunk_d, p0, p1, panel * NR, N);
        load_rows(image, slots, height, width, C, p0 / d_width, (p1 - 1) / d_width + 1, d_height,
                  columns, taps, taps, stride, origin, origin);
        for (int t = tile0; t < tile1; t++) {
            int at[MR];
#pragma unroll
            for (int m = 0; m < MR; m++) {
                const int row = MIN(t * MR + m, K - 1); /* rows behind the last repeat it */
                at[m] = row / run * pitch + row % run;
            }
            vector acc[MR][NV];
#pragma unroll
            for (int m = 0; m < MR; m++)
#pragma unroll
                for (int v = 0; v < NV; v++)
                    acc[m][v] = (vector)(0.0f);
            gradient_tile(slots, at, chunk_d, acc, p0, p1, d_height, d_width, step * pitch,
                          (taps - step) * pitch, step * C);
            if (is_whole) {
                __local vector *total = (__local vector *)(totals + (t - tile0) * MR * NR);
#pragma unroll
                for (int m = 0; m < MR; m++)
#pragma unroll
                    for (int v = 0; v < NV; v++)
                        total[m * NV + v] =
                            p0 == 0 ? acc[m][v] : total[m * NV + v] + acc[m][v];
            } else {
                const size_t place = (size_t)(p0 / KC) * tiles + t;
                __global vector *out =
                    (__global vector *)(sums + (place * get_num_groups(0) + panel) * MR * NR);
#pragma unroll
                for (int m = 0; m < MR; m++)
#pragma unroll
                    for (int v = 0; v < NV; v++)
                        out[m * NV + v] = acc[m][v];
            }
        }
    }
    if (is_whole)
        for (int t = tile0; t < tile1; t++) {
            float total[MR * NR];
            for (int i = 0; i < MR * NR; i++)
                total[i] = totals[(t - tile0) * MR * NR + i];
            store_gradient(total, gradient, offset, t * MR, panel * NR, K, N);
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
