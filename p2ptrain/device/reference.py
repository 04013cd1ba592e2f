"""Every kernel of training again in numpy, equal bit for bit. This is what the kernels mean.

Tests and the device's self-test hold the kernels to these functions; the file that defines each
is named by its section. They are slow and keep to the kernels' order of operations. Rows R,
columns C, float32 unless stated.
"""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device import reference_math
from p2ptrain.device.reference_math import QUIET, Floats, flush_tiny, fma, lane_sum

CHUNK = 256  # KC of gemm.cl
PHILOX_ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))


# --- gemm.cl -----------------------------------------------------------------------------------


def gemm(a: Floats, b: Floats) -> Floats:
    """Matrix product in the canonical order: chunks of 256 along k, one fma chain in each.

    Args:
      a  (M, K)
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
    return flush_tiny(total)


def dense(
    x: Floats, weight: Floats, b: Floats | None, residual: Floats | None, is_relu: bool
) -> Floats:
    """A dense layer: the product, then bias, residual and ReLU, flushed after each.

    Args:
      x         (R, in)
      weight    (out, in)
      b         (out,) or None
      residual  (R, out) or None

    Returns:
      (R, out)
    """
    z = gemm(x, weight.T)
    if b is not None:
        z = _added(z, b)
    if residual is not None:
        z = _added(residual, z)
    return relu(z) if is_relu else z


def _added(z: Floats, addend: Floats) -> Floats:
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        return flush_tiny(z + addend)


# --- elementwise.cl ----------------------------------------------------------------------------


def gather_rows(
    x: Floats, y: NDArray[np.int32], index: NDArray[np.int32]
) -> tuple[Floats, NDArray[np.int32]]:
    """Rows and labels of a batch; an index under 0 gives zeros and label -1.

    Args:
      x      (samples, C)
      y      (samples,) int32
      index  (R,) int32

    Returns:
      rows    (R, C), flushed
      labels  (R,) int32
    """
    missing = index < 0
    rows = np.where(missing[:, None], np.float32(0), flush_tiny(x[index]))
    return rows, np.where(missing, np.int32(-1), y[index])


def relu(z: Floats) -> Floats:
    """max(z, 0), flushed; NaN passes."""
    return np.where(z <= 0, np.float32(0), flush_tiny(z))


def relu_backward(a: Floats, d: Floats) -> Floats:
    """The gradient before the ReLU from the one behind it and the ReLU's output, flushed."""
    return np.where(a <= 0, np.float32(0), flush_tiny(d))


def gelu(z: Floats) -> Floats:
    """GELU in its tanh form, flushed."""
    return reference_math.gelu(z)


def gelu_backward(z: Floats, d: Floats) -> Floats:
    """The gradient before the GELU from the one behind it and the value before it, flushed."""
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        return flush_tiny(d * reference_math.gelu_slope(z))


# --- reduce.cl ---------------------------------------------------------------------------------


def column_sums(d: Floats) -> Floats:
    """Sums over the rows, flushed.

    Args:
      d  (R, C)

    Returns:
      (C,)
    """
    return flush_tiny(lane_sum(d))


# --- philox.cl and rng.cl ------------------------------------------------------------------------


def philox(counter: NDArray[np.uint32], key: tuple[np.uint32, np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10.

    Args:
      counter  (n, 4) uint32
      key      two words

    Returns:
      (n, 4) uint32
    """
    x0, x1, x2, x3 = counter.T
    key0, key1 = key
    with np.errstate(over="ignore"):
        for _ in range(PHILOX_ROUNDS):
            product0 = MULTIPLIERS[0] * x0.astype(np.uint64)
            product1 = MULTIPLIERS[1] * x2.astype(np.uint64)
            x0 = (product1 >> np.uint64(32)).astype(np.uint32) ^ x1 ^ key0
            x2 = (product0 >> np.uint64(32)).astype(np.uint32) ^ x3 ^ key1
            x1, x3 = product1.astype(np.uint32), product0.astype(np.uint32)
            key0, key1 = key0 + WEYL[0], key1 + WEYL[1]
    return np.stack([x0, x1, x2, x3], axis=1)


def philox_uniform(count: int, seed: int, stream: int, bound: np.float32) -> Floats:
    """Uniform values in [-bound, bound), a function of seed, stream and index.

    Args:
      count   how many
      seed    0 .. 2^64 - 1
      stream  0 .. 2^32 - 1

    Returns:
      (count,)
    """
    blocks = -(-count // 4)
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = np.arange(blocks)
    counter[:, 1] = stream
    words = philox(counter, (np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32))).ravel()[:count]
    unit = (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return fma(np.float32(2) * bound, unit, -bound)
