"""What the node and its compute process say to one another, over the process's stdin and stdout.

A frame is the length of its body (8 bytes, little-endian) and the body: the msgpack array
[number, name, fields...], where name is that of a dataclass below and number is the request's,
repeated in its answer. Both ends are the same program of the same version, so this format is
private: it may change at any time, and a frame that cannot be read is a bug, not an attack.

The training data are far larger than any message and never change; they travel once, in a memfd
that the process inherits (TrainingArrays).

Requests in WHILE_TRAINING are answered between two local steps; all others wait for the end of
the training that is under way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from p2ptrain.wire.digest import Digest

LENGTH_BYTES = 8
FRAME_BYTES_MAX = 1 << 34  # 64 contributions of 2**28 bytes; more than this is a torn stream


@dataclass(frozen=True, slots=True)
class TrainingArrays:
    """The samples to learn from and those to judge by.

    x       (N, d) float32     test_x  (T, d) float32
    y       (N,) int32         test_y  (T,) int32

    Of a text x and test_x are (N,) and (T,) uint8, its tokens, and y and test_y are empty.
    """

    x: NDArray[np.float32] | NDArray[np.uint8]
    y: NDArray[np.int32]
    test_x: NDArray[np.float32] | NDArray[np.uint8]
    test_y: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ComputeSpec:
    """All that the compute process must know of a run and of this machine.

    run           train/run_settings.py, packed
    device        which OpenCL device; "": PoCL's CPU
    threads       of the device, if it is a CPU; 0: all
    kernel_cache  folder for compiled kernels; "": the default one
    """

    run: bytes
    device: str = ""
    threads: int = 0
    kernel_cache: str = ""


# --- requests ------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Open:
    """Choose the device, test it, build the network. Answer: Opened.

    spec    fields of a ComputeSpec, in order
    shapes  of x and test_x in the memfd: (N, T, d); d = 0: N and T tokens of text, a byte each
    """

    spec: tuple[Any, ...]
    shapes: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Initial:
    """Make the initial parameters the state of this block and the base. Answer: StateDigest."""

    block: Digest


@dataclass(frozen=True, slots=True)
class LoadState:
    """Make these bytes the state of this block and the base; forget all else. StateDigest."""

    block: Digest
    state: bytes


@dataclass(frozen=True, slots=True)
class Train:
    """Local steps from the base, then compression. Answer: Trained, or Cancelled.

    indices  (steps, batch) int32-LE, rows of x
    round    number of the round, which the learning rate and the size of pictures depend on
    noise    key of the random draws, 0 .. 2^64 - 1
    """

    indices: bytes
    batch: int
    round: int = 0
    noise: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Abandon the training that is under way, if any. Answer: Done."""


@dataclass(frozen=True, slots=True)
class ReduceSet:
    """Average a set on its parent's state; keep the result as a candidate. Answer: Reduced.

    terms   (factor, shards) of each contribution
    codec   of the terms' shards
    """

    block: Digest
    parent: Digest
    terms: tuple[tuple[int, tuple[bytes, ...]], ...]
    codec: int


@dataclass(frozen=True, slots=True)
class ApplyReduced:
    """The candidate from certified reduced shards. Answer: StateDigest."""

    block: Digest
    parent: Digest
    shards: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Carry:
    """The candidate of a block that changes no parameters (CLOSE, BRANCH). StateDigest."""

    block: Digest
    parent: Digest


@dataclass(frozen=True, slots=True)
class Apply:
    """A candidate becomes the base. Answer: Done."""

    block: Digest
    mine_included: bool


@dataclass(frozen=True, slots=True)
class Finalize:
    """Forget what came before this block. Answer: Done."""

    block: Digest


@dataclass(frozen=True, slots=True)
class Rollback:
    """Go back to a block whose state is kept. Answer: Done."""

    block: Digest


@dataclass(frozen=True, slots=True)
class GetStateBytes:
    """The state of a kept block or candidate. Answer: StateBytes."""

    block: Digest


@dataclass(frozen=True, slots=True)
class GetOwn:
    """What is this peer's own at an applied block. Answer: OwnState."""

    block: Digest


