"""The transports keep what tests/check_transport.py says."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing
from check_transport import CHECKS, Check, check_transport
from check_transport_hostile import HOSTILE_CHECKS

from p2ptrain.net.identity import Identity
from p2ptrain.net.libp2p_host import Dialler, open_host, running_host
from p2ptrain.net.link import Link
from p2ptrain.net.transport import Etiquette, Transport
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.wire.peer_id import PeerId
from simnet.memnet import MemNet

ALL_CHECKS = CHECKS + HOSTILE_CHECKS


class Loopback:
    """libp2p between hosts of this process, over real TCP."""

    def open(
        self, identity: Identity, etiquette: Etiquette
    ) -> AbstractAsyncContextManager[Transport]:
        return open_host(identity, listen=["/ip4/127.0.0.1/tcp/0"], etiquette=etiquette)

    @asynccontextmanager
    async def link(self, identity: Identity, address: str) -> AsyncIterator[Link]:
        with lone_exception():
            async with running_host(identity, []) as host:
                link = await Dialler(host).connect(address)
                yield link
                await link.close()

    def dead_address(self, peer: PeerId) -> str:
        return f"/ip4/127.0.0.1/tcp/1/p2p/{peer}"


class Memory:
    """The simulated network."""

    def __init__(self, net: MemNet) -> None:
        self._net = net

    def open(
        self, identity: Identity, etiquette: Etiquette
    ) -> AbstractAsyncContextManager[Transport]:
        return self._net.open(identity, etiquette)

    @asynccontextmanager
    async def link(self, identity: Identity, address: str) -> AsyncIterator[Link]:
        link = await self._net.connect(identity.peer_id, address)
        yield link
        await link.close()

    def dead_address(self, peer: PeerId) -> str:
        return f"/memory/1/p2p/{peer}"


@pytest.mark.parametrize("check", ALL_CHECKS, ids=lambda check: check.__name__)
def test_over_libp2p(check: Check) -> None:
    trio.run(check_transport, Loopback(), check)


@pytest.mark.parametrize("check", ALL_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    ("latency_s", "uplink_bytes_per_s"), [(0.0, 1e9), (0.03, 5e6)], ids=["lan", "home"]
)
def test_in_memory(check: Check, latency_s: float, uplink_bytes_per_s: float) -> None:
    net = MemNet(latency_s=latency_s, uplink_bytes_per_s=uplink_bytes_per_s)
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(check_transport, Memory(net), check, clock=clock)
