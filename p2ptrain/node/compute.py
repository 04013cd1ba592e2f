"""The compute process, as the node sees it: training, reduction and states behind async methods.

Training runs in a process of its own (p2ptrain/train/worker.py), so that a driver that crashes or
hangs never takes the node down, and training never starves the network. This module starts that
process, sends it requests, and gives every request a deadline. If the process dies, or lets a
deadline pass, it is killed with whatever it started, all requests under way raise ComputeDied,
and so does every later one until restart() has been called with a state to go on from.

    async with open_compute(spec, read) as compute:
        digest = await compute.initial(genesis)              # or load_state(block, state)
        work = await compute.train(indices)                  # None: cancelled
        reduced = await compute.reduce(block, parent, terms, codec)      # also during train()
        await compute.apply(block, mine_included=True)
        await compute.finalize(parent)

States. The process keeps the state, the error feedback and the inner optimiser's state of every
block from the last final one to the base, and any number of candidates: blocks that were reduced,
or taken from certified shards, and not yet applied. A contribution belongs to its parent: its
residual and inner state take effect when a child of that parent is applied with mine_included,
and remain "as before" otherwise.

One train() at a time; evaluate(), initial() and load_state() wait for its end. All else is
answered between two local steps.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trio
from numpy.typing import NDArray

from p2ptrain.config import Recipe
from p2ptrain.errors import ConfigError, DeviceError, P2PTrainError
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.node.compute_process import ComputeDied, ComputeProcess, StartWorker, WorkerProcess
from p2ptrain.swarm.effects import Term
from p2ptrain.swarm.inputs import Wait
from p2ptrain.train import worker_messages as wire
from p2ptrain.train.memory import write_arrays
from p2ptrain.train.settings import run_settings
from p2ptrain.train.worker_messages import ComputeSpec, TrainingArrays
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import Norm2

_OWN_ERRORS: dict[str, type[P2PTrainError]] = {"device": DeviceError, "config": ConfigError}


class ComputeRefused(P2PTrainError):
    """The compute process could not do what was asked; nothing has changed.

    reason  "unknown block", "malformed" (reduced shards) or "diverged" (not finite any more)
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ComputeLimits:
    """How long a request may take before the process is given up.

    open_s     start, self-test and compilation of all kernels on a cold, loaded machine
    request_s  all but training
    train_s    one round of local steps, unless train() is told otherwise
    close_s    how long it may take to stop by itself when the node ends
    """

    open_s: float = 180.0
    request_s: float = 60.0
    train_s: float = 600.0
    close_s: float = 2.0


@dataclass(frozen=True, slots=True)
class LocalWork:
    """A contribution, ready to be committed.

    parent      block that it was trained on
    base_state  that block's state digest
    shards      bytes of each shard, in the recipe's codec
    root        Merkle root of the shards
    norms2      squared norm of each shard, in units of 2**-64
    samples     batch x steps: its weight
    loss        mean over the local steps
    seconds     that training and compression took
    """

    parent: Digest
    base_state: Digest
    shards: tuple[bytes, ...]
    root: Digest
    norms2: tuple[Norm2, ...]
    samples: int
    loss: float
    seconds: float


def compute_spec(
    recipe: Recipe, *, device: str = "", threads: int = 0, kernel_cache: Path | None = None
) -> ComputeSpec:
    """What the compute process must know of a recipe and of this machine.

    Args:
      recipe        the run
      device        which OpenCL device; "": PoCL's CPU
      threads       of a CPU device; 0: all cores
      kernel_cache  folder of compiled kernels (NodeConfig.kernels_path); None: the default one
    """
    return ComputeSpec(run_settings(recipe).packed(), device, threads, str(kernel_cache or ""))


@asynccontextmanager
async def open_compute(
    spec: ComputeSpec,
    read: Callable[[], TrainingArrays],
    limits: ComputeLimits | None = None,
    weights: Callable[[], bytes] | None = None,
    start_worker: StartWorker = ComputeProcess.start,
) -> AsyncIterator["Compute"]:
    """Start the compute process; it ends with the block.

    Raises DeviceError if no device will do, ConfigError if the data do not fit the model.

    read gives the samples, which are copied into memory that the process shares and then dropped:
    a node does not hold its data set for as long as it runs. weights reads the parameters that the
    recipe starts from, float32-LE without padding; None: its seed draws them. start_worker is
    what answers requests: a process of its own, but for simulations.
    """
    data_fd = os.memfd_create("p2ptrain-data", os.MFD_CLOEXEC)
    try:
        shapes = await trio.to_thread.run_sync(write_arrays, data_fd, read)
        with lone_exception():
            async with trio.open_nursery() as nursery:
                samples = _Samples(data_fd, shapes)
                start = partial(start_worker, nursery, data_fd, _environment(spec))
                compute = Compute(start, spec, samples, limits or ComputeLimits(), weights)
                try:
                    await compute.start()
                    yield compute
                finally:
                    with trio.CancelScope(shield=True):
                        await compute.close()
                    nursery.cancel_scope.cancel()
    finally:
        os.close(data_fd)


