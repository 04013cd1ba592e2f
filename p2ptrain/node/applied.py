"""The state that this node has applied, and every way in which it moves on.

The chain (History) says which block comes next; this module brings the state there, one block at
a time, and makes each step durable before anybody relies on it. A block is applied

  from our own reduction   the usual way: the candidate that we voted for becomes the base
  by carrying over         CLOSE and BRANCH blocks change nothing
  from certified shards    when we missed the reduction: fetched and checked by StateSync
  from a certified state   when we are far behind: likewise

A lock keeps the ways apart: whoever comes second finds the block applied and does nothing. Another,
held only for moments, guards the chain and its transcript: agreement never waits for a state.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import trio

from p2ptrain.errors import LocalProtocolError, StoreError
from p2ptrain.node.ledger import Ledger
from p2ptrain.store.reduced import ReducedBlock
from p2ptrain.swarm.effects import Reduce, Term
from p2ptrain.swarm.history import History, Link
from p2ptrain.swarm.statesync import ApplyReduced, LoadState, Rollback
from p2ptrain.train.worker_messages import Reduced
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import CANDIDATES_MAX
from p2ptrain.wire.messages import ROUND
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_root


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What our own reduction of a block gave; the state itself is in the compute process.

    memory  AppliedState._memory then: if it has changed, the process has forgotten the state
    """

    shards: tuple[bytes, ...]
    state: Digest
    memory: int


class Keeper(Protocol):
    """What keeps the states themselves: the compute process, or who only follows a run."""

    @property
    def alive(self) -> bool:
        """Whether it has not died."""

    async def close(self) -> None:
        """End it."""

    async def start(self) -> object:
        """Begin anew, without any state."""

    async def restart(self, block: Digest, state: bytes) -> object:
        """Begin anew with one state."""

    async def initial(self, block: Digest) -> Digest:
        """Hold the recipe's initial state as that of the founding block; its digest."""

    async def load_state(self, block: Digest, state: bytes) -> Digest:
        """Hold only this state; its digest."""

    async def reduce(
        self, block: Digest, parent: Digest, terms: Sequence[Term], codec: int
    ) -> Reduced:
        """The candidate that a set leads to from its parent."""

    async def apply_reduced(self, block: Digest, parent: Digest, shards: Sequence[bytes]) -> Digest:
        """The candidate that certified shards lead to; the digest of its state."""

    async def carry(self, block: Digest, parent: Digest) -> Digest:
        """The candidate with its parent's state."""

    async def apply(self, block: Digest, *, mine_included: bool) -> None:
        """Make a candidate the base."""

    async def rollback(self, block: Digest) -> None:
        """Make an older block the base."""

    async def finalize(self, block: Digest) -> None:
        """Forget what does not build on this block."""

    async def state(self, block: Digest) -> bytes:
        """A state's bytes."""


KeeperT = TypeVar("KeeperT", bound=Keeper)


