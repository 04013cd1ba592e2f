"""How a node's status is read: from its parts, while they work, without touching anything.

`open_status` opens the local API as the first thing that a node does, so that a status can be had
before there is a network, a recipe or a device; what does not exist yet is null in it. The parts
are looked at from the outside and only when somebody asks; the exception is a sample of the byte
counts each second, for the rates over the last ten.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from p2ptrain.config_local import NodeConfig
from p2ptrain.config_version import version_number
from p2ptrain.errors import StoreError
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.node import local_api
from p2ptrain.node.observed_peers import (
    SAMPLE_EVERY_S,
    Traffic,
    announced_status,
    peer_statuses,
)
from p2ptrain.node.processes import process_status
from p2ptrain.node.status import (
    STATUS_SCHEMA,
    AgreementStatus,
    ChainStatus,
    ComputeStatus,
    MemberStatus,
    NoticeStatus,
    PeerStatus,
    RateStatus,
    RoundStatus,
    Status,
    SwarmStatus,
    WaitStatus,
    finite,
)
from p2ptrain.node.telemetry import Telemetry, Value, number
from p2ptrain.swarm.chain import proposer, quorum, voters
from p2ptrain.wire.peer_id import PeerId

if TYPE_CHECKING:
    from p2ptrain.node.node import Node
    from p2ptrain.swarm.averaging import Averaging
    from p2ptrain.swarm.chain import Context

NOTICES = ("warning", "strike", "proof")
NOTICES_TOLD = 8


@dataclass
class Observed:
    """One node as its status sees it.

    command  what was started: "join"
    peer     this peer
    node     once there is one
    """

    command: str
    peer: PeerId
    telemetry: Telemetry
    node: "Node | None" = None
    traffic: Traffic = field(default_factory=Traffic)

    async def sample(self) -> None:
        """Remember the byte counts of each second, for ever."""
        while True:
            if self.node is not None:
                self.traffic.sample(trio.current_time(), self.node.peers.transport.statistics())
            await trio.sleep(SAMPLE_EVERY_S)

    def answer(self, request: Mapping[str, object]) -> dict[str, Any]:
        """The answer to the request "status"."""
        return self.status().tree

    def status(self) -> Status:
        """The node as it is now."""
        node, telemetry = self.node, self.telemetry
        now = trio.current_time()
        context = node.state.history.tip if node is not None and node.state is not None else None
        averaging = node.rounds.machines.averaging if node is not None and node.rounds else None
        started = telemetry.latest("started") or {}
        addresses = started.get("addresses")
        phase = telemetry.latest("phase") or {"phase": "starting"}
        peers = peer_statuses(node.peers, self.traffic, context) if node is not None else ()
        return Status(
            status_schema=STATUS_SCHEMA,
            version=version_number(),
            command=self.command,
            peer=self.peer,
            addresses=tuple(addresses) if isinstance(addresses, list) else (),
            uptime_s=round(telemetry.age_s, 3),
            phase=str(phase["phase"]),
            waits=tuple(
                WaitStatus(what=w.what, age_s=round(now - w.since, 3), limit_s=finite(w.limit))
                for w in telemetry.waits_now()
            ),
            swarm=_swarm(telemetry.latest("swarm")),
            chain=self._chain(context),
            agreement=_agreement(averaging) if averaging and node and node.training else None,
            last_round=self._last_round(),
            rates=self._rates(peers),
            peers=peers,
            announced=announced_status(node.announcing if node is not None else None),
            process=process_status(None),
            compute=self._compute(),
            notices=tuple(self._notices()),
        )

    # --- the chain ------------------------------------------------------------------------------
    def _chain(self, context: "Context | None") -> ChainStatus | None:
        if context is None or self.node is None or self.node.state is None:
            return None
        mine = context.member(self.peer)
        return ChainStatus(
            round=context.rounds,
            height=context.height,
            block=context.block.hex(),
            state=context.state.hex(),
            applied_height=self.node.state.height,
            branch_depth=context.branch_depth,
            member=mine is not None,
            voter=mine is not None and mine.voter,
            members=tuple(
                MemberStatus(peer=m.peer, voter=m.voter, rounds=m.rounds, absent=m.absent)
                for m in context.roster
            ),
        )

    def _last_round(self) -> RoundStatus | None:
        event = self.telemetry.latest("round")
        if event is None:
            return None
        return RoundStatus(
            round=int(number(event["round"])),
            view=int(number(event["view"])),
            loss=finite(event["loss"]),
            accuracy=finite(event["accuracy"]),
            evaluated_round=int(number(event["evaluated_round"])),
            contributions=int(number(event["contributions"])),
            included=bool(event["included"]),
            samples=int(number(event["samples"])),
            seconds=number(event["seconds"]),
            age_s=round(self.telemetry.age_s - number(event["t"]), 3),
        )

    # --- how fast, with what --------------------------------------------------------------------
    def _rates(self, peers: tuple[PeerStatus, ...]) -> RateStatus:
        rounds_s = samples_s = None
        events = list(self.telemetry.recent.get("round", ()))
        if len(events) > 1:
            first, last, later = number(events[0]["t"]), number(events[-1]["t"]), events[1:]
            seconds = max(last - first, 1e-3)
            now = self.telemetry.age_s
            if now - last > seconds / len(later):  # this round takes longer than those before it
                seconds = now - first
            rounds = number(events[-1]["round"]) - number(events[0]["round"])
            rounds_s = round(rounds / seconds, 4)
            samples_s = round(sum(number(event["samples"]) for event in later) / seconds, 1)
        return RateStatus(
            rounds_s=rounds_s,
            samples_s=samples_s,
            sent_bytes_s=round(sum(peer.sent_bytes_s for peer in peers), 1),
            received_bytes_s=round(sum(peer.received_bytes_s for peer in peers), 1),
        )

    def _compute(self) -> ComputeStatus | None:
        compute = self.node.compute if self.node is not None else None
        if compute is None:
            return None
        return ComputeStatus(
            device=compute.opened.device if compute.opened is not None else None,
            process=process_status(compute.pid) if compute.pid is not None else None,
            restarts=max(compute.starts - 1, 0),
        )

    def _notices(self) -> list[NoticeStatus]:
        """The last things that went wrong, oldest first."""
        events = [e for kind in NOTICES for e in self.telemetry.recent.get(kind, ())]
        newest = sorted(events, key=lambda event: number(event["t"]))[-NOTICES_TOLD:]
        now = self.telemetry.age_s
        return [
            NoticeStatus(kind=str(e["event"]), text=_words(e), age_s=round(now - number(e["t"]), 1))
            for e in newest
        ]


@asynccontextmanager
async def open_status(
    config: NodeConfig, command: str, peer: PeerId, telemetry: Telemetry
) -> AsyncIterator[Observed]:
    """Answer `p2ptrain status` while the block runs; the caller holds the home lock.

    A state folder where no socket can be opened costs the status, and a warning, but no training.
    """
    observed = Observed(command, peer, telemetry)
    folder = config.state_path
    with lone_exception():
        async with trio.open_nursery() as nursery:
            try:
                listener = local_api.listen(folder)
            except StoreError as error:
                happened = str(error).partition("\n")[0]
                telemetry.report("warning", text=f"{happened} `p2ptrain status` cannot be used.")
            else:
                table = {"status": observed.answer}
                nursery.start_soon(local_api.serve, folder, listener, table)
            nursery.start_soon(observed.sample)
            yield observed
            nursery.cancel_scope.cancel()


def _swarm(event: Mapping[str, Value] | None) -> SwarmStatus | None:
    if event is None:
        return None
    return SwarmStatus(
        swarm=str(event["swarm"]),
        name=str(event["name"]),
        link=str(event["link"]),
        rounds=int(number(event["rounds"])),
    )


def _agreement(averaging: "Averaging") -> AgreementStatus:
    who = voters(averaging.context)
    return AgreementStatus(
        view=averaging.view,
        phase=averaging.phase,
        proposer=proposer(averaging.context, averaging.view),
        quorum=quorum(len(who)),
        voters=len(who),
    )


def _words(event: Mapping[str, Value]) -> str:
    if event["event"] == "strike":
        return f"{event['peer']} broke {event['rule']}: {event['detail']}"
    return f"{event['peer']} {event['text']}" if "peer" in event else str(event["text"])
