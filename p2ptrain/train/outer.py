"""The outer optimiser: the averaged pseudo-gradient moves the shared parameters.

Two forms; every operation below is one float32 operation rounded by itself, value by value, in
the order written, so that all peers get the same bits from the same averages:

    plain      p' = p - lr g
    nesterov   u' = mu u + g          torch's SGD with nesterov=True and dampening 0
               p' = p - lr (g + mu u')

A result below 2**-63 is +0, as everywhere in the engine (kernels/common.cl): momentum that nothing
feeds any more would otherwise sink into denormal numbers.

The state is what peers certify, keep and hand to joiners: the parameters, padded to whole codec
blocks, then (nesterov only) the momentum u. Its digest is the Merkle root over its bytes in
pieces of STATE_PIECE_BYTES, so that a joiner can check each piece. protocol/codecs.md section 7.

Douillard et al., DiLoCo, 2023, arXiv:2311.08105; Sutskever et al., On the importance of
initialization and momentum in deep learning, 2013.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import TINY, NotFinite
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import STATE_PIECE_BYTES
from p2ptrain.wire.shards import merkle_root

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OuterConfig:
    """The recipe's [outer]."""

    optimizer: Literal["plain", "nesterov"]
    learning_rate: float
    momentum: float

    @property
    def vectors(self) -> int:
        """Vectors in a state."""
        return 2 if self.optimizer == "nesterov" else 1


@dataclass(frozen=True, slots=True)
class State:
    """The shared state after a block; never written to.

    parameters  (n,) float32, n a multiple of CODEC_BLOCK
    momentum    (n,) float32 for nesterov, else None
    """

    parameters: Vector
    momentum: Vector | None


def initial_state(config: OuterConfig, parameters: Vector) -> State:
    """The state of the founding block: momentum starts from zero."""
    momentum = np.zeros_like(parameters) if config.vectors == 2 else None
    return State(parameters, momentum)


def outer_step(config: OuterConfig, state: State, gradient: Vector) -> State:
    """The state after an averaged pseudo-gradient, (n,) float32. Raises NotFinite."""
    learning_rate = np.float32(config.learning_rate)
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        if state.momentum is None:
            momentum = None
            parameters = state.parameters - learning_rate * gradient
        else:
            mu = np.float32(config.momentum)
            momentum = mu * state.momentum + gradient
            parameters = state.parameters - learning_rate * (gradient + mu * momentum)
    if not np.isfinite(parameters).all() or not (momentum is None or np.isfinite(momentum).all()):
        raise NotFinite("the parameters are not finite after the outer step")
    return State(_flush(parameters), None if momentum is None else _flush(momentum))


def _flush(vector: Vector) -> Vector:
    return np.where(np.abs(vector) < TINY, np.float32(0), vector)


def state_bytes(state: State) -> bytes:
    """The state as float32-LE: parameters, then momentum."""
    vectors = [state.parameters] if state.momentum is None else [state.parameters, state.momentum]
    return b"".join(vector.astype("<f4", copy=False).tobytes() for vector in vectors)


def state_from_bytes(config: OuterConfig, content: bytes, values: int) -> State:
    """The state that state_bytes wrote, of vectors of so many values.

    Raises ValueError for another length, and NotFinite.
    """
    expected = 4 * values * config.vectors
    if len(content) != expected:
        raise ValueError(f"a state of this recipe has {expected} bytes, not {len(content)}")
    vectors = np.frombuffer(content, "<f4").astype(np.float32).reshape(config.vectors, values)
    if not np.isfinite(vectors).all():
        raise NotFinite("the state is not finite")
    return State(vectors[0], vectors[1] if config.vectors == 2 else None)


def state_pieces(content: bytes) -> list[bytes]:
    """A state's bytes in the pieces that its digest is built from and joiners fetch."""
    return [
        content[first : first + STATE_PIECE_BYTES]
        for first in range(0, len(content), STATE_PIECE_BYTES)
    ]


def state_digest(content: bytes) -> Digest:
    """What certificates name a state by: the Merkle root of its pieces."""
    return merkle_root(state_pieces(content))
