"""The compute process of a simulated node: the very worker, at a stated speed in virtual time.

p2ptrain.train.worker.Worker runs here as it does in its process, requests and answers packed and
unpacked, but in a thread that takes turns with the event loop: while one runs the other stands
still, so nothing depends on which is faster. Where a worker looks for requests between two steps,
its thread gives the turn back, and gets it again when the step is over in virtual time. What it
computes it computes in no virtual time; what it should cost is in Speed.
"""

import threading
from collections import deque
from dataclasses import dataclass

import trio

from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.swarm.inputs import Wait
from p2ptrain.train import worker_messages as wire
from p2ptrain.train.worker import NodeGone, Pipe, Worker


@dataclass(frozen=True, slots=True)
class Speed:
    """What computing costs in virtual time.

    look_s    seconds of training from one look for requests to the next, several small steps
    answer_s  seconds of any other answer
    """

    look_s: float
    answer_s: float


class _TurnPipe(Pipe):
    """Requests and answers, on the worker's side of the turns."""

    def __init__(self, speed: Speed) -> None:
        self.requests: deque[bytes] = deque()
        self.answers: deque[bytes] = deque()
        self.closed = False
        self.pause_s = 0.0  # what the turn of the worker cost
        self.idle = False
        self._speed = speed
        self._step_paid = False
        self._worker_turn = threading.Semaphore(0)
        self._loop_turn = threading.Semaphore(0)

    def give_turn(self) -> None:
        """Called by the loop: let the worker run until it gives the turn back."""
        self._worker_turn.release()
        self._loop_turn.acquire()

    def give_back(self, pause_s: float = 0.0) -> None:
        """Called by the worker: stand still, until so much virtual time has passed."""
        self.pause_s = pause_s
        self._loop_turn.release()
        self._worker_turn.acquire()
        if self.closed:
            raise NodeGone(0)

    def wait_for_first_turn(self) -> None:
        """Called by the worker before all else."""
        self._worker_turn.acquire()

    def end(self) -> None:
        """Called by the worker at its end."""
        self.closed = True
        self._loop_turn.release()

    @property
    def readable(self) -> bool:
        """Whether there is a request; a step is over, which takes its time, when first asked."""
        if not self._step_paid:
            self._step_paid = True
            self.give_back(self._speed.look_s)
        self._step_paid = bool(self.requests)
        return self._step_paid

    def receive(self) -> tuple[int, wire.Request]:
        """The next request. Raises NodeGone."""
        while not self.requests:
            self.idle = True
            self.give_back()
        self.idle = False
        return wire.unpack_body(bytearray(self.requests.popleft()[wire.LENGTH_BYTES :]))

    def send(self, number: int, answer: wire.Answer) -> None:
        """Answer a request, after the time that it takes."""
        if isinstance(answer, wire.Trained | wire.Cancelled):
            self._step_paid = False  # the next training begins with a step
        else:
            self.give_back(self._speed.answer_s)
        self.answers.append(wire.pack_frame(number, answer))


class TurnWorker:
    """A worker that takes turns with the event loop; a WorkerProcess. Use start."""

    def __init__(self, speed: Speed, data_fd: int) -> None:
        self.died: str | None = None
        self._pipe = _TurnPipe(speed)
        self._worker = Worker(self._pipe, data_fd)
        self._crash: BaseException | None = None
        self._number = 0
        self._waiting: dict[int, tuple[trio.Event, list[wire.Answer], Wait]] = {}
        self._news = trio.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    @classmethod
    async def start(
        cls, speed: Speed, nursery: trio.Nursery, data_fd: int, environment: dict[str, str]
    ) -> "TurnWorker":
        """Start one; with its speed bound, this is a StartWorker."""
        await trio.lowlevel.checkpoint()
        worker = cls(speed, data_fd)
        worker._thread.start()
        nursery.start_soon(worker._take_turns)
        return worker

    @property
    def pid(self) -> int:
        """No process has this id."""
        return 0

    @property
    def waits(self) -> list[Wait]:
        """The requests under way."""
        return [wait for _, _, wait in self._waiting.values()]

    def post(self, request: wire.Request) -> int:
        """Queue a request whose answer nobody waits for. Raises ComputeDied."""
        if self.died is not None:
            raise ComputeDied(self.died)
        self._number += 1
        self._pipe.requests.append(wire.pack_frame(self._number, request))
        self._news.set()
        return self._number

    async def ask(self, request: wire.Request, timeout_s: float) -> wire.Answer:
        """The answer to a request. Raises ComputeDied, also if it takes too long."""
        number = self.post(request)
        event, answers = trio.Event(), list[wire.Answer]()
        wait = Wait(type(request).__name__, trio.current_time(), timeout_s)
        self._waiting[number] = event, answers, wait
        try:
            with trio.move_on_after(timeout_s):
                await event.wait()
        finally:
            del self._waiting[number]
        if not answers:
            self._end(f"no answer to {type(request).__name__} within {timeout_s:g} s")
            raise ComputeDied(self.died)
        return answers[0]

    async def stop(self, timeout_s: float) -> None:
        """End the worker's thread."""
        self._end("the compute process was stopped")
        await trio.lowlevel.checkpoint()

    def _end(self, why: str) -> None:
        if self.died is None:
            self.died = why
        if not self._pipe.closed:
            self._pipe.closed = True
            self._pipe.give_turn()
        self._thread.join()
        for event, _, _ in self._waiting.values():
            event.set()

    def _work(self) -> None:
        try:
            self._pipe.wait_for_first_turn()
            if not self._pipe.closed:
                self._worker.serve()
        except NodeGone:
            return
        except BaseException as error:
            self._crash = error
        finally:
            self._pipe.end()

    async def _take_turns(self) -> None:
        pipe = self._pipe
        while not pipe.closed:
            self._news = trio.Event()
            pipe.give_turn()
            if self._crash is not None:
                raise self._crash
            while pipe.answers:
                self._answered(*wire.unpack_body(pipe.answers.popleft()[wire.LENGTH_BYTES :]))
            if not pipe.idle:
                await trio.sleep(pipe.pause_s)
            elif not pipe.requests:
                await self._news.wait()

    def _answered(self, number: int, answer: wire.Answer) -> None:
        if number in self._waiting:
            event, answers, _ = self._waiting[number]
            answers.append(answer)
            event.set()
