"""What a codec costs in loss and saves in bytes, after equal samples.

    python -m benchmarks.codecs [--model digits|gpt] [--seeds 3] [--rounds 40] [--codecs int8,int4]

PEERS peers train one network as a swarm does, in one process: H local steps each, error feedback,
codec, integer mean, plain outer step; `fp32` averages the pseudo-gradients as they are. All codecs
of a seed start from the same parameters and see the same samples. The held-out loss at the end is
printed beside its difference to fp32 (mean over the seeds, and the largest of them), the accuracy,
and bytes a value of a contribution, warm-up apart.

digits  MLP 64-256-10 on the bundled digits, SGD with momentum, batch 32, H = 5
gpt     2 blocks of 64 channels (107k parameters) on the bundled Shakespeare, AdamW, 12 x 64, H = 10
"""

import argparse
import bz2
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import BlockCodec
from p2ptrain.compress.codecs import CODECS, REDUCED_CODEC, WARMUP_CODEC
from p2ptrain.compress.feedback import quantise_with_feedback
from p2ptrain.compress.reduce import FACTOR_MAX, WeightedShard, reduce_shard
from p2ptrain.config import FEW_LEVELS_WARMUP_ROUNDS
from p2ptrain.data.chunks import permutation
from p2ptrain.data.shipped import DIGITS_PATH, SHAKESPEARE_PATH
from p2ptrain.device.opencl import open_device
from p2ptrain.model.batches import Network
from p2ptrain.model.gpt import GptSpec
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.train.local import Evaluation, Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import InnerConfig
from p2ptrain.wire.limits import CODEC_BLOCK, TOPK_KEPT

PEERS = 4
HELD_OUT = 20_000  # characters of the text
NAMES = {"int8": 8, "int4": 4, "int2": 2, **{f"topk{k}": CODEC_BLOCK + k for k in TOPK_KEPT}}

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned, and how."""

    network: Network
    inner: InnerConfig
    data: TrainingData
    local_steps: int


@dataclass(frozen=True, slots=True)
class Way:
    """How pseudo-gradients travel: codec None is fp32; the first rounds are in int8."""

    name: str
    codec: BlockCodec | None
    warmup_rounds: int = 0

    @property
    def bytes_a_value(self) -> float:
        """Of a contribution behind the warm-up."""
        return self.codec.shard_bytes(CODEC_BLOCK) / CODEC_BLOCK if self.codec else 4.0


def digits() -> Task:
    """The demo of p2ptrain."""
    with np.load(DIGITS_PATH) as arrays:
        x = arrays["X"].reshape(-1, 64).astype(np.float32) / np.float32(16)
        y = arrays["y"].astype(np.int32)
    order = permutation(len(x))
    train, test = order[: -(len(x) // 5)], order[-(len(x) // 5) :]
    data = TrainingData(x[train], y[train], x[test], y[test])
    return Task(ModelSpec(), InnerConfig("sgd", learning_rate=0.1, momentum=0.9, batch=32), data, 5)


def gpt() -> Task:
    """A language model that two cores can train in minutes."""
    text = np.frombuffer(bz2.decompress(SHAKESPEARE_PATH.read_bytes()), np.uint8)
    characters, tokens = np.unique(text, return_inverse=True)
    stream, none = tokens.astype(np.uint8), np.zeros(0, np.int32)
    data = TrainingData(stream[:-HELD_OUT], none, stream[-HELD_OUT:], none)
    network = GptSpec(2, 4, 64, 64, len(characters))
    inner = InnerConfig("adamw", learning_rate=2e-3, beta2=0.99, batch=12, clip_norm=1.0)
    return Task(network, inner, data, 10)


TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "gpt": gpt}


def mean_of(gradients: Iterable[Vector], residuals: list[Vector], way: Way, turn: int) -> Vector:
    """What all peers apply; the residuals are replaced."""
    if way.codec is None:
        return np.asarray(np.mean(list(gradients), axis=0), np.float32)
    codec = WARMUP_CODEC if turn < way.warmup_rounds else way.codec
    terms = []
    for peer, gradient in enumerate(gradients):
        if codec.reset_rounds and turn % codec.reset_rounds == 0:
            residuals[peer] = np.zeros_like(gradient)
        blocks, residuals[peer] = quantise_with_feedback(codec, gradient, residuals[peer])
        terms.append(WeightedShard(FACTOR_MAX, codec.join(blocks)))
    return REDUCED_CODEC.decode(reduce_shard(codec, terms))


def trained(trainer: Trainer, task: Task, way: Way, seed: int, rounds: int) -> Evaluation:
    """A run in one process, judged at its end."""
    rng = np.random.default_rng(seed)
    shared = trainer.initial_parameters()
    states = [trainer.inner_state()] * PEERS
    residuals = [np.zeros_like(shared)] * PEERS
    samples = len(task.data.x) - getattr(task.network, "context", 0)
    for turn in range(rounds):
        form = (PEERS, task.local_steps, task.inner.batch)
        indices = rng.integers(0, samples, form).astype(np.int32)
        gradients = []
        for peer in range(PEERS):
            trainer.set_inner_state(states[peer])
            gradients.append(trainer.pseudo_gradient(shared, indices[peer]).gradient)
            states[peer] = trainer.inner_state()
        shared = shared - mean_of(gradients, residuals, way, turn)
    return trainer.evaluate(shared)


def say(line: str) -> None:
    """Print it at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def measure(task: Task, ways: list[Way], seeds: int, rounds: int) -> None:
    """Print a table."""
    results: dict[str, list[Evaluation]] = {way.name: [] for way in ways}
    operations = open_operations(open_device())
    for seed in range(seeds):
        sys.stderr.write(f"seed {seed + 1} of {seeds}\n")
        trainer = Trainer(operations, task.network, task.inner, task.data, seed)
        fresh = trainer.inner_state()
        for way in ways:
            trainer.set_inner_state(fresh)
            results[way.name].append(trained(trainer, task, way, seed, rounds))
    reference = np.array([result.loss for result in results["fp32"]])
    say(f"{task.network.layout.size:,} parameters, {PEERS} peers, H = {task.local_steps}, "
        f"{rounds} rounds, {seeds} seeds")  # fmt: skip
    say("codec    bytes/value    loss  against fp32  worst seed  accuracy")
    for way in ways:
        loss = np.array([result.loss for result in results[way.name]])
        accuracy = np.mean([result.accuracy for result in results[way.name]])
        more = loss - reference
        say(f"{way.name:8} {way.bytes_a_value:11.4f} {loss.mean():7.4f} {more.mean():+13.4f} "
            f"{more.max():+11.4f} {accuracy:9.4f}")  # fmt: skip


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=TASKS, default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--codecs", default="int8,int4,int2,topk128,topk512")
    parser.add_argument("--warmup", type=int, default=FEW_LEVELS_WARMUP_ROUNDS,
                        help="first rounds of int2 and topk, in int8")  # fmt: skip
    arguments = parser.parse_args()
    ways = [Way("fp32", None)]
    for name in arguments.codecs.split(","):
        codec = CODECS[NAMES[name]]
        few = codec.number not in (4, 8)
        ways.append(Way(name, codec, arguments.warmup if few else 0))
    measure(TASKS[arguments.model](), ways, arguments.seeds, arguments.rounds)


if __name__ == "__main__":
    main()
