"""kernels/embedding.cl again in numpy, equal bit for bit.

B samples of T positions, V tokens, C channels.
"""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.reference_math import QUIET, Floats, flush_tiny, lane_sum

Integers = NDArray[np.int32]


def gather_tokens(
    stream: NDArray[np.uint8], index: Integers, context: int
) -> tuple[Integers, Integers]:
    """Tokens and next tokens of a step.

    Args:
      stream  (n,) uint8
      index   (B,) int32, under 0 for a missing sample

    Returns:
      tokens   (B * context,) int32, 0 where missing
      targets  (B * context,) int32, -1 where missing
    """
    at = np.maximum(index, 0)[:, None] + np.arange(context)
    missing = (index < 0)[:, None]
    tokens = np.where(missing, np.int32(0), stream[at])
    targets = np.where(missing, np.int32(-1), stream[at + 1])
    return tokens.ravel(), targets.ravel()


def embedding(tokens: Integers, token_vectors: Floats, position_vectors: Floats) -> Floats:
    """Vectors of tokens plus vectors of positions.

    Args:
      tokens            (B * T,) int32
      token_vectors     (V, C)
      position_vectors  (T, C)

    Returns:
      (B * T, C), flushed
    """
    known = (tokens >= 0) & (tokens < len(token_vectors))
    values = token_vectors[np.where(known, tokens, 0)]
    positions = np.tile(position_vectors, (len(tokens) // len(position_vectors), 1))
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        return flush_tiny(np.where(known[:, None], values, np.float32(0)) + positions)


def embedding_backward(
    tokens: Integers, d: Floats, context: int, share: Floats
) -> tuple[Floats, Floats]:
    """Gradients by the vectors.

    Args:
      tokens  (B * T,) int32
      d       (B * T, C) gradient by y
      share   (V, C) what the gradient by the tokens' vectors is added to

    Returns:
      by token     (V, C), flushed
      by position  (T, C), flushed
    """
    by_token = np.empty_like(share)
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        for token in range(len(share)):
            own = np.where((tokens == token)[:, None], d, np.float32(0))
            by_token[token] = flush_tiny(share[token] + lane_sum(own))
    return by_token, flush_tiny(lane_sum(d.reshape(-1, context, d.shape[1])))
