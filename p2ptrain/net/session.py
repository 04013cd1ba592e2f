"""One connection to one peer, from the hellos to the end: five tasks around two lanes.

    reader  (each lane)   drains the lane, whatever we do with the frames: a libp2p stream whose
                          reader pauses for 5 s is lost. While the peer's share of the inbox is full
                          (the half of it, for the bulk lane) it pauses, for PAUSE_S_MAX at the
                          most: what comes too fast for longer costs the sender its connection, not
                          us our memory.
    writer  (each lane)   empties the lane's outbox. Only this task waits for the peer.
    watcher               pings, and ends the connection if the peer is silent or does not read:
                          neither TCP nor py-libp2p notices a dead peer for an hour.

Whichever task finds the end calls end() with the reason; the first reason stands.
"""

import trio

from p2ptrain.net.budget import Pool
from p2ptrain.net.framing import (
    HEADER_BYTES,
    FrameDecoder,
    FramingError,
    Kind,
    RawFrame,
    decode_reason,
    encode_reason,
    header_of,
)
from p2ptrain.net.inbox import Inbox
from p2ptrain.net.link import Lane, Link, LinkBroken
from p2ptrain.net.outbox import Outbox
from p2ptrain.net.transport import Bounds, Frame

# A Yamux header and 65507 bytes fill exactly one Noise message; 65536 would take three
# (measured: 363 against 84 MB/s).
WRITE_BYTES = 65_507
BUDGET_RULE = "transport 5"
BULK_SHARE = 0.5  # of a peer's share of the inbox: a flood of data must not silence its votes


