"""What members that collude do to a run, under each rule of averaging.

    python -m benchmarks.collusion [--peers 16 --liars 3] [--rounds 40] [--seeds 3] [--only alie]

In one process, PEERS train the bundled digits (MLP 64-256-10, H = 5, int4 with error feedback), and
all but the liars do it honestly. What a round makes of the contributions is p2ptrain's own code:
codec, declared norms, refusals, norm limit, factors, integer mean. The liars know every honest
contribution of the round before they send theirs, and agree on it. The rules:

  plain   the mean of all that is well formed: the control
  mean    norm limit and capped weights: averaging.aggregation = "mean"
  clip    the same, then centred clipping: averaging.aggregation = "centered-clip"

Accuracy alone hides capture: a run may learn well and go where the liars want. So beside the
accuracy at the end stands how far the applied mean is from the mean of the honest contributions
alone, over the honest's own median distance from it: the median and the largest of all rounds
after the first. Below 1, the mean is where an honest contribution might be. "refused" counts
contributions that nobody counts in (malformed, or of an absurd norm: averaging 2.8 and 3.3).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.codecs import Task, digits
from p2ptrain.compress.blocks import INT4, INT8, MalformedShard
from p2ptrain.compress.centring import Aggregation, aggregate_shard
from p2ptrain.compress.feedback import quantise_with_feedback
from p2ptrain.compress.reduce import FACTOR_MAX, WeightedShard
from p2ptrain.device.opencl import open_device
from p2ptrain.swarm.weights import factors, limit2_of_round, norm2_max_of_round
from p2ptrain.train.local import Trainer, open_operations
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import LIMIT_ROUNDS
from p2ptrain.wire.messages import Entry, Norm2
from p2ptrain.wire.peer_id import PeerId

Vector = NDArray[np.float32]
Attack = Callable[[Sequence[Vector], Vector, np.random.Generator], Vector]

NORM_MAX2 = 100 << 64  # norm_max = 10, as in the recipe of the demo
ALIE_DEVIATIONS = 1.0  # Baruch et al. derive 0.1 for 3 of 16: harmless; one is what hides easily
IPM_LENGTH = 0.1
RULES: dict[str, Aggregation] = {"mean": "mean", "clip": "centered-clip", "plain": "mean"}


def agreed(honest: Sequence[Vector], own: Vector, rng: np.random.Generator) -> Vector:
    """All liars of all rounds pull along one direction, as strongly as honest work does."""
    direction = np.random.default_rng(99).standard_normal(len(own))
    length = np.median([np.linalg.norm(vector) for vector in honest])
    return np.asarray(direction * length / np.linalg.norm(direction), np.float32)


def noise(honest: Sequence[Vector], own: Vector, rng: np.random.Generator) -> Vector:
    """Each liar its own noise, ten times as long as honest work."""
    drawn = rng.standard_normal(len(own), np.float32)
    return np.asarray(drawn * (10 * np.linalg.norm(own) / np.linalg.norm(drawn)), np.float32)


def mean_of(honest: Sequence[Vector]) -> Vector:
    """In float64, rounded once."""
    return np.asarray(np.mean(honest, axis=0, dtype=np.float64), np.float32)


def alie(honest: Sequence[Vector], own: Vector, rng: np.random.Generator) -> Vector:
    """A little is enough (arXiv:1902.06156): the mean less a deviation, in every value."""
    deviations = np.std(honest, axis=0)
    return np.asarray(mean_of(honest) - ALIE_DEVIATIONS * deviations, np.float32)


ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "sign flip": lambda honest, own, rng: -own,
    "sign flip x1e6": lambda honest, own, rng: np.float32(-1e6) * own,
    "sign flip x100": lambda honest, own, rng: np.float32(-100) * own,
    "ALIE": alie,
    "IPM 0.1": lambda honest, own, rng: np.float32(-IPM_LENGTH) * mean_of(honest),
    "IPM 1": lambda honest, own, rng: -mean_of(honest),
    "agreed direction": agreed,
    "noise x10": noise,
    "NaN": lambda honest, own, rng: np.full_like(own, np.nan),
}


def entry_of(norm2: int) -> Entry:
    """A contribution of one sample, of which only the norm is looked at."""
    return Entry(PeerId(""), Digest(b""), 1, Norm2(norm2), Digest(b""), 1)


@dataclass(slots=True)
class Group:
    """The contributions of a round under one rule, and what is remembered between rounds."""

    rule: str
    limits2: list[int] = field(default_factory=list)
    refused: int = 0

    def averaged(self, sent: Sequence[bytes]) -> Vector:
        """What all apply."""
        norms2 = [self._norm2(shard) for shard in sent]
        good = [(shard, n) for shard, n in zip(sent, norms2, strict=True) if n is not None]
        self.refused += len(sent) - len(good)
        shards, measured = [shard for shard, _ in good], [n for _, n in good]
        counts = [FACTOR_MAX] * len(good)
        if self.rule != "plain":
            limit2 = limit2_of_round(measured, self.limits2, NORM_MAX2)
            counts = list(factors([entry_of(norm2) for norm2 in measured], limit2))
            self.limits2 = [*self.limits2, limit2][-LIMIT_ROUNDS:]
        terms = [WeightedShard(f, s) for f, s in zip(counts, shards, strict=True)]
        return INT8.decode(aggregate_shard(INT4, terms, RULES[self.rule]))

    def _norm2(self, shard: bytes) -> int | None:
        try:
            norm2 = INT4.squared_norm(shard)
        except MalformedShard:
            return None
        most = norm2_max_of_round(self.limits2, NORM_MAX2)
        return norm2 if self.rule == "plain" or norm2 <= most else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: accuracy at the end, distances of its rounds, contributions refused."""

    accuracy: float
    distances: tuple[float, ...]
    refused: int


