"""The peers of one swarm: who is connected, who could be, and what each has done wrong.

A thin layer between frames and messages. Outgoing: one message is encoded once however many peers
it goes to, and takes the bulk lane if it carries data. Incoming: bytes become a checked message or
a strike. STRIKES_MAX strikes, whoever found the faults, and the peer is let go, not dialled again
in this run and let go again if it comes back.

Addresses come from the link, from --peer, from each peer's hello and from the Contacts that peers
send one another when somebody new arrives; one task tries those that are not connected, slower
and slower. The lower peer id dials the higher one at once, the other waits a moment, so that most
pairs connect only once.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from math import inf

import trio

from p2ptrain.config import ARITHMETIC
from p2ptrain.config_version import version_number
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
    ADDRESSES_MAX,
    CONTACTS_MAX,
    PROTOCOL_VERSION,
    STRIKES_MAX,
)
from p2ptrain.wire.messages import (
    Blob,
    Commit,
    Contact,
    Contacts,
    Goodbye,
    Headers,
    Hello,
    Message,
    Piece,
    ReducedPiece,
    Statement,
    StatePiece,
)
from p2ptrain.wire.peer_id import PeerId

BULK = (Piece, StatePiece, ReducedPiece, Blob, Headers)
DIAL_TIMEOUT_S = 5.0
REDIAL_S_MIN, REDIAL_S_MAX = 0.5, 30.0
HEAD_START_S = 0.2  # a round trip and a greeting on most links
AGENT = f"p2ptrain/{version_number()}"


def travels_with_data(message: Message) -> bool:
    """Whether a message takes the bulk lane.

    A Commit does although it is small: its pieces follow it at once, and one that overtook it
    would be refused (averaging 3.1) and come again only with the next retry.
    """
    if isinstance(message, Statement):
        return isinstance(message.signed.statement, Commit)
    return isinstance(message, BULK)


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
    under_way: bool = False


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
    if not _acquainted(topics, hello.topics):
        return f"this peer is in {', '.join(topics)}, not in {', '.join(hello.topics) or 'nothing'}"
    return None


def _acquainted(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether two peers have something to do with each other.

    A member names its swarm and then its data set, a seeder only data sets. A member and a seeder
    of its data set belong together; two swarms that happen to learn from the same data do not.
    """
    shared = set(ours) & set(theirs)
    both_members = len(ours) > 1 and len(theirs) > 1
    return bool(shared) and not (both_members and ours[0] not in shared)


