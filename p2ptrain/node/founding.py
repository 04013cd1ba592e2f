"""From a recipe to a swarm: its name, and the weights that it starts from.

A recipe file becomes a swarm when its founder's peer id is written in; if it names a file of
weights, these go into the block store and the CID of their manifest takes the file's place. The
canonical recipe then goes into the store too, and its CID is the swarm id. Doing it again gives
the same swarm, so a founder may start again with the recipe file as long as neither file changes.

Everyone else gets the recipe by the swarm id, and the weights by the recipe: initial_weights.
"""

from collections.abc import Callable

from p2ptrain.config import Recipe
from p2ptrain.data.weights import Tensors, WeightsManifest, load_weights
from p2ptrain.data.weights_file import Progress, store_weights
from p2ptrain.model.networks import network_of
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.peer_id import PeerId


def found(
    recipe: Recipe,
    founder: PeerId,
    blocks: BlockStore,
    progress: Progress = lambda stored, total: None,
) -> Cid:
    """Put a recipe, with the weights that it may name, into the store; returns the swarm id.

    Raises:
      ConfigError  another peer founded it, or the file of weights cannot be used
      StoreError   the store is full
    """
    founded = recipe.founded_by(founder)
    path = founded.weights_path
    if path is not None:
        founded = founded.with_init(store_weights(path, tensors_of(recipe), blocks, progress))
    return blocks.put(founded.canonical)


def tensors_of(recipe: Recipe) -> Tensors:
    """Names and shapes of the network's tensors, in the order of the flat vector."""
    layout = network_of(recipe).layout
    return {tensor.name: tensor.shape for tensor in layout.tensors}


def weights_manifest(recipe: Recipe, content: bytes) -> WeightsManifest:
    """The manifest in the block that model.init names, which must be of the recipe's network.

    Raises ConfigError.
    """
    manifest = WeightsManifest.from_canonical(content)
    manifest.check_fits(tensors_of(recipe))
    return manifest


def weights_reader(manifest: WeightsManifest, blocks: BlockStore) -> Callable[[], bytes]:
    """A function that reads and checks the weights when they are needed, which is seldom.

    It raises ConfigError or StoreError.
    """
    return lambda: load_weights(manifest, blocks.get)
