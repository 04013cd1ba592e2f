"""Which answers are due: a megabyte that nobody asked for is a flood, not a gift.

Content (blobs, states, reduced shards, headers) only ever comes as the answer to a request. So each
request that we send to a peer entitles it to one answer; one more breaks catchup 6.1. The budgets
of net/ bound all bytes at what a fast link carries honestly; a flood of unasked content would stay
below them for long, and cost a slow machine its rounds.
"""

from collections import OrderedDict

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.wire.limits import PEERS_REMEMBERED
from p2ptrain.wire.messages import (
    Blob,
    GetBlob,
    GetHeaders,
    GetReduced,
    GetState,
    Headers,
    Message,
    NotHeld,
    ReducedPiece,
    StatePiece,
)
from p2ptrain.wire.peer_id import PeerId

REQUESTS = (GetBlob, GetState, GetReduced, GetHeaders)
CONTENT = (Blob, StatePiece, ReducedPiece, Headers)


class Asked:
    """Counts the answers that each peer still owes us, for the peers asked last."""

    def __init__(self) -> None:
        """Nobody was asked for anything."""
        self._due: OrderedDict[PeerId, int] = OrderedDict()

    def sent(self, peer: PeerId, message: Message) -> None:
        """Note what we send. A request that is never answered stays due: that blames nobody."""
        if isinstance(message, REQUESTS):
            self._due[peer] = self._due.pop(peer, 0) + 1
            if len(self._due) > PEERS_REMEMBERED:
                self._due.popitem(last=False)

    def received(self, peer: PeerId, message: Message) -> None:
        """Note what a peer sends. Raises RemoteProtocolError (catchup 6.1): content not due."""
        refused = isinstance(message, NotHeld) and isinstance(message.request, REQUESTS)
        if not refused and not isinstance(message, CONTENT):
            return
        due = self._due.get(peer, 0)
        if due > 0:
            self._due[peer] = due - 1
        elif not refused:
            what = type(message).__name__
            raise RemoteProtocolError(peer, "catchup 6.1", f"a {what} that nobody asked for")