class Session:
    """Frames to and from one connected peer. run() is its life."""

    def __init__(
        self, link: Link, decoder: FrameDecoder, bounds: Bounds, inbox: Inbox, pool: Pool
    ) -> None:
        """Take over a greeted link.

        decoder   what the control lane has sent after its hello, if anything
        inbox     where its frames go
        pool      what all outboxes share
        """
        self.link = link
        self.meter = inbox.meter(link.peer)
        self.reason: str | None = None  # why it ended, once it has
        self.rule: str | None = None  # which rule the peer broke by that, if it did
        self.started_at = trio.current_time()
        self.control = Outbox(bounds.outbox_control_bytes_max, pool)
        self.bulk = Outbox(bounds.outbox_bulk_bytes_max, pool)
        self._decoder = decoder
        self._bounds = bounds
        self._inbox = inbox
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._leaving: str | None = None  # our own reason, once a goodbye is queued
        self._heard_at = self.started_at
        self._ping_at: float | None = None  # when the ping under way was sent

    @property
    def quiet_s(self) -> float:
        """Seconds since anything came from the peer, pings included."""
        return trio.current_time() - self._heard_at

    @property
    def outbox_bytes(self) -> int:
        """What waits to be sent, both lanes."""
        return self.control.queued_bytes + self.bulk.queued_bytes

    def end(self, reason: str, rule: str | None = None) -> None:
        """Stop at once. Only the first reason counts, and our own goodbye before any."""
        if self.reason is None:
            self.reason = self._leaving or reason
            self.rule = rule
            self._scope.cancel()

    async def leave(self, reason: str) -> None:
        """Say goodbye after what waits on the control lane, and stop within the bound."""
        if self._leaving is None:
            self._leaving = reason
            self.control.put_anyway(RawFrame(Kind.GOODBYE, encode_reason(reason)))
        with trio.move_on_after(self._bounds.goodbye_timeout_s):
            await self._over.wait()  # the peer hangs up when it has read the goodbye
        self.end(reason)
        await self._over.wait()

    async def run(self) -> None:
        """Carry frames until the end; closes the link. Raises only for bugs of ours."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, self.link.control, self._decoder, False)
                    nursery.start_soon(self._read, self.link.bulk, FrameDecoder(), True)
                    nursery.start_soon(self._write, self.link.control, self.control)
                    nursery.start_soon(self._write, self.link.bulk, self.bulk)
                    nursery.start_soon(self._watch)
        finally:
            self.end("this peer is stopping")
            self.control.drop_all()
            self.bulk.drop_all()
            with trio.CancelScope(shield=True):  # links bound the time that closing takes
                await self.link.close()
            self._over.set()

    async def _read(self, lane: Lane, decoder: FrameDecoder, bulk: bool) -> None:
        share = BULK_SHARE if bulk else 1.0
        try:
            while True:
                while frame := decoder.next_frame():
                    self._take(frame, bulk)
                    if self.reason is not None:
                        return
                    if self._inbox.is_full_of(self.link.peer, share):
                        await self._pause(share)
                data = await lane.receive_some()
                if not data:
                    return self.end("it closed the connection")
                self._heard_at = trio.current_time()
                if not self.meter.bytes_budget.spend(len(data), self._heard_at):
                    return self.end("it sent more than its budget of bytes", BUDGET_RULE)
                decoder.feed(data)
        except FramingError as error:
            self.end(f"it broke transport 2: {error}", "transport 2")
        except LinkBroken as error:
            self.end(str(error))

    async def _pause(self, share: float) -> None:
        """Leave a lane unread while we have enough of its peer, but not for ever."""
        with trio.move_on_after(self._bounds.pause_s_max) as pause:
            await self._inbox.wait_for_room(self.link.peer, share)
        if pause.cancelled_caught:
            self.end("it sends faster than this peer works", BUDGET_RULE)
            await trio.sleep_forever()  # which end() has cancelled

    def _take(self, frame: RawFrame, bulk: bool) -> None:
        if not self.meter.frames_budget.spend(1, trio.current_time()):
            return self.end("it sent more than its budget of frames", BUDGET_RULE)
        if frame.kind is Kind.DATA:
            self.meter.bytes_received += len(frame.payload)
            self.meter.frames_received += 1
            self._inbox.put(Frame(self.link.peer, frame.payload, bulk))
        elif bulk:
            raise FramingError(f"{frame.kind.name} frame on the bulk lane")
        elif frame.kind is Kind.PING:
            self.control.put(RawFrame(Kind.PONG, b""))  # a flood of pings gets no flood back
        elif frame.kind is Kind.PONG:
            if self._ping_at is not None:
                self.meter.rtt_s = trio.current_time() - self._ping_at
                self._ping_at = None
        elif frame.kind is Kind.GOODBYE:
            self.end(f"it said: {decode_reason(frame.payload)}")
        elif frame.kind is Kind.REFUSED:
            self.end(f"it refused us: {decode_reason(frame.payload)}")
        else:
            raise FramingError(f"{frame.kind.name} frame after the hello")

    async def _write(self, lane: Lane, outbox: Outbox) -> None:
        try:
            while True:
                batch = [await outbox.take()]
                size = HEADER_BYTES + len(batch[0].payload)
                while more := outbox.take_small(WRITE_BYTES - size - HEADER_BYTES):
                    batch.append(more)  # small frames share one write
                    size += HEADER_BYTES + len(more.payload)
                await self._send(lane, batch)
                if batch[-1].kind is Kind.GOODBYE:
                    return
        except LinkBroken as error:
            self.end(str(error))
        except trio.TooSlowError:
            self.end("it does not read what it is sent")

    async def _send(self, lane: Lane, batch: list[RawFrame]) -> None:
        parts: list[bytes] = []
        for frame in batch:
            parts += (header_of(frame.kind, len(frame.payload)), frame.payload)
            if frame.kind is Kind.DATA:
                self.meter.bytes_sent += len(frame.payload)
                self.meter.frames_sent += 1
        data = b"".join(parts)
        for start in range(0, len(data), WRITE_BYTES):
            with trio.fail_after(self._bounds.write_timeout_s):
                await lane.send_all(data[start : start + WRITE_BYTES])

    async def _watch(self) -> None:
        while True:
            now = trio.current_time()
            if now - self._heard_at > self._bounds.ping_timeout_s:
                return self.end(f"silent for {now - self._heard_at:.0f} s")
            for outbox in (self.control, self.bulk):
                full_since = outbox.full_since
                if full_since is not None and now - full_since > self._bounds.drain_timeout_s:
                    return self.end("it reads too slowly what it is sent")
            if self._ping_at is None:
                self._ping_at = now
                self.control.put_anyway(RawFrame(Kind.PING, b""))
            await trio.sleep(self._bounds.ping_interval_s)
