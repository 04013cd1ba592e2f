"""Plans, optimisers and the trainer, held bit for bit to a step written in numpy."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from p2ptrain.device import reference, reference_loss, reference_optim
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.reference_math import flush_tiny
from p2ptrain.errors import ConfigError
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.train.local import STEPS_AT_ONCE, RoundMoment, Trainer, TrainingData, steps_at_once
from p2ptrain.train.optimizers import InnerConfig, adamw_scalars, next_powers, sgd_scalars
from p2ptrain.train.schedules import rate

Floats = NDArray[np.float32]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
SPEC = ModelSpec((5, 7, 33, 3), "relu")
SAMPLES = 40


def toy_data(spec: ModelSpec = SPEC, test_samples: int = 9) -> TrainingData:
    x = reference.philox_uniform((SAMPLES + test_samples) * spec.inputs, 1, 1, np.float32(1))
    x = x.reshape(-1, spec.inputs)
    y = (np.arange(len(x)) * 5 % spec.classes).astype(np.int32)
    return TrainingData(x[:SAMPLES], y[:SAMPLES], x[SAMPLES:], y[SAMPLES:])


def make_trainer(
    spec: ModelSpec = SPEC, inner: InnerConfig | None = None, operations: Operations = OPERATIONS
) -> Trainer:
    return Trainer(operations, spec, inner or InnerConfig(batch=3), toy_data(spec), 1)


def some_indices(steps: int, batch: int) -> NDArray[np.int32]:
    return (np.arange(steps * batch, dtype=np.int32).reshape(steps, batch) * 7) % SAMPLES


def same_bits(a: Floats, b: Floats) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


# --- a step in numpy ---------------------------------------------------------------------------


class NumpyTrainer:
    """The training step again, from the twins alone."""

    def __init__(self, spec: ModelSpec, inner: InnerConfig, data: TrainingData) -> None:
        self.spec, self.inner, self.data = spec, inner, data
        self.x = data.x.astype(np.float32)
        self.first = np.zeros(spec.layout.padded_size, np.float32)
        self.second = np.zeros_like(self.first)
        self.powers = (1.0, 1.0)

    def forward(self, vector: Floats, x: Floats) -> tuple[list[Floats], list[Floats]]:
        """Inputs and values before the activation of each layer."""
        tensors = self.spec.layout.split(vector)
        activation = reference.relu if self.spec.activation == "relu" else reference.gelu
        inputs, before = [x], []
        for i in range(len(self.spec.layers) - 1):
            z = reference.gemm(inputs[-1], tensors[f"layer{i}.weight"].T)
            before.append(flush_tiny(z + tensors[f"layer{i}.bias"]))
            inputs.append(activation(before[-1]))
        return inputs[:-1], before

    def gradient(self, vector: Floats, index: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Flat gradient of the mean loss, and the losses."""
        x, y = reference.gather_rows(self.x, self.data.y, index)
        inputs, before = self.forward(vector, x)
        scale = np.float32(1) / np.float32(len(index))
        d, loss, _ = reference_loss.softmax_xent(before[-1], y, scale)
        backward = (
            reference.relu_backward if self.spec.activation == "relu" else reference.gelu_backward
        )
        tensors = self.spec.layout.split(vector)
        found: dict[str, Floats] = {}
        for i in reversed(range(len(before))):
            found[f"layer{i}.weight"] = reference.gemm(d.T, inputs[i])
            found[f"layer{i}.bias"] = reference.column_sums(d)
            if i:
                d = backward(before[i - 1], reference.gemm(d, tensors[f"layer{i}.weight"]))
        return self.spec.layout.join(found), loss

    def step(self, vector: Floats, index: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Parameters after one step, and the losses."""
        gradient, loss = self.gradient(vector, index)
        mask, now = self.spec.layout.decay_mask(), rate(self.inner.course, 0)
        if self.inner.optimizer == "sgd":
            scalars = sgd_scalars(self.inner, now)
            vector, self.first = reference_optim.sgd_step(
                vector, gradient, self.first, mask, scalars
            )
            return vector, loss
        self.powers = next_powers(self.inner, self.powers)
        state = (vector, self.first, self.second)
        scalars = adamw_scalars(self.inner, now, self.powers)
        vector, self.first, self.second = reference_optim.adamw_step(state, gradient, mask, scalars)
        return vector, loss


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("layers", [(5, 7, 33, 3), (70, 300, 12), (4, 2), (1, 1, 1, 2)])
@pytest.mark.parametrize("batch", [1, 13])
def test_local_steps_have_the_bits_of_the_steps_in_numpy(
    optimizer: str, activation: str, layers: tuple[int, ...], batch: int
) -> None:
    spec = ModelSpec(layers, activation)
    inner = InnerConfig(optimizer, learning_rate=0.05, weight_decay=0.01, batch=batch)
    trainer, twin = make_trainer(spec, inner), NumpyTrainer(spec, inner, toy_data(spec))
    start = trainer.initial_parameters()
    indices = some_indices(3, batch)
    result = trainer.pseudo_gradient(start, indices)

    vector, losses = start, []
    for index in indices:
        vector, loss = twin.step(vector, index)
        losses.append(loss)
    assert same_bits(trainer.parameters(), vector)
    assert same_bits(result.gradient, start - vector)
    assert result.loss_mean == np.mean(losses, dtype=np.float64)
    assert result.samples == 3 * batch
    state = trainer.inner_state()
    assert state.step_count == 3
    assert same_bits(state.first, twin.first)
    if optimizer == "adamw":
        assert same_bits(state.second, twin.second)


def test_the_gradient_in_numpy_is_the_slope_of_the_loss() -> None:
    """Against differences of the loss in float64: the twin could be wrong as the kernel is."""
    spec = ModelSpec((4, 6, 5, 3), "gelu")
    data = toy_data(spec)
    twin = NumpyTrainer(spec, InnerConfig(), data)
    index = np.arange(8, dtype=np.int32)
    vector = make_trainer(spec).initial_parameters()
    gradient, _ = twin.gradient(vector, index)

    def loss(point: NDArray[np.float64]) -> float:
        tensors = {
            name: point[start : start + tensor.size].reshape(tensor.shape)
            for tensor, (name, start) in zip(
                spec.layout.tensors, spec.layout.offsets.items(), strict=True
            )
        }
        a = data.x[index].astype(np.float64)
        for i, _ in enumerate(pairwise(spec.layers)):
            z = a @ tensors[f"layer{i}.weight"].T + tensors[f"layer{i}.bias"]
            a = z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        log_sum = np.log(np.exp(z).sum(axis=1))
        return float((log_sum - z[np.arange(8), data.y[index]]).mean())

    point = vector.astype(np.float64)
    for i in range(spec.layout.size):
        ahead, behind = point.copy(), point.copy()
        ahead[i] += 1e-5
        behind[i] -= 1e-5
        assert gradient[i] == pytest.approx((loss(ahead) - loss(behind)) / 2e-5, abs=2e-6)


# --- the trainer -------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_bits_and_kernels_without_contraction_too() -> None:
    plain = Operations(KernelLibrary(DEVICE, contracted_fma=False))
    results = []
    for operations in (OPERATIONS, OPERATIONS, plain):
        trainer = make_trainer(operations=operations)
        start = trainer.initial_parameters()
        results.append(trainer.pseudo_gradient(start, some_indices(20, 3)).gradient)
    assert results[0].any()
    assert all(same_bits(results[0], result) for result in results[1:])


def test_the_padding_of_a_pseudo_gradient_is_zero() -> None:
    trainer = make_trainer()
    result = trainer.pseudo_gradient(trainer.initial_parameters(), some_indices(5, 3))
    assert not result.gradient[SPEC.layout.size :].view(np.uint32).any()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restored_inner_state_repeats_a_contribution(optimizer: str) -> None:
    trainer = make_trainer(inner=InnerConfig(optimizer, learning_rate=0.05, batch=3))
    start = trainer.initial_parameters()
    trainer.pseudo_gradient(start, some_indices(4, 3))
    state = trainer.inner_state()
    first = trainer.pseudo_gradient(start, some_indices(2, 3))
    second = trainer.pseudo_gradient(start, some_indices(2, 3))
    trainer.set_inner_state(state)
    again = trainer.pseudo_gradient(start, some_indices(2, 3))
    assert same_bits(first.gradient, again.gradient)
    assert not same_bits(first.gradient, second.gradient)


def test_steps_end_early_when_asked_and_say_how_many_there_were() -> None:
    trainer = make_trainer()
    start = trainer.initial_parameters()
    answers = iter([False, True])
    indices = some_indices(3 * STEPS_AT_ONCE, 3)
    result = trainer.pseudo_gradient(start, indices, lambda: next(answers))
    assert result.samples == 3 * STEPS_AT_ONCE
    whole = make_trainer().pseudo_gradient(start, indices[:STEPS_AT_ONCE])
    assert same_bits(result.gradient, whole.gradient)


def test_a_large_model_is_looked_at_after_every_step() -> None:
    assert steps_at_once(ModelSpec((64, 256, 10)), 32) == STEPS_AT_ONCE
    assert steps_at_once(ModelSpec((784, 2048, 2048, 10)), 128) == 1


def test_no_step_at_all_is_a_zero_pseudo_gradient() -> None:
    trainer = make_trainer()
    result = trainer.pseudo_gradient(trainer.initial_parameters(), some_indices(4, 3), lambda: True)
    assert result.samples == 0
    assert not result.gradient.any()
    assert np.isnan(result.loss_mean)


@pytest.mark.parametrize("test_samples", [1, 256, 300])
def test_evaluation_counts_each_held_out_sample_once(test_samples: int) -> None:
    data = toy_data(SPEC, test_samples)
    trainer = Trainer(OPERATIONS, SPEC, InnerConfig(batch=3), data, 1)
    vector = trainer.initial_parameters()
    _, before = NumpyTrainer(SPEC, InnerConfig(), data).forward(
        vector, data.test_x.astype(np.float32)
    )
    _, loss, correct = reference_loss.softmax_xent(before[-1], data.test_y, np.float32(1))
    found = trainer.evaluate(vector)
    assert found.count == test_samples
    assert found.accuracy == correct.sum() / test_samples
    assert found.loss == pytest.approx(loss.mean(dtype=np.float64), rel=1e-12)


def test_evaluation_leaves_training_alone() -> None:
    trainer = make_trainer()
    start = trainer.initial_parameters()
    trainer.set_parameters(start)
    trainer.evaluate(np.zeros_like(start))
    assert same_bits(trainer.parameters(), start)


def test_a_training_that_diverges_shows_it() -> None:
    trainer = make_trainer(inner=InnerConfig(learning_rate=900, batch=3))
    result = trainer.pseudo_gradient(trainer.initial_parameters(), some_indices(60, 3))
    assert not np.isfinite(result.gradient).all()


@pytest.mark.parametrize(
    "indices",
    [
        np.zeros((2, 4), np.int32),
        np.zeros((2, 3), np.int64),
        np.zeros(3, np.int32),
        np.full((1, 3), SAMPLES, np.int32),
        np.full((1, 3), -1, np.int32),
    ],
    ids=["batch", "dtype", "rank", "above", "below"],
)
def test_indices_that_do_not_fit_are_refused(indices: NDArray[np.int32]) -> None:
    trainer = make_trainer()
    with pytest.raises(ValueError, match="indices"):
        trainer.pseudo_gradient(trainer.initial_parameters(), indices)


def test_data_that_does_not_fit_the_model_is_refused_with_what_to_do() -> None:
    data = toy_data()
    for spec, advice in (
        (ModelSpec((6, 3)), "set the first of layers to 5"),
        (ModelSpec((5, 2)), "set the last of layers to 3"),
    ):
        with pytest.raises(ConfigError, match=advice):
            Trainer(OPERATIONS, spec, InnerConfig(), data, 1)
    empty = TrainingData(data.x, data.y, data.test_x[:0], data.test_y[:0])
    with pytest.raises(ConfigError, match="no samples"):
        Trainer(OPERATIONS, SPEC, InnerConfig(), empty, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lamb"},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"beta2": -0.1},
        {"epsilon": 0.0},
        {"weight_decay": -1.0},
        {"batch": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_inner_settings_outside_their_ranges_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        InnerConfig(**wrong)  # type: ignore[arg-type]


STEPS = """
import hashlib
import numpy as np
from p2ptrain.device.opencl import open_device
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.train.local import Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import InnerConfig
x = (np.arange(640 * 64).reshape(640, 64) * 37 % 101 / 101).astype(np.float32)
y = (np.arange(640) * 3 % 10).astype(np.int32)
inner = InnerConfig(batch=64)
trainer = Trainer(open_operations(open_device()), ModelSpec(), inner, TrainingData(x, y, x, y), 1)
indices = np.arange(640, dtype=np.int32).reshape(10, 64)
gradient = trainer.pseudo_gradient(trainer.initial_parameters(), indices).gradient
print(hashlib.sha256(gradient.tobytes()).hexdigest())
"""


def test_training_has_the_same_bits_on_one_thread_and_on_two() -> None:
    hashes = set()
    for threads in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", STEPS],
            env={**os.environ, "POCL_MAX_PTHREAD_COUNT": threads},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        hashes.add(done.stdout)
    assert len(hashes) == 1


def test_a_round_of_more_steps_than_the_recipes_passes_through_as_much_of_the_schedule() -> None:
    moment = RoundMoment(first_step=40, round_steps=4)
    assert [moment.step(i, 8) for i in range(8)] == [40, 40, 41, 41, 42, 42, 43, 43]
    assert [moment.step(i, 4) for i in range(4)] == [40, 41, 42, 43]
    assert [moment.step(i, 2) for i in range(2)] == [40, 41], "a slow peer takes the first ones"
    assert RoundMoment(40).step(9, 10) == 49
