"""kernels/pool.cl again in numpy, equal bit for bit.

Images are (batch, height, width, channels) float32; a window is size x size pixels, and begins at
a multiple of the stride in both directions.
"""

from collections.abc import Iterator

import numpy as np

from p2ptrain.device.reference_math import QUIET, Floats, flush_tiny, lane_sum


def windows_of(x: Floats, size: int, stride: int) -> Floats:
    """A view (size * size, batch, out_height, out_width, channels): pixel k of every window."""
    _, height, width, _ = x.shape
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    view = view[:, : height - size + 1 : stride, : width - size + 1 : stride]
    pixels = np.moveaxis(view, (4, 5), (0, 1))
    return pixels.reshape(size * size, *pixels.shape[2:])


def max_pool(x: Floats, size: int, stride: int) -> Floats:
    """The largest value of each window; a NaN is larger than all."""
    return flush_tiny(windows_of(x, size, stride).max(axis=0))


def max_pool_backward(x: Floats, d: Floats, size: int, stride: int) -> Floats:
    """Each window's gradient at its first largest value, summed where windows overlap.

    Args:
      x  the images
      d  (batch, out_height, out_width, channels)
    """
    # numpy's argmax takes the first of equals, and the first NaN before all.
    first = windows_of(flush_tiny(x), size, stride).argmax(axis=0)
    dx = np.zeros_like(x)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        for oy, ox, k, pixel in _pixels_by_window(dx, size, stride):
            pixel += np.where(first[:, oy, ox] == k, d[:, oy, ox], np.float32(0))
    return flush_tiny(dx)


def average_pool(x: Floats, size: int, stride: int) -> Floats:
    """The mean of each window."""
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        return flush_tiny(lane_sum(windows_of(x, size, stride)) * np.float32(1 / size**2))


def average_pool_backward(d: Floats, like: Floats, size: int, stride: int) -> Floats:
    """Each window's gradient in equal shares to its pixels; like has the images' shape."""
    dx = np.zeros_like(like)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        for oy, ox, _, pixel in _pixels_by_window(dx, size, stride):
            pixel += d[:, oy, ox]
        return flush_tiny(dx * np.float32(1 / size**2))


def global_pool(x: Floats) -> Floats:
    """The mean of each image, (batch, channels)."""
    batch, height, width, channels = x.shape
    pixels = np.moveaxis(x.reshape(batch, height * width, channels), 1, 0)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        return flush_tiny(lane_sum(pixels) * np.float32(1 / (height * width)))


def global_pool_backward(d: Floats, like: Floats) -> Floats:
    """Each image's gradient in equal shares to its pixels; like has the images' shape."""
    _, height, width, _ = like.shape
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        share = flush_tiny(d * np.float32(1 / (height * width)))
    return np.broadcast_to(share[:, None, None, :], like.shape).copy()


def _pixels_by_window(dx: Floats, size: int, stride: int) -> Iterator[tuple[int, int, int, Floats]]:
    """Windows in order: their place, and number and (batch, channels) view of each pixel."""
    _, height, width, _ = dx.shape
    for oy in range((height - size) // stride + 1):
        for ox in range((width - size) // stride + 1):
            for k in range(size * size):
                y, x = oy * stride + k // size, ox * stride + k % size
                yield oy, ox, k, dx[:, y, x]
