"""The peers of one swarm: who is connected, who could be, and what each has done wrong.

A thin layer between frames and messages. Outgoing: one message is encoded once however many peers
it goes to, and takes the bulk lane if it carries data. Incoming: bytes become a checked message or
a strike. STRIKES_MAX strikes, whoever found the faults, and the peer is let go, not dialled again
in this run, forgotten for later ones, and refused if it comes back.

Addresses come from the link, from --peer, from each peer's hello, from the Contacts that peers send
one another when somebody new arrives, from earlier runs and from mDNS; one task tries those that
are not connected, as dialling.py says. The lower peer id dials the higher one at once, the other
waits a moment, so that most pairs connect only once.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from time import time

import trio

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.net.transport import (
    Connected,
    Disconnected,
    Frame,
    PeerRefused,
    PeerUnreachable,
    Transport,
)
from p2ptrain.node.addresses import Source, is_loopback, peer_dialled_at
from p2ptrain.node.asked import Asked
from p2ptrain.node.dialling import DIAL_TIMEOUT_S, Dial, Dialling, DialState
from p2ptrain.node.lanes import travels_with_data
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.address_book import Banned, Met, Missed, Note, Reached, Remembered
from p2ptrain.wire.codec import decode, encode, unpack
from p2ptrain.wire.limits import CONTACTS_MAX, STRIKES_MAX, STRIKES_PEERS_MAX
from p2ptrain.wire.messages import Contact, Contacts, Goodbye, Hello, Message
from p2ptrain.wire.peer_id import PeerId

HEAD_START_S = 0.2  # a round trip and a greeting on most links
# Who came within so long is told of in one message: N peers that meet at the same time would
# otherwise send one another N^3 / 2 of them.
INTRODUCE_AFTER_S = 0.1


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


def _remember_nothing(note: Note) -> None:
    """For nodes without an address book."""


@dataclass
class Peers:
    """Connections to the peers of one swarm, and to seeders of its data set.

    transport   opened and closed by the caller
    swarm       its id; None for a seeder, which is in no swarm
    strikes     faults of each peer in this run; who judges hellos (judge_peer) may share it
    note        takes what is worth remembering of a peer for later runs
    """

    transport: Transport
    telemetry: Telemetry
    swarm: str | None = None
    strikes: dict[PeerId, int] = field(default_factory=dict)
    note: Callable[[Note], None] = _remember_nothing
    dial_timeout_s: float = DIAL_TIMEOUT_S
    hellos: dict[PeerId, Hello] = field(default_factory=dict)
    was_dialled: bool = False  # whether anyone has made a connection to us
    _dialling: Dialling = field(default_factory=Dialling)
    _via_loopback: dict[PeerId, bool] = field(default_factory=dict)  # of those in hellos
    _unwanted: dict[PeerId, str] = field(default_factory=dict)
    _asked: Asked = field(default_factory=Asked)
    _encoded: tuple[Message, bytes] | None = None
    _news: trio.Event = field(default_factory=trio.Event)
    _arrival: trio.Event = field(default_factory=trio.Event)
    _newcomers: dict[PeerId, Contact] = field(default_factory=dict)  # others do not know of yet
    _newcomers_here: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self._dialling.ours = self.transport.addresses

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
        return bool(self.hellos or self._dialling)

    @property
    def prospects(self) -> bool:
        """Whether a peer of our swarm is connected, or may be behind an address that we know."""
        return bool(self.connected or set(self._dialling.peers) - self.hellos.keys())

    @property
    def refused_by_all(self) -> bool:
        """Whether all who could be dialled have refused us, so that trying again is idle."""
        return self._dialling.refused_by_all

    @property
    def refusals(self) -> dict[str, str]:
        """Addresses whose peer does not want us, and its words."""
        return self._dialling.refusals

    def dial_states(self) -> tuple[DialState, ...]:
        """How it stands with each peer that could be dialled: addresses, next try, last error."""
        return self._dialling.states(trio.current_time())

    def send(self, to: PeerId, message: Message) -> bool:
        """Put a message into a peer's outbox; False if it is not connected or reads too slowly."""
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = (message, encode(message))
        self._asked.sent(to, message)
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
        count = self.strikes.get(peer, 0) + 1
        if count == 1 and len(self.strikes) >= STRIKES_PEERS_MAX:
            del self.strikes[next(iter(self.strikes))]
        self.strikes[peer] = count
        self.telemetry.strikes += 1
        self.telemetry.report(
            "strike", peer=peer, rule=error.rule, detail=error.detail, strikes=count
        )
        if count == STRIKES_MAX:
            self._end(peer, f"{STRIKES_MAX} faults, the last: {error}")

    def ban(self, peer: PeerId, why: str) -> None:
        """Let a peer go for good, whatever its strikes were."""
        if not self._is_struck(peer):
            self.strikes[peer] = STRIKES_MAX
            self._end(peer, why)

    def _end(self, peer: PeerId, why: str) -> None:
        self._forget(peer)
        self.note(Banned(peer))
        self._let_go(peer, why)

    def know(self, addresses: Iterable[str], source: Source = Source.GIVEN) -> None:
        """Addresses of one peer, to be dialled; those of any other peer than the first's do not
        count. What others say of a peer never displaces what it says itself.
        """
        texts = list(addresses)
        found = [self._dialling.address(text, source) for text in texts]
        if source is Source.GIVEN and None in found:
            text = f"an address of the link leads to no peer: {texts[found.index(None)][:100]}"
            self.telemetry.report("warning", text=text)
        named = [address for address in found if address is not None]
        peer = peer_dialled_at(named[0].text) if named else None
        if peer is None or peer == self.me or self._is_struck(peer):
            return
        own = [address for address in named if peer_dialled_at(address.text) == peer]
        if self._dialling.know(own):
            if peer in self.hellos:
                self._dialling.connected(peer, trio.current_time())
            self._news.set()

    def hear_of(self, teller: PeerId, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Addresses that a peer announced; who told us may be another."""
        source = Source.TOLD if teller == peer else Source.HEARSAY
        self.know(
            self._dialable(teller, tuple(a for a in addresses if peer_dialled_at(a) == peer)),
            source,
        )

    def recall(self, remembered: Iterable[Remembered]) -> None:
        """Addresses from earlier runs, best first."""
        for each in remembered:
            address = self._dialling.address(each.address, Source.REMEMBERED)
            unwanted = each.peer in {self.me, *self.hellos} or self._is_struck(each.peer)
            if address is not None and not unwanted:
                address.worked_at, address.failures = each.worked_at, each.failures
                address.last_error = each.last_error
                self._dialling.know([address])
        self._news.set()

    def _is_struck(self, peer: PeerId) -> bool:
        return self.strikes.get(peer, 0) >= STRIKES_MAX

    def _let_go(self, peer: PeerId, why: str) -> None:
        self._unwanted[peer] = why
        self._news.set()

    def dial_again(self) -> None:
        """Our hello has something new to say: whoever refused us is asked once more, at once."""
        self._dialling.ask_again()
        self._news.set()

    async def events(self) -> AsyncIterator[Arrived | Departed | Received]:
        """What happens, in order, for ever."""
        while True:
            match await self.transport.receive():
                case Connected(peer, _) if self._is_struck(peer):
                    self._let_go(peer, f"{STRIKES_MAX} faults in this run, or a proof")
                case Connected(peer, data) as event:
                    self._welcome(event, unpack(Hello, data))
                    yield Arrived(peer)
                case Disconnected(peer, reason, rule):
                    if rule is not None:
                        self.strike(RemoteProtocolError(peer, rule, reason))
                    self._via_loopback.pop(peer, None)
                    self._dialling.disconnected(peer, trio.current_time())
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
            self._asked.received(peer, message)
        except RemoteProtocolError as error:
            self.strike(error)
            return None
        if isinstance(message, Contacts):
            for contact in message.contacts:
                self.know(self._dialable(peer, contact.addresses), Source.HEARSAY)
            return None
        if isinstance(message, Goodbye):
            self.telemetry.report("goodbye", peer=peer, reason=message.reason)
            self._forget(peer)
            return None
        return Received(peer, message)

    def _forget(self, peer: PeerId) -> None:
        """Do not dial it again."""
        self._dialling.forget(peer)
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        arrival, self._arrival = self._arrival, trio.Event()
        arrival.set()

    def _dialable(self, teller: PeerId, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Without those of this machine's loopback, unless the teller itself came that way.

        A stranger has no business in naming the ports of this machine, and a peer on another one
        means its own.
        """
        if self._via_loopback.get(teller, True):
            return addresses
        return tuple(address for address in addresses if not is_loopback(address))

    def _welcome(self, event: Connected, hello: Hello) -> None:
        peer, now_unix = event.peer, time()
        self.hellos[peer] = hello
        self._via_loopback[peer] = not event.address.startswith("/ip") or is_loopback(event.address)
        self._wake_waiting()
        told = self._dialable(peer, tuple(a for a in hello.addresses if peer_dialled_at(a) == peer))
        self.know(told, Source.TOLD)
        self._dialling.connected(peer, trio.current_time())
        self.note(Met(peer, hello.topics, told, now_unix))
        self.was_dialled |= not event.outgoing
        if event.outgoing:
            self._dialling.worked(peer, event.address, now_unix)
            self.note(Reached(peer, hello.topics, event.address, now_unix))
        self.telemetry.report("connected", peer=peer, agent=hello.agent)
        contacts = [
            Contact(other, self.hellos[other].addresses)
            for other in sorted(self.hellos)
            if other != peer and self.hellos[other].addresses
        ]
        self.send(peer, Contacts(tuple(contacts[:CONTACTS_MAX])))
        if hello.addresses:
            self._newcomers[peer] = Contact(peer, hello.addresses)
            self._newcomers_here.set()

    async def _introduce(self) -> None:
        """Tell everyone of those who have just come, for ever."""
        while True:
            await self._newcomers_here.wait()
            await trio.sleep(INTRODUCE_AFTER_S)
            self._newcomers_here = trio.Event()
            newcomers = [contact for _, contact in sorted(self._newcomers.items())]
            self._newcomers.clear()
            for other in sorted(self.hellos):
                others = [contact for contact in newcomers if contact.peer != other]
                for start in range(0, len(others), CONTACTS_MAX):
                    self.send(other, Contacts(tuple(others[start : start + CONTACTS_MAX])))

    async def keep_dialling(self) -> None:
        """Try the known peers that are not connected, each at its own pace, for ever.

        The same task lets go of the peers that reached STRIKES_MAX, and introduces newcomers.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._introduce)
            while True:
                self._news = trio.Event()
                now = trio.current_time()
                while self._unwanted:
                    nursery.start_soon(self.transport.disconnect, *self._unwanted.popitem())
                for dial in self._dialling.due(now):
                    nursery.start_soon(self._take_turn, dial)
                with trio.move_on_at(self._dialling.next_at()):
                    await self._news.wait()

    async def _take_turn(self, dial: Dial) -> None:
        reached = False
        try:
            reached = await self._try_addresses(dial)
        finally:
            self._dialling.finished(dial, trio.current_time(), reached=reached)
            self._news.set()

    async def _try_addresses(self, dial: Dial) -> bool:
        """Try a peer's addresses until one answers; whether it is connected."""
        # Both sides learn of each other at once; the higher id gives the lower one a head start.
        if self.me > dial.peer:
            await trio.sleep(HEAD_START_S)
        for address in self._dialling.turn(dial):
            if dial.peer in self.hellos:
                return True
            try:
                await self.transport.dial(address.text, self.dial_timeout_s)
            except PeerRefused as error:
                if self._dialling.failed(dial, address, error.why, refused=True):
                    self.telemetry.report("refused", address=address.text, reason=error.why)
                return False  # it is the same peer at all of its addresses
            except PeerUnreachable as error:
                self.note(Missed(dial.peer, address.text, error.why, time()))
                if self._dialling.failed(dial, address, error.why):
                    self.telemetry.report("unreachable", address=address.text, reason=error.why)
            else:
                return True
        return False
