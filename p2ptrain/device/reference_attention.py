"""kernels/attention.cl again in numpy, equal bit for bit.

A head is a matrix here, and all heads of a batch are computed side by side: arrays are
(heads, T, D) with the sequences and their heads in one axis. Products run over positions in
Python, one fused step for each, as everywhere in the twins.
"""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.reference_math import QUIET, Floats, div, exp, flush_tiny, fma, lane_sum

CHUNK = 256  # KC of gemm.cl
NEGLIGIBLE = np.float32(-40.0)
ONE = np.float32(1)


def split_heads(rows: Floats, batch: int, heads: int) -> Floats:
    """Rows (batch * T, heads * D) as (batch * heads, T, D)."""
    context = len(rows) // batch
    split = rows.reshape(batch, context, heads, -1).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(split).reshape(batch * heads, context, -1)


def join_heads(split: Floats, batch: int) -> Floats:
    """The inverse of split_heads."""
    total, context, size = split.shape
    joined = split.reshape(batch, total // batch, context, size).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(joined).reshape(batch * context, -1)


def chained(left: Floats, right: Floats, taken: NDArray[np.bool_] | None = None) -> Floats:
    """Sum over the last axis of left and the middle axis of right, in the order of gemm.cl.

    Args:
      left   (heads, M, K)
      right  (heads, K, N)
      taken  (M, K), False for the terms that take no part; None: all do

    Returns:
      (heads, M, N)
    """
    heads, rows, depth = left.shape
    total = np.zeros((heads, rows, right.shape[2]), np.float32)
    begun = np.zeros((rows, 1), bool)
    for start in range(0, depth, CHUNK):
        chunk = np.zeros_like(total)
        present = np.zeros((rows, 1), bool)
        for k in range(start, min(start + CHUNK, depth)):
            part = np.ones((rows, 1), bool) if taken is None else taken[:, k, None]
            chunk = np.where(part, fma(left[:, :, k, None], right[:, None, k], chunk), chunk)
            present |= part
        with np.errstate(**QUIET):  # type: ignore[arg-type]
            total = np.where(present, np.where(begun, total + chunk, chunk), total)
        begun |= present
    return total


def transposed(split: Floats) -> Floats:
    """(heads, N, M) from (heads, M, N)."""
    return split.transpose(0, 2, 1)


def split_qkv(qkv: Floats, batch: int, heads: int) -> tuple[Floats, Floats, Floats]:
    """Queries, keys and values, each (batch * heads, T, D)."""
    q, k, v = (split_heads(part, batch, heads) for part in np.split(qkv, 3, axis=1))
    return q, k, v


def weights(scores: Floats, peak: Floats) -> Floats:
    """exp(score - peak), +0 where the difference is under -40.

    Args:
      scores  (heads, T, T)
      peak    (heads, T)
    """
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        shifted = scores - peak[:, :, None]
        return np.where(shifted < NEGLIGIBLE, np.float32(0), exp(shifted))


def scale_of(head_size: int) -> np.float32:
    """Factor of the scores."""
    return np.float32(1 / np.sqrt(np.float64(head_size)))


def attention(qkv: Floats, batch: int, heads: int) -> tuple[Floats, Floats]:
    """Causal attention.

    Args:
      qkv  (batch * T, 3 * C)

    Returns:
      out    (batch * T, C), flushed
      stats  (batch * heads, 2, T): peak and 1 / sum of the weights of each query
    """
    q, k, v = split_qkv(qkv, batch, heads)
    earlier = np.tri(q.shape[1], dtype=bool)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        scores = chained(q, transposed(k)) * scale_of(q.shape[2])
        peak = np.where(earlier, scores, np.float32(-np.inf)).max(axis=2)
        e = np.where(earlier, weights(scores, peak), np.float32(0))
        r = div(np.full_like(peak, ONE), lane_sum(e.transpose(2, 0, 1)))
        out = flush_tiny(chained(e, v, earlier) * r[:, :, None])
    return join_heads(out, batch), np.stack([peak, r], axis=1)


def attention_backward(
    qkv: Floats, forward: tuple[Floats, Floats], d: Floats, batch: int, heads: int
) -> Floats:
    """Gradient by queries, keys and values.

    Args:
      qkv      (batch * T, 3 * C)
      forward  out and stats
      d        (batch * T, C) gradient by out

    Returns:
      (batch * T, 3 * C), flushed
    """
    out, stats = forward
    q, k, v = split_qkv(qkv, batch, heads)
    d, out = split_heads(d, batch, heads), split_heads(out, batch, heads)
    earlier = np.tri(q.shape[1], dtype=bool)
    scale = scale_of(q.shape[2])
    peak, r = stats[:, 0], stats[:, 1]
    rows, size = d.shape[0] * d.shape[1], d.shape[2]
    products = chained(d.reshape(rows, 1, size), out.reshape(rows, size, 1))
    delta = products.reshape(*d.shape[:2], 1)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        p = flush_tiny(weights(chained(q, transposed(k)) * scale, peak) * r[:, :, None])
        slope = flush_tiny(chained(d, transposed(v)) - delta)
        g = flush_tiny(p * slope * scale)
    dq = flush_tiny(chained(g, k, earlier))
    dk = flush_tiny(chained(transposed(g), q, earlier.T))
    dv = flush_tiny(chained(transposed(p), d, earlier.T))
    return np.concatenate([join_heads(part, batch) for part in (dq, dk, dv)], axis=1)
