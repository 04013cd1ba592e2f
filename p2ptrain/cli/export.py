"""`p2ptrain export`: the trained network as safetensors, with its provenance.

Only a final block is exported: one that no later certificate can replace. It is read from this
peer's own store, beside a running node or without one.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from p2ptrain.cli.options import Home, Json
from p2ptrain.config import Recipe
from p2ptrain.config_local import NodeConfig, node_config, parse_link
from p2ptrain.config_version import version_number
from p2ptrain.data.seeding import load_manifest
from p2ptrain.errors import ConfigError
from p2ptrain.model.networks import network_of
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.checkpoint import Checkpoint, CheckpointStore
from p2ptrain.store.export import Provenance, export_network
from p2ptrain.store.transcript import Entry, Transcript
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.codec import certificate_digest, unpack
from p2ptrain.wire.messages import ROUND, Certificate


def command(
    swarm: Annotated[str, typer.Option("--swarm", help="Swarm id or link.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .safetensors.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the newest final network with its provenance."""
    config = node_config(home)
    swarm_id = parse_link(swarm).swarm_id
    blocks = BlockStore(config.blocks_path)
    recipe = _recipe(blocks, swarm_id)
    checkpoint = _final_checkpoint(config, swarm_id)
    provenance = _provenance(config, blocks, recipe, checkpoint)
    tensors = tensors_in(recipe, checkpoint.vector)
    size = export_network(out, tensors, provenance)
    if as_json:
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        found = {"path": str(out), "bytes": size, "tensors": shapes, **provenance.metadata}
        typer.echo(json.dumps(found))
    else:
        typer.echo(
            f"wrote {out}: {len(tensors)} tensors, {size:,} bytes, round {provenance.round} of "
            f"{recipe.name}\nproven by certificate {provenance.certificate}"
        )


def tensors_in(recipe: Recipe, state: bytes) -> dict[str, NDArray[np.float32]]:
    """The named tensors in a state, float32: parameters and, behind them, outer momentum.

    Raises:
      ConfigError  the state is too short for the recipe's network
    """
    layout = network_of(recipe).layout
    if len(state) < 4 * layout.padded_size or len(state) % 4:
        raise ConfigError(
            f"the state of {len(state)} bytes does not hold the network of {recipe.name}.\n"
            "The checkpoint was written for another recipe: join the swarm again."
        )
    return layout.split(np.frombuffer(state, "<f4", layout.padded_size))


def _recipe(blocks: BlockStore, swarm_id: Cid) -> Recipe:
    content = blocks.get(swarm_id)
    if content is None:
        raise ConfigError(
            f"this home has never been in the swarm {swarm_id}.\n"
            "Name the home that trained it (--home DIR), or join it: p2ptrain join --swarm LINK"
        )
    return Recipe.from_canonical(content, f"swarm {swarm_id}")


def _final_checkpoint(config: NodeConfig, swarm_id: Cid) -> Checkpoint:
    loaded = CheckpointStore(config.checkpoints_path(swarm_id)).load_final()
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if loaded.checkpoint is None:
        raise ConfigError(
            f"no round of the swarm {swarm_id} is final here yet.\n"
            "Let it train for two more rounds: p2ptrain join --swarm LINK"
        )
    return loaded.checkpoint


def _provenance(
    config: NodeConfig, blocks: BlockStore, recipe: Recipe, checkpoint: Checkpoint
) -> Provenance:
    with Transcript(config.transcript_path(recipe.swarm_id)) as transcript:
        rounds = rounds_until(transcript, checkpoint.block_id)
    manifest = load_manifest(blocks, Cid(recipe.data.cid))
    certificate = unpack(Certificate, checkpoint.certificate)
    return Provenance(
        swarm_id=recipe.swarm_id,
        recipe=recipe.canonical.hex(),
        round=str(rounds),
        certificate=certificate_digest(certificate).hex(),
        block=checkpoint.block_id.hex(),
        data_cid=recipe.data.cid,
        data_name=manifest.name,
        licence=manifest.licence,
        init_cid=recipe.model.init,
        version=version_number(),
        arithmetic=str(recipe.arithmetic),
        tokeniser=manifest.text.tokeniser if manifest.text else "",
        vocabulary=manifest.text.vocabulary if manifest.text else "",
    )


def rounds_until(transcript: Transcript, block_id: bytes) -> int:
    """Rounds on the branch that a transcript has taken, up to and with a block.

    A "switch" entry names the block at which the run left one branch for another.

    Raises:
      ConfigError  the block is not on that branch
    """
    branch: list[Entry] = []
    for entry in transcript.iterate():
        if entry.kind == "certificate":
            branch.append(entry)
        elif entry.kind == "switch":
            while branch and branch[-1].block_id != entry.block_id:
                branch.pop()
    ids = [entry.block_id for entry in branch]
    if block_id not in ids:
        raise ConfigError(
            "the final checkpoint is not in the transcript of this home.\n"
            "Join the swarm again, so that the node sets both right."
        )
    upto = branch[: ids.index(block_id) + 1]
    return sum(unpack(Certificate, entry.payload).block.kind == ROUND for entry in upto)
