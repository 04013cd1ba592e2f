"""Causal attention: both versions give the bits of the twin, and the gradients are right."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.device import reference_attention
from p2ptrain.device.attention import (
    Attention,
    attention_backward,
    attention_forward,
    register_tile,
    work_size,
)
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations, Tile
from p2ptrain.errors import ConfigError

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Doubles = NDArray[np.float64]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
WIDE = Operations(KernelLibrary(DEVICE), Tile(8, 2, 16))
NARROW = Operations(KernelLibrary(DEVICE), Tile(4, 2, 4))
NAMES = ["contracted", "plain", "wide", "narrow"]

by_library = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN, WIDE, NARROW], ids=NAMES)


def on_device(
    operations: Operations, shape: Attention, qkv: Floats, d: Floats
) -> tuple[Floats, Floats, Floats]:
    """Out, stats and the gradient by qkv."""
    forward = DEVICE.upload(qkv), DEVICE.empty(d.shape), DEVICE.empty(shape.stats_shape)
    dqkv = DEVICE.empty(qkv.shape)
    launches = attention_forward(operations, shape, *forward)
    launches += attention_backward(operations, shape, forward, DEVICE.upload(d), dqkv)
    for launch in launches:
        launch.enqueue()
    return forward[1].read(), forward[2].read(), dqkv.read()


def twin(shape: Attention, qkv: Floats, d: Floats) -> tuple[Floats, Floats, Floats]:
    """The same in numpy."""
    forward = reference_attention.attention(qkv, shape.batch, shape.heads)
    sizes = shape.batch, shape.heads
    return *forward, reference_attention.attention_backward(qkv, forward, d, *sizes)


def inputs(shape: Attention, spread: float = 1) -> tuple[Floats, Floats]:
    rows = shape.batch * shape.context
    qkv = uniform(shape.context, rows, 3 * shape.channels) * np.float32(spread)
    return qkv, uniform(2, rows, shape.channels)


def equal_bits(got: tuple[Floats, ...], expected: tuple[Floats, ...]) -> None:
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine.view(np.uint32), other.view(np.uint32))


@by_library
@settings(max_examples=8, deadline=None)
@given(
    batch=st.integers(1, 3),
    context=st.integers(1, 75),
    heads=st.integers(1, 3),
    head_size=st.integers(1, 40),
    spread=st.sampled_from([1e-3, 1.0, 6.0]),
)
@example(batch=1, context=1, heads=1, head_size=1, spread=1.0)
@example(batch=2, context=64, heads=2, head_size=32, spread=1.0)
@example(batch=1, context=65, heads=1, head_size=33, spread=30.0)
def test_the_kernels_have_the_bits_of_their_twins(
    operations: Operations, batch: int, context: int, heads: int, head_size: int, spread: float
) -> None:
    shape = Attention(batch, context, heads, head_size)
    qkv, d = inputs(shape, spread)
    equal_bits(on_device(operations, shape, qkv, d), twin(shape, qkv, d))


@pytest.mark.parametrize("context", [255, 256, 257, 300, 513, 530])
def test_the_tiled_version_has_the_bits_of_the_simple_one_in_every_chunk(context: int) -> None:
    shape = Attention(1, context, 2, 5)
    qkv, d = inputs(shape)
    simple = on_device(PLAIN, shape, qkv, d)
    for operations in (OPERATIONS, WIDE, NARROW):
        equal_bits(on_device(operations, shape, qkv, d), simple)


@pytest.mark.parametrize("shape", [Attention(1, 260, 1, 3), Attention(1, 5, 1, 300)])
def test_long_sums_go_in_chunks(shape: Attention) -> None:
    qkv, d = inputs(shape)
    equal_bits(on_device(PLAIN, shape, qkv, d), twin(shape, qkv, d))
    equal_bits(on_device(OPERATIONS, shape, qkv, d), twin(shape, qkv, d))


def exact(shape: Attention, qkv: Doubles) -> Doubles:
    """The forward pass in float64, as textbooks have it."""
    split = qkv.reshape(shape.batch, shape.context, 3, shape.heads, shape.head_size)
    q, k, v = split.transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(shape.head_size)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True)) * np.tri(shape.context)
    joined = (e / e.sum(axis=-1, keepdims=True) @ v).transpose(0, 2, 1, 3)
    result: Doubles = joined.reshape(-1, shape.channels)
    return result


@by_library
def test_the_gradient_is_finite_differences(operations: Operations) -> None:
    shape, step = Attention(2, 11, 2, 3), 1e-6
    qkv, d = inputs(shape)
    out, _, dqkv = on_device(operations, shape, qkv, d)
    values = qkv.astype(np.float64)
    assert np.linalg.norm(out - exact(shape, values)) < 1e-6 * np.linalg.norm(out)
    expected = np.zeros_like(values)
    for at in np.ndindex(values.shape):
        kept, sides = values[at], []
        for sign in (1, -1):
            values[at] = kept + sign * step
            sides.append(np.sum(exact(shape, values) * d))
        values[at] = kept
        expected[at] = (sides[0] - sides[1]) / (2 * step)
    for mine, other in zip(np.split(dqkv, 3, 1), np.split(expected, 3, 1), strict=True):
        assert np.linalg.norm(mine - other) < 1e-5 * np.linalg.norm(other)


@by_library
def test_a_position_sees_no_later_one(operations: Operations) -> None:
    shape, seen = Attention(1, 40, 1, 7), 13
    qkv, d = inputs(shape)
    out = on_device(operations, shape, qkv, d)[0]
    qkv[seen:] = np.nan
    changed = on_device(operations, shape, qkv, d)[0]
    equal_bits((changed[:seen],), (out[:seen],))
    assert np.isnan(changed[seen:]).all()


@by_library
def test_a_nan_shows_in_all_that_depends_on_it(operations: Operations) -> None:
    shape, broken = Attention(1, 40, 1, 7), 13
    qkv, d = inputs(shape)
    qkv[broken, 7:14] = np.nan  # a key
    out, _, dqkv = on_device(operations, shape, qkv, d)
    assert np.isnan(out).all(axis=1).tolist() == [i >= broken for i in range(40)]
    assert np.isnan(dqkv[broken:]).all()
    assert np.isfinite(dqkv[:broken, :7]).all()
    d[:] = np.nan
    qkv = inputs(shape)[0]
    assert np.isnan(on_device(operations, shape, qkv, d)[2]).all()


@by_library
def test_a_weight_under_the_least_is_nothing(operations: Operations) -> None:
    """Two keys of one channel: the scores differ by 41, and the weaker value leaves no trace."""
    shape = Attention(1, 2, 1, 1)
    qkv = np.array([[1, 0, 1e18], [1, 41, 3]], np.float32)
    out, _, dqkv = on_device(operations, shape, qkv, np.ones((2, 1), np.float32))
    assert out.ravel().tolist() == [np.float32(1e18), 3]
    assert dqkv[:, 2].tolist() == [1, 1]


def test_work_space_is_for_a_few_heads_whatever_the_batch() -> None:
    """Two context x panel buffers, no context x context, in the backward pass."""
    tile = Tile(8, 2, 16)
    long, longer = (Attention(64, context, 12, 64) for context in (2048, 4096))
    for is_backward in (False, True):
        sizes = [work_size(shape, tile, is_backward) for shape in (long, longer)]
        assert sizes[1] < 2 * sizes[0]
        assert work_size(dataclasses.replace(long, batch=1), tile, is_backward) == sizes[0]
    assert register_tile(OPERATIONS, Attention(1, 8, 1, 257)) is None


def test_a_context_that_fills_local_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of weights and 64 lanes: 2 * 4 * 8160 + 4 * 64 bytes fill 64 KiB."""
    small = dataclasses.replace(DEVICE.info, local_bytes=65536)
    monkeypatch.setattr(DEVICE, "info", small)
    shape = Attention(1, 8161, 1, 1)
    qkv, out, d, dqkv = (DEVICE.empty((1,)) for _ in range(4))
    stats = DEVICE.empty((1,))
    attention_forward(PLAIN, shape, qkv, out, stats)
    with pytest.raises(ConfigError, match=r"8161 positions .* take 8160 or less"):
        attention_backward(PLAIN, shape, (qkv, out, stats), d, dqkv)
    with pytest.raises(ConfigError, match="take 16320 or less"):
        attention_forward(PLAIN, dataclasses.replace(shape, context=16321), qkv, out, stats)
