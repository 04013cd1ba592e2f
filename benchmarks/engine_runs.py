"""The processes of the engine's benchmark: started, pinned, and told in turn to take steps.

Every program runs in a process of its own on the same cores, and only one of them computes at a
time: each gets a slice of about half a second, then the next, so that a machine which is busy for
a while is busy for all of them. Threads sleep between slices (OMP_WAIT_POLICY=PASSIVE): those that
spin would steal the others' cores.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engine_starts import seconds_to_first_step

ROOT = Path(__file__).parents[1]
SLICE_S = 0.5
STEPS_MAX = 400
WARM_STEPS = 3  # tinygrad's step is compiled at its second call
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "P2PTRAIN_DEVICE", "DEV")


class ProgramFailed(Exception):
    """A program of the benchmark ended; the text is the end of what it said."""


@dataclass(frozen=True, slots=True)
class Program:
    """Which program.

    side     of engine_program.SIDES
    model    of engine_models.WORKLOADS
    cores    numbers of those it may use; as many threads
    variant  of torch
    """

    side: str
    model: str
    cores: tuple[int, ...]
    variant: str = ""


def environment(program: Program, cache: Path) -> dict[str, str]:
    """The variables of a program; compilers keep what they make in cache."""
    threads = str(len(program.cores))
    folder = cache / program.side
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return kept | {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "POCL_MAX_PTHREAD_COUNT": threads,
        "POCL_CACHE_DIR": str(folder),
        "XDG_CACHE_HOME": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder),
    }


class Running:
    """A program that has taken its first step and waits for more to do."""

    def __init__(self, program: Program, cache: Path) -> None:
        """Start it and wait for its first step. Raises ProgramFailed."""
        self.program = program
        cores = ",".join(map(str, program.cores))
        module = ["-m", "benchmarks.engine_program", program.side, program.model]
        options = ["--cores", cores, "--variant", program.variant]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *module, *options],
            cwd=ROOT,
            env=environment(program, cache),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._hear()
        self.start_s = time.perf_counter() - started
        self.memory_mb = self.cpu_s = self.loss = 0.0

    def take(self, steps: int) -> float:
        """Have it take steps; returns seconds a step. Raises ProgramFailed."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: _hear says why
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        answer = self._hear()
        self.memory_mb = answer["memory_mb"]
        self.loss = answer["loss"]
        self.cpu_s = answer["cpu_s"] / steps
        return answer["seconds"] / steps

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _hear(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # drivers print what they like in between
                answer: dict[str, float] = json.loads(line)
                return answer
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()[-3:]
        self.close()
        raise ProgramFailed(f"{self.program.side}: {' / '.join(said)}")


@dataclass(slots=True)
class Timed:
    """What was measured of a program.

    program    which; of torch the fastest variant
    steps      of a slice
    seconds    a step, of each slice
    cpu        CPU seconds of all threads a step, of each slice
    memory_mb  most memory of the process, the framework itself included
    peak       GFLOP/s, of the program "peak" alone
    """

    program: Program
    steps: int
    memory_mb: float = 0.0
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: float = 0.0

    @property
    def median(self) -> float:
        """Seconds a step in the median slice."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """Seconds a step in the fastest slice."""
        return min(self.seconds)


def calibrated(running: Running) -> Timed:
    """Warm a program up and see how many steps fill a slice."""
    running.take(WARM_STEPS)
    step = min(running.take(1), running.take(2))
    return Timed(running.program, max(1, min(STEPS_MAX, round(SLICE_S / step))))


def fastest(candidates: Sequence[Running]) -> Running:
    """The variant with the fastest of three slices, taken in turn; the others are ended."""
    if len(candidates) == 1:
        return candidates[0]
    steps = [calibrated(running).steps for running in candidates]
    times = [
        [running.take(count) for running, count in zip(candidates, steps, strict=True)]
        for _ in range(3)
    ]
    best = [min(column) for column in zip(*times, strict=True)]
    chosen = candidates[best.index(min(best))]
    for running in candidates:
        if running is not chosen:
            running.close()
    return chosen


def take_turns(programs: Sequence[Sequence[Program]], slices: int, cache: Path) -> list[Timed]:
    """Time programs beside one another.

    Args:
      programs  the variants of each; the fastest one counts

    Raises:
      ProgramFailed  one of them ended
    """
    running: list[Running] = []
    with contextlib.ExitStack() as stack:
        for variants in programs:
            started = []
            for program in variants:
                if program.side == "p2ptrain":  # kernels are compiled in a process apart, as ever
                    Running(program, cache).close()
                started.append(Running(program, cache))
                stack.callback(started[-1].close)
            running.append(fastest(started))
        results = [calibrated(each) for each in running]
        for _ in range(slices):
            for each, timed in zip(running, results, strict=True):
                timed.seconds.append(each.take(timed.steps))
                timed.cpu.append(each.cpu_s)
                if each.program.side == "peak":
                    timed.peak = max(timed.peak, each.loss)
        for each, timed in zip(running, results, strict=True):
            timed.memory_mb = each.memory_mb
    return results


def start_times(program: Program, times: int) -> tuple[float, list[float]]:
    """Seconds from the start of the process to its first step: with an empty cache, then not."""
    with tempfile.TemporaryDirectory() as folder:
        cold, *warm = (_start_once(program, Path(folder)) for _ in range(1 + times))
    return cold, warm


def _start_once(program: Program, cache: Path) -> float:
    if (
        program.side == "p2ptrain"
    ):  # a node's own compute process, not the program of this benchmark
        return seconds_to_first_step(program.model, program.cores, cache)
    running = Running(program, cache)
    running.close()
    return running.start_s
