"""The engine learns: alone and averaged, handwritten digits to 97% of the held-out fifth."""

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from p2ptrain.data.chunks import permutation
from p2ptrain.data.shipped import DIGITS_PATH
from p2ptrain.device.opencl import open_device
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.train.local import Evaluation, LocalResult, Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import InnerConfig

OPERATIONS = open_operations(open_device())
INNER = InnerConfig("sgd", learning_rate=0.2, momentum=0.9, batch=32)
LOCAL_STEPS = 5


def digits() -> TrainingData:
    """The bundled digits with the split of the data set: the last fifth of a fixed order."""
    with np.load(DIGITS_PATH) as arrays:
        x = arrays["X"].reshape(-1, 64).astype(np.float32) / np.float32(16)
        y = arrays["y"].astype(np.int32)
    order = permutation(len(x))
    train, test = order[: -(len(x) // 5)], order[-(len(x) // 5) :]
    return TrainingData(x[train], y[train], x[test], y[test])


def draw(samples: int, form: tuple[int, ...], label: str) -> NDArray[np.int32]:
    """Fixed sample indices, epoch by epoch, from a hash: numpy's generators may change."""
    count = int(np.prod(form))
    epochs = -(-count // samples)
    stream = blake3(label.encode()).digest(length=8 * epochs * samples)
    order = np.argsort(np.frombuffer(stream, "<u8").reshape(epochs, samples), axis=1)
    return order.ravel()[:count].astype(np.int32).reshape(form)


def test_one_peer_learns_the_digits() -> None:
    data = digits()
    trainer = Trainer(OPERATIONS, ModelSpec(), INNER, data, 1)
    start = trainer.initial_parameters()
    untrained = trainer.evaluate(start)
    result = trainer.pseudo_gradient(start, draw(len(data.x), (450, 32), "alone"))
    trained = trainer.evaluate(start - result.gradient)
    assert untrained.accuracy < 0.3
    assert trained.count == 359
    assert trained.accuracy >= 0.97
    assert trained.loss < untrained.loss / 10


def averaged(peers: int, rounds: int, data: TrainingData) -> list[Evaluation]:
    """Rounds of peers that average their pseudo-gradients, the outer step plain."""
    trainer = Trainer(OPERATIONS, ModelSpec(), INNER, data, 1)
    shared = trainer.initial_parameters()
    states = [trainer.inner_state()] * peers
    history = []
    for turn in range(rounds):
        results: list[LocalResult] = []
        indices = draw(len(data.x), (peers, LOCAL_STEPS, INNER.batch), str(turn))
        for peer in range(peers):
            trainer.set_inner_state(states[peer])
            results.append(trainer.pseudo_gradient(shared, indices[peer]))
            states[peer] = trainer.inner_state()
        shared = shared - np.mean([result.gradient for result in results], axis=0)
        history.append(trainer.evaluate(shared))
    return history


def test_three_peers_learn_the_digits_in_forty_rounds() -> None:
    history = averaged(3, 40, digits())
    assert history[-1].accuracy >= 0.97
    assert min(evaluation.accuracy for evaluation in history[-20:]) >= 0.965


def test_adamw_with_gelu_learns_too() -> None:
    data = digits()
    inner = InnerConfig("adamw", learning_rate=0.004, batch=32)
    trainer = Trainer(OPERATIONS, ModelSpec((64, 96, 48, 10), "gelu"), inner, data, 1)
    start = trainer.initial_parameters()
    result = trainer.pseudo_gradient(start, draw(len(data.x), (450, 32), "gelu"))
    assert trainer.evaluate(start - result.gradient).accuracy >= 0.96
