"""The peers of one swarm: who is connected, who could be, and what each has done wrong.

A thin layer between frames and messages. Outgoing: one message is encoded once however many peers
it goes to, and takes the bulk lane if it carries data. Incoming: bytes become a checked message or
a strike. STRIKES_MAX strikes and the peer is let go and not dialled again in this run.

Addresses come from the link, from --peer, from each peer's hello and from the Contacts that peers
send one another when somebody new arrives; one task tries those that are not connected, slower
and slower. The lower peer id dials the higher one at once, the other waits a moment, so that most
pairs connect only once.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import trio

from p2ptrain.config import ARITHMETIC
from p2ptrain.errors import RemoteProtocolError
from p2ptrain.net.transport import (
    Connected,
    Disconnected,
    Frame,
    PeerRefused,
    PeerUnreachable,
    Transport,
)
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.wire.codec import decode, encode, pack, unpack
from p2ptrain.wire.limits import (
    CONTACTS_MAX,
    PROTOCOL_VERSION,
    STRIKES_MAX,
)
from p2ptrain.wire.messages import (
    Blob,
    Contact,
    Contacts,
    Goodbye,
    Headers,
    Hello,
    Message,
    Piece,
    ReducedPiece,
    StatePiece,
)
from p2ptrain.wire.peer_id import PeerId

BULK = (Piece, StatePiece, ReducedPiece, Blob, Headers)
DIAL_TIMEOUT_S = 5.0
REDIAL_S_MIN, REDIAL_S_MAX = 0.5, 30.0
AGENT = "p2ptrain/0.1.0"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A peer is connected."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Departed:
    """A peer is gone; it may come back."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Received:
    """A peer sent a well-formed message; whether it may say so is for its receiver to check."""

    peer: PeerId
    message: Message


@dataclass
class _Dial:
    """When to try a peer's addresses again."""

    addresses: tuple[str, ...]
    again_at: float = 0.0
    pause_s: float = REDIAL_S_MIN


def make_hello(topics: tuple[str, ...], addresses: tuple[str, ...]) -> bytes:
    """The bytes of our hello."""
    return pack(Hello(PROTOCOL_VERSION, ARITHMETIC, topics, AGENT, addresses))


def judge_hello(topics: tuple[str, ...], data: bytes) -> str | None:
    """Why a hello is refused, in words for its sender; None if it is welcome."""
    try:
        hello = unpack(Hello, data)
    except ValueError as error:
        return f"your hello cannot be read ({error}); this is {AGENT}, protocol {PROTOCOL_VERSION}"
    if hello.protocol != PROTOCOL_VERSION:
        return (
            f"you speak protocol {hello.protocol}, this peer {PROTOCOL_VERSION}: "
            "install the same release of p2ptrain on both"
        )
    if hello.arithmetic != ARITHMETIC:
        return (
            f"you compute by arithmetic {hello.arithmetic}, this peer by {ARITHMETIC}, so the bits "
            "would differ: pip install --upgrade p2ptrain on the older of the two"
        )
    if not set(hello.topics) & set(topics):
        return f"this peer is in {', '.join(topics)}, not in {', '.join(hello.topics) or 'nothing'}"
    return None


