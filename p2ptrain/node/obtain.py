"""What a swarm id leads to: recipe, initial weights, data set; from the store or from the peers.

Each part names the next by its hash, so that whoever knows the swarm id can take all of it from
anyone, and goes on where an earlier try was broken off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from p2ptrain.config import Recipe
from p2ptrain.config_model import GptSection
from p2ptrain.data.manifest import Manifest
from p2ptrain.errors import ConfigError
from p2ptrain.node.founding import weights_manifest, weights_reader
from p2ptrain.node.samples import check_data_set
from p2ptrain.wire.cid import Cid

if TYPE_CHECKING:
    from p2ptrain.node.node import Node


async def obtain_recipe(node: Node, swarm_id: Cid) -> Recipe:
    """The recipe that the swarm id names, from the store or from the peers."""
    await node.fetcher.fetch("recipe", [swarm_id])
    content = node.blocks.get(swarm_id)
    assert content is not None
    recipe = Recipe.from_canonical(content, f"the recipe of swarm {swarm_id}")
    if not recipe.founder.key:
        raise ConfigError(
            f"{swarm_id} names a recipe that nobody has founded yet.\n"
            "Found it: p2ptrain join --swarm recipe.toml"
        )
    return recipe


async def obtain_weights(node: Node, recipe: Recipe) -> Callable[[], bytes] | None:
    """What reads the weights that the recipe starts from, once they are here; None: a seed does."""
    if not recipe.model.init:
        return None
    cid = Cid(recipe.model.init)
    advice = "Name their file (init = 'model.safetensors' in [model])"
    await _fetch(node, recipe, "manifest of the weights", (cid,), advice)
    content = node.blocks.get(cid)
    assert content is not None
    manifest = weights_manifest(recipe, content)
    await _fetch(node, recipe, "initial weights", manifest.block_cids, advice)
    read = weights_reader(manifest, node.blocks)
    await trio.to_thread.run_sync(read)  # a recipe that cannot be trained costs no more than this
    return read


async def obtain_data_set(node: Node, recipe: Recipe) -> Manifest:
    """The data set's manifest and chunks, from the store, or from the peers and seeders."""
    cid = Cid(recipe.data.cid)
    await node.add_topic(cid)  # seeders of this data set did not know that we belong to them
    of_text = isinstance(recipe.model, GptSection)
    bundled = (
        "'tinyshakespeare' for the bundled plays" if of_text else "'digits' for the bundled digits"
    )
    advice = f"Add them here (p2ptrain seed dataset PATH --once; PATH is {bundled})"
    await _fetch(node, recipe, "manifest", (cid,), advice)
    content = node.blocks.get(cid)
    assert content is not None
    manifest = Manifest.from_canonical(content)
    check_data_set(manifest, recipe)
    await _fetch(node, recipe, "data set", manifest.chunk_cids, advice)
    return manifest


async def _fetch(node: Node, recipe: Recipe, what: str, cids: Sequence[Cid], advice: str) -> None:
    """Fetch what the recipe names. Raises ConfigError if there is nobody who could have it.

    advice  how a founder puts it into this home
    """
    founded_here = recipe.founder.key == node.identity.peer_id
    lacking = not all(node.blocks.has(cid) for cid in cids)
    if founded_here and lacking and not node.peers.anybody and node.local is not None:
        await node.local.look_around()
    if founded_here and lacking and not node.peers.anybody:
        raise ConfigError(
            f"the {what} of the recipe {recipe.name!r} is not in this home, and there is no peer "
            f"to fetch it from: {cids[0]}\n{advice}, or name a peer that has it (--peer ADDRESS)."
        )
    await node.fetcher.fetch(what, cids)
