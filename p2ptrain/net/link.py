"""A link: two ordered byte streams to one authenticated peer, as the switchboard wants them.

This is all that a kind of network has to provide. Whoever makes links has already proved who the
peer is (Noise does, for libp2p) and opened both lanes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from p2ptrain.errors import P2PTrainError
from p2ptrain.wire.peer_id import PeerId


class LinkBroken(P2PTrainError):
    """A link ended without order: reset, timed out, or never came about. Says how."""


class Lane(Protocol):
    """One ordered stream of bytes each way. One task writes, one task reads."""

    async def send_all(self, data: bytes) -> None:
        """Write everything; waits while the other side does not read. Raises LinkBroken."""
        ...

    async def receive_some(self) -> bytes:
        """Whatever has come, at least one byte; b"" at the end. Raises LinkBroken."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """Both lanes to one peer.

    address    where it was dialled, or where the connection comes from
    outgoing   True if this side dialled
    close      ends both lanes at once, on both sides; may be called twice; does not raise
    """

    peer: PeerId
    address: str
    outgoing: bool
    control: Lane
    bulk: Lane
    close: Callable[[], Awaitable[None]]
