"""Gets content by its CID from whichever connected peers have it, into the block store.

What is in the store already is not asked for, so a fetch that was broken off goes on where it
stopped; every byte is checked against its CID before it is stored (swarm/download.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

import trio

from p2ptrain.errors import P2PTrainError, RemoteProtocolError
from p2ptrain.net.unwrapping import lone_exception
from p2ptrain.node.drive import Inbox, drive
from p2ptrain.node.peers import Peers
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.blocks import BlockStore
from p2ptrain.swarm.download import Download, Got, blobs_wanted
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.inputs import Wait
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.messages import Blob, Message
from p2ptrain.wire.peer_id import PeerId

NOBODY_TIMEOUT_S = 60.0  # without any peer and without progress: tell the user rather than wait
TOLD_EVERY_S = 1.0


class PeersMissing(P2PTrainError):
    """No peer could be reached that has what is needed."""


@dataclass
class Fetcher:
    """Downloads blobs for one node; messages and peers reach it through the node's router."""

    peers: Peers
    blocks: BlockStore
    telemetry: Telemetry
    _inbox: Inbox[Send | Got] = field(default_factory=Inbox)
    _download: Download = field(default_factory=Download)
    _fetching: bool = False
    _alone_since: float | None = None
    _done_before: int = 0  # parts that earlier fetches brought

    def deliver(self, sender: PeerId, message: Message) -> None:
        """Take a message that may answer a request; there is nobody to take it at other times."""
        if not self._fetching:
            return
        self._inbox.offer_from(sender, message, self._download.receive)

    def peers_changed(self) -> None:
        """Somebody came or went."""
        if not self._fetching:
            return
        sources = self.peers.sources
        self._inbox.post(lambda now: [*self._download.peers(now, sources)])

    async def fetch(self, what: str, cids: Iterable[Cid]) -> None:
        """Have all these blobs in the store. Raises PeersMissing, StoreError.

        what   for people: "recipe", "data set"
        """
        missing = [cid for cid in dict.fromkeys(cids) if not self.blocks.has(cid)]
        if not missing:
            return
        wanted = blobs_wanted(missing)
        self._fetching = True
        self.peers_changed()
        self._inbox.post(lambda now: [*self._download.want(now, wanted)])
        began, total = trio.current_time(), len(missing)
        self._alone_since, self._done_before = None, self._download.progress.done
        with lone_exception(), self.telemetry.waits(lambda: self._waits(what, total, began)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, what, total)
                await drive(self._download, self._inbox, self._carry_out, self._strike)
                nursery.cancel_scope.cancel()
        self._fetching = False
        self.telemetry.report("fetched", what=what, blobs=len(missing))

    async def _carry_out(self, effect: Send | Got) -> bool:
        match effect:
            case Send(to, message):
                self.peers.send(to, message)
            case Got(_, answer):
                assert isinstance(answer, Blob)
                await trio.to_thread.run_sync(self.blocks.put, answer.data)
        return self._download.finished and isinstance(effect, Got)

    def _strike(self, error: RemoteProtocolError) -> None:
        self.peers.strike(error)
        peer = PeerId(error.peer)
        self._inbox.post(lambda now: [*self._download.lost(now, peer)])
        self.peers_changed()  # it may be asked again until it is let go: there may be nobody else

    @property
    def _done(self) -> int:
        return self._download.progress.done - self._done_before

    def _waits(self, what: str, total: int, began: float) -> list[Wait]:
        sources = len(self.peers.sources)
        waits = [
            Wait(f"the {what}: {self._done} of {total} parts, from {sources} peers", began, inf)
        ]
        if not sources:
            since = began if self._alone_since is None else self._alone_since
            waits.append(Wait("any peer that may have it", since, NOBODY_TIMEOUT_S))
        return waits

    async def _watch(self, what: str, total: int) -> None:
        """Say how it goes, and give up when there is nobody to ask."""
        while True:
            await trio.sleep(TOLD_EVERY_S)
            now, sources = trio.current_time(), len(self.peers.sources)
            self.telemetry.report(
                "fetching", what=what, done=self._done, total=total, peers=sources
            )
            if self.peers.sources:
                self._alone_since = None
            elif self.peers.refused_by_all:
                raise PeersMissing(self._why(what, "all who were asked have refused this peer"))
            elif self._alone_since is None:
                self._alone_since = now
            elif now - self._alone_since > NOBODY_TIMEOUT_S:
                nobody = f"no peer of this swarm was reached for {NOBODY_TIMEOUT_S:.0f} s"
                raise PeersMissing(self._why(what, nobody))

    def _why(self, what: str, reason: str) -> str:
        refusals = [f"{address}: {why}" for address, why in self.peers.refusals.items()]
        tried = "\n  ".join(refusals or ["nobody answered at the addresses that are known"])
        return (
            f"the {what} could not be fetched: {reason}.\n  {tried}\n"
            "Ask a member for a newer link, or name a peer: --peer /ip4/.../tcp/.../p2p/..."
        )
