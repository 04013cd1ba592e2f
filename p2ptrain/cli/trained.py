"""Find a trained network and what made it: in the newest checkpoint of a run, or in a file.

A run is read beside a running node or without one. A file is one that `p2ptrain export` wrote,
which has its recipe inside and the vocabulary of its text, or another one for which a recipe is
given.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer

from p2ptrain.config import Recipe
from p2ptrain.config_local import NodeConfig, parse_link
from p2ptrain.config_model import GptSection
from p2ptrain.data.manifest import Manifest
from p2ptrain.data.safetensors import read_metadata
from p2ptrain.data.tokenisers import Tokeniser
from p2ptrain.data.weights_file import read_weights
from p2ptrain.errors import ConfigError
from p2ptrain.model.networks import network_of
from p2ptrain.model.parameters import Vector
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.checkpoint import CheckpointStore
from p2ptrain.wire.cid import Cid, parse_cid

WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Trained:
    """A network with its weights.

    source      what people call it
    recipe      what made it
    parameters  (padded_size,) float32, of the recipe's network
    tokeniser   of the text that it learned, if it came with the weights
    """

    source: str
    recipe: Recipe
    parameters: Vector
    tokeniser: Tokeniser | None = None


def find_trained(target: str, recipe_path: Path | None, config: NodeConfig) -> Trained:
    """The network that a person names.

    Args:
      target       a .safetensors file, a swarm's link or id; empty: the run of this home that was
                   written to last
      recipe_path  the recipe of a file that has none inside

    Raises:
      ConfigError  there is no such network here
      StoreError   the disk refuses
    """
    path = Path(target)
    if target.endswith(WEIGHTS_SUFFIX) or (target and path.is_file()):
        return _in_file(path, recipe_path)
    if recipe_path is not None:
        raise ConfigError(
            f"--recipe {recipe_path}: the recipe of a run is its own.\n"
            "Leave --recipe out, or name a file of weights: p2ptrain sample model.safetensors"
        )
    return _in_run(parse_link(target).swarm_id if target else newest_run(config), config)


def tokeniser_of(trained: Trained, config: NodeConfig) -> Tokeniser:
    """How the text that a network learned became tokens: from its file, or from this home.

    Raises ConfigError if the data set's manifest is not here or not of a text, or if there are
    more tokens than the network knows.
    """
    recipe = trained.recipe
    tokeniser = trained.tokeniser or _tokeniser_here(recipe, config)
    if isinstance(recipe.model, GptSection) and tokeniser.size > recipe.model.vocabulary:
        raise ConfigError(
            f"the network of {recipe.name} knows {recipe.model.vocabulary} tokens, and the text "
            f"that it should have learned has {tokeniser.size}.\n"
            "Name the recipe that it was trained by: --recipe FILE.toml"
        )
    return tokeniser


def _tokeniser_here(recipe: Recipe, config: NodeConfig) -> Tokeniser:
    content = BlockStore(config.blocks_path).get(Cid(recipe.data.cid))
    if content is None:
        raise ConfigError(
            f"the vocabulary of the network is in the manifest of its data set, which is not in "
            f"this home: {recipe.data.cid}\n"
            "Add it (p2ptrain seed dataset FILE.txt --once; 'tinyshakespeare' is bundled), or name "
            "the home that trained it (--home DIR)."
        )
    manifest = Manifest.from_canonical(content)
    if manifest.tokeniser is None:
        raise ConfigError(
            f"the data set {manifest.name} is no text.\nSample from a run that learned a text."
        )
    return manifest.tokeniser


def newest_run(config: NodeConfig) -> Cid:
    """The run with the newest checkpoint in this home. Raises ConfigError if there is none."""
    found = [
        (path.stat().st_mtime, path.parents[1].name)
        for path in (config.state_path / "swarms").glob("*/checkpoints/*.checkpoint")
    ]
    if not found:
        raise ConfigError(
            "no network was trained in this home yet.\n"
            "Name the home (--home DIR), the swarm or a .safetensors file, or train one: "
            "p2ptrain init text"
        )
    return parse_cid(max(found)[1])


def _in_run(swarm_id: Cid, config: NodeConfig) -> Trained:
    content = BlockStore(config.blocks_path).get(swarm_id)
    if content is None:
        raise ConfigError(
            f"this home has never been in the swarm {swarm_id}.\n"
            "Name the home that trained it (--home DIR), or join it: p2ptrain join --swarm LINK"
        )
    recipe = Recipe.from_canonical(content, f"swarm {swarm_id}")
    loaded = CheckpointStore(config.checkpoints_path(swarm_id)).load_newest()
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if loaded.checkpoint is None:
        raise ConfigError(
            f"the swarm {swarm_id} has no checkpoint here yet.\n"
            "Let it train for a round: p2ptrain join --swarm LINK"
        )
    size, state = network_of(recipe).layout.padded_size, loaded.checkpoint.vector
    if len(state) < 4 * size or len(state) % 4:
        raise ConfigError(
            f"the state of {len(state)} bytes does not hold the network of {recipe.name}.\n"
            "The checkpoint was written for another recipe: join the swarm again."
        )
    # Closing a run takes a block without a round.
    source = f"round {min(loaded.checkpoint.round, recipe.rounds)} of {recipe.name}"
    return Trained(source, recipe, np.frombuffer(state, "<f4", size).astype(np.float32))


def _in_file(path: Path, recipe_path: Path | None) -> Trained:
    inside = _metadata_of(path)
    recipe = Recipe.from_file(recipe_path) if recipe_path else _recipe_inside(path, inside)
    tokeniser = _tokeniser_inside(path, inside)
    layout = network_of(recipe).layout
    values = read_weights(path, {tensor.name: tensor.shape for tensor in layout.tensors})
    parameters = np.zeros(layout.padded_size, np.float32)
    parameters[: len(values)] = values
    return Trained(f"{path} ({recipe.name})", recipe, parameters, tokeniser)


def _metadata_of(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            return read_metadata(str(path), file)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or error}.\nCheck the path and its permissions."
        ) from None


def _recipe_inside(path: Path, inside: dict[str, str]) -> Recipe:
    try:
        content = bytes.fromhex(inside.get("p2ptrain.recipe", ""))
    except ValueError:
        content = b""
    if not content:
        raise ConfigError(
            f"{path} has no recipe inside, as files have that p2ptrain export wrote.\n"
            "Name the recipe of its network: --recipe FILE.toml"
        )
    return Recipe.from_canonical(content, f"the recipe inside {path}")


def _tokeniser_inside(path: Path, inside: dict[str, str]) -> Tokeniser | None:
    if not inside.get("p2ptrain.tokeniser"):
        return None
    characters = inside.get("p2ptrain.vocabulary", "")
    try:
        characters.encode("utf-8")  # JSON may say halves of characters, which are no text
        return Tokeniser(inside["p2ptrain.tokeniser"], characters)
    except ValueError as error:
        raise ConfigError(
            f"the vocabulary inside {path} cannot be used: {error}.\nExport the network again."
        ) from None
