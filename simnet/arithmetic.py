"""What a simulated peer computes: contributions, reductions and states.

The machines handle opaque bytes, so most scenarios use Hashes, an exact stand-in with no vectors
at all: a reduced shard is the hash of the ordered set that went into it, and a state the hash of
its history. That is stricter than real sums, for two different sets never give equal bytes. One
scenario each uses Vectors: a real codec, the real integer mean and float32 parameters.
"""

import random
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from p2ptrain.compress.blocks import INT8, MalformedShard
from p2ptrain.compress.centring import Aggregation, aggregate_shard
from p2ptrain.compress.codecs import CODECS, WARMUP_CODEC
from p2ptrain.compress.reduce import WeightedShard
from p2ptrain.swarm.effects import Term
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.messages import Norm2
from p2ptrain.wire.shards import merkle_root
from simnet import canon

PIECES = 3  # pieces of a stand-in state: more than one, so that a download can be cut in two
WARMUP_ROUNDS = 2  # of scenarios with few levels: both codecs come into every run
SHARDS = 2  # shards of a stand-in contribution


class Arithmetic(Protocol):
    """What a shell needs of a compute process."""

    shard_bytes: tuple[int, ...]
    piece_count: int
    codec: int
    warmup_rounds: int
    warmup_shard_bytes: tuple[int, ...]

    def initial(self) -> bytes:
        """The state of the founding block."""

    def contribution(self, state: bytes, rng: random.Random, rounds: int) -> tuple[bytes, ...]:
        """The shards of one round of local training from a state, after so many rounds."""

    def norm2(self, shard: bytes) -> Norm2 | None:
        """The squared norm of a shard; None if it is malformed."""

    def reduce(self, terms: Sequence[Term]) -> tuple[bytes, ...]:
        """The reduced shards of an ordered set."""

    def steps_off(self, terms: Sequence[Term], reduced: Sequence[bytes]) -> float:
        """How far a reduction is from the mean, in steps of its encoding: half of one at most."""

    def apply(self, state: bytes, reduced: Sequence[bytes]) -> bytes:
        """The next state."""

    def pieces(self, state: bytes) -> tuple[bytes, ...]:
        """A state cut for sending; joined again it is the state."""


def state_digest(arithmetic: Arithmetic, state: bytes) -> Digest:
    """What a certificate says of a state: the Merkle root of its pieces."""
    return merkle_root(arithmetic.pieces(state))


class Hashes:
    """The exact stand-in. A shard is 16 bytes of squared norm and a random tag of 16."""

    def __init__(self, shards: int = SHARDS) -> None:
        self.shard_bytes: tuple[int, ...] = (32,) * shards
        self.piece_count = PIECES
        self.codec = 4
        self.warmup_rounds = 0
        self.warmup_shard_bytes: tuple[int, ...] = ()

    def initial(self) -> bytes:
        """The state of the founding block."""
        return bytes(32 * PIECES)

    def contribution(self, state: bytes, rng: random.Random, rounds: int) -> tuple[bytes, ...]:
        """Random norms between 1 and 9 (in units of 2**-64) and random tags."""
        norms = [rng.randrange(1 << 64, 9 << 64) for _ in self.shard_bytes]
        return tuple(norm.to_bytes(16, "big") + rng.randbytes(16) for norm in norms)

    def norm2(self, shard: bytes) -> Norm2 | None:
        """The norm that the shard carries."""
        return Norm2(int.from_bytes(shard[:16], "big")) if len(shard) == 32 else None

    def reduce(self, terms: Sequence[Term]) -> tuple[bytes, ...]:
        """A hash of the ordered factors and shards."""
        return tuple(
            digest("sum", *(b"%d " % term.factor + term.shards[i] for term in terms))
            for i in range(len(self.shard_bytes))
        )

    def steps_off(self, terms: Sequence[Term], reduced: Sequence[bytes]) -> float:
        """Nothing is near here: a hash is right or wrong, and S3 says which."""
        return 0.0

    def apply(self, state: bytes, reduced: Sequence[bytes]) -> bytes:
        """A hash of the state and the reduced shards."""
        root = digest("step", state, *reduced)
        return b"".join(digest("part", root, bytes([i])) for i in range(PIECES))

    def pieces(self, state: bytes) -> tuple[bytes, ...]:
        """32 bytes each."""
        return tuple(state[i : i + 32] for i in range(0, len(state), 32))


class Vectors:
    """A real codec on 4096 parameters: contributions in it, int8 sums, float32 states."""

    values = 4096

    def __init__(self, codec: int, rule: Aggregation = "mean") -> None:
        """codec: its number; rule: how a set becomes one vector."""
        self.codec = codec
        self.rule: Aggregation = rule
        self.piece_count = 4
        self.shard_bytes: tuple[int, ...] = (CODECS[codec].shard_bytes(self.values),)
        self.warmup_rounds = 0 if codec in (4, 8) else WARMUP_ROUNDS
        self.warmup_shard_bytes: tuple[int, ...] = (WARMUP_CODEC.shard_bytes(self.values),)
        self._of_length = {CODECS[n].shard_bytes(self.values): CODECS[n] for n in CODECS}

    def initial(self) -> bytes:
        """Zeros."""
        return bytes(4 * self.values)

    def contribution(self, state: bytes, rng: random.Random, rounds: int) -> tuple[bytes, ...]:
        """A pseudo-gradient that pulls every parameter to 1, with noise of a tenth."""
        noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(self.values, np.float32)
        gradient = np.frombuffer(state, "<f4") - np.float32(1) + np.float32(0.1) * noise
        codec = WARMUP_CODEC if rounds < self.warmup_rounds else CODECS[self.codec]
        return (codec.encode(gradient.astype(np.float32)),)

    def norm2(self, shard: bytes) -> Norm2 | None:
        """As the compute process would find it."""
        try:
            return Norm2(self._of_length[len(shard)].squared_norm(shard))
        except MalformedShard:
            return None

    def reduce(self, terms: Sequence[Term]) -> tuple[bytes, ...]:
        """The canonical integer mean, clipped or not."""
        codec = self._of_length[len(terms[0].shards[0])]
        weighted = [WeightedShard(t.factor, t.shards[0]) for t in terms]
        return (aggregate_shard(codec, weighted, self.rule),)

    def steps_off(self, terms: Sequence[Term], reduced: Sequence[bytes]) -> float:
        """Beside the mean in float64, which is what the integers stand for."""
        decode = self._of_length[len(terms[0].shards[0])].decode
        vectors = [decode(t.shards[0]).astype(np.float64) for t in terms]
        mean = canon.mean if self.rule == "mean" else canon.centred
        error = np.abs(mean([t.factor for t in terms], vectors) - INT8.decode(reduced[0])).max()
        return float(error / INT8.quantised(reduced[0]).scales.max())

    def apply(self, state: bytes, reduced: Sequence[bytes]) -> bytes:
        """The plain outer step with learning rate 1."""
        gradient = INT8.decode(reduced[0])
        return (np.frombuffer(state, "<f4") - gradient).astype("<f4").tobytes()

    def pieces(self, state: bytes) -> tuple[bytes, ...]:
        """4 KiB each."""
        return tuple(state[i : i + 4096] for i in range(0, len(state), 4096))


def arithmetic_of(codec: int, rule: Aggregation) -> Arithmetic:
    """Real vectors in the codec of that number, averaged by a rule; 0: the stand-in."""
    return Vectors(codec, rule) if codec else Hashes()
