"""The network of a story: every peer has an uplink and a downlink, and what is sent takes time.

The model, per message of B bytes on the wire (frame, and what TCP, Noise and Yamux add to it):

  uplink    data (node/lanes.py) waits in a queue for each recipient, and the queues take turns;
            control messages pass them, in the order of sending. Each takes B / uplink,
            and control delays data by as much
  way       the latencies of both ends. Where packets are lost, data is no faster than TCP then is
            (Mathis et al., 1997: 1.22 segments / (round trip x sqrt(loss))), and a control message
            waits for retransmissions; nothing that was sent vanishes
  downlink  data is taken in the order in which it begins to come, B / downlink each

Messages across a partition vanish, and what a crashed process had not sent yet. Contributions,
averages and states count with the size that they have in the story's recipe: Sizes says by how
much larger that is than what is simulated. Clock, trace and faults are the World's.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, sqrt

from p2ptrain.node.lanes import travels_with_data
from p2ptrain.wire.codec import encode
from p2ptrain.wire.messages import Message, Piece, ReducedPiece, StatePiece
from p2ptrain.wire.peer_id import PeerId
from simnet.faults import CALM
from simnet.trace import kind_of
from simnet.world import Node, World

SEGMENT_BYTES = 1448  # of TCP over Ethernet
SEGMENT_OVERHEAD = 1.046  # Ethernet, IP and TCP headers: 66 bytes more for each segment
MESSAGE_OVERHEAD_BYTES = 64  # length, Yamux, Noise, and a share of acknowledgements
RETRANSMISSION_S = 0.2  # the least timeout of TCP, beside a round trip
EVENTS_MAX = 50_000_000  # an hour of one core: more means no end


@dataclass(frozen=True, slots=True)
class Access:
    """How a peer is connected.

    up_bytes_s, down_bytes_s  bytes a second
    latency_s                 one way to the middle of the net
    loss_ratio                of packets, 0..1
    """

    up_bytes_s: float
    down_bytes_s: float
    latency_s: float
    loss_ratio: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """Real bytes for each simulated one of what messages carry."""

    contribution: float
    reduced: float
    state: float

    def added(self, message: Message) -> float:
        """Bytes that a message really has beyond those of its frame here."""
        match message:
            case Piece(data=data):
                return (self.contribution - 1) * len(data)
            case ReducedPiece(data=data):
                return (self.reduced - 1) * len(data)
            case StatePiece(data=data):
                return (self.state - 1) * len(data)
            case _:
                return 0.0


@dataclass(slots=True)
class Meter:
    """Bytes of one peer on the wire, by kind of message."""

    up: dict[str, float] = field(default_factory=dict)
    down: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message on its way."""

    sender: PeerId
    to: PeerId
    message: Message
    size: float


@dataclass(slots=True)
class Line:
    """One peer's access in use. Times are those at which something is free again."""

    access: Access
    queues: dict[PeerId, deque[Parcel]] = field(default_factory=dict)
    busy: bool = False
    control_free: float = 0.0
    up_debt_s: float = 0.0  # that control messages took from data
    down_free: float = 0.0


