"""Yamux as libp2p should have it: it cannot be flooded, and it cannot lock up.

Faults of py-libp2p 0.8.1, met while running it, mended in one subclass:

- Receive windows are not enforced: overrunning one is logged. A stranger could fill our memory
  through a stream that nobody reads yet: a gigabyte in the ten seconds that a greeting may take.
  And windows grow to 16 MiB each: 4 GiB for a full house. Here they grow to WINDOW_BYTES_MAX, and
  what all connections hold unread is bounded, too.
- A peer may open any number of streams, each with a task and a buffer.
- The task that reads the connection also writes the answers to pings and to new streams, and waits
  while it does. When both sides send much at once, both sockets are full, both readers wait to
  write, and nobody reads any more: the connection is dead. It pings by itself every 30 s, so that
  peers who exchange data both ways met this about once in 15 exchanges of 20 MB.

libp2p makes a Yamux of its own whichever class it is given, so this class takes the place of
theirs in the module that makes it, for the whole process. Imported by libp2p_host.py only.
"""

from typing import Any
from weakref import WeakSet

import libp2p.stream_muxer.muxer_multistream
import libp2p.stream_muxer.yamux.yamux
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2ptrain.wire.limits import (
    STREAMS_MAX,
    UNREAD_BYTES_FREE,
    UNREAD_BYTES_MAX,
    WINDOW_BYTES_MAX,
)

UNREAD_BYTES_EACH_MAX = 3 * WINDOW_BYTES_MAX  # our two streams with the largest windows, and some
ANSWERS_MAX = 1024  # of 12 bytes; whoever asks for more before we could write one is flooding

CONNECTION_ERRORS = (
    BaseLibp2pError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    OSError,
)  # what writing to a connection that broke can raise


class BoundedYamux(Yamux):  # type: ignore[misc]
    """A Yamux whose reading task never waits for a write, and that hangs up on a flood.

    in_use   set when the peer has opened the streams that a link is made of, and at the end
    over     set when nothing is read from it any more, whoever ended it
    """

    _reading_task: trio.lowlevel.Task | None = None  # others write before it has begun

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.in_use = trio.Event()
        self.over = trio.Event()
        _living.add(self)

    @property
    def unread_bytes(self) -> int:
        """What has come on this connection and nobody has read."""
        return sum(len(buffer) for buffer in self.stream_buffers.values())

    async def handle_incoming(self) -> None:
        """Read frames to the end of the connection; answers are written by another task."""
        self._reading_task = trio.lowlevel.current_task()
        self._answers, answers = trio.open_memory_channel[bytes](ANSWERS_MAX)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_answers, answers)
                await super().handle_incoming()
                nursery.cancel_scope.cancel()
        finally:
            self.in_use.set()
            self.over.set()

    async def _write_answers(self, answers: "trio.MemoryReceiveChannel[bytes]") -> None:
        async for frame in answers:
            try:
                await super()._write_frame(frame)
            except CONNECTION_ERRORS:  # the reading task meets them too, and says so
                return

    async def _write_frame(self, data: bytes) -> None:
        if trio.lowlevel.current_task() is not self._reading_task:
            await super()._write_frame(data)
            return
        try:
            self._answers.send_nowait(data)
        except trio.WouldBlock as error:
            raise _flood("more questions than can be answered") from error

    async def _read_data_body(self, length: int) -> bytes:
        if len(self.streams) > STREAMS_MAX:
            raise _flood(f"{len(self.streams)} streams")
        unread = self.unread_bytes + length
        if unread > UNREAD_BYTES_EACH_MAX or (unread > UNREAD_BYTES_FREE and self._is_greedy()):
            raise _flood(f"{unread} bytes unread")
        return bytes(await super()._read_data_body(length))

    def _is_greedy(self) -> bool:
        """Whether this connection holds more than its share, of all that is unread."""
        return self.unread_bytes > UNREAD_BYTES_MAX - sum(y.unread_bytes for y in _living)


_living: "WeakSet[BoundedYamux]" = WeakSet()


def _flood(what: str) -> trio.TooSlowError:
    """The one exception for which Yamux closes the connection and not just a stream."""
    return trio.TooSlowError(what)


libp2p.stream_muxer.muxer_multistream.Yamux = BoundedYamux
libp2p.stream_muxer.yamux.yamux.MAX_WINDOW_SIZE = WINDOW_BYTES_MAX
