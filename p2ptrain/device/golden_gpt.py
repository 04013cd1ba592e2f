"""Golden cases of the kernels that a language model needs beside the basic ones.

Forward and backward of a kernel file are one case each where the second needs the first: results
are put side by side in one flat array.
"""

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device import (
    reference_attention,
    reference_dropout,
    reference_embedding,
    reference_layernorm,
)
from p2ptrain.device.attention import Attention, attention_backward, attention_forward
from p2ptrain.device.dropout import Dropout, dropout
from p2ptrain.device.embedding import (
    Embedding,
    embedding_backward,
    embedding_forward,
    gather_tokens,
)
from p2ptrain.device.golden_inputs import Array, Case, Floats, uniform
from p2ptrain.device.layernorm import LayerNorm, layer_norm_backward, layer_norm_forward
from p2ptrain.device.operations import Operations
from p2ptrain.device.reference_dropout import Draw

ATTENTION = Attention(2, 37, 2, 19)
NORM = LayerNorm(37, 77, 3, 85)
NORM_FLAT = 165  # parameters, some of them others'
EMBEDDING = Embedding(3, 7, 11, 35, 2, 390)
EMBEDDING_FLAT = 640
TEXT = 50
DROPPED, RATE, DRAW = 1003, 0.2, Draw(5, 6, 0x0123456789ABCDEF)


def cases() -> list[Case]:
    """Each of these kernels once."""
    return [
        Case("attention", "attention", run_attention, twin_attention),
        Case("layernorm", "layer_norm", run_norm, twin_norm),
        Case("embedding", "gather_tokens", run_gather, twin_gather),
        Case("embedding", "embedding", run_embedding, twin_embedding),
        Case("dropout", "dropout", run_dropout, twin_dropout),
    ]


def flat(*parts: Array) -> Array:
    """Several results as one."""
    return np.concatenate([part.ravel() for part in parts])


# --- attention.cl ------------------------------------------------------------------------------


