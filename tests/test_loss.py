"""kernels/softmax_xent.cl: bits of the twin over odd shapes, smoothing, ties and true gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device import reference_loss
from p2ptrain.device.golden_inputs import uniform
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.loss import cross_entropy
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations, Score

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))

both = pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "built-in"])


def on_device(
    operations: Operations, z: Floats, labels: Ints, smoothing: float, slot: int = 0
) -> tuple[Floats, Floats, Ints]:
    """Gradient, loss and hits; the scores of the slots before stay as they were."""
    rows = len(z)
    before = np.full(slot * rows + rows, 7, np.float32)
    score = Score(DEVICE.upload(before), DEVICE.upload(before.astype(np.int32)))
    d = DEVICE.empty(z.shape)
    logits, given = DEVICE.upload(z), DEVICE.upload(labels)
    [launch] = cross_entropy(operations, logits, given, d, score, 1 / rows, smoothing)
    launch.set_scalar(launch.varying["slot"], np.int32(slot))
    launch.enqueue()
    loss, correct = score.loss.read(), score.correct.read()
    assert (loss[: slot * rows] == 7).all()
    assert (correct[: slot * rows] == 7).all()
    return d.read(), loss[slot * rows :], correct[slot * rows :]


def labelled(rows: int, classes: int) -> Ints:
    """Labels of which every fifth is missing."""
    labels = (np.arange(rows) * 7 % classes).astype(np.int32)
    labels[4::5] = -1
    return labels


def logits(rows: int, classes: int) -> Floats:
    """With ties, and with differences on both sides of what is negligible."""
    return np.round(uniform(3, rows, classes) * np.float32(15)).astype(np.float32)


@both
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    classes=st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 200])),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    slot=st.integers(0, 2),
)
def test_cross_entropy_has_the_bits_of_its_twin(
    operations: Operations, rows: int, classes: int, smoothing: float, slot: int
) -> None:
    z, labels = logits(rows, classes), labelled(rows, classes)
    twins = reference_loss.softmax_xent(z, labels, np.float32(1 / rows), smoothing)
    ours = on_device(operations, z, labels, smoothing, slot)
    for mine, twin in zip(ours, twins, strict=True):
        np.testing.assert_array_equal(mine.view(np.uint32), twin.view(np.uint32))


@both
def test_evaluation_scores_without_a_gradient(operations: Operations) -> None:
    z, labels = logits(37, 10), labelled(37, 10)
    score = Score(DEVICE.empty((37,)), DEVICE.empty((37,), np.int32))
    for launch in cross_entropy(
        operations, DEVICE.upload(z), DEVICE.upload(labels), None, score, 1.0, 0.0
    ):
        launch.enqueue()
    _, loss, correct = reference_loss.softmax_xent(z, labels, np.float32(1))
    np.testing.assert_array_equal(score.loss.read(), loss)
    np.testing.assert_array_equal(score.correct.read(), correct)


@both
def test_the_first_of_equal_maxima_is_the_answer(operations: Operations) -> None:
    z = np.array([[1, 3, 3], [1, 3, 3], [3, 1, 3], [0, 0, 0]], np.float32)
    _, _, correct = on_device(operations, z, np.array([1, 2, 2, 0], np.int32), 0.0)
    assert correct.tolist() == [1, 0, 0, 1]


@both
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_a_row_that_is_not_finite_shows_it_and_is_no_hit(
    operations: Operations, value: float
) -> None:
    z = np.zeros((3, 5), np.float32)
    z[1, 2] = value
    d, loss, correct = on_device(operations, z, np.array([0, 2, 0], np.int32), 0.1)
    assert np.isnan(d).any(axis=1).tolist() == [False, True, False]
    assert np.isnan(loss).tolist() == [False, True, False]
    assert correct.tolist() == [1, 0, 1]


@both
def test_a_class_that_cannot_be_costs_nothing_without_smoothing(operations: Operations) -> None:
    z = np.array([[0, -np.inf, 0]], np.float32)
    d, loss, _ = on_device(operations, z, np.zeros(1, np.int32), 0.0)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(d, [[-0.5, 0, 0.5]])


def mean_loss(z: Doubles, labels: Ints, smoothing: float) -> float:
    """The mean over all rows, those without a label counting 0."""
    target = np.full(z.shape, smoothing / z.shape[1])
    target[np.arange(len(z)), labels] += 1 - smoothing
    shifted = z - z.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-((target * log_p).sum(axis=1) * (labels >= 0)).sum() / len(z))


@both
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_is_that_of_finite_differences(
    operations: Operations, smoothing: float
) -> None:
    z, labels = uniform(1, 9, 7), labelled(9, 7)
    d, loss, _ = on_device(operations, z, labels, smoothing)
    wide = z.astype(np.float64)
    assert abs(loss.mean() - mean_loss(wide, labels, smoothing)) < 1e-6
    expected = np.zeros_like(wide)
    for i in range(z.size):
        step = np.zeros_like(wide)
        step.ravel()[i] = 1e-5
        rise = mean_loss(wide + step, labels, smoothing) - mean_loss(wide - step, labels, smoothing)
        expected.ravel()[i] = rise / 2e-5
    assert np.linalg.norm(d - expected) < 1e-5 * np.linalg.norm(expected)
