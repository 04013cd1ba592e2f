"""Events that wait to be received, and what each peer has there and may still send.

A peer's frames and comings and goings are charged to it, over all its connections, until they are
taken out. Who sends faster than this peer works finds its lanes unread for a moment (see
session.py), and then its connection ended: it costs us its share of the inbox and no more.
"""

from dataclasses import dataclass, field

import trio

from p2ptrain.net.budget import Budget, Pool
from p2ptrain.net.fair import FairQueue
from p2ptrain.net.transport import Bounds, Connected, Event, Frame
from p2ptrain.wire.limits import FRAME_OVERHEAD_BYTES
from p2ptrain.wire.peer_id import PeerId

PEERS_REMEMBERED_MAX = 1024  # figures of peers that have left; some 500 bytes each
TAKEN_AT_ONCE_MAX = 16  # events between two moments in which all other tasks get their turn


@dataclass(slots=True)
class Meter:
    """Counts for one peer over all its connections (transport.PeerStatistics has the units).

    bytes_budget, frames_budget, greetings_budget   what it may still send, and how often come;
    they outlive its connections, or coming back would buy a new one
    """

    bytes_budget: Budget
    frames_budget: Budget
    greetings_budget: Budget
    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    past_connected_s: float = 0.0
    rtt_s: float | None = None
    inbox_bytes: int = 0
    drained: trio.Event = field(default_factory=trio.Event)  # set, made anew, when one is taken


class Inbox:
    """A queue of events, bounded for each peer and for all. Many put, one task takes.

    Each peer's events come in their order; peers take turns, so nobody waits behind a flood.
    """

    def __init__(self, bounds: Bounds) -> None:
        """Hold inbox_bytes_per_peer_max of one peer, FRAME_OVERHEAD_BYTES an event included."""
        self._bounds = bounds
        self._pool = Pool(bounds.inbox_bytes_max)
        self._events = FairQueue[Event]()
        self._filled = trio.Event()
        self._taken_in_a_row = 0
        self.meters: dict[PeerId, Meter] = {}

    def meter(self, peer: PeerId) -> Meter:
        """The peer's counts, begun when first asked for."""
        if peer not in self.meters:
            if len(self.meters) >= PEERS_REMEMBERED_MAX:
                self._forget_one()
            self.meters[peer] = self._new_meter()
        return self.meters[peer]

    def _new_meter(self) -> Meter:
        bounds, now = self._bounds, trio.current_time()
        return Meter(
            Budget(
                rate_per_s=bounds.bytes_per_peer_per_s, burst=bounds.bytes_per_peer_burst, now=now
            ),
            Budget(
                rate_per_s=bounds.frames_per_peer_per_s, burst=bounds.frames_per_peer_burst, now=now
            ),
            Budget(
                rate_per_s=bounds.greetings_per_peer_per_s,
                burst=bounds.greetings_per_peer_burst,
                now=now,
            ),
        )

    def is_full_of(self, peer: PeerId, share: float = 1.0) -> bool:
        """Whether the peer has used up its share, or a part of it."""
        meter = self.meters.get(peer)
        if meter is None or not meter.inbox_bytes:
            return False
        bound = min(self._bounds.inbox_bytes_per_peer_max, self._pool.free_bytes)
        return meter.inbox_bytes >= share * bound

    async def wait_for_room(self, peer: PeerId, share: float) -> None:
        """Return when the peer's share is not full any more."""
        while self.is_full_of(peer, share):
            await self.meter(peer).drained.wait()

    def put(self, event: Event) -> None:
        """Add an event and charge it to its peer, over the bound or not (see is_full_of)."""
        self._charge(self.meter(event.peer), _cost_bytes(event))
        self._events.put(event.peer, event)
        self._filled.set()

    async def take(self) -> Event:
        """The oldest event of the peer whose turn it is; waits for one."""
        self._taken_in_a_row += 1
        if self._taken_in_a_row >= TAKEN_AT_ONCE_MAX:  # a flood must not starve the other tasks
            self._taken_in_a_row = 0
            await trio.lowlevel.checkpoint()
        while not self._events:
            self._filled = trio.Event()
            await self._filled.wait()
        event = self._events.take()
        meter = self.meter(event.peer)
        self._charge(meter, -_cost_bytes(event))
        drained, meter.drained = meter.drained, trio.Event()
        drained.set()
        return event

    def _charge(self, meter: Meter, cost_bytes: int) -> None:
        meter.inbox_bytes += cost_bytes
        self._pool.taken_bytes += cost_bytes

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
