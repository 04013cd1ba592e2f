"""kernels/layernorm.cl again in numpy, equal bit for bit. Rows R, channels C, float32."""

import numpy as np

from p2ptrain.device.reference_math import (
    LANES,
    QUIET,
    Floats,
    div,
    flush_tiny,
    fma,
    lane_sum,
    sqrt,
)

EPSILON = np.float32(1e-5)
ONE = np.float32(1)


def lane_product_sum(a: Floats, b: Floats) -> Floats:
    """Sum of a * b over the first axis by lanes, each product fused with its addition."""
    lanes = np.zeros((LANES, *a.shape[1:]), np.float32)
    for start in range(0, len(a), LANES):
        count = min(LANES, len(a) - start)
        part = slice(start, start + count)
        lanes[:count] = fma(a[part], b[part], lanes[:count])
    return lane_sum(lanes)


def normalised(x: Floats, stats: Floats) -> Floats:
    """(x - mean) * rstd."""
    return (x - stats[:, :1]) * stats[:, 1:]


def layer_norm(x: Floats, scale: Floats, shift: Floats) -> tuple[Floats, Floats]:
    """Layer normalisation.

    Args:
      x             (R, C)
      scale, shift  (C,)

    Returns:
      y      (R, C), flushed
      stats  (R, 2): mean and 1 / sqrt(variance + 1e-5)
    """
    inverse = ONE / np.float32(x.shape[1])
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        mean = lane_sum(x.T) * inverse
        centred = (x - mean[:, None]).T
        variance = lane_product_sum(centred, centred) * inverse
        rstd = div(np.full_like(variance, ONE), sqrt(variance + EPSILON))
        stats = np.stack([mean, rstd], axis=1)
        return flush_tiny(fma(normalised(x, stats), scale, shift)), stats


def layer_norm_backward(
    x: Floats, scale: Floats, stats: Floats, d: Floats, add: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Gradients of the layer normalisation.

    Args:
      x, d, add  (R, C): input, gradient by y, and what the gradient by x is added to
      scale      (C,)
      stats      (R, 2)

    Returns:
      dx      (R, C), flushed
      dscale  (C,), flushed
      dshift  (C,), flushed
    """
    inverse = ONE / np.float32(x.shape[1])
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        xhat = normalised(x, stats)
        e = d * scale
        a = lane_sum(e.T) * inverse
        b = lane_product_sum(e.T, xhat.T) * inverse
        inner = fma(-xhat, b[:, None], e - a[:, None])
        dx = fma(stats[:, 1:], inner, np.float32(0) if add is None else add)
    return flush_tiny(dx), flush_tiny(lane_product_sum(d, xhat)), flush_tiny(lane_sum(d))
