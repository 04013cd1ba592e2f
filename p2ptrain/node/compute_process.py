"""A child process that answers framed requests: started, written to, read from, ended for sure.

Three tasks serve one process: one writes frames from a queue (a caller that is cancelled never
leaves half a frame in the pipe), one reads answers and wakes who waits for them, one keeps the
tail of stderr for the error message. The process leads a session of its own, so a Ctrl-C in the
terminal does not reach it before the node is done with it, and all that it started can be killed
with it.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import trio

from p2ptrain.errors import DeviceError
from p2ptrain.swarm.inputs import Wait
from p2ptrain.train.worker_messages import (
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    Answer,
    Request,
    pack_frame,
    unpack_body,
)

READ_BYTES = 1 << 20  # what the pipe holds
# The child runs the very code that this process does, installed or not.
PACKAGE_ROOT = Path(__file__).parents[2]
STDERR_TAIL_BYTES = 4096  # a traceback and the driver's last words
STDERR_WAIT_S = 1.0  # after its end, for what it still had to say
QUEUE_FRAMES_MAX = 256  # requests are answered one by one; more than this is a bug of the node


class ComputeDied(DeviceError):
    """The compute process is gone: crashed, killed, or stopped because a deadline passed."""


class WorkerProcess(Protocol):
    """Something that answers requests one after the other, and can end at any time."""

    died: str | None

    @property
    def pid(self) -> int:
        """Its process id, for figures about it."""
        ...

    @property
    def waits(self) -> list[Wait]:
        """The requests under way."""
        ...

    def post(self, request: Request) -> int:
        """Queue a request whose answer nobody waits for. Raises ComputeDied."""
        ...

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        """The answer to a request. Raises ComputeDied."""
        ...

    async def stop(self, timeout_s: float) -> None:
        """End it, by force if that takes too long."""
        ...


# Given the nursery for its tasks, the memfd of the training data, and environment variables.
StartWorker = Callable[[trio.Nursery, int, dict[str, str]], Awaitable[WorkerProcess]]


def _words(request: Request) -> str:
    """A request for people: "get state bytes"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(request).__name__).lower()


class ComputeProcess:
    """One process and the requests under way."""

    def __init__(self, process: trio.Process) -> None:
        self.died: str | None = None  # why no more requests can be made
        self._process = process
        self._waiting: dict[int, tuple[trio.Event, list[Answer], Wait]] = {}
        self._number = 0
        self._stderr = bytearray()
        self._ended = trio.Event()
        self._queue, self._frames = trio.open_memory_channel[bytes](QUEUE_FRAMES_MAX)

    @classmethod
    async def start(
        cls, nursery: trio.Nursery, data_fd: int, environment: dict[str, str]
    ) -> "ComputeProcess":
        """Start the worker with the memfd of the training data, and the tasks that serve it.

        environment is laid over this process's own.
        """
        path = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "p2ptrain.train.worker", str(data_fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[data_fd],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        compute_process = cls(process)
        nursery.start_soon(compute_process._run)
        return compute_process

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def waits(self) -> list[Wait]:
        """The requests under way: who waits for them gives the process up at their limit."""
        return [wait for _, _, wait in self._waiting.values()]

    def post(self, request: Request) -> int:
        """Queue a request and return its number. Raises ComputeDied."""
        if self.died is not None:
            raise ComputeDied(self.died)
        self._number += 1
        self._queue.send_nowait(pack_frame(self._number, request))
        return self._number

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        """The answer to a request. Raises ComputeDied if none comes in time: then all is over."""
        number = self.post(request)
        event, answers = trio.Event(), list[Answer]()
        wait = Wait(f"the compute process: {_words(request)}", trio.current_time(), timeout_s)
        self._waiting[number] = event, answers, wait
        try:
            with trio.move_on_after(timeout_s) as timer:
                await event.wait()
        finally:
            del self._waiting[number]
        if timer.cancelled_caught:
            name = type(request).__name__
            self._give_up(f"the compute process gave no answer to {name} within {timeout_s:g} s")
        if not answers:
            raise ComputeDied(self.died)
        return answers[0]

    async def stop(self, timeout_s: float) -> None:
        """Close its stdin, at which it ends by itself; kill it if that takes too long."""
        if self.died is None:
            self.died = "the compute process was stopped"
        self._queue.close()
        with trio.move_on_after(timeout_s):
            await self._ended.wait()
        self._kill()
        await self._ended.wait()

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                stderr_closed = trio.Event()
                nursery.start_soon(self._write)
                nursery.start_soon(self._keep_stderr, stderr_closed)
                await self._read()
                # It closed its stdout: it has ended or is about to; nothing of it may stay behind.
                with trio.move_on_after(STDERR_WAIT_S):
                    await stderr_closed.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._kill()
            with trio.CancelScope(shield=True):
                status = await self._process.wait()
                for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                    assert stream is not None
                    await stream.aclose()
            self._give_up(self._obituary(status))
            self._ended.set()

    async def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            async for frame in self._frames:
                await self._process.stdin.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it has died, and _read sees that too
        await self._process.stdin.aclose()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        buffer = bytearray()
        while chunk := await self._process.stdout.receive_some(READ_BYTES):
            buffer += chunk
            while len(buffer) >= LENGTH_BYTES:
                length = int.from_bytes(buffer[:LENGTH_BYTES], "little")
                assert length <= FRAME_BYTES_MAX, "the compute process wrote a torn frame"
                if len(buffer) < LENGTH_BYTES + length:
                    break
                body = bytes(memoryview(buffer)[LENGTH_BYTES : LENGTH_BYTES + length])
                del buffer[: LENGTH_BYTES + length]
                self._answered(*unpack_body(body))

    def _answered(self, number: int, answer: Answer) -> None:
        if number in self._waiting:  # else its caller was cancelled and wants it no more
            event, answers, _ = self._waiting[number]
            answers.append(answer)
            event.set()

    async def _keep_stderr(self, closed: trio.Event) -> None:
        assert self._process.stderr is not None
        async for chunk in self._process.stderr:
            self._stderr += chunk
            del self._stderr[:-STDERR_TAIL_BYTES]
        closed.set()

    def _give_up(self, why: str) -> None:
        if self.died is None:
            self.died = why
        self._kill()
        for event, _, _ in self._waiting.values():
            event.set()

    def _kill(self) -> None:
        if self._process.poll() is None:  # not reaped yet: the id is still its own
            os.killpg(self._process.pid, signal.SIGKILL)

    def _obituary(self, status: int) -> str:
        if status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        else:
            how = f"ended with status {status}"
        last_words = self._stderr.decode("utf-8", "replace").strip()
        return f"the compute process {how}" + (f":\n{last_words}" if last_words else "")
