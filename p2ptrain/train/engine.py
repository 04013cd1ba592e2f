"""What the compute process holds: a trainer on a device, and the states of the chain.

Each request of p2ptrain/train/worker_messages.py that is not about the process itself is one
method here. Training and evaluation run on the device; reductions and outer steps are numpy, so
they can be answered between two local steps.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from p2ptrain.compress.blocks import MalformedShard, NotFinite
from p2ptrain.compress.centring import aggregate_shard
from p2ptrain.compress.codecs import CODECS, REDUCED_CODEC, Codec
from p2ptrain.compress.feedback import join_values, shard_lengths
from p2ptrain.compress.reduce import WeightedShard
from p2ptrain.device.golden import cases
from p2ptrain.device.golden_inputs import Case
from p2ptrain.device.kernels import TOGETHER, source_bytes, source_folder
from p2ptrain.device.opencl import open_device
from p2ptrain.device.selftest import self_test
from p2ptrain.train import worker_messages as wire
from p2ptrain.train.compression import Compressor
from p2ptrain.train.local import RoundMoment, Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import (
    InnerState,
    inner_state_bytes,
    inner_state_from_bytes,
)
from p2ptrain.train.outer import Vector, initial_state, state_bytes, state_from_bytes
from p2ptrain.train.run_settings import unpack_settings
from p2ptrain.train.states import Local, States, UnknownBlock
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.shards import merkle_root

NORM2_BYTES = 16
WARM_BLOCK = Digest(bytes(32))


class Engine:
    """One recipe on one device."""

    def __init__(self, spec: wire.ComputeSpec, data: TrainingData) -> None:
        """Open the device and record the plan of a step; nothing is compiled yet.

        Raises DeviceError, ConfigError.
        """
        run = unpack_settings(spec.run)
        cache = Path(spec.kernel_cache) if spec.kernel_cache else None
        device = open_device(spec.device or None, cache)
        operations = open_operations(device, cache)
        self._trainer = Trainer(operations, run.network, run.inner, data, run.seed, run.shown)
        self._trainer.plan()
        self._run, self._device, self._operations = run, device, operations
        self._layout = run.network.layout
        self._compressor = Compressor(operations.library, run.averaging, self._layout.padded_size)
        self._kernels = operations.library.used
        self._new_inner = self._trainer.inner_state()
        self._lengths = shard_lengths(self._layout.padded_size, run.averaging.shard_values)
        self._states: States[InnerState] | None = None

    def opened(self) -> wire.Opened:
        """Test the device, and say what there is. Raises DeviceError."""
        started = time.monotonic()
        self_test(self._operations, self._kernels)
        self._compressor.check()
        self_test_ms = 1000 * (time.monotonic() - started)
        codec = CODECS[self._run.averaging.number]
        return wire.Opened(
            self._device.info.name,
            self._device.info.platform_version,
            self_test_ms,
            self._layout.size,
            4 * self._layout.padded_size * self._run.outer.vectors,
            tuple(codec.shard_bytes(length) for length in self._lengths),
        )

    def preparations(self) -> list[Callable[[], object]]:
        """What compiles all that a run needs, in parts that can be done in any order.

        A part for each case of the self-test, those of the longest files first, since they take
        longest, and one for all of what is a single program; then the quantisers; at the end a
        step of each size of pictures.
        """
        alike: dict[tuple[int, str], list[Case]] = {}
        for case in cases(self._kernels):
            name = "" if case.file in TOGETHER else case.name
            alike.setdefault((-source_bytes(case.file), name), []).append(case)
        parts = [partial(self._try, alike[key]) for key in sorted(alike)]
        return [*parts, self._compressor.check, self._one_of_each_step]

    def answer(self, request: wire.Request) -> wire.Answer:
        """Do what is asked; all but training.

        Raises UnknownBlock, MalformedShard, NotFinite, DeviceError; then nothing has changed.
        """
        match request:
            case wire.Initial(block):
                return self._begin(block, self._trainer.initial_parameters(), None)
            case wire.LoadState(block, state):
                return self._begin(block, None, state)
            case wire.ReduceSet():
                return self._reduce(request)
            case wire.ApplyReduced(block, parent, shards):
                return self._average(block, parent, shards)
            case wire.Carry(block, parent):
                return wire.StateDigest(self._chain.carry(block, parent).digest)
            case wire.Apply(block, mine_included):
                self._chain.apply(block, mine_included=mine_included)
            case wire.Finalize(block):
                self._chain.finalize(block)
            case wire.Rollback(block):
                self._chain.rollback(block)
            case wire.GetStateBytes(block):
                return wire.StateBytes(state_bytes(self._chain.find(block).state))
            case wire.GetOwn(block):
                own = self._chain.local(block)
                return wire.OwnState(own.residual.tobytes(), inner_state_bytes(own.inner))
            case wire.TakeOwn():
                self._take_own(request)
            case wire.GetParameters(block):
                return self._tensors(block)
            case wire.Evaluate(rounds):
                return self._evaluate(rounds)
            case _:
                raise AssertionError(f"not the engine's to answer: {type(request).__name__}")
        return wire.Done()

    def train(self, request: wire.Train, should_stop: Callable[[], bool]) -> wire.Answer:
        """Local steps from the base, then error feedback and compression.

        Raises NotFinite, UnknownBlock, DeviceError.
        """
        started = time.monotonic()
        chain, base, local = self._chain, self._chain.base, self._chain.base_local
        indices = np.frombuffer(request.indices, "<i4").astype(np.int32)
        stopped = False

        def ask() -> bool:
            nonlocal stopped
            stopped = should_stop()
            return stopped

        self._trainer.set_inner_state(local.inner)
        candidate, steps = chain.find(base), self._run.local_steps
        result = self._trainer.pseudo_gradient(
            candidate.state.parameters,
            indices.reshape(-1, request.batch),
            ask,
            RoundMoment(steps * request.round, request.noise, steps),
        )
        if stopped:
            return wire.Cancelled()
        compressor, rounds = self._compressor, request.round
        shards, residual = compressor.compress(result.gradient, local.residual, rounds)
        # The base may have moved on in between; a contribution is still one to its parent.
        chain.contribute(base, Local(residual, self._trainer.inner_state()))
        norms2 = [compressor.codec_after(rounds).squared_norm(shard) for shard in shards]
        return wire.Trained(
            parent=base,
            base_state=candidate.digest,
            shards=shards,
            root=merkle_root(shards),
            norms2=tuple(norm2.to_bytes(NORM2_BYTES, "big") for norm2 in norms2),
            samples=result.samples,
            loss=result.loss_mean,
            seconds=time.monotonic() - started,
        )

    def _try(self, tried: Sequence[Case]) -> None:
        for case in tried:
            case.run(self._operations)

    def _one_of_each_step(self) -> None:
        self.answer(wire.Initial(WARM_BLOCK))
        batch = self._run.inner.batch
        for first_round in self._run.phases:
            self.train(wire.Train(bytes(4 * batch), batch, first_round), lambda: False)
            self.answer(wire.Evaluate(first_round + 1))

    @property
    def _chain(self) -> States[InnerState]:
        if self._states is None:
            raise UnknownBlock("there is no state yet")
        return self._states

    def _begin(
        self, block: Digest, parameters: Vector | None, content: bytes | None
    ) -> wire.Answer:
        values = self._layout.padded_size
        if parameters is not None:
            state = initial_state(self._run.outer, parameters)
        else:
            assert content is not None
            try:
                state = state_from_bytes(self._run.outer, content, values)
            except (ValueError, NotFinite) as error:
                raise MalformedShard("codecs 7.1", str(error)) from error
        local = Local(np.zeros(values, np.float32), self._new_inner)
        self._states = States(self._run.outer, block, state, local)
        return wire.StateDigest(self._states.find(block).digest)

    def _take_own(self, request: wire.TakeOwn) -> None:
        values = self._layout.padded_size
        residual, inner = np.zeros(values, np.float32), self._new_inner
        try:
            if request.residual:
                residual = np.frombuffer(request.residual, "<f4", values).astype(np.float32)
            if request.inner:
                inner = inner_state_from_bytes(request.inner, self._new_inner)
        except ValueError as error:
            raise MalformedShard("codecs 5", str(error)) from error
        if len(request.residual) not in (0, 4 * values) or not np.isfinite(residual).all():
            raise MalformedShard("codecs 5", f"a residual has {values} finite values")
        self._chain.take(request.block, Local(residual, inner))

    def _reduce(self, request: wire.ReduceSet) -> wire.Answer:
        self._chain.find(request.parent)  # before the work
        codec, rule = CODECS[request.codec], self._run.averaging.aggregation
        for _, pieces in request.terms:
            self._check_lengths(codec, pieces)
        shards = [
            aggregate_shard(
                codec, [WeightedShard(f, pieces[index]) for f, pieces in request.terms], rule
            )
            for index in range(len(self._lengths))
        ]
        candidate = self._chain.average(
            request.block, request.parent, join_values(REDUCED_CODEC, shards)
        )
        return wire.Reduced(tuple(shards), merkle_root(shards), candidate.digest)

    def _average(self, block: Digest, parent: Digest, shards: Sequence[bytes]) -> wire.Answer:
        self._check_lengths(REDUCED_CODEC, shards)
        gradient = join_values(REDUCED_CODEC, shards)
        return wire.StateDigest(self._chain.average(block, parent, gradient).digest)

    def _check_lengths(self, codec: Codec, shards: Sequence[bytes]) -> None:
        lengths = [codec.shard_bytes(length) for length in self._lengths]
        if [len(shard) for shard in shards] != lengths:
            raise MalformedShard("codecs 4.1", f"a vector has shards of {lengths} bytes")

    def _tensors(self, block: Digest) -> wire.Answer:
        tensors = self._layout.split(self._chain.find(block).state.parameters)
        return wire.Tensors(
            tuple((name, t.shape, t.astype("<f4").tobytes()) for name, t in tensors.items())
        )

    def _evaluate(self, rounds: int) -> wire.Answer:
        parameters = self._chain.find(self._chain.base).state.parameters
        last_step = None if rounds < 0 else max(0, rounds - 1) * self._run.local_steps
        evaluation = self._trainer.evaluate(parameters, last_step)
        return wire.Evaluated(evaluation.loss, evaluation.accuracy, evaluation.count)


def cache_mark(spec: wire.ComputeSpec) -> str:
    """Name of the file that says: the kernels of this network are compiled for this device."""
    sources = [path.read_bytes() for path in sorted(source_folder().glob("*.cl"))]
    run = unpack_settings(spec.run)
    parts = (run.network, run.inner.batch, run.inner.optimizer, run.phases, spec.device)
    codecs = (run.averaging.number, run.averaging.warmup_rounds > 0)
    settings = repr((*parts, *codecs)).encode()
    return f"compiled-{digest('kernels', settings, *sources).hex()[:32]}"
