"""What waits to be sent on one lane to one peer: bounded, and filled without waiting."""

from collections import deque

import trio

from p2ptrain.net.budget import Pool
from p2ptrain.net.framing import RawFrame
from p2ptrain.wire.limits import FRAME_OVERHEAD_BYTES


class Outbox:
    """A queue of frames with a bound on its bytes. One task takes, anyone puts."""

    def __init__(self, bytes_max: int, pool: Pool) -> None:
        """Hold at most bytes_max of the pool, counting FRAME_OVERHEAD_BYTES for each frame."""
        self._bytes_max = bytes_max
        self._pool = pool
        self._frames: deque[RawFrame] = deque()
        self._filled = trio.Event()
        self.queued_bytes = 0
        self.full_since: float | None = None  # when a put first failed; None again at half

    def put(self, frame: RawFrame) -> bool:
        """Queue a frame; False if it does not fit."""
        cost = _cost_bytes(frame)
        fits = self.queued_bytes + cost <= self._bytes_max
        if not (fits and self._pool.has_room(self.queued_bytes, cost)):
            if self.full_since is None:
                self.full_since = trio.current_time()
            return False
        self.put_anyway(frame)
        return True

    def put_anyway(self, frame: RawFrame) -> None:
        """Queue a frame of our own making (hello, ping, goodbye), which others cannot multiply."""
        self._frames.append(frame)
        self._count(_cost_bytes(frame))
        self._filled.set()

    async def take(self) -> RawFrame:
        """The oldest frame; waits for one."""
        while not self._frames:
            self._filled = trio.Event()
            await self._filled.wait()
        return self._pop()

    def take_small(self, bytes_max: int) -> RawFrame | None:
        """The oldest frame if there is one and its payload has at most bytes_max bytes."""
        if self._frames and len(self._frames[0].payload) <= bytes_max:
            return self._pop()
        return None

    def drop_all(self) -> None:
        """The connection is over: give the memory back."""
        self._frames.clear()
        self._count(-self.queued_bytes)

    def _pop(self) -> RawFrame:
        frame = self._frames.popleft()
        self._count(-_cost_bytes(frame))
        if self.queued_bytes <= self._bytes_max // 2:
            self.full_since = None
        return frame

    def _count(self, more_bytes: int) -> None:
        self.queued_bytes += more_bytes
        self._pool.taken_bytes += more_bytes


def _cost_bytes(frame: RawFrame) -> int:
    return len(frame.payload) + FRAME_OVERHEAD_BYTES
