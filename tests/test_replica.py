"""The state of a run without a device: the same bits as the compute process, and the same names."""

from pathlib import Path

import numpy as np
import pytest
from test_applied import RECIPE, Stage, kernel_cache, stage  # noqa: F401

from p2ptrain.config import Recipe
from p2ptrain.errors import LocalProtocolError
from p2ptrain.model.networks import network_of
from p2ptrain.node.replica import Replica
from p2ptrain.train.states import UnknownBlock
from p2ptrain.wire.digest import digest

BLOCK = digest("block", b"founding")


async def test_a_replica_goes_through_the_same_states_as_a_device(
    tmp_path: Path,
    kernel_cache: Path,  # noqa: F811
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        replica, genesis = Replica(Recipe.from_toml(RECIPE)), one.genesis
        assert await replica.initial(genesis.block) == genesis.state
        for made in await one.chain(genesis, 3):
            context = made.link.context
            digest_after = await replica.apply_reduced(
                context.block, context.parent, made.certified_shards.shards
            )
            assert digest_after == context.state
            await replica.apply(context.block, mine_included=False)
            assert await replica.state(context.block) == made.bytes_after
        opened = one.compute.opened
        assert opened is not None
        assert (replica.shard_bytes, replica.state_bytes) == (
            opened.shard_bytes,
            opened.state_bytes,
        )


async def test_a_replica_goes_back_carries_on_and_forgets(
    tmp_path: Path,
    kernel_cache: Path,  # noqa: F811
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        replica, genesis = Replica(Recipe.from_toml(RECIPE)), one.genesis
        await replica.initial(genesis.block)
        first, second = await one.chain(genesis, 2)
        for made in (first, second):
            await replica.apply_reduced(
                made.block, made.link.context.parent, made.certified_shards.shards
            )
            await replica.apply(made.block, mine_included=False)
        await replica.rollback(first.block)
        closing = digest("block", b"closing")
        assert await replica.carry(closing, first.block) == first.link.context.state
        await replica.finalize(first.block)
        with pytest.raises(UnknownBlock):
            await replica.state(genesis.block)


async def test_a_replica_begins_with_the_weights_that_a_recipe_names_or_with_a_state() -> None:
    recipe = Recipe.from_toml(RECIPE)
    values = np.arange(network_of(recipe).layout.size, dtype="<f4")
    replica = Replica(recipe, lambda: values.tobytes())
    begun = await replica.initial(BLOCK)
    state = await replica.state(BLOCK)
    assert state[: values.nbytes] == values.tobytes()
    assert not any(state[values.nbytes :])
    assert await Replica(recipe).initial(BLOCK) != begun
    other = Replica(recipe)
    assert await other.load_state(BLOCK, state) == begun
    with pytest.raises(ValueError, match="bytes"):
        await other.load_state(BLOCK, state[:-4])


async def test_a_replica_never_reduces() -> None:
    with pytest.raises(LocalProtocolError):
        await Replica(Recipe.from_toml(RECIPE)).reduce(BLOCK, BLOCK, (), 4)
