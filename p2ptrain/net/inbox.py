"""Events that wait to be received, and what each peer has there.

A peer's frames and comings and goings are charged to it, over all its connections, until they are
taken out: who sends faster than this peer works costs us INBOX_BYTES_PER_PEER_MAX and no more.
"""

from collections import deque
from dataclasses import dataclass

import trio

from p2ptrain.net.transport import Connected, Event, Frame
from p2ptrain.wire.limits import FRAME_OVERHEAD_BYTES
from p2ptrain.wire.peer_id import PeerId

PEERS_REMEMBERED_MAX = 1024  # figures of peers that have left; some 200 bytes each


@dataclass(slots=True)
class Meter:
    """Counts for one peer over all its connections (transport.PeerStatistics has the units)."""

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    past_connected_s: float = 0.0
    rtt_s: float | None = None
    inbox_bytes: int = 0


class Inbox:
    """A queue of events in order, bounded for each peer. Anyone puts, one task takes."""

    def __init__(self, bytes_per_peer_max: int) -> None:
        """Hold at most bytes_per_peer_max of one peer, FRAME_OVERHEAD_BYTES an event included."""
        self._bytes_max = bytes_per_peer_max
        self._events: deque[Event] = deque()
        self._filled = trio.Event()
        self.meters: dict[PeerId, Meter] = {}

    def meter(self, peer: PeerId) -> Meter:
        """The peer's counts, begun when first asked for."""
        if peer not in self.meters:
            if len(self.meters) >= PEERS_REMEMBERED_MAX:
                self._forget_one()
            self.meters[peer] = Meter()
        return self.meters[peer]

    def is_full_of(self, peer: PeerId) -> bool:
        """Whether the peer has used up its share."""
        meter = self.meters.get(peer)
        return meter is not None and meter.inbox_bytes >= self._bytes_max

    def put(self, event: Event) -> None:
        """Add an event and charge it to its peer, over the bound or not (see is_full_of)."""
        self.meter(event.peer).inbox_bytes += _cost_bytes(event)
        self._events.append(event)
        self._filled.set()

    async def take(self) -> Event:
        """The oldest event; waits for one."""
        await trio.lowlevel.checkpoint()  # a flood of events must not starve the other tasks
        while not self._events:
            self._filled = trio.Event()
            await self._filled.wait()
        event = self._events.popleft()
        self.meter(event.peer).inbox_bytes -= _cost_bytes(event)
        return event

    def _forget_one(self) -> None:
        # The oldest with nothing to lose; one that is connected would only lose its counts.
        idle = (peer for peer, meter in self.meters.items() if meter.inbox_bytes == 0)
        self.meters.pop(next(idle, next(iter(self.meters))))


def _cost_bytes(event: Event) -> int:
    match event:
        case Frame():
            return len(event.data) + FRAME_OVERHEAD_BYTES
        case Connected():
            return len(event.hello) + FRAME_OVERHEAD_BYTES
        case _:
            return FRAME_OVERHEAD_BYTES