@dataclass(frozen=True, slots=True)
class TakeOwn:
    """Go on from what an earlier process had of its own at an applied block. Answer: Done.

    residual, inner  as in OwnState; b"": as at the start of a run
    """

    block: Digest
    residual: bytes
    inner: bytes


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Loss and accuracy of the base on the test samples. Answer: Evaluated.

    round  rounds behind the base: after one on smaller pictures the test is on smaller ones too;
           -1: full size
    """

    round: int = -1


@dataclass(frozen=True, slots=True)
class GetParameters:
    """The named tensors of a kept block. Answer: Tensors."""

    block: Digest


# --- answers -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Opened:
    """The device, its driver, how long its self-test took, and the sizes of the vectors.

    parameters    number of values, without padding
    state_bytes   of every state
    shard_bytes   of each shard of a contribution
    """

    device: str
    driver: str
    self_test_ms: float
    parameters: int
    state_bytes: int
    shard_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StateDigest:
    """Merkle root of a state's pieces (protocol/codecs.md section 7)."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Trained:
    """A contribution, ready to be committed.

    parent   the base it was trained on, and `base_state` its state digest
    shards   in the spec's codec; `root` is their Merkle root, `norms2` their squared norms
             (16 bytes each, big-endian, in units of 2**-64)
    samples  batch x steps
    loss     mean over the local steps
    """

    parent: Digest
    base_state: Digest
    shards: tuple[bytes, ...]
    root: Digest
    norms2: tuple[bytes, ...]
    samples: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The training was abandoned: nothing has changed."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """Reduced shards (int8 blocks), their Merkle root, and the state that they lead to."""

    shards: tuple[bytes, ...]
    root: Digest
    state: Digest


@dataclass(frozen=True, slots=True)
class Done:
    """It is so."""


@dataclass(frozen=True, slots=True)
class StateBytes:
    """A state, as protocol/codecs.md section 7 lays it out."""

    state: bytes


@dataclass(frozen=True, slots=True)
class OwnState:
    """What no other peer has: it belongs to a state, and helps to train on from there.

    residual  of error feedback, float32-LE
    inner     train/optimizers.py, inner_state_bytes
    """

    residual: bytes
    inner: bytes


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Mean loss and the share of correct answers over `count` test samples."""

    loss: float
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class Tensors:
    """(name, shape, float32-LE bytes in row-major order) of each tensor."""

    tensors: tuple[tuple[str, tuple[int, ...], bytes], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The request could not be met and changed nothing.

    reason  "device", "config", "unknown block", "malformed" or "diverged"
    """

    reason: str
    detail: str


Request = (
    Open | Initial | LoadState | Train | Cancel | ReduceSet | ApplyReduced | Carry | Apply
    | Finalize | Rollback | GetStateBytes | GetOwn | TakeOwn | Evaluate | GetParameters
)  # fmt: skip
Answer = (
    Opened | StateDigest | Trained | Cancelled | Reduced | Done | StateBytes | OwnState
    | Evaluated | Tensors | Refused
)  # fmt: skip
WHILE_TRAINING = (
    Cancel, ReduceSet, ApplyReduced, Carry, Apply, Finalize, Rollback, GetStateBytes, GetOwn,
    GetParameters,
)  # fmt: skip

_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (*Request.__args__, *Answer.__args__)
}


def pack_frame(number: int, message: Request | Answer) -> bytes:
    """The frame of a message: length and body."""
    values = [getattr(message, field.name) for field in fields(message)]
    body: bytes = msgpack.packb([number, type(message).__name__, *values])
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def unpack_body(body: bytes | bytearray) -> tuple[int, Any]:
    """The number and the message of a frame's body; the other end made it, so it is well formed."""
    number, name, *values = msgpack.unpackb(body, use_list=False)
    return number, _TYPES[name](*values)


def spec_fields(spec: ComputeSpec) -> tuple[Any, ...]:
    """A ComputeSpec as plain data; ComputeSpec(*values) is its inverse."""
    return tuple(getattr(spec, field.name) for field in fields(spec))
