"""The shared state of a run without a device: what a node needs that serves a run and trains not.

Certified shards move the state on by the outer optimiser, which is numpy (train/outer.py); only the
initial parameters come from a kernel, whose numpy twin gives the same bits. So any machine that
runs Python can hold, check and serve every state of a run.

The methods are those of the compute process as AppliedState uses them (node/compute.py), except
that nothing here trains; work that takes long runs in a thread.
"""

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import trio

from p2ptrain.compress.codecs import CODECS, REDUCED_CODEC
from p2ptrain.compress.feedback import join_values, shard_lengths
from p2ptrain.config import Recipe
from p2ptrain.errors import LocalProtocolError
from p2ptrain.model.initial import initial_parameters_twin
from p2ptrain.model.networks import network_of
from p2ptrain.swarm.effects import Term
from p2ptrain.train.outer import OuterConfig, Vector, initial_state, state_bytes, state_from_bytes
from p2ptrain.train.states import Local, States, UnknownBlock
from p2ptrain.wire.digest import Digest

_NOTHING_OF_OURS: Local[None] = Local(np.zeros(0, np.float32), None)


class Replica:
    """The states of one run since its last final block."""

    def __init__(self, recipe: Recipe, weights: Callable[[], bytes] | None = None) -> None:
        """Hold no state yet.

        weights  reads the initial weights that the recipe names, if it names any
        """
        self._layout = network_of(recipe).layout
        self._seed = recipe.seed
        self._weights = weights
        outer = recipe.outer
        self._outer = OuterConfig(outer.optimizer, outer.learning_rate, outer.momentum)
        values = self._layout.padded_size
        lengths = shard_lengths(values, recipe.averaging.shard_values)
        codec = CODECS[recipe.averaging.number]
        self.shard_bytes = tuple(codec.shard_bytes(length) for length in lengths)
        self.state_bytes = 4 * values * self._outer.vectors
        self._reduced_bytes = [REDUCED_CODEC.shard_bytes(length) for length in lengths]
        self._states: States[None] | None = None

    @property
    def alive(self) -> bool:
        """Always: there is no process that could die."""
        return True

    async def start(self) -> None:
        """Begin anew, without any state."""
        self._states = None

    async def close(self) -> None:
        """Forget all states."""
        self._states = None

    async def restart(self, block: Digest, state: bytes) -> Digest:
        """Begin anew with one state; its digest."""
        return await self.load_state(block, state)

    async def initial(self, block: Digest) -> Digest:
        """Make the recipe's initial parameters the state of the founding block; its digest."""
        parameters = await trio.to_thread.run_sync(self._initial_parameters)
        self._states = States(
            self._outer, block, initial_state(self._outer, parameters), _NOTHING_OF_OURS
        )
        return self._states.find(block).digest

    async def load_state(self, block: Digest, state: bytes) -> Digest:
        """Make these bytes the state of a block and forget all others; its digest.

        Raises ValueError for a wrong length, NotFinite.
        """
        loaded = state_from_bytes(self._outer, state, self._layout.padded_size)
        self._states = States(self._outer, block, loaded, _NOTHING_OF_OURS)
        return self._states.find(block).digest

    async def reduce(
        self, block: Digest, parent: Digest, terms: Sequence[Term], codec: int
    ) -> NoReturn:
        """Never asked: who does not vote reduces nothing."""
        raise LocalProtocolError("a node that only serves a run was asked to reduce a set")

    async def apply_reduced(self, block: Digest, parent: Digest, shards: Sequence[bytes]) -> Digest:
        """The candidate that certified shards lead to; the digest of its state.

        Raises UnknownBlock, MalformedShard, NotFinite.
        """
        if [len(shard) for shard in shards] != self._reduced_bytes:
            raise LocalProtocolError("certified shards are not those of this recipe's network")
        states = self._chain

        def average() -> Digest:
            return states.average(block, parent, join_values(REDUCED_CODEC, shards)).digest

        return await trio.to_thread.run_sync(average)

    async def carry(self, block: Digest, parent: Digest) -> Digest:
        """The candidate of a block without entries: its parent's state."""
        return self._chain.carry(block, parent).digest

    async def apply(self, block: Digest, *, mine_included: bool) -> None:
        """Make a candidate the base."""
        self._chain.apply(block, mine_included=mine_included)

    async def rollback(self, block: Digest) -> None:
        """Make an older block the base again."""
        self._chain.rollback(block)

    async def finalize(self, block: Digest) -> None:
        """Forget what does not build on this block."""
        self._chain.finalize(block)

    async def state(self, block: Digest) -> bytes:
        """The bytes of a state that is held."""
        return state_bytes(self._chain.find(block).state)

    @property
    def _chain(self) -> States[None]:
        if self._states is None:
            raise UnknownBlock("there is no state yet")
        return self._states

    def _initial_parameters(self) -> Vector:
        layout = self._layout
        vector = np.zeros(layout.padded_size, np.float32)
        if self._weights is not None:
            given = np.frombuffer(self._weights(), "<f4")
            vector[: given.size] = given
            return vector
        return initial_parameters_twin(layout, self._seed)
