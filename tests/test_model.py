"""Named tensors in one flat vector, and the perceptron's initial values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.device import reference
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.errors import ConfigError
from p2ptrain.model.initial import initial_parameters, initial_parameters_twin
from p2ptrain.model.layers import he_bound
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.model.parameters import Layout, TensorSpec, padded_size
from p2ptrain.model.vision import PoolingTo
from p2ptrain.wire.limits import CODEC_BLOCK

SPEC = ModelSpec((5, 7, 33, 3), "relu")


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=2).map(tuple)


@given(st.lists(shapes, min_size=1, max_size=4))
def test_split_and_join_are_inverses_and_padding_is_zero(shape_list: list[tuple[int, ...]]) -> None:
    layout = Layout(tuple(TensorSpec(f"t{i}", shape) for i, shape in enumerate(shape_list)))
    vector = np.zeros(layout.padded_size, np.float32)
    vector[: layout.size] = np.arange(1, layout.size + 1)
    tensors = layout.split(vector)
    assert [tensor.shape for tensor in tensors.values()] == shape_list
    assert same_bits(layout.join(tensors), vector)
    assert layout.padded_size % CODEC_BLOCK == 0
    assert 0 <= layout.padded_size - layout.size < CODEC_BLOCK


def test_padding_fills_whole_codec_blocks() -> None:
    assert [padded_size(n) for n in (1, 4096, 4097, 19_210)] == [4096, 4096, 8192, 20_480]


def test_tensors_are_laid_out_under_their_export_names() -> None:
    layout = ModelSpec((64, 256, 10)).layout
    assert [(tensor.name, tensor.shape) for tensor in layout.tensors] == [
        ("layer0.weight", (256, 64)),
        ("layer0.bias", (256,)),
        ("layer1.weight", (10, 256)),
        ("layer1.bias", (10,)),
    ]
    assert (layout.size, layout.padded_size) == (19_210, 20_480)


def test_the_schema_hash_tells_names_and_shapes_apart() -> None:
    layouts = [
        Layout((TensorSpec("a", (2, 3)),)),
        Layout((TensorSpec("a", (3, 2)),)),
        Layout((TensorSpec("b", (2, 3)),)),
        Layout((TensorSpec("a", (2,)), TensorSpec("b", (3,)))),
    ]
    assert len({layout.schema_hash for layout in layouts}) == len(layouts)


def test_a_vector_or_tensor_of_another_shape_is_refused() -> None:
    layout = Layout((TensorSpec("a", (2, 3)),))
    with pytest.raises(ValueError, match="float32"):
        layout.split(np.zeros(6, np.float32))
    with pytest.raises(ValueError, match="float32"):
        layout.split(np.zeros(layout.padded_size))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        layout.join({"a": np.zeros((3, 2), np.float32)})
    with pytest.raises(ValueError, match="layout has"):
        layout.join({"b": np.zeros((2, 3), np.float32)})


@pytest.mark.parametrize(
    ("layers", "activation", "named"),
    [((64,), "relu", "layers"), ((64, 0, 10), "relu", "layers"), ((4, 2), "swish", "swish")],
)
def test_a_model_that_cannot_be_built_is_refused(
    layers: tuple[int, ...], activation: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        ModelSpec(layers, activation)


def test_a_model_above_the_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="parameters are above"):
        ModelSpec((40_000, 40_000))


def test_initial_parameters_are_a_function_of_the_seed() -> None:
    operations = Operations(KernelLibrary(open_device()))
    first = initial_parameters(operations, SPEC.layout, 7)
    assert same_bits(first, initial_parameters(operations, SPEC.layout, 7))
    assert same_bits(first, initial_parameters_twin(SPEC.layout, 7))
    assert not same_bits(first, initial_parameters(operations, SPEC.layout, 7 + (1 << 32)))
    tensors = SPEC.layout.split(first)
    for i, fan_in in enumerate(SPEC.layers[:-1]):
        weight = tensors[f"layer{i}.weight"]
        twin = reference.philox_uniform(weight.size, 7, i, np.float32(he_bound(fan_in)))
        assert same_bits(weight.ravel(), twin)
        assert not tensors[f"layer{i}.bias"].any()


@given(st.integers(1, 40), st.integers(1, 11))
def test_a_pool_to_a_size_leaves_that_size_and_reaches_every_edge(height: int, side: int) -> None:
    pool = PoolingTo("max", side)
    if height < side:
        with pytest.raises(ConfigError, match="pixels or more"):
            pool.result((height, height, 2))
        return
    assert pool.result((height, height, 2)) == (side, side, 2)
    windows = pool.windows((height, height, 2))
    assert (side - 1) * windows.stride + windows.size == height, "the last window ends at the edge"
    assert windows.stride <= windows.size, "no pixel is left out"
