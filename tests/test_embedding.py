"""Tokens of a text and their vectors: every row finds its gradient, in one order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.device import reference_embedding
from p2ptrain.device.embedding import (
    Embedding,
    embedding_backward,
    embedding_forward,
    gather_tokens,
)
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary, run
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
BEFORE, BETWEEN = 3, 5  # other parameters in the flat vector

by_library = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "plain"])


def embedding_of(batch: int, context: int, vocabulary: int, channels: int) -> Embedding:
    position_offset = BEFORE + vocabulary * channels + BETWEEN
    return Embedding(batch, context, vocabulary, channels, BEFORE, position_offset)


def vectors(shape: Embedding, flat: Floats) -> tuple[Floats, Floats]:
    """Vectors of tokens and of positions in a flat vector."""
    tokens = flat[BEFORE:][: shape.vocabulary * shape.channels]
    positions = flat[shape.position_offset :][: shape.context * shape.channels]
    return tokens.reshape(-1, shape.channels), positions.reshape(-1, shape.channels)


def flat_size(shape: Embedding) -> int:
    return shape.position_offset + shape.context * shape.channels + 2


def some_tokens(shape: Embedding, seed: int) -> NDArray[np.int32]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, shape.vocabulary, shape.rows).astype(np.int32)


def gradients(
    operations: Operations,
    shape: Embedding,
    tokens: NDArray[np.int32],
    d: Floats,
    before: Floats,
    accumulate: bool,
) -> Floats:
    """The flat gradient, which held `before`."""
    gradient = DEVICE.upload(before)
    arrays = (DEVICE.upload(tokens), DEVICE.upload(d), gradient)
    result: Floats = run(embedding_backward(operations, shape, *arrays, accumulate), gradient)
    return result


def equal_bits(a: Floats, b: Floats) -> None:
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@by_library
@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 70),
    context=st.integers(1, 20),
    vocabulary=st.integers(1, 40),
    channels=st.integers(1, 70),
    accumulate=st.booleans(),
)
def test_the_kernels_have_the_bits_of_their_twins(
    operations: Operations,
    batch: int,
    context: int,
    vocabulary: int,
    channels: int,
    accumulate: bool,
) -> None:
    shape = embedding_of(batch, context, vocabulary, channels)
    tokens = some_tokens(shape, batch)
    parameters = uniform(1, flat_size(shape))
    y = DEVICE.empty((shape.rows, channels))
    arrays = (DEVICE.upload(tokens), DEVICE.upload(parameters), y)
    equal_bits(
        run(embedding_forward(operations, shape, *arrays), y),
        reference_embedding.embedding(tokens, *vectors(shape, parameters)),
    )
    d = uniform(2, shape.rows, channels)
    got = gradients(operations, shape, tokens, d, parameters, accumulate)
    share = vectors(shape, parameters)[0] * np.float32(accumulate)
    expected = reference_embedding.embedding_backward(tokens, d, context, share)
    for mine, twin in zip(vectors(shape, got), expected, strict=True):
        equal_bits(mine, twin)
    untouched = [slice(0, BEFORE), slice(shape.position_offset - BETWEEN, shape.position_offset)]
    for part in (*untouched, slice(-2, None)):
        equal_bits(got[part], parameters[part])


@by_library
@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 9), context=st.integers(1, 140), slot=st.integers(0, 2))
def test_a_sample_is_the_text_from_its_index_and_the_next_byte_is_the_target(
    operations: Operations, batch: int, context: int, slot: int
) -> None:
    generator = np.random.default_rng(batch * 1000 + context)
    stream = generator.integers(0, 256, 400).astype(np.uint8)
    index = generator.integers(-60, 400 - context, (3, batch)).astype(np.int32)
    index[slot, 0] = 400 - context - 1  # the last that there is
    tokens, targets = (DEVICE.empty((batch * context,), np.int32) for _ in range(2))
    arrays = (DEVICE.upload(stream), DEVICE.upload(index), tokens, targets)
    (launch,) = gather_tokens(operations, *arrays, context)
    launch.set_scalar(launch.varying["slot"], np.int32(slot))
    launch.enqueue()
    expected = reference_embedding.gather_tokens(stream, index[slot], context)
    np.testing.assert_array_equal(tokens.read(), expected[0])
    np.testing.assert_array_equal(targets.read(), expected[1])


@by_library
def test_the_gradient_is_that_of_the_definition(operations: Operations) -> None:
    """Exact here: d holds small integers, and sums of them are exact in every order."""
    shape = embedding_of(5, 9, 7, 33)
    tokens = some_tokens(shape, 1) % 6  # token 6 does not occur
    d = np.round(uniform(3, shape.rows, 33) * np.float32(8))
    before = np.ones(flat_size(shape), np.float32)
    got = gradients(operations, shape, tokens, d, before, False)
    by_token, by_position = vectors(shape, got)
    expected = np.zeros_like(by_token)
    np.add.at(expected, tokens, d)
    np.testing.assert_array_equal(by_token, expected)
    np.testing.assert_array_equal(by_position, d.reshape(5, 9, 33).sum(axis=0))
    shared = gradients(operations, shape, tokens, d, before, True)
    np.testing.assert_array_equal(vectors(shape, shared)[0], expected + 1)


@by_library
def test_a_token_out_of_range_has_no_vector_and_no_gradient(operations: Operations) -> None:
    shape = embedding_of(1, 3, 4, 2)
    tokens = np.array([4, -1, 3], np.int32)
    parameters = np.arange(1, flat_size(shape) + 1, dtype=np.float32)
    y = DEVICE.empty((3, 2))
    arrays = (DEVICE.upload(tokens), DEVICE.upload(parameters), y)
    got = run(embedding_forward(operations, shape, *arrays), y)
    token_vectors, positions = vectors(shape, parameters)
    np.testing.assert_array_equal(got[:2], positions[:2])
    np.testing.assert_array_equal(got[2], token_vectors[3] + positions[2])
    d = np.ones((3, 2), np.float32)
    by_token = vectors(shape, gradients(operations, shape, tokens, d, parameters, False))[0]
    np.testing.assert_array_equal(by_token, [[0, 0], [0, 0], [0, 0], [1, 1]])


@by_library
def test_a_nan_shows_in_the_gradient_of_its_own_token_alone(operations: Operations) -> None:
    shape = embedding_of(2, 2, 3, 4)
    tokens = np.array([0, 1, 1, 2], np.int32)
    d = uniform(1, 4, 4)
    d[1, 2] = np.nan
    before = np.zeros(flat_size(shape), np.float32)
    by_token, by_position = vectors(shape, gradients(operations, shape, tokens, d, before, False))
    assert np.argwhere(np.isnan(by_token)).tolist() == [[1, 2]]
    assert np.argwhere(np.isnan(by_position)).tolist() == [[1, 2]]