@dataclass
class Peers:
    """Connections to the peers of one swarm, and to seeders of its data set.

    transport   opened and closed by the caller
    swarm       its id; None for a seeder, which is in no swarm
    """

    transport: Transport
    telemetry: Telemetry
    swarm: str | None = None
    hellos: dict[PeerId, Hello] = field(default_factory=dict)
    _dials: dict[PeerId, _Dial] = field(default_factory=dict)
    _strikes: dict[PeerId, int] = field(default_factory=dict)
    _unwanted: dict[PeerId, str] = field(default_factory=dict)
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
        """The peers of our swarm that a message can be sent to now."""
        return frozenset(
            peer
            for peer, hello in self.hellos.items()
            if self.swarm is None or self.swarm in hello.topics
        )

    @property
    def sources(self) -> frozenset[PeerId]:
        """All who may have content that we lack: the peers of our swarm, and seeders."""
        return frozenset(self.hellos)

    @property
    def anybody(self) -> bool:
        """Whether there is anyone to turn to: connected, or with an address to dial."""
        return bool(self.hellos or self._dials)

    @property
    def prospects(self) -> bool:
        """Whether a peer of our swarm is connected, or may be behind an address that we know."""
        return bool(self.connected or self._dials.keys() - self.hellos.keys())

    @property
    def refused_by_all(self) -> bool:
        """Whether all who could be dialled have refused us, so that trying again is idle."""
        return bool(self._dials) and all(
            any(address in self._refusals for address in dial.addresses)
            for dial in self._dials.values()
        )

    @property
    def refusals(self) -> dict[str, str]:
        """Addresses whose peer does not want us, and its words."""
        return dict(self._refusals)

    def send(self, to: PeerId, message: Message) -> bool:
        """Put a message into a peer's outbox; False if it is not connected or reads too slowly."""
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = (message, encode(message))
        return self.transport.send(to, self._encoded[1], bulk=travels_with_data(message))

    async def wait_for_somebody(self) -> None:
        """Return when a peer is connected, or at once if there is nobody to dial."""
        while self.prospects and not self.connected:
            await self._arrival.wait()

    def heard_within(self, quiet_s: float) -> list[PeerId]:
        """Connected peers whose connection has shown life in the last quiet_s seconds."""
        statistics = self.transport.statistics()
        return [
            peer
            for peer in sorted(self.connected)
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
        if count == STRIKES_MAX:
            self._forget(peer)
            self._let_go(peer, f"{STRIKES_MAX} faults, the last: {error}")

    def know(self, addresses: tuple[str, ...], *, hearsay: bool = False) -> None:
        """Addresses of one peer, to be dialled. What others say of it never displaces the rest."""
        named = [a for a in addresses if "/p2p/" in a]
        if not named:
            return
        peer = PeerId(named[0].rsplit("/p2p/", 1)[1])
        if peer == self.me or self._is_struck(peer):
            return
        dial = self._dials.get(peer)
        if dial is None:
            if len(self._dials) >= CONTACTS_MAX and not self._make_room():
                return
            dial = self._dials[peer] = _Dial(())
        own = [a for a in named if a.endswith(f"/p2p/{peer}")]
        order = [*dial.addresses, *own] if hearsay else [*own, *dial.addresses]
        known, dial.addresses = dial.addresses, tuple(dict.fromkeys(order))[:ADDRESSES_MAX]
        if not hearsay and set(dial.addresses) - set(known):
            dial.again_at, dial.pause_s = 0.0, REDIAL_S_MIN
        self._news.set()

    def _make_room(self) -> bool:
        """Forget a peer that could not be reached for long; False if there is none."""
        for peer, dial in self._dials.items():
            if peer not in self.hellos and dial.pause_s >= REDIAL_S_MAX:
                del self._dials[peer]
                return True
        return False

    def _is_struck(self, peer: PeerId) -> bool:
        return self._strikes.get(peer, 0) >= STRIKES_MAX

    def _let_go(self, peer: PeerId, why: str) -> None:
        self._unwanted[peer] = why
        self._news.set()

    def dial_again(self) -> None:
        """Our hello has something new to say: whoever refused us is asked once more, at once."""
        self._refusals.clear()
        for dial in self._dials.values():
            dial.again_at = 0.0
        self._news.set()

    async def events(self) -> AsyncIterator[Arrived | Departed | Received]:
        """What happens, in order, for ever."""
        while True:
            match await self.transport.receive():
                case Connected(peer, _) if self._is_struck(peer):
                    self._let_go(peer, f"{STRIKES_MAX} faults in this run")
                case Connected(peer, data):
                    self._welcome(peer, unpack(Hello, data))
                    yield Arrived(peer)
                case Disconnected(peer, reason):
                    self._news.set()
                    if self.hellos.pop(peer, None) is not None:
                        self.telemetry.report("disconnected", peer=peer, reason=reason)
                        yield Departed(peer)
                case Frame(peer, data):
                    received = None if self._is_struck(peer) else self._read(peer, data)
                    if received is not None:
                        yield received

    def _read(self, peer: PeerId, data: bytes) -> Received | None:
        try:
            message = decode(data, peer)
        except RemoteProtocolError as error:
            self.strike(error)
            return None
        if isinstance(message, Contacts):
            for contact in message.contacts:
                self.know(contact.addresses, hearsay=True)
            return None
        if isinstance(message, Goodbye):
            self.telemetry.report("goodbye", peer=peer, reason=message.reason)
            self._forget(peer)
            return None
        return Received(peer, message)

    def _forget(self, peer: PeerId) -> None:
        """Do not dial it again."""
        self._dials.pop(peer, None)
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        arrival, self._arrival = self._arrival, trio.Event()
        arrival.set()

    def _welcome(self, peer: PeerId, hello: Hello) -> None:
        self.hellos[peer] = hello
        self._wake_waiting()
        self.know(tuple(a for a in hello.addresses if a.endswith(f"/p2p/{peer}")))
        for address in [a for a in self._refusals if a.endswith(f"/p2p/{peer}")]:
            del self._refusals[address]
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
        """Try the known peers that are not connected, each at its own pace, for ever.

        The same task lets go of the peers that reached STRIKES_MAX.
        """
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                now = trio.current_time()
                while self._unwanted:
                    nursery.start_soon(self.transport.disconnect, *self._unwanted.popitem())
                idle = [
                    (peer, dial)
                    for peer, dial in self._dials.items()
                    if peer not in self.hellos and not dial.under_way
                ]
                for peer, dial in idle:
                    if dial.again_at <= now:
                        dial.under_way = True
                        nursery.start_soon(self._dial, peer, dial)
                waits = [dial.again_at for _, dial in idle if not dial.under_way]
                with trio.move_on_at(min(waits, default=inf)):
                    await self._news.wait()

    async def _dial(self, peer: PeerId, dial: _Dial) -> None:
        try:
            await self._try_addresses(peer, dial)
        finally:
            dial.under_way = False
            self._news.set()

    async def _try_addresses(self, peer: PeerId, dial: _Dial) -> None:
        dial.again_at = trio.current_time() + dial.pause_s
        dial.pause_s = min(2 * dial.pause_s, REDIAL_S_MAX)
        # Both sides learn of each other at once; the higher id gives the lower one a head start.
        if self.me > peer:
            await trio.sleep(HEAD_START_S)
        for address in dial.addresses:
            if peer in self.hellos:
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
