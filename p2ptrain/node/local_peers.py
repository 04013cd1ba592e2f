"""Peers that multicast DNS finds on the local network, for the node's dialling.

The library that speaks it is loaded when it is wanted, in a thread. What goes wrong is said and
disturbs nothing: a network without multicast is nothing that a user must mend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

import trio

from p2ptrain.node.addresses import Source, place_of
from p2ptrain.node.peers import Peers
from p2ptrain.node.telemetry import Telemetry

if TYPE_CHECKING:
    from p2ptrain.net.mdns import LocalNetwork

WARNINGS_MAX = 3  # an odd network would have one for every packet
LOOK_AROUND_S = 3.0  # answers take one second, or two on a busy network


@dataclass
class LocalPeers:
    """Announces this peer and makes others known to Peers. topics: the node's list, as it grows."""

    peers: Peers
    topics: Sequence[str]
    telemetry: Telemetry
    _network: LocalNetwork | None = None
    _warnings: int = 0
    _found_any: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> None:
        """Announce and listen until cancelled."""
        mdns = await trio.to_thread.run_sync(import_module, "p2ptrain.net.mdns")
        transport = self.peers.transport
        places = [place for each in transport.addresses if (place := place_of(each)) is not None]
        self._network = mdns.LocalNetwork(
            transport.me, places, self.topics, self._found, self._failed
        )
        await self._network.run()

    async def look_around(self) -> None:
        """Wait for somebody to be found, LOOK_AROUND_S at most."""
        with trio.move_on_after(LOOK_AROUND_S):
            await self._found_any.wait()

    def topics_changed(self) -> None:
        """The node takes part in something more."""
        if self._network is not None:
            self._network.topics_changed(self.topics)

    def _found(self, addresses: tuple[str, ...]) -> None:
        self.peers.know(addresses, Source.HEARSAY)
        self._found_any.set()

    def _failed(self, why: str) -> None:
        if self._warnings < WARNINGS_MAX:
            self._warnings += 1
            self.telemetry.report("warning", text=why)
