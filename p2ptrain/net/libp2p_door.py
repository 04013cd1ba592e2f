"""Who may knock: bounds on connections whose other end has not said yet who it is.

libp2p upgrades every TCP connection that it accepts (Noise, then Yamux: some milliseconds of key
exchange) and keeps a task and one of its 300 places for it until the host stops, whether or not
the connection still lives: after 300 calls a host would answer no more. This stands in for that.

What is counted here is counted by address, since nothing else is known yet; of IPv6 by /64, of
which anybody has one.

  rate       a token bucket of connections; what exceeds it is closed unread
  knocking   connections that have not opened both streams; the rest of the greeting is bounded by
             the switchboard. Whoever has not come so far in HANDSHAKE_TIMEOUT_S is hung up on.
  open       connections in all, so that one address cannot take every place
"""

from collections import Counter, OrderedDict
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import trio
from libp2p.network.connection.raw_connection import RawConnection

from p2ptrain.net.budget import Budget
from p2ptrain.net.libp2p_yamux import BoundedYamux
from p2ptrain.net.transport import Bounds
from p2ptrain.wire.limits import ADDRESSES_REMEMBERED, GREETINGS_MAX

NETWORK_BITS = 64  # of an IPv6 address: what a provider gives to one customer at the least


def network_of(host: str) -> str:
    """What an address is counted as."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4 or address.is_loopback:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{int(address) >> (128 - NETWORK_BITS):x}/{NETWORK_BITS}"


class Door:
    """Takes the TCP connections that a libp2p host accepts, in place of its swarm."""

    def __init__(self, swarm: Any, bounds: Bounds) -> None:
        """Stand before a swarm that does not listen yet."""
        self._swarm = swarm
        self._bounds = bounds
        self._rates: OrderedDict[str, Budget] = OrderedDict()
        self.knocking: Counter[str] = Counter()  # by network; greeted ones are not in it
        self.open: Counter[str] = Counter()
        swarm._handle_inbound_connection = self.enter

    async def enter(self, stream: Any, listening_at: Any) -> None:
        """Serve one TCP connection until it is over; libp2p closes it when this returns."""
        remote = stream.get_remote_address()
        network = network_of(remote[0]) if remote else ""
        if not self._admits(network):
            return
        self.open[network] += 1
        self.knocking[network] += 1
        try:
            connection = await self._upgraded(stream, listening_at)
        finally:
            self._leave(self.knocking, network)
        try:
            if connection is not None:
                await connection.over.wait()
        finally:
            self._leave(self.open, network)

    def _admits(self, network: str) -> bool:
        if not self._rate_of(network).spend(1, trio.current_time()):
            return False
        here, all_told = self.knocking[network], self.knocking.total()
        return (
            here < self._bounds.knocking_per_address_max
            and all_told < GREETINGS_MAX
            and self.open[network] < self._bounds.connections_per_address_max
        )

    def _rate_of(self, network: str) -> Budget:
        bounds = self._bounds
        rate = self._rates.get(network) or Budget(
            rate_per_s=bounds.knocks_per_address_per_s,
            burst=bounds.knocks_per_address_burst,
            now=trio.current_time(),
        )
        self._rates[network] = rate
        self._rates.move_to_end(network)
        if len(self._rates) > ADDRESSES_REMEMBERED:
            self._rates.popitem(last=False)
        return rate

    async def _upgraded(self, stream: Any, listening_at: Any) -> BoundedYamux | None:
        """The connection once it is in use; None: it never came so far, and is closed."""
        raw = RawConnection(stream, False)
        yamux: BoundedYamux | None = None
        with trio.move_on_after(self._bounds.handshake_timeout_s):
            # libp2p raises a dozen kinds for a stranger that talks nonsense or hangs up.
            with suppress(Exception):
                yamux = await self._swarm.upgrade_inbound_raw_conn(raw, listening_at)
            if yamux is None:
                return None
            await yamux.in_use.wait()
            return yamux
        if yamux is not None:
            await self._hang_up(yamux)
        return None

    async def _hang_up(self, yamux: BoundedYamux) -> None:
        with trio.move_on_after(self._bounds.goodbye_timeout_s):
            await yamux.close()

    @staticmethod
    def _leave(counts: Counter[str], network: str) -> None:
        counts[network] -= 1
        if not counts[network]:
            del counts[network]
