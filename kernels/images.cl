/*
 * images: a batch of images, cropped and mirrored at random, and reduced.
 *
 *   x       (samples, H * W * C)  float32  in   channels last
 *   y       (samples)             int32    in   labels
 *   index   (steps * R)           int32    in   which sample each row of each loaded step takes
 *   out     (R, OH, OW, C)        float32  out
 *   labels  (R)                   int32    out
 *
 * Row r takes sample index[slot * R + r]; under 0 it becomes zeros with label -1, which the loss
 * leaves out. The image is put into a frame of `padding` zeros on each side and H x W pixels are
 * cut out of it from row 0 .. 2 padding and column 0 .. 2 padding; they are mirrored left to right
 * or not; and reduced: a pixel of out is flush_tiny(sum * share) over its block of H / OH x W / OW
 * pixels, share = 1 / their number as a float32, in the order of tree_sum in common.cl, pixel
 * (ky, kx) being number ky W / OW + kx.
 *
 * The draws of row r are the words of Philox4x32-10 with counter (r, 0x494D4147, step, 0) under the
 * key (noise_low, noise_high): the round's key, the step in the round and the row decide, whatever
 * computes it. Words 0 and 1 give row and column, (word * (2 padding + 1)) >> 32, even to within
 * 2^-25 at a padding of 50; the highest bit of word 2 says whether to mirror. Padding 0 and no
 * mirroring, as in evaluation, leave the image as it is.
 *
 * One work-item for `rows` rows of an image of out: global size (blocks of rows, R); local size
 * (1, 1) with a whole image on CPUs, (64, 1) with one row on GPUs.
 *
 * numpy twin: p2ptrain/device/reference_images.py
 */

#include "philox.cl"

#define STREAM 0x494D4147u /* "IMAG" */

/* What becomes of a sample: where the crop begins in it, and whether it is mirrored. */
struct draw {
    int top, left, is_mirrored;
};

static inline struct draw draw_row(const int r, const int padding, const int mirrors,
                                   const uint step, const uint noise_low, const uint noise_high)
{
    const uint4 word = philox((uint4)((uint)r, STREAM, step, 0u), noise_low, noise_high);
    struct draw drawn;
    drawn.top = (int)high_product(word.x, 2 * padding + 1) - padding;
    drawn.left = (int)high_product(word.y, 2 * padding + 1) - padding;
    drawn.is_mirrored = mirrors & (int)(word.z >> 31);
    return drawn;
}

/* Channel c of a pixel of the cropped and mirrored image; zero in the frame. */
static inline float pixel(__global const float *restrict image, const struct draw drawn,
                          const int y, const int x, const int c, const int H, const int W,
                          const int C)
{
    const int row = y + drawn.top;
    const int column = (drawn.is_mirrored ? W - 1 - x : x) + drawn.left;
    const int is_inside = (row >= 0) & (row < H) & (column >= 0) & (column < W);
    return is_inside ? image[((size_t)row * W + column) * C + c] : 0.0f;
}

/* Channel c of a block of the cropped image, beginning at pixel (top, left). */
static inline float block_mean(__global const float *restrict image, const struct draw drawn,
                               const int top, const int left, const int c,
                               const int H, const int W, const int C,
                               const int height, const int width, const float share)
{
    float lane[LANES];
    const int used = MIN(LANES, height * width);
    for (int l = 0; l < used; l++) {
        lane[l] = 0.0f;
        for (int k = l; k < height * width; k += LANES)
            lane[l] = lane[l]
                    + pixel(image, drawn, top + k / width, left + k % width, c, H, W, C);
    }
    /* The tree of tree_sum; lanes past `used` hold +0, which changes nothing. */
    for (int half_width = LANES / 2; half_width > 0; half_width /= 2)
        for (int l = 0; l < MIN(half_width, used - half_width); l++)
            lane[l] = lane[l] + lane[l + half_width];
    return flush_tiny(lane[0] * share);
}

