"""What the rest of p2ptrain sees of the network: frames go out, events come in.

A transport joins this peer to others by authenticated connections, at most one a peer, and carries
frames: opaque bytes of at most FRAME_BYTES_MAX. It knows nothing of messages but the first one of
each side, the hello, which is made and judged by functions that are passed in.

Two lanes lead to every peer. "control" is for small frames that others wait for (votes,
proposals), "bulk" for data. Within a lane order is kept; between lanes there is none: a vote may
overtake the piece that was sent before it, which is what the lanes are for.

Nothing here waits for a peer except dial. send puts a frame into a bounded outbox that one task
empties; a peer that does not read is dropped, and the events say so. A frame that was accepted by
send may still be lost if the connection ends: who must know asks for an answer.

net/switchboard.py implements this over any kind of link; net/libp2p_host.py gives it libp2p's
links and simnet/memnet.py simulated ones. tests/check_transport.py says what both must keep.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from p2ptrain.errors import P2PTrainError
from p2ptrain.wire import limits
from p2ptrain.wire.peer_id import PeerId


class PeerUnreachable(P2PTrainError):
    """No connection to an address could be made. Trying again later may help.

    address   the multiaddr that was dialled
    why       one sentence
    """

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"{address} cannot be reached: {why}")
        self.address = address
        self.why = why


class PeerRefused(PeerUnreachable):
    """The peer answered and does not want us, or we do not want it (see why). Final until
    something changes: another version, another swarm.
    """


@dataclass(frozen=True, slots=True)
class Connected:
    """A peer said hello and was accepted. No other event of this peer comes before it.

    hello      its hello, already judged
    address    where it was dialled, or where its connection comes from (no listening address)
    outgoing   True if this side dialled
    """

    peer: PeerId
    hello: bytes
    address: str
    outgoing: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """A peer sent data (0 to FRAME_BYTES_MAX bytes); bulk tells the lane."""

    peer: PeerId
    data: bytes
    bulk: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone; no event of the peer follows, unless it connects again.

    reason   one sentence
    rule     the section of protocol/ that the peer broke, "transport 5"; None: it broke none
    """

    peer: PeerId
    reason: str
    rule: str | None = None


Event = Connected | Frame | Disconnected


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatistics:
    """What went to and from one peer since this transport was opened, over all its connections.

    bytes_*        payload bytes of frames, without headers, pings and encryption; sent means
                   taken from the outbox to be written
    connected_s    seconds connected, all connections together
    rtt_s          the newest round trip of a ping, seconds; None before the first answer
    quiet_s        seconds since anything came from it, pings included; inf if not connected
    outbox_bytes   waiting to be sent now, both lanes
    inbox_bytes    received and not yet taken by receive
    """

    connected: bool
    bytes_sent: int
    bytes_received: int
    frames_sent: int
    frames_received: int
    connected_s: float
    rtt_s: float | None
    quiet_s: float
    outbox_bytes: int
    inbox_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of one transport; the defaults are the protocol's (wire/limits.py has reasons)."""

    connections_max: int = limits.CONNECTIONS_MAX
    greetings_max: int = limits.GREETINGS_MAX
    outbox_control_bytes_max: int = limits.OUTBOX_CONTROL_BYTES_MAX
    outbox_bulk_bytes_max: int = limits.OUTBOX_BULK_BYTES_MAX
    outbox_bytes_max: int = limits.OUTBOX_BYTES_MAX
    inbox_bytes_per_peer_max: int = limits.INBOX_BYTES_PER_PEER_MAX
    inbox_bytes_max: int = limits.INBOX_BYTES_MAX
    bytes_per_peer_per_s: float = limits.BYTES_PER_PEER_PER_S
    bytes_per_peer_burst: float = limits.BYTES_PER_PEER_BURST
    frames_per_peer_per_s: float = limits.FRAMES_PER_PEER_PER_S
    frames_per_peer_burst: float = limits.FRAMES_PER_PEER_BURST
    greetings_per_peer_per_s: float = limits.GREETINGS_PER_PEER_PER_S
    greetings_per_peer_burst: float = limits.GREETINGS_PER_PEER_BURST
    knocks_per_address_per_s: float = limits.KNOCKS_PER_ADDRESS_PER_S
    knocks_per_address_burst: float = limits.KNOCKS_PER_ADDRESS_BURST
    knocking_per_address_max: int = limits.KNOCKING_PER_ADDRESS_MAX
    connections_per_address_max: int = limits.CONNECTIONS_PER_ADDRESS_MAX
    pause_s_max: float = limits.PAUSE_S_MAX
    handshake_timeout_s: float = limits.HANDSHAKE_TIMEOUT_S
    ping_interval_s: float = limits.PING_INTERVAL_S
    ping_timeout_s: float = limits.PING_TIMEOUT_S
    write_timeout_s: float = limits.WRITE_TIMEOUT_S
    drain_timeout_s: float = limits.DRAIN_TIMEOUT_S
    goodbye_timeout_s: float = limits.GOODBYE_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Etiquette:
    """How this peer meets others.

    hello         makes the first frame for a new connection (at most HELLO_BYTES_MAX)
    judge_hello   given a peer and its hello, says why it is refused; None if it is welcome.
                  Must not raise, whatever the bytes are: they are a stranger's.
    bounds        what others may cost us
    """

    hello: Callable[[], bytes]
    judge_hello: Callable[[PeerId, bytes], str | None]
    bounds: Bounds = Bounds()


class Transport(Protocol):
    """Connections to peers. tests/check_transport.py is the exact meaning of each method."""

    @property
    def me(self) -> PeerId:
        """The peer that this transport speaks for."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can dial this peer: full multiaddrs, each ending in /p2p/<me>."""
        ...

    async def dial(self, address: str, timeout_s: float) -> PeerId:
        """Connect to the peer at a full multiaddr, or return at once if it is connected.

        Raises PeerUnreachable when no connection stands within timeout_s, and PeerRefused when
        one side's judge_hello says no. A Connected event comes as well.
        """
        ...

    def send(self, peer: PeerId, frame: bytes, *, bulk: bool = False) -> bool:
        """Put a frame into the peer's outbox; never waits.

        False if the peer is not connected or the lane's outbox is full; a peer whose outbox stays
        full is dropped. Raises ValueError for a frame over FRAME_BYTES_MAX: that is our bug.
        """
        ...

    async def receive(self) -> Event:
        """The next event, in order; waits for one. One task at a time may call this."""
        ...

    async def disconnect(self, peer: PeerId, reason: str) -> None:
        """Send what waits on the control lane, tell the peer why, and end the connection.

        Returns when it is over, within GOODBYE_TIMEOUT_S; both sides see Disconnected. Does
        nothing if the peer is not connected.
        """
        ...

    def waiting_bytes(self, peer: PeerId) -> int:
        """What waits in a peer's outbox, both lanes; 0 if it is not connected."""
        ...

    def statistics(self) -> Mapping[PeerId, PeerStatistics]:
        """Figures for every peer that was connected at some time."""
        ...
