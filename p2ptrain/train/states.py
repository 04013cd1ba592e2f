"""The states that a peer may still need: of its chain since the last final block, and candidates.

A chain of blocks leads from the last final block to the base, the block that training starts
from. With each goes a Snapshot: the shared state, and what is this peer's own, the residual of
error feedback and the inner optimiser's state. A candidate is a block whose shared state is known
and that is not applied: it was reduced here, or taken from certified shards.

A contribution belongs to its parent. What it would leave behind waits in `contributed` and enters
the snapshot of whatever child of that parent is applied, if the contribution is in that child's
set; else the parent's residual and inner state go on, as if it had never been made. Since nothing
is ever written in place, going back is taking an older snapshot.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from p2ptrain.errors import P2PTrainError
from p2ptrain.train.outer import OuterConfig, State, Vector, outer_step, state_bytes, state_digest
from p2ptrain.wire.digest import Digest

Inner = TypeVar("Inner")

CANDIDATES_MAX = 32  # more proposals than this for the blocks since the last final one is abuse


class UnknownBlock(P2PTrainError):
    """The state of this block is not kept: it is older than the last final one, or unheard of."""


@dataclass(frozen=True, slots=True)
class Local(Generic[Inner]):
    """What is this peer's own.

    residual  (n,) float32, what rounding has lost so far
    inner     the inner optimiser's state
    """

    residual: Vector
    inner: Inner


@dataclass(frozen=True, slots=True)
class Candidate:
    """A block's shared state, and the block before it (None for where the chain begins)."""

    parent: Digest | None
    state: State
    digest: Digest


class States(Generic[Inner]):
    """The chain, its snapshots and the candidates."""

    def __init__(self, config: OuterConfig, block: Digest, state: State, local: Local[Inner]):
        """Begin a chain at a block."""
        self._config = config
        self._chain = [block]  # from the last final block to the base
        digest = state_digest(state_bytes(state))
        self._candidates = {block: Candidate(None, state, digest)}  # applied ones among them
        self._locals = {block: local}  # of the blocks in the chain
        self._contributed: dict[Digest, Local[Inner]] = {}  # by parent

    @property
    def base(self) -> Digest:
        """The block that training starts from."""
        return self._chain[-1]

    @property
    def base_local(self) -> Local[Inner]:
        """What is this peer's own at the base."""
        return self._locals[self.base]

    def local(self, block: Digest) -> Local[Inner]:
        """What is this peer's own at a block of the chain. Raises UnknownBlock."""
        if block not in self._locals:
            raise UnknownBlock(f"block {block.hex()[:16]} is not in the chain")
        return self._locals[block]

    def take(self, block: Digest, local: Local[Inner]) -> None:
        """Go on at a block of the chain with what an earlier process had. Raises UnknownBlock."""
        self.local(block)
        self._locals[block] = local

    def find(self, block: Digest) -> Candidate:
        """The state of an applied block or a candidate. Raises UnknownBlock."""
        if block not in self._candidates:
            raise UnknownBlock(f"no state is kept for block {block.hex()[:16]}")
        return self._candidates[block]

    def average(self, block: Digest, parent: Digest, gradient: Vector) -> Candidate:
        """A candidate: the outer step from its parent's state. Raises UnknownBlock, NotFinite."""
        state = outer_step(self._config, self.find(parent).state, gradient)
        return self._add(block, Candidate(parent, state, state_digest(state_bytes(state))))

    def carry(self, block: Digest, parent: Digest) -> Candidate:
        """A candidate with its parent's state. Raises UnknownBlock."""
        before = self.find(parent)
        return self._add(block, Candidate(parent, before.state, before.digest))

    def contribute(self, parent: Digest, local: Local[Inner]) -> None:
        """Remember what a contribution leaves behind, should it be averaged."""
        self._contributed[parent] = local

    def apply(self, block: Digest, *, mine_included: bool) -> None:
        """A candidate on the base becomes the base; the base itself stays it. UnknownBlock."""
        if block == self.base:
            return
        if self.find(block).parent != self.base:
            raise UnknownBlock(f"block {block.hex()[:16]} does not follow the base")
        local = self.base_local
        if mine_included:
            # A restarted process no longer has what its predecessor's contribution left behind,
            # only that the residual went into it.
            spent = Local(np.zeros_like(local.residual), local.inner)
            local = self._contributed.get(self.base, spent)
        self._chain.append(block)
        self._locals[block] = local

    def rollback(self, block: Digest) -> None:
        """Make an earlier block of the chain the base; later ones are candidates again."""
        if block not in self._chain:
            raise UnknownBlock(f"block {block.hex()[:16]} is not in the chain")
        del self._chain[self._chain.index(block) + 1 :]
        self._locals = {kept: self._locals[kept] for kept in self._chain}

    def finalize(self, block: Digest) -> None:
        """Forget all that does not build on this block of the chain. Raises UnknownBlock."""
        if block not in self._chain:
            raise UnknownBlock(f"block {block.hex()[:16]} is not in the chain")
        self._chain = self._chain[self._chain.index(block) :]
        self._locals = {kept: self._locals[kept] for kept in self._chain}
        kept = {block}
        for name, candidate in self._candidates.items():  # a parent is always older
            if candidate.parent in kept:
                kept.add(name)
        self._candidates = {name: c for name, c in self._candidates.items() if name in kept}
        self._contributed = {p: local for p, local in self._contributed.items() if p in kept}

    def _add(self, block: Digest, candidate: Candidate) -> Candidate:
        if block not in self._chain:
            self._candidates[block] = candidate
        spare = [name for name in self._candidates if name not in self._chain and name != block]
        for name in spare[: max(0, len(spare) + 1 - CANDIDATES_MAX)]:
            del self._candidates[name]
        return self._candidates[block]