class _Samples(NamedTuple):
    """A memfd with the samples, and their numbers: to train on, to test with, values of each."""

    fd: int
    shapes: tuple[int, int, int]


class Compute:
    """One compute process and the requests under way. Made by open_compute."""

    def __init__(
        self,
        start_worker: Callable[[], Awaitable[WorkerProcess]],
        spec: ComputeSpec,
        samples: _Samples,
        limits: ComputeLimits,
        weights: Callable[[], bytes] | None,
    ) -> None:
        self.opened: wire.Opened | None = None  # the device and the sizes of the vectors
        self.starts = 0  # of a process, the first one included
        self._start_worker = start_worker
        self._open_request = wire.Open(wire.spec_fields(spec), samples.shapes)
        self._limits = limits
        self._weights = weights
        self._process: WorkerProcess | None = None

    @property
    def alive(self) -> bool:
        """Whether requests can be made."""
        return self._process is not None and self._process.died is None

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        return self._process.pid if self._process is not None else None

    @property
    def waits(self) -> list[Wait]:
        """The requests under way, with their age and limit."""
        return self._process.waits if self._process is not None else []

    async def start(self) -> wire.Opened:
        """Start the process and open the device; open_compute has done it."""
        self.starts += 1
        self._process = await self._start_worker()
        try:
            answer = await self._ask(self._open_request, self._limits.open_s)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.close()
            raise
        assert isinstance(answer, wire.Opened)
        self.opened = answer
        return answer

    async def restart(self, block: Digest, state: bytes) -> Digest:
        """A new process that goes on from a block's state; for the rest see take_own.

        Returns the state's digest. Raises DeviceError or ComputeDied if it cannot be started.
        """
        await self.close()
        await self.start()
        return await self.load_state(block, state)

    async def close(self) -> None:
        """End the process, by force if it does not stop in close_s. Harmless twice."""
        process, self._process = self._process, None
        if process is not None:
            await process.stop(self._limits.close_s)

    # --- states ----------------------------------------------------------------------------
    async def initial(self, block: Digest) -> Digest:
        """Make the recipe's initial parameters the state of the genesis block, and the base.

        Returns the state digest. Raises what reading the initial weights raises.
        """
        if self._weights is None:
            return await self._state_digest(wire.Initial(block))
        assert self.opened is not None
        parameters = await trio.to_thread.run_sync(self._weights)
        # Padding and outer momentum are zero at the start (protocol/codecs.md section 7).
        rest = bytes(self.opened.state_bytes - len(parameters))
        return await self.load_state(block, parameters + rest)

    async def load_state(self, block: Digest, state: bytes) -> Digest:
        """Make these bytes the state of a block, and the base; all other blocks are forgotten.

        Returns the state digest. Raises ComputeRefused "malformed" for a wrong length.
        """
        return await self._state_digest(wire.LoadState(block, state))

    async def state(self, block: Digest) -> bytes:
        """The state of a kept block or candidate: what checkpoints hold and joiners fetch."""
        answer = await self._ask(wire.GetStateBytes(block))
        assert isinstance(answer, wire.StateBytes)
        return answer.state

    async def own(self, block: Digest) -> wire.OwnState:
        """What is this peer's own at an applied block: error feedback, inner optimiser's state."""
        answer = await self._ask(wire.GetOwn(block))
        assert isinstance(answer, wire.OwnState)
        return answer

    async def take_own(self, block: Digest, own: wire.OwnState) -> None:
        """Go on from what an earlier process had. Raises ComputeRefused, then as without it."""
        await self._ask(wire.TakeOwn(block, own.residual, own.inner))

    async def parameters(self, block: Digest) -> dict[str, NDArray[np.float32]]:
        """The named tensors of a kept block, for export and evaluation elsewhere."""
        answer = await self._ask(wire.GetParameters(block))
        assert isinstance(answer, wire.Tensors)
        return {
            name: np.frombuffer(content, "<f4").reshape(shape)
            for name, shape, content in answer.tensors
        }

    # --- a round ---------------------------------------------------------------------------
    async def train(
        self,
        indices: NDArray[np.int32],
        timeout_s: float | None = None,
        *,
        round_number: int = 0,
        noise: int = 0,
    ) -> LocalWork | None:
        """Local steps from the base, error feedback, compression; None if cancel() came first.

        Args:
          indices       (steps, batch) int32, rows of the training samples
          round_number  learning rate, size of pictures and codec depend on it
          noise         key of the round's random draws

        Raises ComputeRefused "diverged" if the gradient is not finite.
        """
        steps = np.ascontiguousarray(indices, "<i4")
        request = wire.Train(steps.tobytes(), steps.shape[1], round_number, noise)
        try:
            answer = await self._ask(request, timeout_s or self._limits.train_s)
        except trio.Cancelled:
            if self._process is not None and self._process.died is None:
                self._process.post(wire.Cancel())
            raise
        if isinstance(answer, wire.Cancelled):
            return None
        assert isinstance(answer, wire.Trained)
        return LocalWork(
            answer.parent,
            answer.base_state,
            answer.shards,
            answer.root,
            tuple(Norm2(int.from_bytes(norm2, "big")) for norm2 in answer.norms2),
            answer.samples,
            answer.loss,
            answer.seconds,
        )

    async def cancel(self) -> None:
        """Abandon the training under way, if any: its train() returns None."""
        await self._ask(wire.Cancel())

    async def reduce(
        self, block: Digest, parent: Digest, terms: Sequence[Term], codec: int
    ) -> wire.Reduced:
        """Average a set on its parent's state, and keep the block as a candidate.

        Returns Reduced(shards, root, state). Raises ComputeRefused "unknown block" if the parent
        is not kept, "malformed" if a shard is, "diverged" if the state would not be finite.
        """
        plain = tuple((term.factor, term.shards) for term in terms)
        answer = await self._ask(wire.ReduceSet(block, parent, plain, codec))
        assert isinstance(answer, wire.Reduced)
        return answer

    async def apply_reduced(self, block: Digest, parent: Digest, shards: Sequence[bytes]) -> Digest:
        """The same candidate from certified reduced shards. Returns its state digest.

        Raises as reduce().
        """
        return await self._state_digest(wire.ApplyReduced(block, parent, tuple(shards)))

    async def carry(self, block: Digest, parent: Digest) -> Digest:
        """The candidate of a block without entries (CLOSE, BRANCH): its parent's state."""
        return await self._state_digest(wire.Carry(block, parent))

    async def apply(self, block: Digest, *, mine_included: bool) -> None:
        """A candidate becomes the base; our residual follows only if our work is in it."""
        await self._ask(wire.Apply(block, mine_included))

    async def finalize(self, block: Digest) -> None:
        """Forget states, candidates and contributions from before this applied block."""
        await self._ask(wire.Finalize(block))

    async def rollback(self, block: Digest) -> None:
        """Make an applied, not yet forgotten block the base again."""
        await self._ask(wire.Rollback(block))

    async def evaluate(self, rounds: int = -1) -> wire.Evaluated:
        """Loss and accuracy of the base on the test samples.

        Args:
          rounds  behind the base: they say how large the pictures are; -1: full size
        """
        answer = await self._ask(wire.Evaluate(rounds))
        assert isinstance(answer, wire.Evaluated)
        return answer

    # --- requests --------------------------------------------------------------------------
    async def _state_digest(self, request: wire.Request) -> Digest:
        answer = await self._ask(request)
        assert isinstance(answer, wire.StateDigest)
        return answer.digest

    async def _ask(self, request: wire.Request, timeout_s: float | None = None) -> wire.Answer:
        if self._process is None:
            raise ComputeDied("the compute process was stopped")
        answer = await self._process.ask(request, timeout_s or self._limits.request_s)
        if isinstance(answer, wire.Refused):
            if answer.reason in _OWN_ERRORS:
                raise _OWN_ERRORS[answer.reason](answer.detail)
            raise ComputeRefused(answer.reason, answer.detail)
        return answer


def _environment(spec: ComputeSpec) -> dict[str, str]:
    """What PoCL and numpy read before any of our code runs in the process."""
    environment = {"OPENBLAS_NUM_THREADS": "1"}  # numpy only reduces there; no idle threads
    if spec.threads:
        environment["POCL_MAX_PTHREAD_COUNT"] = str(spec.threads)
    if spec.kernel_cache:
        environment["POCL_CACHE_DIR"] = spec.kernel_cache
    return environment
