"""Addresses of peers: what each has been good for, and which of several to try first.

An address is a full multiaddr, "/ip4/192.0.2.1/tcp/4001/p2p/<peer id>". Who is reached there must
prove its peer id to Noise, so a false address costs an attempt and nothing else; the order below
sees to it that the attempts of liars come last:

1. what the user or the peer itself has named, before hearsay, which anybody can make up;
2. what has not failed since it last worked, or since we heard of it, before what has;
3. what has worked before what has not been tried, the one that worked last first;
4. fewer failures before more, so that of many dead addresses each has its turn;
5. our own network, then public addresses, then other private ones, then loopback. A private
   address of another network is most often a black hole; one of ours is the shortest way, and
   many routers do not carry a public address back inside. Who runs on this machine is reached by
   the machine's address as fast as by loopback, where a distant peer's port is a stranger's.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from p2ptrain.errors import ConfigError
from p2ptrain.wire.limits import ADDRESS_CHARS_MAX
from p2ptrain.wire.peer_id import PeerId, peer_id_in

OWN_NETWORK_BITS = {4: 24, 6: 64}  # a guess that fits homes and offices; a wrong one costs little


class Source(Enum):
    """Who named an address."""

    GIVEN = "given"  # by the user: a link, --peer
    TOLD = "told"  # by the peer itself, in its hello
    REMEMBERED = "remembered"  # by the peer itself, in an earlier run
    HEARSAY = "hearsay"  # by other peers, or by whoever speaks mDNS on this network


class Reach(IntEnum):
    """From where an address can be dialled, in the order in which they are tried."""

    OWN_NETWORK = 0
    PUBLIC = 1
    PRIVATE = 2
    LOOPBACK = 3


class Place(NamedTuple):
    """Where a TCP port is."""

    ip: IPv4Address | IPv6Address
    port: int


@dataclass
class Address:
    """One address of one peer.

    worked_at   when a dial of it last led to a greeting, Unix seconds; None: never yet
    failures    attempts that failed since then
    last_error  why the last one failed; "" if it did not
    refusal     what the peer answered there instead of a greeting; "" if nothing
    """

    text: str
    source: Source
    reach: Reach
    worked_at: float | None = None
    failures: int = 0
    last_error: str = ""
    refusal: str = ""

    @property
    def order(self) -> tuple[bool, bool, bool, float, int, Reach]:
        """What to sort addresses of one peer by: those to try first are least."""
        return (
            self.source is Source.HEARSAY and self.worked_at is None,
            self.failures > 0,
            self.worked_at is None,
            -(self.worked_at or 0.0) if not self.failures else 0.0,
            self.failures,
            self.reach,
        )


def peer_dialled_at(address: str) -> PeerId | None:
    """The peer that an address leads to; None for text that no peer can be dialled at."""
    if len(address) > ADDRESS_CHARS_MAX or not address.isascii() or not address.isprintable():
        return None
    try:
        peer, ip = peer_id_in(address), ip_in(address)
    except ValueError:
        return None
    if ip is not None and (ip.is_unspecified or ip.is_multicast):
        return None
    return peer


def check_given(addresses: tuple[str, ...]) -> None:
    """Raise ConfigError if one of the user's addresses leads to no peer."""
    for address in addresses:
        if peer_dialled_at(address) is None:
            raise ConfigError(
                f"{address[:100]!r} is no address of a peer.\n"
                "It must look like /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo...; the peer prints its own."
            )


def ip_in(address: str) -> IPv4Address | IPv6Address | None:
    """The IP address at the beginning of a multiaddr; None if it begins otherwise.

    Raises ValueError if it says that one follows, and none does.
    """
    parts = address.split("/", 3)
    if len(parts) < 3 or parts[0] or parts[1] not in ("ip4", "ip6"):
        return None
    ip = ip_address(parts[2])
    if ip.version != int(parts[1][2]):
        raise ValueError(f"{parts[2]} is not of {parts[1]}")
    return ip


def place_of(address: str) -> Place | None:
    """The IP address and TCP port that we listen at; None for an address of another kind."""
    ip = ip_in(address)
    return None if ip is None else Place(ip, int(address.split("/")[4]))


def is_loopback(address: str) -> bool:
    """Whether an address leads back to the machine that dials it."""
    try:
        ip = ip_in(address)
    except ValueError:
        return False
    return ip is not None and ip.is_loopback


def reach_of(address: str, ours: tuple[str, ...]) -> Reach:
    """From where an address can be dialled, seen from a peer that listens at ours."""
    ip = ip_in(address)
    if ip is None:
        return Reach.PUBLIC  # of another kind, such as a name: no reason to put it last
    if ip.is_loopback:
        return Reach.LOOPBACK
    network = ip_network(f"{ip}/{OWN_NETWORK_BITS[ip.version]}", strict=False)
    if any(own.version == ip.version and own in network for own in _ips(ours)):
        return Reach.OWN_NETWORK
    return Reach.PUBLIC if ip.is_global else Reach.PRIVATE


def _ips(addresses: tuple[str, ...]) -> list[IPv4Address | IPv6Address]:
    found = [ip_in(address) for address in addresses]
    return [ip for ip in found if ip is not None]
