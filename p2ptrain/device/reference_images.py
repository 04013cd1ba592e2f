"""kernels/images.cl again in numpy, equal bit for bit."""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.images import ImageDraw
from p2ptrain.device.reference import philox
from p2ptrain.device.reference_math import QUIET, Floats, flush_tiny, lane_sum

STREAM = 0x494D4147  # "IMAG"


def gather_images(
    samples: tuple[Floats, NDArray[np.int32]],
    index: NDArray[np.int32],
    draw: ImageDraw,
    step: int = 0,
    noise: int = 0,
) -> tuple[Floats, NDArray[np.int32]]:
    """A batch of images and their labels.

    Args:
      samples  x (samples, height * width * channels), y (samples,)
      index    (rows,); under 0: zeros with label -1
      step     in the round
      noise    the round's key of random draws, 0 .. 2^64 - 1

    Returns:
      images  (rows, out_height, out_width, channels)
      labels  (rows,)
    """
    x, y = samples
    images = x[index].reshape(len(index), draw.height, draw.width, draw.channels)
    counter = np.zeros((len(index), 4), np.uint32)
    counter[:, 0] = np.arange(len(index))
    counter[:, 1] = STREAM
    counter[:, 2] = step
    words = philox(counter, (np.uint32(noise & 0xFFFFFFFF), np.uint32(noise >> 32)))
    padding, span = draw.crop_padding, np.uint64(2 * draw.crop_padding + 1)
    corners = ((words[:, :2].astype(np.uint64) * span) >> np.uint64(32)).astype(np.int64)
    cut = np.empty_like(images)
    for row, (top, left) in enumerate(corners):
        framed = np.pad(images[row], ((padding, padding), (padding, padding), (0, 0)))
        cut[row] = framed[top : top + draw.height, left : left + draw.width]
        if draw.flip and words[row, 2] >> np.uint32(31):
            cut[row] = cut[row, :, ::-1].copy()
    reduced = _block_means(cut, draw)
    reduced[index < 0] = 0
    return reduced, np.where(index < 0, np.int32(-1), y[index])


def _block_means(images: Floats, draw: ImageDraw) -> Floats:
    height, width = draw.height // draw.out_height, draw.width // draw.out_width
    shape = (len(images), draw.out_height, height, draw.out_width, width, draw.channels)
    pixels = np.moveaxis(images.reshape(shape), (2, 4), (0, 1))
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        sums = lane_sum(pixels.reshape(height * width, *pixels.shape[2:]))
        return flush_tiny(sums * draw.share)
