"""kernels/conv.cl again in numpy, equal bit for bit. This is what the kernel means.

Each result is a matrix product in the canonical order over patches of a padded image; the kernel's
header says what runs along K. All arrays float32, images with the channels last.
"""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.reference_math import QUIET, Floats, flush_tiny, fma

CHUNK = 256  # KC of conv.cl


def chunked_product(a: Floats, b: Floats) -> Floats:
    """A B in the canonical order, not flushed: chunks of 256 along k, one fma chain in each.

    Args:
      a  (M, K); K may be 0
      b  (K, N)

    Returns:
      (M, N)
    """
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for start in range(0, a.shape[1], CHUNK):
        chunk = np.zeros_like(total)
        for k in range(start, min(start + CHUNK, a.shape[1])):
            chunk = fma(a[:, k, None], b[None, k, :], chunk)
        with np.errstate(**QUIET):  # type: ignore[arg-type]
            total = chunk if start == 0 else total + chunk
    return total


def patches(image: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """What lies under taps of an image, +0 outside it.

    Args:
      image    (batch, height, width, C)
      rows     (results in y, taps in y) int64, row of the image under each tap
      columns  (results in x, taps in x) int64

    Returns:
      (batch * results, taps * C), the channel fastest
    """
    batch, height, width, channels = image.shape
    inside = ((rows >= 0) & (rows < height))[:, :, None, None]
    inside = inside & ((columns >= 0) & (columns < width))[None, None]
    safe = image[:, rows.clip(0, height - 1)][:, :, :, columns.clip(0, width - 1)]
    taken = np.where(inside[None, ..., None], safe, np.float32(0)).transpose(0, 1, 3, 2, 4, 5)
    results, taps = rows.shape[0] * columns.shape[0], rows.shape[1] * columns.shape[1]
    return np.ascontiguousarray(taken).reshape(batch * results, taps * channels)


def forward_rows(size: int, kernel: int, stride: int, padding: int) -> NDArray[np.int64]:
    """Pixel of x under each tap of each result, in one direction: (results, kernel)."""
    results = (size + 2 * padding - kernel) // stride + 1
    return np.arange(results)[:, None] * stride - padding + np.arange(kernel)


def conv_forward(
    x: Floats,
    w: Floats,
    bias: Floats | None,
    geometry: tuple[int, int],
    activation: str = "none",
) -> Floats:
    """Convolution, bias, flush and activation.

    Args:
      x         (batch, height, width, C)
      w         (kernel, kernel, C, N)
      bias      (N,) or None
      geometry  stride and padding

    Returns:
      (batch, out_height, out_width, N)
    """
    rows, columns = (forward_rows(size, w.shape[0], *geometry) for size in x.shape[1:3])
    z = chunked_product(patches(x, rows, columns), w.reshape(-1, w.shape[3]))
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        z = flush_tiny(z if bias is None else z + bias)
    if activation == "relu":
        z = np.where(z <= 0, np.float32(0), z)
    return z.reshape(x.shape[0], len(rows), len(columns), w.shape[3])


def conv_weight_gradient(x: Floats, d: Floats, kernel: int, geometry: tuple[int, int]) -> Floats:
    """The gradient by the weights.

    Args:
      x         (batch, height, width, C)
      d         (batch, out_height, out_width, N)
      geometry  stride and padding

    Returns:
      (kernel, kernel, C, N)
    """
    rows, columns = (forward_rows(size, kernel, *geometry) for size in x.shape[1:3])
    product = chunked_product(patches(x, rows, columns).T, d.reshape(-1, d.shape[3]))
    return flush_tiny(product).reshape(kernel, kernel, x.shape[3], d.shape[3])


def conv_input_gradient(
    d: Floats, w: Floats, size: tuple[int, int], geometry: tuple[int, int]
) -> Floats:
    """The gradient by x.

    Args:
      d         (batch, out_height, out_width, N)
      w         (kernel, kernel, C, N)
      size      height and width of x
      geometry  stride and padding

    Returns:
      (batch, height, width, C)
    """
    stride, padding = geometry
    batch, channels = d.shape[0], w.shape[2]
    dx = np.zeros((batch, *size, channels), np.float32)
    for y in range(min(stride, size[0])):
        for x in range(min(stride, size[1])):
            # Taps that meet these pixels, the last first, and the pixel of d under each.
            ky = np.arange((y + padding) % stride, w.shape[0], stride)[::-1]
            kx = np.arange((x + padding) % stride, w.shape[0], stride)[::-1]
            rows = (np.arange(y, size[0], stride)[:, None] + padding - ky) // stride
            columns = (np.arange(x, size[1], stride)[:, None] + padding - kx) // stride
            flipped = w[ky][:, kx].transpose(0, 1, 3, 2).reshape(-1, channels)
            part = chunked_product(patches(d, rows, columns), flipped)
            dx[:, y::stride, x::stride] = flush_tiny(part).reshape(
                batch, len(rows), len(columns), channels
            )
    return dx