@dataclass
class Peers:
    """Connections to the peers of one swarm.

    transport   opened and closed by the caller
    """

    transport: Transport
    telemetry: Telemetry
    hellos: dict[PeerId, Hello] = field(default_factory=dict)
    _dials: dict[PeerId | str, _Dial] = field(default_factory=dict)
    _strikes: dict[PeerId, int] = field(default_factory=dict)
    _refusals: dict[str, str] = field(default_factory=dict)
    _encoded: tuple[Message, bytes] | None = None
    _news: trio.Event = field(default_factory=trio.Event)
    _arrival: trio.Event = field(default_factory=trio.Event)

    @property
    def me(self) -> PeerId:
        """This peer."""
        return self.transport.me

    @property
    def connected(self) -> frozenset[PeerId]:
        """The peers that a message can be sent to now."""
        return frozenset(self.hellos)

    @property
    def refusals(self) -> dict[str, str]:
        """Addresses whose peer does not want us, and its words."""
        return dict(self._refusals)

    def send(self, to: PeerId, message: Message) -> bool:
        """Put a message into a peer's outbox; False if it is not connected or reads too slowly."""
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = (message, encode(message))
        return self.transport.send(to, self._encoded[1], bulk=isinstance(message, BULK))

    async def wait_for_somebody(self) -> None:
        """Return when a peer is connected, or at once if there is nobody to dial."""
        while self._dials and not self.hellos:
            await self._arrival.wait()

    def heard_within(self, quiet_s: float) -> list[PeerId]:
        """Connected peers whose connection has shown life in the last quiet_s seconds."""
        statistics = self.transport.statistics()
        return [
            peer
            for peer in sorted(self.hellos)
            if peer in statistics and statistics[peer].quiet_s <= quiet_s
        ]

    def broadcast(self, message: Message) -> None:
        """Send a message to every connected peer."""
        for peer in sorted(self.hellos):
            self.send(peer, message)

    def strike(self, error: RemoteProtocolError) -> None:
        """Count a peer's fault and report it; the one that reaches STRIKES_MAX is let go."""
        peer = PeerId(error.peer)
        count = self._strikes[peer] = self._strikes.get(peer, 0) + 1
        self.telemetry.strikes += 1
        self.telemetry.report(
            "strike", peer=peer, rule=error.rule, detail=error.detail, strikes=count
        )

    def know(self, addresses: tuple[str, ...]) -> None:
        """Addresses of one peer, or of a peer still unnamed, to be dialled."""
        named = [a for a in addresses if "/p2p/" in a]
        if not named:
            return
        peer = PeerId(named[0].rsplit("/p2p/", 1)[1])
        if peer == self.me or (peer not in self._dials and len(self._dials) >= CONTACTS_MAX):
            return
        self._dials[peer] = _Dial(tuple(named))
        self._news.set()

    async def events(self) -> AsyncIterator[Arrived | Departed | Received]:
        """What happens, in order, for ever."""
        while True:
            match await self.transport.receive():
                case Connected(peer, data):
                    self._welcome(peer, unpack(Hello, data))
                    yield Arrived(peer)
                case Disconnected(peer, reason):
                    self.hellos.pop(peer, None)
                    self.telemetry.report("disconnected", peer=peer, reason=reason)
                    self._news.set()
                    yield Departed(peer)
                case Frame(peer, data):
                    received = await self._read(peer, data)
                    if received is not None:
                        yield received

    async def _read(self, peer: PeerId, data: bytes) -> Received | None:
        try:
            message = decode(data, peer)
        except RemoteProtocolError as error:
            self.strike(error)
            if self._strikes[peer] >= STRIKES_MAX:
                await self.transport.disconnect(peer, f"{STRIKES_MAX} faults, the last: {error}")
            return None
        if isinstance(message, Contacts):
            for contact in message.contacts:
                self.know(contact.addresses)
            return None
        if isinstance(message, Goodbye):
            self.telemetry.report("goodbye", peer=peer, reason=message.reason)
            self._dials.pop(peer, None)
            return None
        return Received(peer, message)

    def _welcome(self, peer: PeerId, hello: Hello) -> None:
        self.hellos[peer] = hello
        arrival, self._arrival = self._arrival, trio.Event()
        arrival.set()
        self.know(hello.addresses)
        self.telemetry.report("connected", peer=peer, agent=hello.agent)
        contacts = [
            Contact(other, self.hellos[other].addresses)
            for other in sorted(self.hellos)
            if other != peer and self.hellos[other].addresses
        ]
        self.send(peer, Contacts(tuple(contacts[:CONTACTS_MAX])))
        if hello.addresses:
            for other in sorted(self.hellos):
                if other != peer:
                    self.send(other, Contacts((Contact(peer, hello.addresses),)))

    async def keep_dialling(self) -> None:
        """Try the known peers that are not connected, each at its own pace, for ever."""
        while True:
            now = trio.current_time()
            waiting = [
                (key, dial)
                for key, dial in self._dials.items()
                if key not in self.hellos and self._strikes.get(PeerId(key), 0) < STRIKES_MAX
            ]
            async with trio.open_nursery() as nursery:
                for key, dial in waiting:
                    if dial.again_at <= now:
                        nursery.start_soon(self._dial, key, dial)
            pauses = [dial.again_at for key, dial in waiting if key not in self.hellos]
            self._news = trio.Event()
            with trio.move_on_at(min(pauses, default=now + REDIAL_S_MAX)):
                await self._news.wait()

    async def _dial(self, key: PeerId | str, dial: _Dial) -> None:
        dial.again_at = trio.current_time() + dial.pause_s
        dial.pause_s = min(2 * dial.pause_s, REDIAL_S_MAX)
        # Both sides learn of each other at once; the higher id gives the lower one a head start.
        if self.me > str(key):
            await trio.sleep(0.2)
        for address in dial.addresses:
            if key in self.hellos:
                return
            try:
                await self.transport.dial(address, DIAL_TIMEOUT_S)
            except PeerRefused as error:
                self._refusals[address] = error.why
                self.telemetry.report("refused", address=address, reason=error.why)
                dial.again_at = trio.current_time() + REDIAL_S_MAX
            except PeerUnreachable as error:
                self.telemetry.report("unreachable", address=address, reason=error.why)
            else:
                dial.pause_s = REDIAL_S_MIN
                return
