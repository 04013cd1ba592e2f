"""Brings the applied state to the tip of the chain: a pure machine.

Theory of operation
===================

The chain (History) says what the state after each block must hash to; the applied state may lag
behind it, because the peer has just joined, switched to the trunk, or missed a reduction. On
every follow the machine looks for the shortest way to the tip:

  replay  the newest block of the chain whose state we hold (the founding block's always) is near:
          Rollback to it if it is not the applied one, then fetch the reduced shards of each block
          after it and hand them out in order (ApplyReduced): 1 byte a parameter a round
  pin     it is far, and a donor has a newer one: fetch the pieces of that state (LoadState), then
          replay from there

Pieces come from all donors at once, each checked against a certificate (swarm/download.py). If
everyone refuses what is asked for (donors have moved on), donors are asked for their tips again
and the other way is tried. The shell carries effects out in order and checks every state that it
makes against link.context.state; what it reduced by itself it reports by applied(). When the
applied state is the tip's, the machine rests.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from math import inf

from p2ptrain.swarm.download import (
    TIMEOUT_S,
    Check,
    Download,
    Got,
    Progress,
    Request,
    pieces_wanted,
    shards_wanted,
)
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.history import History, Link
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import (
    ROUND,
    GetReduced,
    GetState,
    GetTip,
    Message,
    Tip,
)
from p2ptrain.wire.peer_id import PeerId

REPLAY_ROUNDS_MAX = 8  # a state is 4 or 8 bytes a parameter: beyond 8 rounds it is cheaper
WINDOW_BLOCKS = 2  # blocks whose shards are fetched at once: one is applied as the next comes
DONORS_AGAIN_S = 2.0  # donors that had nothing are asked again after this


@dataclass(frozen=True, slots=True)
class Rollback:
    """Go back to the kept state after this block."""

    block: Digest


@dataclass(frozen=True, slots=True)
class LoadState:
    """Take these pieces, joined in their order, as the state after a block."""

    link: Link
    pieces: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ApplyReduced:
    """Apply a block's reduced shards to the state after its parent; none if it is not a ROUND."""

    link: Link
    shards: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What follows from the recipe, and how patient to be.

    piece_count  pieces of a state
    shard_count  reduced shards of a ROUND block
    timeout_s    seconds after which an item is asked of another donor
    """

    piece_count: int
    shard_count: int
    timeout_s: float = TIMEOUT_S


SyncEffect = Send | Rollback | LoadState | ApplyReduced


class StateSync:
    """Keeps the applied state on the way to the tip. Drive it: peers, follow, receive, expire."""

    def __init__(
        self, history: History, applied: Digest, held: Set[Digest], shapes: Shapes
    ) -> None:
        """Args:

        history  our chain, read only; the shell changes it and calls follow
        applied  block whose state the shell has applied
        held     blocks whose states the shell can roll back to, a live view; the founding block's
                 is always among them
        shapes   how many pieces and shards there are
        """
        self._history = history
        self._applied = applied
        self._held = held
        self._shapes = shapes
        self._download = Download(timeout_s=shapes.timeout_s)
        self._peers: list[PeerId] = []
        self._donated: dict[PeerId, tuple[Digest, ...]] = {}
        self._pinned: Link | None = None
        self._items: dict[Request, bytes] = {}  # of the pinned state, or of the next blocks
        self._dry = 0  # times that everyone had refused something
        self._replay_refused = False
        self._again_at = inf

    @property
    def level(self) -> bool:
        """Whether the applied state is the tip's."""
        return self._applied == self._history.tip.block

    @property
    def progress(self) -> Progress:
        """Items fetched of those wanted so far."""
        return self._download.progress

    @property
    def deadline(self) -> float:
        """When expire must be called next, seconds on the caller's clock; inf: never."""
        return min(self._again_at, self._download.deadline)

    def peers(self, now: float, peers: Iterable[PeerId]) -> list[SyncEffect]:
        """Whom it may ask from now on."""
        self._peers = sorted(peers)
        for gone in [peer for peer in self._donated if peer not in self._peers]:
            del self._donated[gone]
        return [*self._download.peers(now, self._peers)]

    def lost(self, now: float, peer: PeerId) -> list[SyncEffect]:
        """A peer is gone or was struck: what it owes is asked of others."""
        self._donated.pop(peer, None)
        return [*self._download.lost(now, peer)]

    def follow(self, now: float) -> list[SyncEffect]:
        """The chain grew or was switched: go to its tip."""
        effects: list[SyncEffect] = []
        if self._pinned and self._height(self._pinned) is None:
            self._start_over()
        if self._history.height_of(self._applied) is None:
            self._start_over()
            self._applied = self._newest_held()
            effects.append(Rollback(self._applied))
        return [*effects, *self._plan(now)]

    def applied(self, now: float, block: Digest) -> list[SyncEffect]:
        """The shell applied this block by itself, on the state that was applied: it reduced it."""
        self._applied = block
        for shard in range(self._shapes.shard_count):
            self._download.forget(GetReduced(block, shard))
            self._items.pop(GetReduced(block, shard), None)
        return self._plan(now)

    def receive(self, now: float, sender: PeerId, message: Message) -> list[SyncEffect]:
        """Take one message. Raises RemoteProtocolError (catchup 3.1, 4.1), nothing changed."""
        if isinstance(message, Tip):
            self._donated[sender] = message.states
            return [] if self.level else self._plan(now)
        return self._after(now, self._download.receive(now, sender, message))

    def expire(self, now: float) -> list[SyncEffect]:
        """The deadline has come."""
        effects = self._after(now, self._download.expire(now))
        if self._again_at <= now:
            self._again_at = inf
            effects += self._plan(now)
        return effects

    def _after(self, now: float, effects: Iterable[Send | Got]) -> list[SyncEffect]:
        """Keep what came, go on with it, and look for other ways where nobody has anything."""
        result: list[SyncEffect] = []
        came = False
        for effect in effects:
            if isinstance(effect, Got):
                self._items[effect.request] = effect.answer.data
                came = True
            else:
                result.append(effect)
        if came:
            result += self._load(now) if self._pinned else self._replay(now)
        if self._download.dry > self._dry:
            self._dry = self._download.dry
            result += self._ask_donors(now)
        return result

    def _ask_donors(self, now: float) -> list[SyncEffect]:
        """Everyone refused something: ask what they have now, and plan again a little later."""
        self._replay_refused = self._pinned is None
        if self._pinned:
            self._start_over()
        self._donated.clear()
        self._again_at = now + DONORS_AGAIN_S
        return [Send(peer, GetTip(0)) for peer in self._peers]

    def _plan(self, now: float) -> list[SyncEffect]:
        height = self._history.height_of(self._applied)
        if self._pinned or height is None:
            return []
        rounds = self._history.tip.rounds - self._history.context(height).rounds
        if rounds > REPLAY_ROUNDS_MAX or self._replay_refused:
            link = self._newest_donated(height)
            if link:
                self._start_over()
                self._pinned = link
                context = link.context
                wanted = pieces_wanted(context.block, context.state, self._shapes.piece_count)
                return [*self._download.want(now, wanted)]
        return self._replay(now)

    def _load(self, now: float) -> list[SyncEffect]:
        """Hand the pinned state out if it is complete, and replay from it."""
        if self._pinned is None or not self._download.finished:
            return []
        link, block = self._pinned, self._pinned.context.block
        pieces = [self._items[GetState(block, i)] for i in range(self._shapes.piece_count)]
        self._applied = block
        self._replay_refused = False
        self._start_over()
        return [LoadState(link, tuple(pieces)), *self._plan(now)]

    def _replay(self, now: float) -> list[SyncEffect]:
        """Hand out the blocks that are complete, in order, and fetch the shards of the next."""
        effects: list[SyncEffect] = []
        height = self._history.height_of(self._applied)
        links = [] if height is None else self._history.after(height)
        while links and (shards := self._shards(links[0])) is not None:
            effects.append(ApplyReduced(links[0], shards))
            self._applied = links[0].context.block
            links = links[1:]
        for link in links[:WINDOW_BLOCKS]:
            effects += self._download.want(now, self._wanted(link))
        return effects

    def _wanted(self, link: Link) -> dict[Request, Check]:
        """The shards of a block that have not come yet."""
        if link.certificate.block.kind != ROUND:
            return {}
        reduced, count = link.certificate.reduced, self._shapes.shard_count
        wanted = shards_wanted(link.context.block, reduced, count)
        return {request: check for request, check in wanted.items() if request not in self._items}

    def _shards(self, link: Link) -> tuple[bytes, ...] | None:
        """All reduced shards of a block, taken out of the items; None: some have not come."""
        if link.certificate.block.kind != ROUND:
            return ()
        requests = [
            GetReduced(link.context.block, shard) for shard in range(self._shapes.shard_count)
        ]
        if any(request not in self._items for request in requests):
            return None
        return tuple(self._items.pop(request) for request in requests)

    def _newest_held(self) -> Digest:
        heights = (self._history.height_of(block) for block in self._held)
        return self._history.context(max(h for h in heights if h is not None)).block

    def _newest_donated(self, above: int) -> Link | None:
        """The newest block of our chain above a height whose state a donor serves."""
        blocks = (block for peer in self._peers for block in self._donated.get(peer, ()))
        heights = (self._history.height_of(block) for block in blocks)
        best = max((h for h in heights if h is not None), default=0)
        return self._history.link(best) if best > above else None

    def _height(self, link: Link) -> int | None:
        return self._history.height_of(link.context.block)

    def _start_over(self) -> None:
        """Forget the pinned state and whatever is on its way."""
        self._pinned = None
        self._items.clear()
        self._download.clear()
