"""The compute process: python -m p2ptrain.train.worker DATA_FD.

It reads requests from stdin and writes answers to stdout (p2ptrain/train/worker_messages.py); the
training data lie in the memfd that it inherits as DATA_FD. p2ptrain/node/compute.py starts it.

One thread does all the work. While it trains it looks at stdin between steps, and answers there
and then what does not need the device: a reduction must not wait for the end of a slow round.
What does need the device waits in a queue.

Its end. When the node goes, for whatever reason, the system closes this process's stdin; a second
thread waits for just that and ends the process at once, also in the midst of a kernel that hangs.

A cold kernel cache. A process that has compiled with PoCL keeps the compiler's memory, 120 MB of
it, and PoCL compiles one kernel at a time in a process. If the cache holds no mark that these very
kernels were compiled, children of this process compile them first, one for each core up to
COMPILERS_MAX, and exit. They take the parts of the work (Engine.preparations) from a pipe that
holds their numbers, so that each does what the others have not begun.
"""

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

from p2ptrain.compress.blocks import MalformedShard, NotFinite
from p2ptrain.errors import ConfigError, DeviceError
from p2ptrain.train import worker_messages as wire
from p2ptrain.train.engine import Engine, cache_mark
from p2ptrain.train.memory import map_arrays
from p2ptrain.train.states import UnknownBlock

WARM = "--warm"
COMPILERS_MAX = 4  # the largest part takes a fourth of the time or more
PARTS = bytes(range(256))  # numbers of parts; there are never so many
PIPE_BYTES = 1 << 20  # what Linux lets anyone ask for: fewer wake-ups for a state of 20 MB
REASONS: dict[type[Exception], str] = {
    DeviceError: "device",
    ConfigError: "config",
    UnknownBlock: "unknown block",
    MalformedShard: "malformed",
    NotFinite: "diverged",
}


class NodeGone(SystemExit):
    """The node closed our stdin: there is nobody left to work for."""


class Pipe:
    """Requests from the node, answers to it."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers

    @property
    def readable(self) -> bool:
        """Whether a request has begun to arrive."""
        return bool(select.select([self._requests], [], [], 0)[0])

    def receive(self) -> tuple[int, wire.Request]:
        """The next request. Raises NodeGone."""
        length = int.from_bytes(self._read(wire.LENGTH_BYTES), "little")
        return wire.unpack_body(self._read(length))

    def send(self, number: int, answer: wire.Answer) -> None:
        """Answer a request. Raises NodeGone."""
        try:
            self._answers.write(wire.pack_frame(number, answer))
            self._answers.flush()
        except BrokenPipeError:
            raise NodeGone(0) from None

    def _read(self, count: int) -> bytearray:
        content = bytearray(count)
        view = memoryview(content)
        while view:
            got = self._requests.readinto(view)  # type: ignore[attr-defined]  # of raw files
            if not got:
                raise NodeGone(0)
            view = view[got:]
        return content


class Worker:
    """The loop: one request after the other, some of them in between."""

    def __init__(self, pipe: Pipe, data_fd: int) -> None:
        self._pipe = pipe
        self._data_fd = data_fd
        self._engine: Engine | None = None
        self._waiting: deque[tuple[int, wire.Request]] = deque()
        self._cancelled = False

    def serve(self) -> None:
        """Answer requests for as long as there is a node."""
        while True:
            number, request = self._waiting.popleft() if self._waiting else self._pipe.receive()
            self._respond(number, request)

    def _respond(self, number: int, request: wire.Request) -> None:
        try:
            answer = self._answer(request)
        except tuple(REASONS) as error:
            reason = next(text for kind, text in REASONS.items() if isinstance(error, kind))
            answer = wire.Refused(reason, str(error))
        self._pipe.send(number, answer)

    def _answer(self, request: wire.Request) -> wire.Answer:
        if isinstance(request, wire.Open):
            return self._open(request)
        if isinstance(request, wire.Cancel):
            self._cancelled = True  # of no account unless a training is under way
            return wire.Done()
        assert self._engine is not None, "the node opens first"
        if isinstance(request, wire.Train):
            self._cancelled = False
            return self._engine.train(request, self._should_stop)
        return self._engine.answer(request)

    def _open(self, request: wire.Open) -> wire.Opened:
        spec = wire.ComputeSpec(*request.spec)
        data = map_arrays(self._data_fd, request.shapes)
        if spec.kernel_cache:
            warm_cache(Path(spec.kernel_cache) / cache_mark(spec), request, self._data_fd)
        engine = Engine(spec, data)
        opened = engine.opened()
        self._engine = engine
        return opened

    def _should_stop(self) -> bool:
        while self._pipe.readable and not self._cancelled:
            number, request = self._pipe.receive()
            if isinstance(request, wire.WHILE_TRAINING):
                self._respond(number, request)
            else:
                self._waiting.append((number, request))
        return self._cancelled


def warm_cache(mark: Path, request: wire.Open, data_fd: int) -> None:
    """Have children compile all kernels, unless this was done before.

    A failure is no matter here: the engine will meet the same one and report it.
    """
    if mark.exists():
        return
    parts, numbers = os.pipe()
    os.write(numbers, PARTS)
    os.close(numbers)
    command = [sys.executable, "-m", "p2ptrain.train.worker", str(data_fd), WARM, str(parts)]
    children = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[data_fd, parts],
        )
        for _ in range(min(COMPILERS_MAX, len(os.sched_getaffinity(0))))
    ]
    os.close(parts)
    for child in children:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(wire.pack_frame(0, request))
            child.stdin.close()
    codes = [child.wait() for child in children]
    if not any(codes):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def compile_parts(pipe: Pipe, data_fd: int, parts: int) -> None:
    """What a child does: the parts of the work whose numbers it gets, until there are no more."""
    _, request = pipe.receive()
    assert isinstance(request, wire.Open)
    spec = wire.ComputeSpec(*request.spec)
    work = Engine(spec, map_arrays(data_fd, request.shapes)).preparations()
    while number := os.read(parts, 1):
        if number[0] >= len(work):
            return
        work[number[0]]()


def end_with_the_node() -> None:
    """End this process when its stdin has no other end any more, whatever else is going on."""

    def wait() -> None:
        poll = select.poll()
        poll.register(0, 0)  # no event asked for: only a hang-up is reported
        poll.poll()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str]) -> None:
    """Serve the node that started this process."""
    for pipe_fd in (0, 1):
        with contextlib.suppress(OSError):  # no pipe, or the user's pipe memory is used up
            fcntl.fcntl(pipe_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    # Drivers print to stdout now and then; there it would tear a frame.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    pipe = Pipe(os.fdopen(os.dup(0), "rb", buffering=0), answers)
    data_fd = int(arguments[0])
    if WARM in arguments:
        compile_parts(pipe, data_fd, int(arguments[-1]))
        return
    end_with_the_node()
    Worker(pipe, data_fd).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
