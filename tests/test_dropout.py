"""Dropout: a mask that is drawn again wherever it is needed, and always the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device import reference_dropout
from p2ptrain.device.dropout import Dropout, dropout
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.reference_dropout import Draw
from p2ptrain.errors import ConfigError

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))

by_library = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "plain"])


def dropped(operations: Operations, x: Floats, rate: float, draw: Draw) -> Floats:
    """Dropout in place, the draw set as a plan sets it."""
    y = DEVICE.upload(x)
    for launch in dropout(operations, Dropout(x.size, rate, draw.stream), y, y):
        words = (draw.step, draw.noise & 0xFFFFFFFF, draw.noise >> 32)
        for name, word in zip(("step", "noise_low", "noise_high"), words, strict=True):
            launch.set_scalar(launch.varying[name], np.uint32(word))
        launch.enqueue()
    result: Floats = y.read()
    return result


@by_library
@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 1200),
    rate=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.999]),
    step=st.integers(0, 2**32 - 1),
    noise=st.integers(0, 2**64 - 1),
)
def test_dropout_has_the_bits_of_its_twin(
    operations: Operations, size: int, rate: float, step: int, noise: int
) -> None:
    x, draw = uniform(size, size), Draw(3, step, noise)
    twin = reference_dropout.dropout(x, rate, draw)
    got = dropped(operations, x, rate, draw)
    np.testing.assert_array_equal(got.view(np.uint32), twin.view(np.uint32))


def test_a_mask_depends_on_stream_step_and_noise() -> None:
    x = np.ones(4096, np.float32)
    masks = [
        dropped(OPERATIONS, x, 0.5, draw)
        for draw in (Draw(0, 0, 0), Draw(1, 0, 0), Draw(0, 1, 0), Draw(0, 0, 1), Draw(0, 0, 2**32))
    ]
    for i, mask in enumerate(masks):
        assert abs(mask.mean() - 1) < 0.1
        for other in masks[:i]:
            assert 0.4 < np.mean(mask == other) < 0.6


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_rate_and_the_mean_stays(rate: float) -> None:
    y = dropped(OPERATIONS, np.ones(1 << 18, np.float32), rate, Draw(0, 5, 7))
    assert abs(np.mean(y == 0) - rate) < 0.005
    assert abs(y.mean() - 1) < 0.02


def test_no_dropout_leaves_values_as_they_are() -> None:
    x = uniform(1, 1000)
    np.testing.assert_array_equal(dropped(OPERATIONS, x, 0.0, Draw(0, 0, 0)), x)


def test_what_is_tiny_is_flushed_and_a_nan_stays() -> None:
    x = np.array([1e-30, -0.0, np.nan, np.inf], np.float32)
    y = dropped(OPERATIONS, x, 0.0, Draw(0, 0, 0))
    np.testing.assert_array_equal(y[:2].view(np.uint32), 0)
    assert np.isnan(y[2])
    assert y[3] == np.inf


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="take 0 <= rate < 1"):
        Dropout(10, rate, 0)
