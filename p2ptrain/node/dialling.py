"""Whom to dial, where, and when.

Every peer that we know an address of has a Dial. It comes up for a turn when it is not connected
and its pause is over; in a turn its addresses are tried one by one, best first (addresses.py), at
most ADDRESSES_A_TURN of them, and each for DIAL_TIMEOUT_S at the most. What failed goes behind
what has not been tried, so the next turn begins where this one ended.

Pauses double from REDIAL_S_MIN to REDIAL_S_MAX, and only a connection that lasted STEADY_S sets
them back: a peer that takes us in and drops us, over and over, costs a dial in half a minute.
At most DIALS_MAX turns go on at once, and at most DIALS_HEARSAY_MAX of peers that only others
have spoken of: no crowd of invented peers keeps us from those that are known.

There is no clock and no network in here: node/peers.py dials.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import inf

from p2ptrain.node.addresses import Address, Source, peer_dialled_at, reach_of
from p2ptrain.wire.limits import (
    ADDRESSES_A_TURN,
    ADDRESSES_MAX,
    CONNECTIONS_MAX,
    DIALS_HEARSAY_MAX,
    DIALS_MAX,
)
from p2ptrain.wire.peer_id import PeerId

DIAL_TIMEOUT_S = 5.0
REDIAL_S_MIN, REDIAL_S_MAX = 0.5, 30.0
STEADY_S = 20.0  # a connection that lasted so long was no accident


@dataclass(frozen=True, slots=True)
class DialState:
    """How it stands with reaching one peer, for people.

    addresses    (address, who named it, why it failed last or ""), in the order of trying
    next_try_s   seconds until its next turn; None: it is connected, or being dialled now
    under_way    whether it is being dialled now
    failures     turns in a row that led to no connection that lasted
    last_error   why the last address that was tried failed; "" if it did not
    """

    peer: PeerId
    connected: bool
    addresses: tuple[tuple[str, str, str], ...]
    next_try_s: float | None
    under_way: bool
    failures: int
    last_error: str


@dataclass
class Dial:
    """One peer that could be dialled; times are of the caller's clock, in seconds."""

    peer: PeerId
    addresses: list[Address] = field(default_factory=list)  # in the order of trying
    again_at: float = 0.0
    pause_s: float = REDIAL_S_MIN
    failures: int = 0
    under_way: bool = False
    connected_at: float | None = None
    last_error: str = ""

    @property
    def is_hearsay(self) -> bool:
        """Whether only others have spoken of this peer."""
        return all(a.source is Source.HEARSAY and a.worked_at is None for a in self.addresses)

    @property
    def refused(self) -> bool:
        """Whether the peer has answered that it does not want us."""
        return any(address.refusal for address in self.addresses)

    def find(self, text: str) -> Address | None:
        """What is known of one address."""
        return next((address for address in self.addresses if address.text == text), None)

    def sort(self) -> None:
        """Put the best address first, and drop the worst that are too many."""
        self.addresses.sort(key=lambda address: address.order)
        del self.addresses[ADDRESSES_MAX:]

    def lengthen_pause(self, now: float) -> None:
        """The next turn comes after a pause, and the one after it after a longer one."""
        self.again_at = now + self.pause_s
        self.pause_s = min(2 * self.pause_s, REDIAL_S_MAX)
        self.failures += 1


