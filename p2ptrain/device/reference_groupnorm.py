"""kernels/groupnorm.cl again in numpy, equal bit for bit.

Images are (batch, pixels, channels) float32, scale and shift (channels,).
"""

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


def group_norm(
    x: Floats, scale: Floats, shift: Floats, groups: int, relu: bool
) -> tuple[Floats, Floats]:
    """Group normalisation.

    Returns:
      y      the shape of x
      stats  (batch, groups, 2) mean and 1 / std
    """
    share = np.float32(1 / (x.shape[1] * (x.shape[2] // groups)))
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        mean = flush_tiny(_group_sums(lane_sum(_pixels_first(x)), groups) * share)
        u = flush_tiny(x - _by_channel(mean, x))
        variance = _group_sums(lane_products(_pixels_first(u), _pixels_first(u)), groups) * share
        inverse = flush_tiny(div(np.full_like(mean, 1), sqrt(variance + EPSILON)))
        y = fma(u, flush_tiny(scale * _by_channel(inverse, x)), shift)
        y = flush_tiny(np.where(y <= 0, np.float32(0), y) if relu else y)
    return y, np.stack([mean, inverse], axis=2)


def group_norm_backward(
    images: tuple[Floats, Floats, Floats], d: Floats, scale: Floats, relu: bool
) -> tuple[Floats, Floats, Floats]:
    """Gradients of group_norm.

    Args:
      images  x, y and stats of the forward pass
      d       the gradient behind it

    Returns:
      dx           the gradient by x
      scale_slope  (channels,)
      shift_slope  (channels,)
    """
    x, y, stats = images
    groups = stats.shape[1]
    share = np.float32(1 / (x.shape[1] * (x.shape[2] // groups)))
    inverse = stats[:, :, 1]
    spread = _by_channel(inverse, x)[:, 0]
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        e = np.where(y <= 0, np.float32(0), d) if relu else d
        u = flush_tiny(x - _by_channel(stats[:, :, 0], x))
        plain = flush_tiny(lane_sum(_pixels_first(e)))
        product = flush_tiny(lane_products(_pixels_first(e), _pixels_first(u)) * spread)
        constant = flush_tiny(_group_sums(plain * scale, groups) * share * inverse)
        slope = _group_sums(product * scale, groups) * share * inverse
        slope = flush_tiny(slope * inverse)
        factor = flush_tiny(scale * spread)[:, None, :]
        moved = fma(u, -_by_channel(slope, x), -_by_channel(constant, x))
        dx = flush_tiny(fma(e, factor, moved))
    return dx, flush_tiny(lane_sum(product)), flush_tiny(lane_sum(plain))


def lane_products(a: Floats, b: Floats) -> Floats:
    """As lane_sum of a * b, but each product fused with the addition to its lane."""
    lanes = np.zeros((LANES, *a.shape[1:]), np.float32)
    for start in range(0, len(a), LANES):
        part = slice(start, start + LANES)
        count = len(a[part])
        lanes[:count] = fma(a[part], b[part], lanes[:count])
    return lane_sum(lanes)


def _pixels_first(x: Floats) -> Floats:
    return np.moveaxis(x, 1, 0)


def _group_sums(values: Floats, groups: int) -> Floats:
    """Sums of (batch, channels) over the channels of each group, (batch, groups)."""
    batch, channels = values.shape
    return lane_sum(np.moveaxis(values.reshape(batch, groups, channels // groups), 2, 0))


def _by_channel(values: Floats, x: Floats) -> Floats:
    """Values (batch, groups) for each channel, (batch, 1, channels)."""
    repeated: Floats = np.repeat(values, x.shape[2] // values.shape[1], axis=1)[:, None, :]
    return repeated