@dataclass(frozen=True, slots=True)
class Swarm:
    """Who takes part, and for how long."""

    peers: int
    liars: int
    rounds: int


def shard_of(vector: Vector) -> bytes:
    """int4 bytes, also of what no honest peer sends."""
    if np.isfinite(vector).all():
        return INT4.encode(vector)
    shard = INT4.encode(np.ones_like(vector))
    return np.array([np.nan], "<f4").tobytes() + shard[4:]


def run(
    trainer: Trainer, task: Task, group: Group, swarm: Swarm, attack: str, seed: int
) -> Outcome:
    """Train, with the last members lying."""
    rng, theirs = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    shared = trainer.initial_parameters()
    states = [trainer.inner_state()] * swarm.peers
    residuals = [np.zeros_like(shared)] * swarm.peers
    lie, distances = ATTACKS[attack], []
    for _ in range(swarm.rounds):
        drawn = (swarm.peers, task.local_steps, task.inner.batch)
        indices = rng.integers(0, len(task.data.x), drawn).astype(np.int32)
        sent = []
        for peer in range(swarm.peers):
            trainer.set_inner_state(states[peer])
            work = trainer.pseudo_gradient(shared, indices[peer]).gradient
            states[peer] = trainer.inner_state()
            blocks, residuals[peer] = quantise_with_feedback(INT4, work, residuals[peer])
            sent.append(INT4.join(blocks))
        decoded = [INT4.decode(shard) for shard in sent]
        honest = decoded if lie is None else decoded[: swarm.peers - swarm.liars]
        if lie is not None:
            for liar in range(len(honest), swarm.peers):
                with np.errstate(over="ignore"):
                    sent[liar] = shard_of(lie(honest, decoded[liar], theirs))
        applied = group.averaged(sent)
        distances.append(distance(applied, honest))
        shared = shared - applied
        if not np.isfinite(shared).all() or np.abs(shared).max() > 1e9:
            return Outcome(float("nan"), tuple(distances), group.refused)
    return Outcome(trainer.evaluate(shared).accuracy, tuple(distances), group.refused)


def distance(applied: Vector, honest: Sequence[Vector]) -> float:
    """Of a mean from that of the honest, over the median distance of the honest from it."""
    centre = np.mean(honest, axis=0, dtype=np.float64)
    spread = np.median([np.linalg.norm(vector - centre) for vector in honest])
    return float(np.linalg.norm(applied - centre) / spread)


def say(line: str) -> None:
    """Print it at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def line_of(attack: str, rule: str, outcomes: Sequence[Outcome], unharmed: float) -> str:
    """One line of the table."""
    accuracy = 100 * float(np.mean([outcome.accuracy for outcome in outcomes]))
    distances = [d for outcome in outcomes for d in outcome.distances[1:]]
    median, most = (np.median(distances), max(distances)) if distances else (np.nan, np.nan)
    refused = sum(outcome.refused for outcome in outcomes)
    return (
        f"| {attack:16} | {rule:5} | {accuracy:7.2f} | {accuracy - unharmed:+7.2f} | {median:8.3g} "
        f"| {most:8.3g} | {refused:7} |"
    )


def measure(swarm: Swarm, seeds: int, attacks: Sequence[str]) -> None:
    """Print a table."""
    task, operations = digits(), open_operations(open_device())
    say(f"{swarm.liars} of {swarm.peers} lie; {swarm.rounds} rounds, {seeds} seeds")
    say("| attack           | rule  | accuracy | change | distance | largest | refused |")
    say("|---|---|---:|---:|---:|---:|---:|")
    unharmed: dict[str, float] = {}
    for attack in attacks:
        for rule in RULES:
            outcomes = []
            for seed in range(seeds):
                trainer = Trainer(operations, task.network, task.inner, task.data, seed)
                outcomes.append(run(trainer, task, Group(rule), swarm, attack, seed))
            if attack == "none":
                unharmed[rule] = 100 * float(np.mean([o.accuracy for o in outcomes]))
            say(line_of(attack, rule, outcomes, unharmed["mean"]))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=int, default=16)
    parser.add_argument("--liars", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(ATTACKS), help="attacks, parted by commas")
    given = parser.parse_args()
    attacks = list(dict.fromkeys(["none", *given.only.split(",")]))
    measure(Swarm(given.peers, given.liars, given.rounds), given.seeds, attacks)


if __name__ == "__main__":
    main()
