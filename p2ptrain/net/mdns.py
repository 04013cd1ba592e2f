"""Peers on the local network, found without a server: DNS service discovery over multicast DNS.

A node announces one service of the type _p2ptrain._tcp.local. (RFC 6762, RFC 6763) on the networks
that it listens at, on loopback only if it listens nowhere else, and listens for those of others.
protocol/transport.md section 6 has the records. The announcement names the peer id, the port and
addresses, and a mark of each topic: 64 bits of a hash, which tell members of a swarm that others
are here, and tell nobody else which swarm it is.

What is heard is a stranger's word: each field is checked, at most MDNS_PEERS_MAX announcements are
looked at or kept at once, and an address is dialled as hearsay.

The zeroconf library speaks DNS, on an asyncio loop in a thread of its own; everything that goes
between it and trio passes through the two functions that each has for that. Whatever keeps it from
working (no network, no permission, an odd router) is said once and disturbs nothing else.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from p2ptrain.wire.digest import digest
from p2ptrain.wire.limits import ADDRESSES_MAX, MDNS_PEERS_MAX, MDNS_TOPICS_MAX
from p2ptrain.wire.peer_id import PeerId, public_key_of

_T = TypeVar("_T")
_IP = IPv4Address | IPv6Address

MULTICAST_GROUP = "224.0.0.251"
SERVICE = "_p2ptrain._tcp.local."
MARK_CHARS = 16  # 64 bits: by accident two topics share one in a thousand million networks
LOOKUP_TIMEOUT_MS = 3000
CLOSE_TIMEOUT_S = 1.5  # saying goodbye takes 0.3 s

# It logs what it cannot parse or send; what matters to users is said by failed.
logging.getLogger("zeroconf").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a peer says of itself. addresses: full multiaddrs; marks: of its topics."""

    peer: PeerId
    marks: frozenset[str]
    addresses: tuple[str, ...]


def mark_of(topic: str) -> str:
    """What stands for a topic in an announcement."""
    return digest("mdns topic", topic.encode("utf-8")).hex()[:MARK_CHARS]


def properties_of(me: PeerId, topics: Sequence[str]) -> dict[str, str]:
    """The TXT record."""
    return {"id": me, "t": ",".join(mark_of(topic) for topic in topics[:MDNS_TOPICS_MAX])}


def read_announcement(
    properties: Mapping[bytes, bytes | None], hosts: Sequence[str], port: int | None
) -> Announcement:
    """Check what was heard.

    properties  the TXT record
    hosts       IP addresses, of the A and AAAA records
    port        of the SRV record

    Raises ValueError saying what is wrong.
    """
    peer = (properties.get(b"id") or b"").decode("ascii")
    public_key_of(peer)
    if port is None or not 0 < port < 1 << 16:
        raise ValueError(f"the port is {port}")
    marks = (properties.get(b"t") or b"").decode("ascii").split(",")
    if len(marks) > MDNS_TOPICS_MAX or any(len(mark) != MARK_CHARS for mark in marks):
        raise ValueError("the marks of its topics cannot be read")
    ips = [ip for ip in map(ip_address, hosts[:ADDRESSES_MAX]) if _can_be_dialled(ip)]
    if not ips:
        raise ValueError("it has no address")
    addresses = tuple(f"/ip{ip.version}/{ip}/tcp/{port}/p2p/{peer}" for ip in ips)
    return Announcement(PeerId(peer), frozenset(marks), addresses)


def _can_be_dialled(ip: _IP) -> bool:
    """Whether a multiaddr can hold it: link-local IPv6 addresses mean nothing without a zone."""
    return not (ip.is_unspecified or ip.is_multicast or (ip.version == 6 and ip.is_link_local))


def hosts_to_announce(places: Sequence[tuple[_IP, int]]) -> tuple[list[str], int]:
    """The IP addresses to announce, each of an interface to speak on, and their port.

    places  where this peer listens: IP address and TCP port. A service has one port, so those of
            the first port are announced; a hello tells the others. Loopback addresses count only
            if there are no others.
    """
    usable = [(ip, port) for ip, port in places if _can_be_dialled(ip)]
    outward = [(ip, port) for ip, port in usable if not ip.is_loopback] or usable
    if not outward:
        return [], 0
    first_port = outward[0][1]
    return [str(ip) for ip, port in outward if port == first_port], first_port


def interfaces_with_multicast(hosts: Sequence[str]) -> list[str]:
    """Those of this machine's IP addresses whose interfaces carry IPv4 multicast.

    Raises OSError with the reason of the last, if there is none.
    """
    found = []
    reason = OSError("no IPv4 address")
    for host in hosts:
        if ip_address(host).version == 4:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                membership = socket.inet_aton(MULTICAST_GROUP) + socket.inet_aton(host)
                try:
                    probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
                except OSError as error:
                    reason = error
                else:
                    found.append(host)
    if not found:
        raise reason
    return found


