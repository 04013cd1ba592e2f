"""Gradients and losses beside those that PyTorch recorded (tests/record_torch.py)."""

import numpy as np
import pytest
from numpy.typing import NDArray
from recorded_networks import CASES, FOLDER, STEPS, Case, indices, samples, tensors

from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations, Samples
from p2ptrain.model.batches import StepShape
from p2ptrain.model.graph import Plan, PlanShape
from p2ptrain.model.recorder import Weights
from p2ptrain.train.local import RoundMoment, Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import InnerConfig

TOLERANCE = 1e-5


def recorded(name: str) -> dict[str, NDArray[np.float64]]:
    with np.load(FOLDER / f"gradients-{name}.npz", allow_pickle=False) as file:
        return {key: file[key].astype(np.float64) for key in file.files if key != "torch"}


@pytest.fixture(scope="module")
def operations() -> Operations:
    return open_operations(open_device())


@pytest.mark.parametrize("name", CASES)
def test_each_gradient_is_pytorchs(name: str, operations: Operations) -> None:
    case, expected = CASES[name], recorded(name)
    loss, gradient = first_step(case, operations)
    assert loss == pytest.approx(float(expected["loss"]), rel=TOLERANCE)
    wrong = {}
    for tensor, values in gradient.items():
        reference = expected[f"gradient.{tensor}"]
        assert values.shape == reference.shape
        error = np.linalg.norm(values - reference) / np.linalg.norm(reference)
        if not error < TOLERANCE:
            wrong[tensor] = error
    assert not wrong


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_have_pytorchs_losses(name: str, operations: Operations) -> None:
    case, expected = CASES[name], recorded(name)
    x, y = samples(case)
    inner = InnerConfig("sgd", case.rate, case.momentum, batch=case.batch)
    trainer = Trainer(operations, case.network, inner, TrainingData(x, y, x, y), 0)
    trainer.set_parameters(case.network.layout.join(tensors(case.network)))
    losses = []
    for step in range(STEPS):
        rows = indices(case)[step : step + 1]
        result = trainer.pseudo_gradient(trainer.parameters(), rows, moment=RoundMoment(step))
        losses.append(result.loss_mean)
    np.testing.assert_allclose(losses, expected["losses"], rtol=TOLERANCE)


def first_step(case: Case, operations: Operations) -> tuple[float, dict[str, NDArray[np.float32]]]:
    """Mean loss of the first step, and the gradient of each tensor."""
    device, layout = operations.device, case.network.layout
    x, y = samples(case)
    gradient = device.zeros((layout.padded_size,))
    weights = Weights(device.upload(layout.join(tensors(case.network))), gradient)
    shape = PlanShape(StepShape(case.batch), 1)
    plan = Plan(
        operations, case.network, weights, Samples(device.upload(x), device.upload(y)), shape
    )
    plan.load(indices(case)[:1])
    plan.enqueue(0)
    loss, _ = plan.scores(1)
    return float(loss.mean(dtype=np.float64)), layout.split(gradient.read())
