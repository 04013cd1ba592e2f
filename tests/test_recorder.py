"""Buffers of a step are planned: lives that do not overlap share memory, and no others do."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device.kernels import KernelLibrary, Launch
from p2ptrain.device.opencl import DeviceArray, open_device
from p2ptrain.device.operations import Operations
from p2ptrain.model.recorder import Recorder, Value, Weights

OPERATIONS = Operations(KernelLibrary(open_device()))


def recorder() -> Recorder:
    return Recorder(OPERATIONS, Weights(OPERATIONS.device.zeros((64,)), None), {})


def nothing(*arrays: DeviceArray) -> Sequence[Launch]:
    assert all(array.nbytes for array in arrays)
    return []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True), min_size=1, max_size=20
    ),
    st.lists(st.integers(1, 500), min_size=12, max_size=12),
)
def test_values_that_live_at_the_same_time_never_share_memory(
    launches: list[list[int]], sizes: list[int]
) -> None:
    record = recorder()
    values = [record.value(size) for size in sizes]
    for names in launches:
        record.launch(nothing, *(values[name] for name in names))
    record.finish()
    lives: dict[int, tuple[int, int]] = {}
    for index, names in enumerate(launches):
        for name in names:
            lives[name] = (lives.get(name, (index, index))[0], index)
    for a, (a_born, a_dies) in lives.items():
        for b, (b_born, b_dies) in lives.items():
            if a < b and a_born <= b_dies and b_born <= a_dies:
                assert held(values[a]) != held(values[b])


def held(value: Value) -> object:
    assert value.array is not None
    return value.array.handle.int_ptr


def test_a_chain_of_layers_needs_the_memory_of_two_neighbours() -> None:
    record = recorder()
    chain = [record.value(1000) for _ in range(10)]
    for below, above in pairwise(chain):
        record.launch(nothing, below, above)
    record.finish()
    assert record.planned_bytes == 2 * 4000


def test_what_is_kept_is_not_planned() -> None:
    record = recorder()
    array = OPERATIONS.device.zeros((5,))
    kept = record.value(5)
    record.keep(kept, array)
    record.launch(nothing, kept)
    record.finish()
    assert record.planned_bytes == 0
    assert kept.array is array


def test_a_view_beyond_its_array_is_refused() -> None:
    array = OPERATIONS.device.zeros((4,))
    assert array.viewed_as((2, 2), np.int32).read().shape == (2, 2)
    with pytest.raises(ValueError, match="20 bytes"):
        array.viewed_as((5,), np.float32)
