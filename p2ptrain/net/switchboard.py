"""The transport over any kind of link: who is connected, and what they have sent.

Greeting. The dialling side sends its hello; the dialled side judges it and answers with its own
hello, or REFUSED; then the dialling side judges. Each side counts the peer as connected once it has
sent its own hello and accepted the other's.

Two peers that dial each other at the same moment must end with one connection, and both must
choose the same one without another round trip. Rule: whoever gets a hello while its own hello to
that peer is on its way answers DUPLICATE if its own peer id is the smaller, else accepts. And who
is connected when its link is ready to be greeted drops the link unused. Let A < B:
- both hellos were sent before either arrived: A answers DUPLICATE, B accepts; A's link stays;
- B's hello arrives at A before A sent its own: A accepts and never sends its own; B's link stays;
- A's hello arrives at B before B sent its own: as before, A's link stays.
A hello from a peer that is connected replaces its old connection: it would not have dialled if it
still had it (it has restarted, or its network has changed).

Events wait in one inbox. What a peer has there is charged to it, lasts over its connections, and
is bounded; who exceeds the bound is dropped.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from math import inf

import trio

from p2ptrain.net.budget import Pool
from p2ptrain.net.framing import (
    FrameDecoder,
    FramingError,
    Kind,
    RawFrame,
    decode_reason,
    encode_frame,
    encode_reason,
)
from p2ptrain.net.inbox import Inbox
from p2ptrain.net.link import Lane, Link, LinkBroken
from p2ptrain.net.session import BULK_SHARE, Session
from p2ptrain.net.transport import (
    Connected,
    Disconnected,
    Etiquette,
    Event,
    PeerRefused,
    PeerStatistics,
    PeerUnreachable,
)
from p2ptrain.wire.limits import FRAME_BYTES_MAX
from p2ptrain.wire.peer_id import PeerId, peer_id_in


class Switchboard:
    """A Transport (net/transport.py says what its methods mean)."""

    def __init__(
        self,
        me: PeerId,
        etiquette: Etiquette,
        connect: Callable[[str], Awaitable[Link]],
        nursery: trio.Nursery,
    ) -> None:
        """Start with no connections.

        connect   makes a link to a full multiaddr, or raises LinkBroken
        nursery   where the connections live
        """
        self.me = me
        self.addresses: tuple[str, ...] = ()  # known when the host listens
        self._etiquette = etiquette
        self._bounds = etiquette.bounds
        self._connect = connect
        self._nursery = nursery
        self._sessions: dict[PeerId, Session] = {}
        self._inbox = Inbox(self._bounds)
        self._outboxes = Pool(self._bounds.outbox_bytes_max)
        self._registered = trio.Event()  # set, and made anew, when a peer is connected
        self._hello_sent: set[PeerId] = set()  # on links that we dialled, not yet answered
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._greetings = 0
        self._leaving = False

    # --- the Transport protocol --------------------------------------------------------------

    async def dial(self, address: str, timeout_s: float) -> PeerId:
        """Connect to the peer at a full multiaddr, or return at once if it is connected."""
        try:
            peer = peer_id_in(address)
        except ValueError as error:
            raise PeerUnreachable(address, str(error)) from error
        if peer == self.me:
            raise PeerUnreachable(address, "that is this peer itself")
        with trio.move_on_after(timeout_s):
            async with self._one_dial_of(peer):
                await self._dial(address, peer)
        if peer not in self._sessions:
            raise PeerUnreachable(address, f"no answer within {timeout_s:g} s")
        return peer

    def send(self, peer: PeerId, frame: bytes, *, bulk: bool = False) -> bool:
        """Put a frame into the peer's outbox; never waits. False: not connected, or full."""
        if len(frame) > FRAME_BYTES_MAX:
            raise ValueError(f"a frame of {len(frame)} bytes: {FRAME_BYTES_MAX} at most")
        session = self._sessions.get(peer)
        if session is None:
            return False
        outbox = session.bulk if bulk else session.control
        return outbox.put(RawFrame(Kind.DATA, frame))

    async def receive(self) -> Event:
        """The next event, in order; waits for one."""
        return await self._inbox.take()

    async def disconnect(self, peer: PeerId, reason: str) -> None:
        """Tell the peer why and end the connection, within GOODBYE_TIMEOUT_S."""
        session = self._sessions.get(peer)
        if session is not None:
            await session.leave(reason)

    def waiting_bytes(self, peer: PeerId) -> int:
        """What waits in a peer's outbox, both lanes."""
        session = self._sessions.get(peer)
        return 0 if session is None else session.outbox_bytes

    def statistics(self) -> Mapping[PeerId, PeerStatistics]:
        """Figures for every peer that was connected at some time."""
        return {peer: self._statistics_of(peer) for peer in self._inbox.meters}

    # --- for the host -------------------------------------------------------------------------

    async def accept(self, link: Link) -> None:
        """Greet who has dialled us and carry frames until the connection ends; closes the link."""
        session = None
        try:
            with trio.move_on_after(self._bounds.handshake_timeout_s):
                session = await self._greet_caller(link)
        except LinkBroken:
            pass  # a stranger that came and went is no event
        finally:
            if session is None:
                await _close(link)
        if session is not None:
            await self._run(session)

    async def leave(self, reason: str) -> None:
        """Take no new peers, say goodbye to all, and end every connection."""
        self._leaving = True
        async with trio.open_nursery() as nursery:
            for session in list(self._sessions.values()):
                nursery.start_soon(session.leave, reason)

    # --- greeting -----------------------------------------------------------------------------

    @asynccontextmanager
    async def _one_dial_of(self, peer: PeerId) -> AsyncIterator[None]:
        """Only one dial of a peer at a time; the others wait and find it connected."""
        lock = self._dialling.setdefault(peer, trio.Lock())
        async with lock:
            try:
                yield
            finally:
                if not lock.statistics().tasks_waiting:
                    del self._dialling[peer]

    async def _dial(self, address: str, peer: PeerId) -> None:
        """Return when the peer is connected, by this dial or by its own."""
        if peer in self._sessions:
            return
        session = None
        try:
            link = await self._connect(address)
            try:
                session = await self._greet_dialled(link)
            finally:
                if session is None:
                    await _close(link)
        except LinkBroken as error:
            if peer not in self._sessions:
                raise PeerUnreachable(address, str(error)) from error
        if session is not None:
            self._nursery.start_soon(self._run, session)
        while peer not in self._sessions:  # it dialled us as well, and its link is the one
            await self._registered.wait()

    async def _greet_dialled(self, link: Link) -> Session | None:
        """Greet whom we dialled. None: the peer's own link to us is to be used."""
        peer = link.peer
        if peer in self._sessions:
            return None
        self._hello_sent.add(peer)
        try:
            await link.control.send_all(encode_frame(Kind.HELLO, self._etiquette.hello()))
            decoder = FrameDecoder()
            kind, payload = await _first_frame(link.control, decoder)
        finally:
            self._hello_sent.discard(peer)
        if kind is Kind.DUPLICATE or peer in self._sessions:
            return None
        if kind is Kind.REFUSED:
            raise PeerRefused(link.address, f"it refuses us: {decode_reason(payload)}")
        if kind is not Kind.HELLO:
            raise LinkBroken(f"it broke transport 3: {kind.name} frame instead of a hello")
        if refusal := self._refusal_of(peer, payload):
            await self._hang_up(link, encode_frame(Kind.REFUSED, encode_reason(refusal)))
            raise PeerRefused(link.address, f"we refuse it: {refusal}")
        return self._register(link, payload, decoder)

    async def _greet_caller(self, link: Link) -> Session | None:
        """Greet who dialled us. None: refused, or our own link to the peer is to be used."""
        if self._greetings >= self._bounds.greetings_max:
            return None
        self._greetings += 1
        try:
            decoder = FrameDecoder()
            kind, payload = await _first_frame(link.control, decoder)
            if kind is not Kind.HELLO:
                return None
            if link.peer in self._hello_sent and self.me < link.peer:
                await self._hang_up(link, encode_frame(Kind.DUPLICATE))
                return None
            refusal = self._refusal_of(link.peer, payload)
            if refusal is None and not self._may_greet_again(link.peer):
                refusal = "you connect too often: wait a while between two attempts"
            if refusal is not None:
                await self._hang_up(link, encode_frame(Kind.REFUSED, encode_reason(refusal)))
                return None
            session = self._register(link, payload, decoder)
            session.control.put_anyway(RawFrame(Kind.HELLO, self._etiquette.hello()))
            return session
        finally:
            self._greetings -= 1

    def _may_greet_again(self, peer: PeerId) -> bool:
        return self._inbox.meter(peer).greetings_budget.spend(1, trio.current_time())

    def _refusal_of(self, peer: PeerId, hello: bytes) -> str | None:
        if self._leaving:
            return "this peer is stopping"
        if peer not in self._sessions and len(self._sessions) >= self._bounds.connections_max:
            return f"this peer has all its {self._bounds.connections_max} connections"
        if self._inbox.is_full_of(peer, BULK_SHARE):
            return "this peer is still busy with what you sent before"
        return self._etiquette.judge_hello(peer, hello)

    async def _hang_up(self, link: Link, last_words: bytes) -> None:
        """Send last words and wait until the other side closes: what closes first is not read."""
        with trio.move_on_after(self._bounds.goodbye_timeout_s):
            await link.control.send_all(last_words)
            while await link.control.receive_some():
                pass

    # --- connected peers ----------------------------------------------------------------------

    def _register(self, link: Link, hello: bytes, decoder: FrameDecoder) -> Session:
        """The peer is connected from here on. No await between the checks before and this."""
        if old := self._sessions.get(link.peer):
            old.end("it made a new connection")
            self._forget(old)
        session = Session(link, decoder, self._bounds, self._inbox, self._outboxes)
        self._sessions[link.peer] = session
        self._inbox.put(Connected(link.peer, hello, link.address, link.outgoing))
        self._registered.set()
        self._registered = trio.Event()
        return session

    async def _run(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        """The session is over: say so, unless its peer's newer one has said it already."""
        peer = session.link.peer
        if self._sessions.get(peer) is session:
            del self._sessions[peer]
            session.meter.past_connected_s += trio.current_time() - session.started_at
            reason = session.reason or "the connection ended"
            self._inbox.put(Disconnected(peer, reason, session.rule))

    def _statistics_of(self, peer: PeerId) -> PeerStatistics:
        meter = self._inbox.meters[peer]
        session = self._sessions.get(peer)
        now_s = 0.0 if session is None else trio.current_time() - session.started_at
        return PeerStatistics(
            connected=session is not None,
            bytes_sent=meter.bytes_sent,
            bytes_received=meter.bytes_received,
            frames_sent=meter.frames_sent,
            frames_received=meter.frames_received,
            connected_s=meter.past_connected_s + now_s,
            rtt_s=meter.rtt_s,
            quiet_s=inf if session is None else session.quiet_s,
            outbox_bytes=0 if session is None else session.outbox_bytes,
            inbox_bytes=meter.inbox_bytes,
        )


async def _first_frame(lane: Lane, decoder: FrameDecoder) -> RawFrame:
    """The first frame of a lane. Raises LinkBroken when there is none, or it is not a frame."""
    try:
        while (frame := decoder.next_frame()) is None:
            data = await lane.receive_some()
            if not data:
                raise LinkBroken("it hung up without a word")
            decoder.feed(data)
    except FramingError as error:
        raise LinkBroken(f"it broke transport 2: {error}") from error
    return frame


async def _close(link: Link) -> None:
    with trio.CancelScope(shield=True):  # links bound the time that closing takes
        await link.close()