@dataclass
class AppliedState(Generic[KeeperT]):
    """The newest applied block, and the candidates for the next one.

    me        this peer
    block     digest of the newest applied block
    held      blocks that the compute process can go back to
    pending_finals  blocks that are final and may not be applied yet, oldest first
    on_apply  called after each block that was applied, in order
    """

    me: PeerId
    compute: KeeperT
    ledger: Ledger
    block: Digest
    on_apply: Callable[[Link], None]
    held: set[Digest] = field(default_factory=set)
    pending_finals: list[Digest] = field(default_factory=list)
    _candidates: OrderedDict[Digest, _Candidate] = field(default_factory=OrderedDict)
    _memory: int = 0  # how often the compute process has forgotten everything
    _reducing: dict[Digest, trio.Event] = field(default_factory=dict)
    _lock: trio.Lock = field(default_factory=trio.Lock)
    _chain: trio.Lock = field(default_factory=trio.Lock)  # inside _lock, if both are held
    _moved: trio.Event = field(default_factory=trio.Event)

    @property
    def history(self) -> History:
        """The chain that the state follows."""
        return self.ledger.history

    @property
    def height(self) -> int | None:
        """Height of the applied block in the chain; None: it was on a branch that we left."""
        return self.history.height_of(self.block)

    @property
    def level(self) -> bool:
        """Whether the state is the one after the tip."""
        return self.block == self.history.tip.block

    async def reduce(self, effect: Reduce) -> tuple[Digest, Digest] | None:
        """Reduce a set on its parent's state: (Merkle root, state digest).

        Waits until the parent is applied; None when that can no longer happen, or somebody is at
        it already. Raises ComputeDied, ComputeRefused.
        """
        if effect.block in self._reducing:
            return None
        done = self._reducing[effect.block] = trio.Event()
        try:
            while self.block != effect.parent:
                if self._is_behind_us(effect.parent):
                    return None
                await self._moved.wait()
            async with self._lock:  # a process that is being restarted knows no parent yet
                memory = self._memory
                result = await self.compute.reduce(
                    effect.block, effect.parent, effect.terms, effect.codec
                )
            # On disk before anybody can vote for it: were all voters to crash, each could still
            # make the state again that they have certified.
            kept = ReducedBlock(effect.block, result.state, result.shards)
            await trio.to_thread.run_sync(self.ledger.keep, kept)
            self.ledger.remember(effect.block, result.shards)
            self._candidates[effect.block] = _Candidate(result.shards, result.state, memory)
            while len(self._candidates) > CANDIDATES_MAX:
                self._candidates.popitem(last=False)
            return result.root, result.state
        finally:
            del self._reducing[effect.block]
            done.set()

    async def extend(self, link: Link, finals: Sequence[Digest]) -> bool:
        """Append a block that was just certified; it is on disk on return, its state comes later.

        False: catch-up has switched meanwhile, and the block does not follow from the tip any more.
        """
        async with self._chain:
            if link.certificate.block.parent != self.history.tip.block:
                return False
            await trio.to_thread.run_sync(self.ledger.extend, (link,))
            self.history.append(link)
            self.pending_finals.extend(finals)
            return True

    async def follow(self) -> bool:
        """Apply what we reduced ourselves, as far as it leads; True if that is the tip."""
        while not self.level:
            height = self.height
            if height is None:
                return False
            link = self.history.link(height + 1)
            if link.context.block in self._reducing:
                await self._reducing[link.context.block].wait()
            async with self._lock:
                if self._follows(link) and not await self._apply_ours(link):
                    return False
        return True

    async def sync(self, effect: Rollback | LoadState | ApplyReduced) -> None:
        """Do what StateSync asks for."""
        async with self._lock:
            match effect:
                case Rollback(block):
                    await self._roll_back(block)
                case LoadState(link, pieces):
                    block = link.context.block
                    # We may have come there by our own reduction while the pieces were fetched.
                    if self.block != block and not self._is_behind_us(block):
                        await self._load(link, b"".join(pieces))
                case ApplyReduced(link, shards):
                    if self._follows(link):
                        await self._apply_shards(link, shards)

    async def switch(self, height: int, links: tuple[Link, ...]) -> bool:
        """Put another branch in place of the blocks above a height; the state follows later.

        False: while a state was being written the chain has grown, and the choice is open again.
        """
        chosen_at = self.history.tip.block
        async with self._lock, self._chain:
            if self.history.tip.block != chosen_at:
                return False
            if height == self.history.height:  # nothing is dropped
                await trio.to_thread.run_sync(self.ledger.extend, links)
            else:
                self.ledger.switch(height)
                self._candidates.clear()
            self.history.switch(height, links)
            self._move()  # who waits for the state of a block that is gone need not wait
            return True

    async def finalize(self) -> None:
        """Forget the states before the newest applied block that is final."""
        async with self._lock:
            height_of = self.history.height_of
            known = [block for block in self.pending_finals if height_of(block) is not None]
            applied = [block for block in known if block in self.held]
            self.pending_finals = known
            if not applied or self.height is None:
                return
            newest = applied[-1]
            self.pending_finals = known[known.index(newest) + 1 :]
            await trio.to_thread.run_sync(self.ledger.finalize, newest)
            await self.compute.finalize(newest)
            first = height_of(newest) or 0
            kept = {block for block in self.held if (height_of(block) or 0) >= first}
            # In place: StateSync holds a view of this very set.
            self.held &= kept | {self.history.genesis.block}

    async def restart(self) -> None:
        """After the compute process died: a new one, from the newest state on disk."""
        async with self._lock:
            if self.block == self.history.genesis.block:
                await self.compute.close()
                await self.compute.start()
                await self.compute.initial(self.block)
            else:
                state = self.ledger.state_of(self.block)
                if state is None:
                    raise StoreError(
                        "the compute process died and the newest checkpoint cannot be read.\n"
                        "Start p2ptrain again: it goes on from an older one, or from the others."
                    )
                await self.compute.restart(self.block, state)
            self._hold_only(self.block)

    def _follows(self, link: Link) -> bool:
        """Whether a block is the next one; while we waited the chain may have been switched."""
        block = link.context.block
        return self.block == link.context.parent and self.history.height_of(block) is not None

    def _is_behind_us(self, block: Digest) -> bool:
        """Whether the state can no longer come to this block: it left it behind, or its chain."""
        there, here = self.history.height_of(block), self.height
        return there is None or (here is not None and here > there)

    async def _apply_ours(self, link: Link) -> bool:
        """Apply a block that changes nothing, or our own candidate; False if there is none."""
        block = link.context.block
        if link.certificate.block.kind != ROUND:
            await self.compute.carry(block, link.context.parent)
            await self._adopt(link, ())
            return True
        candidate = self._candidates.pop(block, None)
        if candidate is not None and candidate.state != link.context.state:
            return False  # a quorum signed another outcome: fetch that, and see
        if candidate is not None and candidate.memory == self._memory:
            await self._adopt(link, candidate.shards)
            return True
        shards = self.ledger.reduced_of(block)  # ours from before a restart, say
        if shards is None or merkle_root(shards) != link.certificate.reduced:
            return False
        await self._apply_shards(link, shards)
        return True

    async def _apply_shards(self, link: Link, shards: tuple[bytes, ...]) -> None:
        block, parent = link.context.block, link.context.parent
        if link.certificate.block.kind == ROUND:
            state = await self.compute.apply_reduced(block, parent, shards)
        else:
            state = await self.compute.carry(block, parent)
        if state != link.context.state:
            raise LocalProtocolError(
                "certified shards gave another state here than a quorum has signed: this "
                "device does not compute by the rules (or our code does not)"
            )
        await self._adopt(link, shards)

    async def _adopt(self, link: Link, shards: tuple[bytes, ...]) -> None:
        block = link.context.block
        mine = any(entry.peer == self.me for entry in link.certificate.block.entries)
        await self.compute.apply(block, mine_included=mine)
        await self._record(link, shards)

    async def _record(self, link: Link, shards: tuple[bytes, ...]) -> None:
        block = link.context.block
        state = await self.compute.state(block)
        height = self.history.height_of(block)
        if height is not None:  # else the chain was switched while we computed
            await trio.to_thread.run_sync(self.ledger.save, height, state)
            async with self._chain:
                if height > self.ledger.logged:  # the first block of another branch
                    await trio.to_thread.run_sync(self.ledger.extend, ())
                self.ledger.note(height, shards)
        self.block = block
        self.held.add(block)
        self._move()
        self.on_apply(link)

    def _move(self) -> None:
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def _load(self, link: Link, state: bytes) -> None:
        digest = await self.compute.load_state(link.context.block, state)
        if digest != link.context.state:
            raise LocalProtocolError("a state whose pieces were all checked has another digest")
        self._hold_only(link.context.block)
        await self._record(link, ())

    async def _roll_back(self, block: Digest) -> None:
        if block not in self.held:
            return  # the process was restarted meanwhile; StateSync is told where we are
        if block == self.history.genesis.block:
            await self.compute.initial(block)
            self._hold_only(block)
        else:
            await self.compute.rollback(block)
            self.held &= {kept for kept in self.held if self.history.height_of(kept) is not None}
        self.block = block
        self._move()

    def _hold_only(self, block: Digest) -> None:
        self.held.clear()
        self.held |= {block, self.history.genesis.block}
        self._memory += 1
