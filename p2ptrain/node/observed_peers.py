"""The peers in a node's status: who is connected, how fast bytes go, and who cannot be reached."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from p2ptrain.net.transport import PeerStatistics
from p2ptrain.node.announcing import AnnouncingNode, words_for_states
from p2ptrain.node.dialling import DialState
from p2ptrain.node.peers import Peers
from p2ptrain.node.status import (
    AnnouncedStatus,
    DialStatus,
    PeerStatus,
    SightingStatus,
    finite,
)
from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.sightings import distinct_states
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.statements import DIALLED

SAMPLE_EVERY_S = 1.0
WINDOW_SAMPLES = 10  # so rates are those of the last ten seconds

Counts = tuple[int, int]  # bytes sent, bytes received


@dataclass
class Traffic:
    """Byte counts of the last seconds, for rates."""

    _samples: deque[tuple[float, dict[PeerId, Counts]]] = field(
        default_factory=lambda: deque(maxlen=WINDOW_SAMPLES)
    )

    def sample(self, now: float, statistics: Mapping[PeerId, PeerStatistics]) -> None:
        """Remember how it stands; to be called every SAMPLE_EVERY_S."""
        self._samples.append((now, {peer: _counts(each) for peer, each in statistics.items()}))

    def bytes_s(self, now: float, peer: PeerId, counts: Counts) -> tuple[float, float]:
        """Bytes a second to and from a peer since the oldest sample."""
        if not self._samples:
            return 0.0, 0.0
        at, before = self._samples[0]
        seconds = max(now - at, SAMPLE_EVERY_S)
        sent, received = before.get(peer, (0, 0))
        # A peer's counts begin anew when it was forgotten in between.
        sent_s, received_s = (counts[0] - sent) / seconds, (counts[1] - received) / seconds
        return round(max(sent_s, 0.0), 1), round(max(received_s, 0.0), 1)


def peer_statuses(
    peers: Peers, traffic: Traffic, context: Context | None
) -> tuple[PeerStatus, ...]:
    """Those that are connected, then those that could be dialled, each by their ids.

    context  of the chain whose roster is meant
    """
    now = trio.current_time()
    statistics = peers.transport.statistics()
    dials = {dial.peer: dial for dial in peers.dial_states()}
    here, in_swarm = sorted(peers.hellos), peers.connected
    away = sorted(dials.keys() - peers.hellos.keys())
    statuses: list[PeerStatus] = []
    for peer in [*here, *away]:
        figures = statistics.get(peer)
        sent_s, received_s = traffic.bytes_s(now, peer, _counts(figures))
        hello = peers.hellos.get(peer)
        member = context.member(peer) if context is not None else None
        statuses.append(
            PeerStatus(
                peer=peer,
                agent=hello.agent if hello is not None else None,
                connected=hello is not None,
                in_swarm=peer in in_swarm,
                member=member is not None,
                voter=member is not None and member.voter,
                connected_s=round(figures.connected_s, 1) if figures else 0.0,
                rtt_s=finite(figures.rtt_s) if figures else None,
                quiet_s=finite(figures.quiet_s) if figures else None,
                bytes_sent=figures.bytes_sent if figures else 0,
                bytes_received=figures.bytes_received if figures else 0,
                sent_bytes_s=sent_s,
                received_bytes_s=received_s,
                outbox_bytes=figures.outbox_bytes if figures else 0,
                strikes=peers.strikes.get(peer, 0),
                dial=_dial(dials[peer]) if hello is None else None,
            )
        )
    return tuple(statuses)


def announced_status(announcing: AnnouncingNode | None) -> AnnouncedStatus | None:
    """What all peers have announced; None before this node follows a run."""
    if announcing is None:
        return None
    groups = announcing.states
    agrees = {peer: group.ours for group in groups for peer in group.peers}
    now = trio.current_time()
    return AnnouncedStatus(
        states=distinct_states(groups),
        text=words_for_states(groups),
        sightings=tuple(
            SightingStatus(
                peer=peer,
                age_s=round(sighting.age_s(now), 2),
                every_s=sighting.told.every_ms / 1000,
                silent=peer in announcing.silent,
                round=sighting.told.rounds,
                height=sighting.told.height,
                state=sighting.told.state.hex(),
                agrees=agrees.get(peer),
                samples=sighting.told.samples,
                samples_s=float(sighting.told.samples_per_s),
                uplink_s=float(sighting.told.uplink_per_s) or None,
                local_steps=sighting.told.local_steps,
                reachable=sighting.told.reach == DIALLED,
                agent=sighting.told.agent,
                addresses=sighting.told.addresses,
            )
            for peer, sighting in announcing.sightings
        ),
    )


def _counts(figures: PeerStatistics | None) -> Counts:
    return (figures.bytes_sent, figures.bytes_received) if figures else (0, 0)


def _dial(dial: DialState) -> DialStatus:
    return DialStatus(
        addresses=tuple(address for address, _, _ in dial.addresses),
        next_try_s=0.0 if dial.under_way else finite(dial.next_try_s),
        last_error=dial.last_error or None,
    )