class LocalNetwork:
    """This peer on the local network. run() announces it and listens until it is cancelled."""

    def __init__(
        self,
        me: PeerId,
        places: Sequence[tuple[_IP, int]],
        topics: Sequence[str],
        found: Callable[[tuple[str, ...]], None],
        failed: Callable[[str], None],
    ) -> None:
        """Say nothing yet.

        places  where this peer listens: IP address and TCP port
        topics  what it takes part in or serves
        found   called with the addresses of a peer that shares a topic; in trio's thread
        failed  called with a sentence on what does not work; in trio's thread
        """
        self._me = me
        self._name = f"{me}.{SERVICE}"
        self._hosts, self._port = hosts_to_announce(places)
        self._topics = tuple(topics)
        self._found = found
        self._failed = failed
        self._token: trio.lowlevel.TrioToken | None = None
        # From here on: touched in the thread of asyncio only, but for _task and _stopping.
        self._known: dict[str, Announcement] = {}
        self._lookups: set[asyncio.Task[None]] = set()
        self._refreshed: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    # --- in trio's thread -----------------------------------------------------------------------

    async def run(self) -> None:
        """Announce and listen. Nothing that goes wrong in here is raised."""
        if not self._hosts:
            return
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_cancelled)
            with trio.CancelScope(shield=True):  # what is asked of it ends within CLOSE_TIMEOUT_S
                await trio.to_thread.run_sync(self._run_thread)
            nursery.cancel_scope.cancel()

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stopping = True
            self._in_asyncio(lambda task: task.cancel())

    def topics_changed(self, topics: Sequence[str]) -> None:
        """Announce these topics from now on, and tell of those who share a new one."""
        self._topics = tuple(topics)

        def refresh(task: asyncio.Task[None]) -> None:
            if self._refreshed is not None:
                self._refreshed.set()

        self._in_asyncio(refresh)

    def _in_asyncio(self, call: Callable[[asyncio.Task[None]], object]) -> None:
        """Call something in the other thread, if it lives."""
        task = self._task
        if task is not None:
            with suppress(RuntimeError):  # its loop is closed: nothing is left to do
                task.get_loop().call_soon_threadsafe(call, task)

    # --- in the thread of asyncio ---------------------------------------------------------------

    def _run_thread(self) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._speak())

    async def _speak(self) -> None:
        self._task = asyncio.current_task()
        if self._stopping:  # asked before there was a task to cancel
            return
        self._refreshed = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(self._on_stray_error)
        try:
            zeroconf = AsyncZeroconf(interfaces=interfaces_with_multicast(self._hosts))
        except (OSError, ZeroconfError) as error:
            why = getattr(error, "strerror", None) or error
            return self._in_trio(
                self._failed,
                f"peers on the local network do not find each other: no multicast here ({why})",
            )
        started = asyncio.ensure_future(zeroconf.zeroconf.async_wait_for_start())
        try:
            await asyncio.shield(started)  # cancelled halfway, it would leave a socket open
            browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[self._on_heard])
            await self._announce(zeroconf)
            await browser.async_cancel()
        except (OSError, ZeroconfError) as error:
            self._in_trio(self._failed, f"multicast DNS does not work here ({error})")
        finally:
            for lookup in self._lookups:
                lookup.cancel()
            with suppress(TimeoutError, ZeroconfError, OSError):  # the network may be gone
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await asyncio.wait([started])
                    await zeroconf.async_close()

    async def _announce(self, zeroconf: AsyncZeroconf) -> None:
        """Announce this peer, anew whenever its topics change, until cancelled."""
        assert self._refreshed is not None
        name = ""  # none registered
        while True:
            self._refreshed.clear()
            service = self._service(name or self._name)
            try:
                if name:
                    await (await zeroconf.async_update_service(service))
                else:
                    await (await zeroconf.async_register_service(service, allow_name_change=True))
            except (ZeroconfError, OSError) as error:
                self._in_trio(
                    self._failed, f"this peer cannot be announced on the local network ({error})"
                )
            else:
                if not name and service.name != self._name:
                    self._in_trio(
                        self._failed,
                        f"somebody on the local network announces this peer's id {self._me} as "
                        "well: never run one identity twice at a time",
                    )
                name = service.name
            await self._refreshed.wait()
            for announcement in self._known.values():
                self._tell(announcement)

    def _service(self, name: str) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE,
            name,
            port=self._port,
            parsed_addresses=self._hosts,
            properties=properties_of(self._me, self._topics),
            server=f"{self._me}.local.",
        )

    def _on_heard(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """Called by zeroconf when a service comes, changes or goes."""
        if state_change is ServiceStateChange.Removed:
            self._known.pop(name, None)
        elif len(self._lookups) < MDNS_PEERS_MAX:
            lookup = asyncio.ensure_future(self._look_up(zeroconf, name))
            self._lookups.add(lookup)
            lookup.add_done_callback(self._lookups.discard)

    async def _look_up(self, zeroconf: Zeroconf, name: str) -> None:
        try:
            info = AsyncServiceInfo(SERVICE, name)
            if not await info.async_request(zeroconf, LOOKUP_TIMEOUT_MS):
                return
            announcement = read_announcement(info.properties, info.parsed_addresses(), info.port)
        except (ValueError, ZeroconfError, OSError):
            return  # a stranger's mistake, and nobody to tell
        if announcement.peer == self._me:
            return
        self._known.pop(name, None)
        if len(self._known) >= MDNS_PEERS_MAX:
            del self._known[next(iter(self._known))]
        self._known[name] = announcement
        self._tell(announcement)

    def _tell(self, announcement: Announcement) -> None:
        if announcement.marks & {mark_of(topic) for topic in self._topics}:
            self._in_trio(self._found, announcement.addresses)

    def _in_trio(self, call: Callable[[_T], None], argument: _T) -> None:
        """Call something in trio's thread, if it still runs."""
        assert self._token is not None
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call, argument)

    def _on_stray_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """What goes wrong inside zeroconf between our calls."""
        error = context.get("exception")
        self._in_trio(self._failed, f"multicast DNS: {context.get('message')} ({error})")
