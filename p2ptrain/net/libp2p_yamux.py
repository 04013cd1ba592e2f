"""Yamux as libp2p should have it: it cannot be flooded, and it cannot lock up.

Two faults of py-libp2p 0.8.1, both met while running it, mended in one subclass:

- Receive windows are not enforced: overrunning one is logged. A stranger could fill our memory
  through a stream that nobody reads yet: a gigabyte in the ten seconds that a greeting may take.
- The task that reads the connection also writes the answers to pings and to new streams, and waits
  while it does. When both sides send much at once, both sockets are full, both readers wait to
  write, and nobody reads any more: the connection is dead. It pings by itself every 30 s, so that
  peers who exchange data both ways met this about once in 15 exchanges of 20 MB.

libp2p makes a Yamux of its own whichever class it is given, so this class takes the place of
theirs in the module that makes it, for the whole process. Imported by libp2p_host.py only.
"""

import libp2p.stream_muxer.muxer_multistream
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.stream_muxer.yamux.yamux import MAX_WINDOW_SIZE, Yamux

UNREAD_BYTES_MAX = 3 * MAX_WINDOW_SIZE  # our two streams with the largest windows, and some more
ANSWERS_MAX = 1024  # of 12 bytes; whoever asks for more before we could write one is flooding

CONNECTION_ERRORS = (
    BaseLibp2pError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    OSError,
)  # what writing to a connection that broke can raise


class BoundedYamux(Yamux):  # type: ignore[misc]
    """A Yamux whose reading task never waits for a write, and that hangs up on a flood."""

    _reading_task: trio.lowlevel.Task | None = None  # others write before it has begun

    async def handle_incoming(self) -> None:
        """Read frames to the end of the connection; answers are written by another task."""
        self._reading_task = trio.lowlevel.current_task()
        self._answers, answers = trio.open_memory_channel[bytes](ANSWERS_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_answers, answers)
            await super().handle_incoming()
            nursery.cancel_scope.cancel()

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
        unread_bytes = sum(len(buffer) for buffer in self.stream_buffers.values())
        if unread_bytes + length > UNREAD_BYTES_MAX:
            raise _flood(f"{unread_bytes} bytes unread and {length} more")
        return bytes(await super()._read_data_body(length))


def _flood(what: str) -> trio.TooSlowError:
    """The one exception for which Yamux closes the connection and not just a stream."""
    return trio.TooSlowError(what)


libp2p.stream_muxer.muxer_multistream.Yamux = BoundedYamux