def attention_inputs() -> tuple[Floats, Floats]:
    """Queries, keys and values, some of whose scores are negligible; the gradient by out."""
    rows = ATTENTION.batch * ATTENTION.context
    qkv = uniform(1, rows, 3 * ATTENTION.channels)
    qkv[rows // 2 :] *= np.float32(5)
    return qkv, uniform(2, rows, ATTENTION.channels)


def run_attention(operations: Operations) -> Array:
    """Out, stats and the gradient by qkv."""
    device = operations.device
    qkv, d = attention_inputs()
    forward = device.upload(qkv), device.empty(d.shape), device.empty(ATTENTION.stats_shape)
    dqkv = device.empty(qkv.shape)
    launches = attention_forward(operations, ATTENTION, *forward)
    launches += attention_backward(operations, ATTENTION, forward, device.upload(d), dqkv)
    for launch in launches:
        launch.enqueue()
    return flat(forward[1].read(), forward[2].read(), dqkv.read())


def twin_attention() -> Array:
    """As run_attention."""
    qkv, d = attention_inputs()
    sizes = ATTENTION.batch, ATTENTION.heads
    forward = reference_attention.attention(qkv, *sizes)
    return flat(*forward, reference_attention.attention_backward(qkv, forward, d, *sizes))


# --- layernorm.cl ------------------------------------------------------------------------------


def norm_inputs() -> tuple[Floats, Floats, Floats, Floats]:
    """The input, flat parameters, the gradient by y, and what dx is added to."""
    x, d, add = (uniform(stream, NORM.rows, NORM.channels) for stream in (1, 2, 3))
    return x, uniform(4, NORM_FLAT), d, add


def run_norm(operations: Operations) -> Array:
    """Y, stats, dx and the gradients by scale and shift."""
    device = operations.device
    x, parameters, d, add = norm_inputs()
    forward = device.upload(x), device.upload(parameters), device.empty((NORM.rows, 2))
    y, dx, gradient = device.empty(x.shape), device.upload(add), device.zeros((NORM_FLAT,))
    launches = layer_norm_forward(operations, NORM, *forward[:2], y, forward[2])
    slope, written = device.upload(d), (dx, gradient)
    launches += layer_norm_backward(operations, NORM, forward, slope, written, dx)
    for launch in launches:
        launch.enqueue()
    by_scale, by_shift = norm_parts(gradient.read())
    return flat(y.read(), forward[2].read(), dx.read(), by_scale, by_shift)


def norm_parts(values: Array) -> tuple[Floats, Floats]:
    """Scales and shifts in a flat vector."""
    offsets = (NORM.scale_offset, NORM.shift_offset)
    scale, shift = (values[offset : offset + NORM.channels] for offset in offsets)
    return scale, shift


def twin_norm() -> Array:
    """As run_norm."""
    x, parameters, d, add = norm_inputs()
    scale, shift = norm_parts(parameters)
    y, stats = reference_layernorm.layer_norm(x, scale, shift)
    return flat(y, stats, *reference_layernorm.layer_norm_backward(x, scale, stats, d, add))


# --- embedding.cl ------------------------------------------------------------------------------


def text() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A text of EMBEDDING.vocabulary tokens, and where two steps' samples begin in it."""
    stream = (np.arange(TEXT) ** 2 % EMBEDDING.vocabulary).astype(np.uint8)
    return stream, np.array([9, 9, 9, 0, -1, 42], np.int32)


def run_gather(operations: Operations) -> Array:
    """Tokens and targets of the second step."""
    device = operations.device
    stream, index = text()
    tokens, targets = (device.empty((EMBEDDING.rows,), np.int32) for _ in range(2))
    arrays = (device.upload(stream), device.upload(index), tokens, targets)
    (launch,) = gather_tokens(operations, *arrays, EMBEDDING.context)
    launch.set_scalar(launch.varying["slot"], np.int32(1))
    launch.enqueue()
    return flat(tokens.read(), targets.read())


def twin_gather() -> Array:
    """As run_gather."""
    stream, index = text()
    rows = index[EMBEDDING.batch :]
    return flat(*reference_embedding.gather_tokens(stream, rows, EMBEDDING.context))


def tokens_of_case() -> NDArray[np.int32]:
    """Tokens, some of which occur often and some never."""
    return (np.arange(EMBEDDING.rows) ** 2 % (EMBEDDING.vocabulary - 1)).astype(np.int32)


def embedding_parts(values: Array) -> tuple[Floats, Floats]:
    """Vectors of tokens and of positions in a flat vector."""
    count, channels = EMBEDDING.vocabulary, EMBEDDING.channels
    tokens = values[EMBEDDING.token_offset :][: count * channels]
    positions = values[EMBEDDING.position_offset :][: EMBEDDING.context * channels]
    return tokens.reshape(-1, channels), positions.reshape(-1, channels)


def run_embedding(operations: Operations) -> Array:
    """Y, and the flat gradient by an accumulating backward pass."""
    device = operations.device
    tokens, parameters = device.upload(tokens_of_case()), device.upload(uniform(1, EMBEDDING_FLAT))
    y, gradient = device.empty((EMBEDDING.rows, EMBEDDING.channels)), device.upload(share())
    d = device.upload(uniform(2, *y.shape))
    launches = embedding_forward(operations, EMBEDDING, tokens, parameters, y)
    launches += embedding_backward(operations, EMBEDDING, tokens, d, gradient, True)
    for launch in launches:
        launch.enqueue()
    return flat(y.read(), *embedding_parts(gradient.read()))


def share() -> Floats:
    """What the flat gradient holds before."""
    return uniform(3, EMBEDDING_FLAT)


def twin_embedding() -> Array:
    """As run_embedding."""
    tokens = tokens_of_case()
    y = reference_embedding.embedding(tokens, *embedding_parts(uniform(1, EMBEDDING_FLAT)))
    d, own = uniform(2, *y.shape), embedding_parts(share())[0]
    parts = reference_embedding.embedding_backward(tokens, d, EMBEDDING.context, own)
    return flat(y, *parts)


# --- dropout.cl --------------------------------------------------------------------------------


def run_dropout(operations: Operations) -> Array:
    """Values and zeros."""
    device = operations.device
    x, y = device.upload(uniform(1, DROPPED)), device.empty((DROPPED,))
    (launch,) = dropout(operations, Dropout(DROPPED, RATE, DRAW.stream), x, y)
    words = {
        "step": DRAW.step,
        "noise_low": DRAW.noise & 0xFFFFFFFF,
        "noise_high": DRAW.noise >> 32,
    }
    for name, word in words.items():
        launch.set_scalar(launch.varying[name], np.uint32(word))
    launch.enqueue()
    return y.read()


def twin_dropout() -> Array:
    """As run_dropout."""
    return reference_dropout.dropout(uniform(1, DROPPED), RATE, DRAW)