class StoryWorld(World):
    """A World whose links have widths."""

    def __init__(self, seed: int, accesses: Mapping[PeerId, Access], sizes: Sizes) -> None:
        super().__init__(seed, CALM)
        self.events_max = EVENTS_MAX
        self.sizes = sizes
        self.meters = {peer: Meter() for peer in accesses}
        self._lines = {peer: Line(access) for peer, access in accesses.items()}
        self._data_free: dict[tuple[PeerId, PeerId], float] = {}  # of the way from one to another
        self._control_free: dict[tuple[PeerId, PeerId], float] = {}
        self._apart: set[tuple[PeerId, PeerId]] = set()
        self._sized: tuple[Message, float] | None = None

    def ban(self, by: PeerId, peer: PeerId) -> None:
        """One peer has let another go: they hear nothing of each other any more."""
        self._apart |= {(by, peer), (peer, by)}

    def reaches(self, a: PeerId, b: PeerId) -> bool:
        """Whether neither a partition nor a ban lies between two peers."""
        return (a, b) not in self._apart and super().reaches(a, b)

    def lost(self, peer: PeerId) -> None:
        """A process has died, and what it had not sent with it."""
        self._lines[peer].queues.clear()

    def post(self, sender: PeerId, to: PeerId, message: Message) -> None:
        """Put a message on its sender's uplink."""
        if sender == to or to not in self.nodes or not self.reaches(sender, to):
            return
        line = self._lines[sender]
        parcel = Parcel(sender, to, message, self._size(message))
        if not travels_with_data(message):
            takes_s = parcel.size / line.access.up_bytes_s
            line.control_free = max(self.now, line.control_free) + takes_s
            line.up_debt_s += takes_s
            self._send_control(parcel, line.control_free)
            return
        line.queues.setdefault(to, deque()).append(parcel)
        if not line.busy:
            self._next(sender)

    def _size(self, message: Message) -> float:
        """Bytes on the wire; the same message often goes to many in a row."""
        if self._sized is None or self._sized[0] is not message:
            size = len(encode(message)) + self.sizes.added(message)
            self._sized = (message, SEGMENT_OVERHEAD * size + MESSAGE_OVERHEAD_BYTES)
        return self._sized[1]

    def _next(self, sender: PeerId) -> None:
        """The uplink is free: send data of the recipient whose turn it is."""
        line = self._lines[sender]
        line.busy = bool(line.queues)
        if not line.busy:
            return
        to = next(iter(line.queues))
        queue = line.queues.pop(to)
        parcel = queue.popleft()
        if queue:
            line.queues[to] = queue  # behind the others: its next turn comes after theirs
        takes_s = parcel.size / line.access.up_bytes_s + line.up_debt_s
        line.up_debt_s = 0.0
        self._send_data(parcel, takes_s)
        self.at(self.now + takes_s, "", lambda: self._next(sender))

    # --- the way --------------------------------------------------------------------------------
    def _way(self, parcel: Parcel) -> tuple[float, float]:
        """Seconds one way, and the fraction of packets lost."""
        here, there = self._lines[parcel.sender].access, self._lines[parcel.to].access
        kept = (1 - here.loss_ratio) * (1 - there.loss_ratio)
        return here.latency_s + there.latency_s, 1 - kept

    def _send_control(self, parcel: Parcel, sent_at: float) -> None:
        latency_s, loss = self._way(parcel)
        self._count(parcel)
        at = sent_at + latency_s
        while loss and self.rng.random() < loss:
            at += 2 * latency_s + RETRANSMISSION_S
        there = self._lines[parcel.to]
        takes_s = parcel.size / there.access.down_bytes_s
        key = (parcel.sender, parcel.to)
        self._control_free[key] = max(at + takes_s, self._control_free.get(key, 0.0))
        self._arrive_at(parcel, self._control_free[key])

    def _send_data(self, parcel: Parcel, takes_s: float) -> None:
        if not self.reaches(parcel.sender, parcel.to):
            return
        self._count(parcel)
        latency_s, loss = self._way(parcel)
        segments_s = 1.22 / (2 * latency_s * sqrt(loss)) if loss else inf
        tcp_s = parcel.size / (segments_s * SEGMENT_BYTES)
        begun = max(self.now, self._data_free.get((parcel.sender, parcel.to), 0.0))
        end = max(self.now + takes_s, begun + tcp_s)
        self._data_free[parcel.sender, parcel.to] = end
        took_s = end - self.now
        self.at(end + latency_s, "", lambda: self._take_in(parcel, took_s))

    def _take_in(self, parcel: Parcel, took_s: float) -> None:
        """The last byte could be here; a narrow or busy downlink delays it."""
        line = self._lines[parcel.to]
        begun = max(line.down_free, self.now - took_s)
        line.down_free = max(self.now, begun + parcel.size / line.access.down_bytes_s)
        self._arrive_at(parcel, line.down_free)

    def _arrive_at(self, parcel: Parcel, at: float) -> None:
        for node in self.nodes[parcel.to]:
            self.at(at, node.name, lambda n=node: self._hand_over(parcel, n))  # type: ignore[misc]

    def _hand_over(self, parcel: Parcel, node: Node) -> None:
        if self.reaches(parcel.sender, parcel.to):
            self._deliver(parcel.sender, node, parcel.message)

    def _count(self, parcel: Parcel) -> None:
        kind = kind_of(parcel.message)
        up, down = self.meters[parcel.sender].up, self.meters[parcel.to].down
        up[kind] = up.get(kind, 0.0) + parcel.size
        down[kind] = down.get(kind, 0.0) + parcel.size