@dataclass
class Dialling:
    """The dials of one node. ours: the addresses that it listens at, to know what is near."""

    ours: tuple[str, ...] = ()
    _dials: dict[PeerId, Dial] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._dials)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._dials

    @property
    def peers(self) -> Collection[PeerId]:
        """All who have an address."""
        return self._dials.keys()

    @property
    def refusals(self) -> dict[str, str]:
        """Addresses whose peer does not want us, and its words."""
        every = (address for dial in self._dials.values() for address in dial.addresses)
        return {address.text: address.refusal for address in every if address.refusal}

    @property
    def refused_by_all(self) -> bool:
        """Whether all have refused us, but for those that are known from earlier runs only."""
        present = [
            dial
            for dial in self._dials.values()
            if any(address.source is not Source.REMEMBERED for address in dial.addresses)
        ]
        return bool(present) and all(dial.refused for dial in present)

    # --- what is known --------------------------------------------------------------------------

    def know(self, addresses: Iterable[Address]) -> bool:
        """Add addresses of one peer, the best known first; False if there was no room for it.

        An address that is known already keeps its history, and the better of the two sources.
        """
        fresh = list(addresses)
        peer = peer_dialled_at(fresh[0].text) if fresh else None
        if peer is None:
            return False
        dial = self._dials.get(peer)
        if dial is None:
            dial = Dial(peer)
            is_hearsay = all(address.source is Source.HEARSAY for address in fresh)
            if len(self._dials) >= CONNECTIONS_MAX and not self._make_room(is_hearsay):
                return False
            self._dials[peer] = dial
        new = []
        for address in fresh:
            known = dial.find(address.text)
            if known is None:
                new.append(address)
            elif _RANK[address.source] < _RANK[known.source]:
                known.source = address.source
        dial.addresses[:0] = new  # of two that are equally good, the one that was named last
        dial.sort()
        if any(address.source is Source.GIVEN for address in new):
            dial.again_at, dial.pause_s = 0.0, REDIAL_S_MIN
        return True

    def _make_room(self, for_hearsay: bool) -> bool:
        """Forget a peer that is worth less than a new one; False if there is none."""
        idle = [d for d in self._dials.values() if d.connected_at is None and not d.under_way]
        lost = [dial for dial in idle if dial.pause_s >= REDIAL_S_MAX]
        invented = [] if for_hearsay else [dial for dial in idle if dial.is_hearsay]
        for dial in [*(d for d in lost if d.is_hearsay), *invented, *lost]:
            del self._dials[dial.peer]
            return True
        return False

    def forget(self, peer: PeerId) -> None:
        """Do not dial it again."""
        self._dials.pop(peer, None)

    # --- when -----------------------------------------------------------------------------------

    def due(self, now: float) -> list[Dial]:
        """The peers whose turn it is; they are under way until finished is called."""
        idle = [d for d in self._dials.values() if d.connected_at is None and not d.under_way]
        room, hearsay_room = self._room()
        chosen: list[Dial] = []
        for dial in sorted(idle, key=lambda dial: (dial.is_hearsay, dial.again_at)):
            if dial.again_at > now or len(chosen) >= room:
                continue
            if dial.is_hearsay:
                if hearsay_room <= 0:
                    continue
                hearsay_room -= 1
            dial.under_way = True
            chosen.append(dial)
        return chosen

    def next_at(self) -> float:
        """When the next turn comes; inf if that depends on something else to happen."""
        room, hearsay_room = self._room()
        waiting = [
            dial.again_at
            for dial in self._dials.values()
            if dial.connected_at is None
            and not dial.under_way
            and (hearsay_room if dial.is_hearsay else room) > 0
        ]
        return min(waiting, default=inf) if room > 0 else inf

    def _room(self) -> tuple[int, int]:
        """How many turns may begin, and how many of peers known from hearsay."""
        under_way = [dial for dial in self._dials.values() if dial.under_way]
        hearsay = sum(dial.is_hearsay for dial in under_way)
        return DIALS_MAX - len(under_way), DIALS_HEARSAY_MAX - hearsay

    def turn(self, dial: Dial) -> list[Address]:
        """The addresses to try in a turn of this peer, in order."""
        dial.sort()
        return dial.addresses[:ADDRESSES_A_TURN]

    def finished(self, dial: Dial, now: float, *, reached: bool) -> None:
        """The turn is over. reached: the peer is connected, or was for a moment."""
        dial.under_way = False
        if reached:
            dial.again_at = now + REDIAL_S_MIN  # connected will be called, if it was not yet
        else:
            dial.lengthen_pause(now)

    # --- what came of it ------------------------------------------------------------------------

    def worked(self, peer: PeerId, text: str, unix_s: float) -> None:
        """A dial led to a greeting."""
        dial = self._dials.get(peer)
        address = None if dial is None else dial.find(text)
        if dial is not None and address is not None:
            address.worked_at, address.failures = unix_s, 0
            address.last_error = address.refusal = dial.last_error = ""
            dial.sort()

    def failed(self, dial: Dial, address: Address, why: str, *, refused: bool = False) -> bool:
        """A dial led to nothing; returns whether that is news to people.

        refused  the peer has answered, and does not want us
        """
        is_news = address.last_error != why
        address.failures += 1
        address.last_error = dial.last_error = why
        if refused:
            address.refusal = why
            dial.pause_s = REDIAL_S_MAX
        return is_news

    def connected(self, peer: PeerId, now: float) -> None:
        """Somebody is connected, whoever dialled."""
        dial = self._dials.get(peer)
        if dial is not None:
            dial.connected_at = now
            for address in dial.addresses:
                address.refusal = ""

    def disconnected(self, peer: PeerId, now: float) -> None:
        """A connection has ended."""
        dial = self._dials.get(peer)
        if dial is None or dial.connected_at is None:
            return
        if now - dial.connected_at >= STEADY_S:
            dial.again_at, dial.pause_s, dial.failures = now, REDIAL_S_MIN, 0
        else:
            dial.lengthen_pause(now)
        dial.connected_at = None

    def ask_again(self) -> None:
        """We have something new to say: nobody's refusal counts any more."""
        for dial in self._dials.values():
            dial.again_at = 0.0
            for address in dial.addresses:
                address.refusal = ""

    # --- for people -----------------------------------------------------------------------------

    def states(self, now: float) -> tuple[DialState, ...]:
        """How it stands with each peer, in the order of their ids."""
        return tuple(_state(self._dials[peer], now) for peer in sorted(self._dials))

    def address(self, text: str, source: Source) -> Address | None:
        """An address as it is dialled from here; None if it is none."""
        if peer_dialled_at(text) is None:
            return None
        return Address(text, source, reach_of(text, self.ours))


_RANK = {source: rank for rank, source in enumerate(Source)}


def _state(dial: Dial, now: float) -> DialState:
    connected = dial.connected_at is not None
    waits = not connected and not dial.under_way
    return DialState(
        peer=dial.peer,
        connected=connected,
        addresses=tuple((a.text, a.source.value, a.last_error) for a in dial.addresses),
        next_try_s=max(0.0, dial.again_at - now) if waits else None,
        under_way=dial.under_way,
        failures=dial.failures,
        last_error=dial.last_error,
    )
