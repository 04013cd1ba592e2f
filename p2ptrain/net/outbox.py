"""What waits to be sent on one lane to one peer: bounded, and filled without waiting."""

from collections import deque

import trio

from p2ptrain.net.framing import RawFrame
from p2ptrain.wire.limits import FRAME_OVERHEAD_BYTES


class Outbox:
    """A queue of frames with a bound on its bytes. One task takes, anyone puts."""

    def __init__(self, bytes_max: int) -> None:
        """Hold at most bytes_max, counting FRAME_OVERHEAD_BYTES for each frame."""
        self._bytes_max = bytes_max
        self._frames: deque[RawFrame] = deque()
        self._filled = trio.Event()
        self.queued_bytes = 0
        self.full_since: float | None = None  # when a put first failed; None again at half

    def put(self, frame: RawFrame) -> bool:
        """Queue a frame; False if it does not fit."""
        cost = len(frame.payload) + FRAME_OVERHEAD_BYTES
        if self.queued_bytes + cost > self._bytes_max:
            if self.full_since is None:
                self.full_since = trio.current_time()
            return False
        self.put_anyway(frame)
        return True

    def put_anyway(self, frame: RawFrame) -> None:
        """Queue a frame of our own making (hello, ping, goodbye), which others cannot multiply."""
        self._frames.append(frame)
        self.queued_bytes += len(frame.payload) + FRAME_OVERHEAD_BYTES
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

    def _pop(self) -> RawFrame:
        frame = self._frames.popleft()
        self.queued_bytes -= len(frame.payload) + FRAME_OVERHEAD_BYTES
        if self.queued_bytes <= self._bytes_max // 2:
            self.full_since = None
        return frame
