"""Faults of a connection count like faults of a message, and so do signatures without end."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from averaging_stage import Stage

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.net.transport import Connected, Disconnected, Event
from p2ptrain.node.costs import Costs
from p2ptrain.node.greeting import make_hello
from p2ptrain.node.machines import Machines
from p2ptrain.node.peers import Arrived, Departed, Peers
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.wire.limits import SIGNATURES_PER_PEER_BURST
from p2ptrain.wire.messages import GetVotes
from p2ptrain.wire.peer_id import PeerId


class Wire:
    """A transport that says what it is told to, and sends nothing."""

    me = PeerId("me")
    addresses: tuple[str, ...] = ()

    def __init__(self, *events: Event) -> None:
        self.events = list(events)

    async def receive(self) -> Event:
        return self.events.pop(0)

    def send(self, peer: PeerId, frame: bytes, *, bulk: bool = False) -> bool:
        return True


async def test_a_connection_that_broke_a_rule_is_a_strike_and_one_that_ended_is_none() -> None:
    reports: list[Mapping[str, Value]] = []
    good, bad = PeerId("good"), PeerId("bad")
    hello = make_hello(("swarm",), ())
    transport: Any = Wire(
        Connected(good, hello, "", outgoing=False),
        Connected(bad, hello, "", outgoing=False),
        Disconnected(good, "it closed the connection"),
        Disconnected(bad, "it sent more than its budget of frames", "transport 5"),
    )
    peers: Any = Peers(transport, Telemetry(reports.append))
    seen: list[object] = []
    async with aclosing(peers.events()) as events:
        async for event in events:
            seen.append(event)
            if event == Departed(bad):
                break
    assert seen == [Arrived(good), Arrived(bad), Departed(good), Departed(bad)]
    strikes = [(r["peer"], r["rule"]) for r in reports if r["event"] == "strike"]
    assert strikes == [(bad, "transport 5")]


def test_a_peer_that_makes_us_check_signatures_without_end_is_struck() -> None:
    stage, struck = Stage(), list[RemoteProtocolError]()
    sender = stage.others[0]
    verifier: Any = stage.machine.config.verifier

    class Machine:
        """Checks as many signatures as a message of the test wants."""

        config = stage.machine.config

        def receive(self, now: float, sender: PeerId, message: GetVotes) -> list[object]:
            verifier.checked += 64
            return []

    machines: Any = Machines.__new__(Machines)
    machines.averaging, machines._costs = Machine(), Costs(clock=lambda: 0.0)
    machines.peers = type("Struck", (), {"strike": staticmethod(struck.append)})
    message = GetVotes(stage.base.block)
    for _ in range(SIGNATURES_PER_PEER_BURST // 64):
        machines._receive(0.0, sender, message)
    assert not struck
    machines._receive(0.0, sender, message)
    assert [(e.peer, e.rule) for e in struck] == [(sender, "transport 5")]
