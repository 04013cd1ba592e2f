"""Membership and progress: what each peer says of itself, and how it gets to all others.

Theory of operation. A peer sends its announcement to all that it is connected to, once a second:
in a full mesh everybody has it after one hop and nobody gets it twice. Where two peers have no
connection, and where a message was lost, the gap is closed by asking: each second a peer tells one
neighbour, in turn, which announcements it has (16 bytes a peer), and gets those that are newer. So
what anyone knows reaches every neighbour within as many seconds as it has neighbours, and usually
in two; the price is one small message a second, where flooding would carry each announcement along
every link (Demers et al., "Epidemic algorithms for replicated database maintenance", PODC 1987:
direct mail, then anti-entropy by pull).

Pace. Members announce each second, so that a frozen one is missed after two. All together send no
more than 64 a second: a swarm of 1000 outsiders, or a roster of 1000, speaks every 16 s, and says
so in the announcement (every_ms), since "late" means late by the peer's own word.

The machine is pure: facts and the wall clock come through its config, time as an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from math import inf

from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.sightings import Sightings, Worth
from p2ptrain.wire.announcing import Announced, GetAnnounced, Heard, Known, tag_of
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import Signer, Verifier, check_signed, sign_statement
from p2ptrain.wire.limits import (
    ANNOUNCE_EVERY_MS_MAX,
    ANNOUNCED_ASKED_MAX,
    ANNOUNCED_MAX,
    ANNOUNCED_PEERS_MAX,
)
from p2ptrain.wire.messages import Announcement, Message, Signed
from p2ptrain.wire.peer_id import PeerId

EVERY_S = 1.0
ANNOUNCEMENTS_PER_S = 64.0  # of all peers together: 25 kB/s to each, and 1% of a core to check
TAG_MAX = (1 << 63) - 1
SKEWED_KEPT = 64


@dataclass(frozen=True, slots=True)
class AnnouncerConfig:
    """What does not change during a run.

    swarm     what signatures name the swarm by
    facts     this peer as it is now; sequence and every_ms are filled in here
    unix_ms   this machine's clock, which nobody compares with another but for the day
    """

    swarm: Digest
    signer: Signer
    verifier: Verifier
    facts: Callable[[], Announcement]
    unix_ms: Callable[[], int]


class Announcer:
    """One peer's part in telling everyone about everyone."""

    def __init__(self, config: AnnouncerConfig, now: float) -> None:
        """Begin to announce at once."""
        self.config = config
        self.me = config.signer.peer
        self.sightings = Sightings(self.me)
        self.skewed: OrderedDict[PeerId, int] = OrderedDict()  # peers whose clock is off, by ms
        self._connected: tuple[PeerId, ...] = ()
        self._members: frozenset[PeerId] = frozenset()
        self._own: Signed | None = None
        self._sequence = -1
        self._said_at = -inf
        self._say_at = now
        self._ask_at = now + EVERY_S
        self._tags: dict[PeerId, int] = {}
        self._asked = 0  # requests sent: whose turn it is, and which part of the table

    @property
    def deadline(self) -> float:
        """When to call expire next."""
        return min(self._say_at, self._ask_at)

    @property
    def member_peers(self) -> frozenset[PeerId]:
        """Who takes part in the rounds, as we were told last."""
        return self._members

    @property
    def every_s(self) -> float:
        """Seconds between two of our announcements."""
        is_member = self.me in self._members
        speakers = len(self._members) if is_member else len(self.sightings) + 1
        return min(max(EVERY_S, speakers / ANNOUNCEMENTS_PER_S), ANNOUNCE_EVERY_MS_MAX / 1000)

    # --- inputs -------------------------------------------------------------------------------
    def peers(self, now: float, connected: Collection[PeerId]) -> list[Send]:
        """Who is connected now; newcomers are told about us, and asked, without delay."""
        new = sorted(set(connected) - set(self._connected))
        self._connected = tuple(sorted(connected))
        self._keep()
        effects: list[Send] = []
        for peer in new:
            if self._own is not None:
                effects.append(Send(peer, self._own_as_of(now)))
            effects.append(Send(peer, self._question()))
        return effects

    def members(self, now: float, members: Collection[PeerId]) -> list[Send]:
        """Who takes part in the rounds: they are remembered, and speak each second."""
        was, self._members = self.me in self._members, frozenset(members)
        self._keep()
        if self.me in self._members and not was:  # those who wait for us shall know at once
            self._say_at = min(self._say_at, max(now, self._said_at + EVERY_S))
        return []

    def receive(self, now: float, sender: PeerId, message: Message) -> list[Send]:
        """A message has come. Raises RemoteProtocolError."""
        if isinstance(message, GetAnnounced):
            return self._answer(now, sender, message)
        if isinstance(message, Announced):
            for each in message.heard:
                self._take(now, sender, each)
        return []

    def expire(self, now: float) -> list[Send]:
        """The deadline has come."""
        effects: list[Send] = []
        if now >= self._say_at:
            effects += self._announce(now)
        if now >= self._ask_at:
            self._ask_at = now + EVERY_S
            for peer in self.sightings.forget_gone(now):
                self._tags.pop(peer, None)
            if self._connected:
                asked = self._connected[self._asked % len(self._connected)]
                effects.append(Send(asked, self._question()))
        return effects

    # --- details ------------------------------------------------------------------------------
    def _announce(self, now: float) -> list[Send]:
        every_s = self.every_s
        self._sequence = max(self._sequence + 1, self.config.unix_ms())
        told = replace(self.config.facts(), sequence=self._sequence, every_ms=round(1000 * every_s))
        self._own = sign_statement(self.config.signer, self.config.swarm, told)
        self._said_at, self._say_at = now, now + every_s
        message = self._own_as_of(now)
        return [Send(peer, message) for peer in self._connected]

    def _own_as_of(self, now: float) -> Announced:
        assert self._own is not None
        return Announced((Heard(self._own, round(1000 * (now - self._said_at))),))

    def _take(self, now: float, sender: PeerId, heard: Heard) -> None:
        signed = heard.signed
        if signed.signer == self.me:
            self._take_own(sender, signed)
            return
        unix_ms = self.config.unix_ms()
        worth = self.sightings.worth(signed, unix_ms)
        if worth is Worth.SKEWED and signed.signer == sender:
            self._note_skew(sender, signed, unix_ms)
        if worth is Worth.NEWS:
            check_signed(self.config.verifier, self.config.swarm, signed, sender)
            self.skewed.pop(signed.signer, None)
            self.sightings.learn(signed, now - heard.age_ms / 1000)

    def _take_own(self, sender: PeerId, signed: Signed) -> None:
        """Our own words: after a restart with a clock set back, others have newer ones."""
        told = signed.statement
        assert isinstance(told, Announcement)
        if told.sequence > self._sequence:
            check_signed(self.config.verifier, self.config.swarm, signed, sender)
            self._sequence = told.sequence

    def _note_skew(self, sender: PeerId, signed: Signed, unix_ms: int) -> None:
        told = signed.statement
        assert isinstance(told, Announcement)
        self.skewed[sender] = told.sequence - unix_ms
        if len(self.skewed) > SKEWED_KEPT:
            self.skewed.popitem(last=False)

    def _question(self) -> GetAnnounced:
        """What we have, or a part of it: ANNOUNCED_ASKED_MAX at a time, the parts in turn."""
        entries = sorted((self._tag(peer), s.told.sequence) for peer, s in self.sightings.all())
        parts: Sequence[int] = range(0, max(len(entries), 1), ANNOUNCED_ASKED_MAX)
        begin = parts[self._asked % len(parts)]
        end = begin + ANNOUNCED_ASKED_MAX
        self._asked += 1
        low = entries[begin][0] if begin else 0
        high = entries[end][0] - 1 if end < len(entries) else TAG_MAX
        return GetAnnounced(low, high, tuple(Known(*entry) for entry in entries[begin:end]))

    def _answer(self, now: float, sender: PeerId, question: GetAnnounced) -> list[Send]:
        known = {each.tag: each.sequence for each in question.known}
        newer = [
            sighting
            for peer, sighting in self.sightings.all()
            if peer != sender
            and question.low <= (tag := self._tag(peer)) <= question.high
            and sighting.told.sequence > known.get(tag, -1)
        ]
        freshest = sorted(newer, key=lambda s: -s.heard_at)[:ANNOUNCED_MAX]
        if not freshest:
            return []
        freshest.sort(key=lambda s: s.signed.signer)
        heard = (Heard(s.signed, round(1000 * s.age_s(now))) for s in freshest)
        return [Send(sender, Announced(tuple(heard)))]

    def _tag(self, peer: PeerId) -> int:
        tag = self._tags.get(peer)
        if tag is None:
            if len(self._tags) > 2 * ANNOUNCED_PEERS_MAX:
                self._tags.clear()
            tag = self._tags[peer] = tag_of(peer)
        return tag

    def _keep(self) -> None:
        self.sightings.kept = self._members.union(self._connected)