/* A row of out where blocks are single pixels: a copy with zeros at its sides. */
static inline void copy_row(__global const float *restrict image, const struct draw drawn,
                            const int row, __global float *restrict out,
                            const int H, const int W, const int C)
{
    const int is_inside = row >= 0 && row < H;
    /* Pixels first .. last of the crop, before it is mirrored, lie in the image. */
    const int first = is_inside ? MIN(W, MAX(0, -drawn.left)) : W;
    const int last = is_inside ? MAX(first, MIN(W, W - drawn.left)) : W;
    const int before = drawn.is_mirrored ? W - last : first;
    const int count = last - first;
    for (int i = 0; i < before * C; i++)
        out[i] = 0.0f;
    for (int i = (before + count) * C; i < W * C; i++)
        out[i] = 0.0f;
    if (count == 0)
        return;
    __global const float *from = image + ((size_t)row * W + first + drawn.left) * C;
    __global float *to = out + before * C;
    if (!drawn.is_mirrored)
        for (int i = 0; i < count * C; i++)
            to[i] = flush_tiny(from[i]);
    else if (C == 1)
        for (int i = 0; i < count; i++)
            to[i] = flush_tiny(from[count - 1 - i]);
    else
        for (int i = 0; i < count; i++)
            for (int c = 0; c < C; c++)
                to[i * C + c] = flush_tiny(from[(count - 1 - i) * C + c]);
}

/* A row of out where blocks are 2 x 2 pixels: the additions of block_mean, in registers. */
static inline void halve_row(__global const float *restrict image, const struct draw drawn,
                             const int y, __global float *restrict out, const int OW,
                             const int H, const int W, const int C, const float share)
{
    for (int ox = 0; ox < OW; ox++)
        for (int c = 0; c < C; c++) {
            const float left = pixel(image, drawn, y, 2 * ox, c, H, W, C)
                             + pixel(image, drawn, y + 1, 2 * ox, c, H, W, C);
            const float right = pixel(image, drawn, y, 2 * ox + 1, c, H, W, C)
                              + pixel(image, drawn, y + 1, 2 * ox + 1, c, H, W, C);
            out[ox * C + c] = flush_tiny((left + right) * share);
        }
}

__kernel void gather_images(__global const float *restrict x, __global const int *restrict y,
                            __global const int *restrict index, __global float *restrict out,
                            __global int *restrict labels, const int R, const int H, const int W,
                            const int C, const int OH, const int OW, const int rows,
                            const float share, const int padding, const int mirrors,
                            const int slot, const uint step,
                            const uint noise_low, const uint noise_high)
{
    const int first = get_global_id(0) * rows;
    const int r = get_global_id(1);
    if (first >= OH)
        return;
    const int sample = index[(size_t)slot * R + r];
    if (first == 0)
        labels[r] = sample < 0 ? -1 : y[sample];
    __global const float *image = x + (size_t)MAX(sample, 0) * H * W * C;
    struct draw drawn = {0, 0, 0};
    if (padding > 0 || mirrors)
        drawn = draw_row(r, padding, mirrors, step, noise_low, noise_high);
    const int height = H / OH, width = W / OW;
    for (int oy = first; oy < MIN(OH, first + rows); oy++) {
        __global float *to = out + ((size_t)r * OH + oy) * OW * C;
        if (sample < 0)
            for (int i = 0; i < OW * C; i++)
                to[i] = 0.0f;
        else if (height * width == 1)
            copy_row(image, drawn, oy + drawn.top, to, H, W, C);
        else if (height == 2 && width == 2)
            halve_row(image, drawn, oy * 2, to, OW, H, W, C, share);
        else
            for (int ox = 0; ox < OW; ox++)
                for (int c = 0; c < C; c++)
                    to[ox * C + c] = block_mean(image, drawn, oy * height, ox * width, c, H, W, C,
                                                height, width, share);
    }
}
