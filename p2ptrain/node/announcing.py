"""This node's part in announcements: what it says of itself, and what it makes of the others'.

The machine (swarm/announcing.py) decides what is sent to whom; this shell gives it the facts of the
node and carries its messages. What comes of it:

  silent   connected peers of which nothing has come for longer than they said: frozen (SIGSTOP, a
           sleeping laptop) or cut off. TCP would not say so for minutes. The averaging machine is
           told that they are not connected, so nobody waits for them, until they speak again.
  states   how many states of one block there are: more than one is a branch, or broken arithmetic
  places   where peers listen that we are not connected to: hearsay, to be dialled as such

A machine that stood still itself has heard nobody: nobody is silent until they had time to speak.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any, NamedTuple

import trio

from p2ptrain.config_version import version_number
from p2ptrain.errors import RemoteProtocolError
from p2ptrain.net.budget import Budget
from p2ptrain.node.addresses import is_loopback
from p2ptrain.node.applied import AppliedState
from p2ptrain.node.drive import Inbox, drive
from p2ptrain.node.peers import Peers
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.swarm.announcing import Announcer, AnnouncerConfig
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.sightings import LATE_FACTOR, Sighting, StateGroup, distinct_states
from p2ptrain.wire.announcing import Announced
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import Signer, Verifier
from p2ptrain.wire.limits import (
    ADDRESSES_ANNOUNCED_MAX,
    AGENT_ANNOUNCED_CHARS_MAX,
    ANNOUNCED_ADDRESS_CHARS_MAX,
    ANNOUNCED_PER_PEER_BURST,
    ANNOUNCED_PER_PEER_PER_S,
    PEERS_REMEMBERED,
)
from p2ptrain.wire.messages import Announcement, Announcing, Message
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.statements import DIALLED, REACH_UNKNOWN

LOOK_EVERY_S = 0.2
STOOD_STILL_S = 1.0  # a look this late says nothing about the others
COMPARED_BLOCKS = 256  # states of older ones are not compared: they may have to be read from disk
STATES_TOLD = 8  # groups in an event and in words; more say nothing more


class Work(NamedTuple):
    """What a node trains: samples so far, how fast, and the local steps it has declared."""

    samples: int = 0
    samples_per_s: float = 0.0
    local_steps: int = 0


@dataclass(kw_only=True)
class AnnouncingNode:
    """The announcements of one node in one run.

    work       what it trains
    on_silent  called with the connected peers that are silent, whenever they have changed
    """

    peers: Peers
    telemetry: Telemetry
    state: AppliedState[Any]
    swarm: Digest
    signer: Signer
    verifier: Verifier
    work: Callable[[], Work] = Work
    on_silent: Callable[[frozenset[PeerId]], None] = lambda silent: None
    silent: frozenset[PeerId] = frozenset()
    _inbox: Inbox[Send] = field(default_factory=Inbox)
    _budgets: OrderedDict[PeerId, Budget] = field(default_factory=OrderedDict)
    _sent: tuple[float, int] | None = None  # when we looked last, and all bytes sent by then
    _uplink_per_s: float = 0.0
    _distinct: int = 1
    _roster_of: Digest | None = None  # the block whose members the machine knows
    _looked_at: float = field(default_factory=trio.current_time)
    _awake_since: float = field(default_factory=trio.current_time)
    _named: set[PeerId] = field(default_factory=set)

    def __post_init__(self) -> None:
        config = AnnouncerConfig(
            swarm=self.swarm,
            signer=self.signer,
            verifier=self.verifier,
            facts=self._facts,
            unix_ms=lambda: round(1000 * time()),
        )
        self.machine = Announcer(config, trio.current_time())

    def start(self, nursery: trio.Nursery) -> None:
        """Announce, listen and look, until the nursery is cancelled."""
        nursery.start_soon(drive, self.machine, self._inbox, self._carry_out, self.peers.strike)
        nursery.start_soon(self._keep_looking)
        self.peers_changed()

    async def _keep_looking(self) -> None:
        while True:
            self._look(trio.current_time())
            await trio.sleep(LOOK_EVERY_S)

    # --- what comes in --------------------------------------------------------------------------
    def deliver(self, sender: PeerId, message: Message) -> None:
        """Take an announcement or a question; what exceeds the rate is a fault, and not read."""
        if not isinstance(message, Announcing):
            return
        if not self._may_send(sender):
            fault = f"more than {ANNOUNCED_PER_PEER_PER_S} messages a second of announcements"
            self.peers.strike(RemoteProtocolError(sender, "announcements 3.1", fault))
            return
        self._inbox.offer_from(sender, message, self._receive)

    def peers_changed(self) -> None:
        """Somebody came or went."""
        connected = self.peers.connected
        self._inbox.post(lambda now: self.machine.peers(now, connected))

    def _receive(self, now: float, sender: PeerId, message: Message) -> Sequence[Send]:
        heard = message.heard if isinstance(message, Announced) else ()
        before = [self.machine.sightings.get(each.signed.signer) for each in heard]
        effects = self.machine.receive(now, sender, message)
        for each, known in zip(heard, before, strict=True):
            peer = each.signed.signer
            sighting = self.machine.sightings.get(peer)
            places = sighting.told.addresses if sighting is not None else ()
            if places and (known is None or known.told.addresses != places):
                self.peers.hear_of(sender, peer, places)
        return effects

    def _may_send(self, peer: PeerId) -> bool:
        now = trio.current_time()
        budget = self._budgets.get(peer) or Budget(
            rate_per_s=ANNOUNCED_PER_PEER_PER_S, burst=ANNOUNCED_PER_PEER_BURST, now=now
        )
        self._budgets[peer] = budget
        self._budgets.move_to_end(peer)
        if len(self._budgets) > PEERS_REMEMBERED:
            self._budgets.popitem(last=False)
        return budget.spend(1, now)

    async def _carry_out(self, effect: Send) -> bool:
        self.peers.send(effect.to, effect.message)
        return False

    # --- what we say ----------------------------------------------------------------------------
    def _facts(self) -> Announcement:
        """This node as it is now; the machine fills in sequence and pace."""
        history, work = self.state.history, self.work()
        height = self.state.height
        context = history.context(height) if height is not None else history.genesis
        listed = [
            a for a in self.peers.transport.addresses if len(a) <= ANNOUNCED_ADDRESS_CHARS_MAX
        ]
        listed.sort(key=is_loopback)
        return Announcement(
            sequence=0,
            every_ms=1,
            rounds=context.rounds,
            height=context.height,
            block=context.block,
            state=context.state,
            samples=work.samples,
            samples_per_s=round(work.samples_per_s),
            uplink_per_s=round(self._uplink()),
            local_steps=work.local_steps,
            reach=DIALLED if self.peers.was_dialled else REACH_UNKNOWN,
            agent=f"p2ptrain/{version_number()}"[:AGENT_ANNOUNCED_CHARS_MAX],
            addresses=tuple(listed[:ADDRESSES_ANNOUNCED_MAX]),
        )

    def _uplink(self) -> float:
        """The most bytes that we sent in a second, between two announcements."""
        now = trio.current_time()
        sent = sum(each.bytes_sent for each in self.peers.transport.statistics().values())
        before, self._sent = self._sent, (now, sent)
        if before is not None and now > before[0]:
            # A peer that was forgotten takes its count with it: then the sum is less than before.
            self._uplink_per_s = max(self._uplink_per_s, (sent - before[1]) / (now - before[0]))
        return self._uplink_per_s

    # --- what we see ----------------------------------------------------------------------------
    @property
    def sightings(self) -> list[tuple[PeerId, Sighting]]:
        """All peers that are known, sorted."""
        return self.machine.sightings.all()

    @property
    def states(self) -> tuple[StateGroup, ...]:
        """Who is on our chain, and who has another state."""
        return self.machine.sightings.states(self._state_at)

    @property
    def distinct_states(self) -> int:
        """How many states of one block there are, this peer's included."""
        return distinct_states(self.states)

    def _state_at(self, height: int) -> Digest | None:
        history = self.state.history
        if history.height - COMPARED_BLOCKS < height <= history.height:
            return history.context(height).state
        return None

    def _look(self, now: float) -> None:
        """See who is silent, and whether all have the same states; tell what has changed."""
        if now > self._looked_at + STOOD_STILL_S:
            self._awake_since = now
        self._looked_at = now
        tip = self.state.history.tip
        if tip.block != self._roster_of:
            self._roster_of = tip.block
            members = frozenset(member.peer for member in tip.roster)
            if members != self.machine.member_peers:
                self._inbox.post(lambda now: self.machine.members(now, members))
        silent = self._silent_at(now)
        if silent != self.silent:
            for peer in sorted(silent - self.silent):
                self.telemetry.report("silent", peer=peer)
            for peer in sorted(self.silent - silent):
                if peer in self.peers.hellos:
                    self.telemetry.report("heard", peer=peer)
            self.silent = silent
            self.on_silent(silent)
        self._tell_states()
        for peer in sorted(self.machine.skewed.keys() - self._named):
            self._named.add(peer)
            days = self.machine.skewed[peer] / 86_400_000
            text = f"the clock of {peer} and ours are {days:+.1f} days apart: it is not counted"
            self.telemetry.report("warning", text=text)

    def _silent_at(self, now: float) -> frozenset[PeerId]:
        statistics = self.peers.transport.statistics()
        silent = set()
        for peer in self.peers.connected:
            sighting = self.machine.sightings.get(peer)
            if sighting is None or not sighting.is_late(now) or peer not in statistics:
                continue
            patience_s = LATE_FACTOR * sighting.told.every_ms / 1000
            if min(statistics[peer].quiet_s, now - self._awake_since) > patience_s:
                silent.add(peer)
        return frozenset(silent)

    def _tell_states(self) -> None:
        groups = self.states
        distinct = distinct_states(groups)
        if distinct != self._distinct:
            self._distinct = distinct
            self.telemetry.report("states", distinct=distinct, text=words_for_states(groups))


def words_for_states(groups: Sequence[StateGroup]) -> str:
    """Who has which state, for people: "2 states: 3 peers with us, 1 at cd34ab of block 7"."""
    distinct = distinct_states(groups)
    if distinct == 1:
        return f"1 state: {len(groups[0].peers)} peers"
    parts = [
        f"{len(group.peers)} with us"
        if group.state is None
        else f"{len(group.peers)} at {group.state[:3].hex()} after block {group.height}"
        for group in groups[:STATES_TOLD]
    ]
    return f"{distinct} states: {', '.join(parts)}"
