"""kernels/images.cl: bits of the twin, what a crop and a flip are, and that draws are fair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device import reference_images
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.images import ImageBatch, ImageDraw, gather_images
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations, Samples
from p2ptrain.errors import ConfigError

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int32]]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
NOISE = 0xFEDCBA9876543210

both = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "built-in"])


@st.composite
def draws(draw: st.DrawFn) -> ImageDraw:
    out_height, out_width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    blocks = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (3, 1), (1, 5), (9, 8)]))
    return ImageDraw(
        out_height * blocks[0],
        out_width * blocks[1],
        draw(st.integers(1, 5)),
        out_height,
        out_width,
        draw(st.integers(0, 5)),
        draw(st.booleans()),
    )


def on_device(
    operations: Operations,
    samples: tuple[Floats, Ints],
    index: Ints,
    draw: ImageDraw,
    varying: tuple[int, int, int] = (0, 0, 0),
) -> tuple[Floats, Ints]:
    """Images and labels of a slot, step and noise; index holds the rows of that slot and those
    before it.
    """
    slot, step, noise = varying
    rows = len(index) // (slot + 1)
    out = ImageBatch(
        DEVICE.empty((rows, draw.out_height, draw.out_width, draw.channels)),
        DEVICE.empty((rows,), np.int32),
    )
    uploaded = Samples(DEVICE.upload(samples[0]), DEVICE.upload(samples[1]))
    [launch] = gather_images(operations, uploaded, DEVICE.upload(index), out, draw)
    launch.set_scalar(launch.varying["slot"], np.int32(slot))
    launch.set_scalar(launch.varying["step"], np.uint32(step))
    launch.set_scalar(launch.varying["noise_low"], np.uint32(noise & 0xFFFFFFFF))
    launch.set_scalar(launch.varying["noise_high"], np.uint32(noise >> 32))
    launch.enqueue()
    return out.x.read(), out.y.read()


def data(draw: ImageDraw, count: int) -> tuple[Floats, Ints]:
    x = uniform(1, count, draw.height * draw.width * draw.channels)
    x[:, ::5] *= np.float32(2.0**-80)
    return x, (np.arange(count) * 3 % 7).astype(np.int32)


@both
@settings(max_examples=30, deadline=None)
@given(draw=draws(), rows=st.integers(1, 9), slot=st.integers(0, 2), step=st.integers(0, 99))
def test_a_batch_has_the_bits_of_its_twin(
    operations: Operations, draw: ImageDraw, rows: int, slot: int, step: int
) -> None:
    samples = data(draw, 6)
    index = (np.arange(rows * (slot + 1)) * 5 % 7 - 1).astype(np.int32)
    ours = on_device(operations, samples, index, draw, (slot, step, NOISE))
    twins = reference_images.gather_images(samples, index[slot * rows :], draw, step, NOISE)
    np.testing.assert_array_equal(ours[0].view(np.uint32), twins[0].view(np.uint32))
    np.testing.assert_array_equal(ours[1], twins[1])


@both
def test_without_a_draw_images_are_those_of_the_data(operations: Operations) -> None:
    draw = ImageDraw(5, 7, 3, 5, 7)
    x = uniform(1, 4, 105)
    index = np.array([2, -1, 0], np.int32)
    images, labels = on_device(operations, (x, np.arange(4, dtype=np.int32)), index, draw)
    np.testing.assert_array_equal(images[[0, 2]].reshape(2, -1), x[[2, 0]])
    assert not images[1].any()
    assert labels.tolist() == [2, -1, 0]


@both
def test_a_reduced_image_has_the_means_of_its_blocks(operations: Operations) -> None:
    draw = ImageDraw(28, 28, 1, 14, 14)
    x = uniform(1, 3, 784)
    samples = (x, np.zeros(3, np.int32))
    images, _ = on_device(operations, samples, np.arange(3, dtype=np.int32), draw)
    means = x.astype(np.float64).reshape(3, 14, 2, 14, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(images[..., 0], means, atol=1e-6)


@both
def test_every_crop_and_flip_comes_up_about_equally_often(operations: Operations) -> None:
    """One bright pixel in the middle shows where the crop began, its neighbour the flip."""
    draw = ImageDraw(7, 7, 1, 7, 7, crop_padding=2, flip=True)
    image = np.zeros((7, 7), np.float32)
    image[3, 3], image[3, 4] = 2, 1
    index = np.zeros(2000, np.int32)
    samples = (image.reshape(1, -1), np.zeros(1, np.int32))
    images, _ = on_device(operations, samples, index, draw, (0, 5, NOISE))
    places = images[..., 0].reshape(2000, -1).argmax(axis=1)
    # 25 places, 80 each on average, deviation 9
    counts = np.bincount(places, minlength=49).reshape(7, 7)[1:6, 1:6]
    assert counts.sum() == 2000
    assert counts.min() > 40
    assert counts.max() < 130
    right = images[..., 0].reshape(2000, -1)[np.arange(2000), places + 1]
    assert abs((right == 0).mean() - 0.5) < 0.05


@both
def test_draws_differ_by_row_step_and_noise_and_come_again(operations: Operations) -> None:
    draw = ImageDraw(9, 9, 1, 9, 9, crop_padding=4, flip=True)
    samples, index = data(draw, 1), np.zeros(8, np.int32)

    def batch(step: int, noise: int) -> Floats:
        return on_device(operations, samples, index, draw, (0, step, noise))[0]

    first = batch(1, NOISE)
    assert len(np.unique(first.reshape(8, -1), axis=0)) > 4
    np.testing.assert_array_equal(first, batch(1, NOISE))
    for other in (batch(2, NOISE), batch(1, NOISE + 1), batch(1, NOISE + (1 << 32))):
        assert (first != other).any()


@pytest.mark.parametrize(("height", "width"), [(9, 14), (14, 9), (0, 14), (56, 28)])
def test_a_size_that_whole_blocks_do_not_give_is_refused(height: int, width: int) -> None:
    with pytest.raises(ConfigError, match="choose divisors"):
        ImageDraw(28, 28, 1, height, width)


@pytest.mark.parametrize("padding", [-1, 1 << 16])
def test_a_padding_out_of_range_is_refused(padding: int) -> None:
    with pytest.raises(ConfigError, match="crop padding"):
        ImageDraw(28, 28, 1, 28, 28, padding)
