"""What the peers of a story learn: the bundled digits, by a small network, in real arithmetic.

A story asks two things: how long do rounds take, and how does training come along with these
faults? For the first the sizes on the wire are those of the story's recipe (Sizes). For the second
a network of 64-32-10 learns the digits with the recipe's local steps, batch, codec, error feedback
and outer step, through p2ptrain's own codecs, canonical mean and outer optimiser. So a curve shows
what H local steps, lost contributions and liars do to training, not how the recipe's model learns.

What equal peers compute from equal bytes is computed once (functools.cache): it saves nothing but
time, for equal inputs give equal bits.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import INT8, MalformedShard
from p2ptrain.compress.codecs import CODECS
from p2ptrain.compress.feedback import cut_shards, quantise_with_feedback
from p2ptrain.compress.reduce import WeightedShard, reduce_shard
from p2ptrain.data.shipped import DIGITS_PATH
from p2ptrain.swarm.effects import Term
from p2ptrain.train.outer import (
    OuterConfig,
    initial_state,
    outer_step,
    state_bytes,
    state_from_bytes,
)
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import CODEC_BLOCK, STATE_PIECE_BYTES
from p2ptrain.wire.messages import Norm2
from p2ptrain.wire.shards import merkle_root
from simnet.story import Task
from simnet.story_links import Sizes

Vector = NDArray[np.float32]
Terms = tuple[tuple[int, tuple[bytes, ...]], ...]  # factor and shards of each contribution

INPUTS, HIDDEN, CLASSES = 64, 32, 10
SHARDS_MAX = 8  # of a simulated contribution
SHARD_MESSAGES = 2048  # about as many pieces a round are simulated: more only take longer
PIECES_MAX = 64  # of a simulated state
BATCH_SIMULATED_MAX = 256  # samples in a simulated step; there are 1438 digits to learn from
STEPS_SIMULATED_MAX = 200  # in a round: more learn nothing new from so few digits
MOMENTUM = 0.9
EXACT_ENOUGH = 8  # number of the codec that goes without error feedback
KEPT = 4096  # results remembered: those of the newest rounds


@dataclass(frozen=True, slots=True)
class Marks:
    """How good a state is: mean cross-entropy and accuracy on the digits not learned from."""

    loss: float
    accuracy: float


class Classroom:
    """What all peers of a story share: the digits, the arithmetic, and its results."""

    def __init__(self, task: Task, members: int) -> None:
        self.task = task
        self.codec = CODECS[task.codec]
        self.shards = max(1, min(task.shards, SHARDS_MAX, SHARD_MESSAGES // members**2))
        self.values = CODEC_BLOCK * self.shards
        self.outer = OuterConfig(task.optimizer, task.outer_learning_rate, task.momentum)
        real_state = 4 * task.padded * self.outer.vectors
        self.learned = INPUTS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
        self.pieces = max(1, min(-(-real_state // STATE_PIECE_BYTES), PIECES_MAX))
        self.steps = min(task.local_steps, STEPS_SIMULATED_MAX)
        self.batch = min(task.batch, BATCH_SIMULATED_MAX)
        with np.load(DIGITS_PATH) as digits:
            inputs, labels = _inputs(digits["X"]), digits["y"].astype(np.int64)
        tested = np.arange(len(labels)) % 5 == 4
        self._train = (inputs[~tested], labels[~tested])
        self._test = (inputs[tested], labels[tested])
        self.marks_of: dict[Digest, Marks] = {}  # by what a certificate names a state by
        self.norm2 = lru_cache(KEPT)(self._norm2)
        self.reduce = lru_cache(KEPT)(self._reduce)
        self.steps_off = lru_cache(KEPT)(self._steps_off)
        self.apply = lru_cache(KEPT)(self._apply)

    @property
    def sizes(self) -> Sizes:
        """How much larger everything is in the recipe."""
        growth = self.task.padded / self.values
        return Sizes(growth, growth, growth)

    def initial(self, seed: int) -> bytes:
        """The state of the founding block: He's normal weights, biases of zero."""
        rng = np.random.default_rng(seed)
        first = rng.standard_normal((INPUTS, HIDDEN)) * np.sqrt(2 / INPUTS)
        last = rng.standard_normal((HIDDEN, CLASSES)) * np.sqrt(1 / HIDDEN)
        parts = [first.ravel(), np.zeros(HIDDEN), last.ravel(), np.zeros(CLASSES)]
        parameters = np.zeros(self.values, np.float32)
        weights = np.concatenate(parts).astype(np.float32)
        parameters[: len(weights)] = weights
        return state_bytes(initial_state(self.outer, parameters))

    def learn(self, state: bytes, velocity: Vector, rng: np.random.Generator, steps: int) -> Vector:
        """The pseudo-gradient of a round of local steps; velocity is updated in place."""
        start = state_from_bytes(self.outer, state, self.values).parameters
        parameters = start.copy()
        inputs, labels = self._train
        rate = np.float32(self.task.learning_rate)
        for _ in range(steps):
            drawn = rng.integers(0, len(labels), self.batch)
            gradient = _gradient(parameters, inputs[drawn], labels[drawn])
            velocity *= np.float32(MOMENTUM)
            velocity += gradient
            parameters -= rate * velocity
        return start - parameters

    def examine(self, state: bytes) -> Marks:
        """Marks of a state."""
        parameters = state_from_bytes(self.outer, state, self.values).parameters
        inputs, labels = self._test
        _, scores = _scores(parameters, inputs)
        shifted = scores - scores.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
        right = scores.argmax(axis=1) == labels
        return Marks(float(losses.mean()), float(right.mean()))

    def _norm2(self, shard: bytes) -> Norm2 | None:
        try:
            return Norm2(self.codec.squared_norm(shard))
        except MalformedShard:
            return None

    def _reduce(self, terms: Terms) -> tuple[bytes, ...]:
        shards = range(len(terms[0][1]))
        return tuple(
            reduce_shard(self.codec, [WeightedShard(factor, sent[i]) for factor, sent in terms])
            for i in shards
        )

    def _steps_off(self, terms: Terms, reduced: tuple[bytes, ...]) -> float:
        total = sum(factor for factor, _ in terms)
        off = []
        for i, shard in enumerate(reduced):
            means = (f / total * self.codec.decode(sent[i]).astype(np.float64) for f, sent in terms)
            error = np.abs(sum(means) - INT8.decode(shard)).max()
            step = INT8.quantised(shard).scales.max()
            off.append(float(error / step) if step else 0.0)
        return max(off)

    def _apply(self, state: bytes, reduced: tuple[bytes, ...]) -> bytes:
        gradient = np.concatenate([INT8.decode(shard) for shard in reduced])
        before = state_from_bytes(self.outer, state, self.values)
        after = state_bytes(outer_step(self.outer, before, gradient))
        self.marks_of[merkle_root(self.cut(after))] = self.examine(after)
        return after

    def cut(self, state: bytes) -> tuple[bytes, ...]:
        """A state in pieces for sending."""
        step = -(-len(state) // self.pieces)
        return tuple(state[i : i + step] for i in range(0, len(state), step))


class Pupil:
    """One peer's Arithmetic: its own samples, inner momentum and error feedback."""

    def __init__(self, classroom: Classroom, seed: int, number: int) -> None:
        self.classroom = classroom
        self.codec = classroom.task.codec
        self.shard_bytes = (classroom.codec.shard_bytes(CODEC_BLOCK),) * classroom.shards
        self.piece_count = classroom.pieces
        self.warmup_rounds = 0
        self.warmup_shard_bytes: tuple[int, ...] = ()
        self._seed = seed
        self._rng = np.random.default_rng([seed, number])
        self.share: Callable[[], float] = lambda: 1.0  # of the steps of a round
        self._velocity = np.zeros(classroom.values, np.float32)
        self._residual = np.zeros(classroom.values, np.float32)
        self._lost = self._residual  # by rounding, if the newest contribution counts

    def initial(self) -> bytes:
        """The state of the founding block."""
        return self.classroom.initial(self._seed)

    def contribution(self, state: bytes, rng: random.Random, rounds: int = 0) -> tuple[bytes, ...]:
        """The shards of a round of local steps."""
        del rng, rounds  # which samples come does not depend on what else was drawn
        steps = max(1, round(self.share() * self.classroom.steps))
        gradient = self.classroom.learn(state, self._velocity, self._rng, steps)
        codec = self.classroom.codec
        quantised, lost = quantise_with_feedback(codec, gradient, self._residual)
        self._lost = lost if self.codec != EXACT_ENOUGH else self._residual
        return cut_shards(codec, quantised, CODEC_BLOCK)

    def counted(self) -> None:
        """The newest contribution is in a block: what rounding took from it comes next time."""
        self._residual = self._lost

    def norm2(self, shard: bytes) -> Norm2 | None:
        """As the compute process would find it."""
        return self.classroom.norm2(shard)

    def reduce(self, terms: Sequence[Term]) -> tuple[bytes, ...]:
        """The canonical integer mean."""
        return self.classroom.reduce(tuple((term.factor, term.shards) for term in terms))

    def steps_off(self, terms: Sequence[Term], reduced: Sequence[bytes]) -> float:
        """Beside the mean in float64."""
        given = tuple((term.factor, term.shards) for term in terms)
        return self.classroom.steps_off(given, tuple(reduced))

    def apply(self, state: bytes, reduced: Sequence[bytes]) -> bytes:
        """The outer step."""
        return self.classroom.apply(state, tuple(reduced))

    def pieces(self, state: bytes) -> tuple[bytes, ...]:
        """A state cut for sending."""
        return self.classroom.cut(state)


# --- the network ------------------------------------------------------------------------------
def _inputs(pictures: NDArray[np.generic]) -> Vector:
    """(n, 64) float32, 0 to 1."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    return flat / np.float32(flat.max())


def _layers(parameters: Vector) -> tuple[Vector, Vector, Vector, Vector]:
    """Views: weights (64, 32), biases (32,), weights (32, 10), biases (10,)."""
    ends = np.cumsum([INPUTS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES])
    w1, b1, w2, b2, _ = np.split(parameters, ends)
    return w1.reshape(INPUTS, HIDDEN), b1, w2.reshape(HIDDEN, CLASSES), b2


def _scores(parameters: Vector, inputs: Vector) -> tuple[Vector, Vector]:
    """Hidden values (n, 32) and scores (n, 10)."""
    w1, b1, w2, b2 = _layers(parameters)
    hidden = np.maximum(inputs @ w1 + b1, np.float32(0))
    return hidden, hidden @ w2 + b2


def _gradient(parameters: Vector, inputs: Vector, labels: NDArray[np.int64]) -> Vector:
    """Of the mean cross-entropy over a batch, (n,) like the parameters."""
    hidden, scores = _scores(parameters, inputs)
    scores -= scores.max(axis=1, keepdims=True)
    errors = np.exp(scores)
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1
    errors /= np.float32(len(labels))
    back = (errors @ _layers(parameters)[2].T) * (hidden > 0)
    gradient = np.zeros_like(parameters)
    w1, b1, w2, b2 = _layers(gradient)
    w1[...] = inputs.T @ back
    b1[...] = back.sum(axis=0)
    w2[...] = hidden.T @ errors
    b2[...] = errors.sum(axis=0)
    return gradient
