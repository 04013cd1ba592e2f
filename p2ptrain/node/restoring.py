"""What a restart finds of an earlier run of this node, and what it makes of it.

chain    from the transcript; a damaged one is set aside, its whole part kept
state    from the newest whole checkpoint, then block by block from reduced shards on disk; what
         is missing is fetched from the others once there are any
memory   votes and our contribution; whether we still know all that we have signed is doubtful
         where a file was damaged, or the folder is a copy (store/stamp.py): then the averaging
         machine sits out first (protocol/averaging.md section 12)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from p2ptrain.config import Recipe
from p2ptrain.errors import StoreError
from p2ptrain.node.applied import AppliedState, KeeperT
from p2ptrain.node.ledger import Ledger
from p2ptrain.store.checkpoint import CheckpointStore
from p2ptrain.store.recovery import open_transcript
from p2ptrain.store.reduced import ReducedStore
from p2ptrain.store.stamp import Stamp
from p2ptrain.swarm.chain import Context, Settings
from p2ptrain.swarm.history import History
from p2ptrain.wire.cid import Cid

if TYPE_CHECKING:
    from p2ptrain.node.node import Node


@contextmanager
def open_ledger(
    node: Node, recipe: Recipe, founding: Context, settings: Settings
) -> Iterator[Ledger]:
    """The ledger of one run in this home, its transcript checked. Raises StoreError."""
    folder = node.config.swarm_path(recipe.swarm_id)
    opened = open_transcript(folder / "transcript.sqlite", Stamp(folder).remove)
    for warning in opened.warnings:
        node.telemetry.report("warning", text=warning)
    with opened.transcript as transcript:
        checkpoints = CheckpointStore(folder / "checkpoints")
        reductions = ReducedStore(folder / "reduced")
        yield Ledger(History(founding), settings, transcript, checkpoints, reductions)


async def restore(node: Node, ledger: Ledger, compute: KeeperT) -> AppliedState[KeeperT]:
    """The state that an earlier run of this node left, else the founding one.

    Raises StoreError, ComputeDied.
    """
    restored = ledger.restore()
    for warning in restored.warnings:
        node.telemetry.report("warning", text=warning)
    if restored.forgot and node.peers.swarm is not None:
        Stamp(node.config.swarm_path(Cid(node.peers.swarm))).remove()
    block, history = restored.block, ledger.history
    state = AppliedState(node.identity.peer_id, compute, ledger, block, lambda link: None)
    state.held |= {block, history.genesis.block}
    if restored.state is not None:
        height = history.height_of(block)
        assert height is not None  # restore() says so
        if await compute.load_state(block, restored.state) != history.context(height).state:
            raise StoreError(
                "the newest checkpoint of this swarm is not the state that was certified: it was "
                "written by a program with other rules.\n"
                "Move this swarm's folder away and join again: others hold the state."
            )
    if history.height:
        await state.follow()
        height = history.height_of(state.block) or 0
        node.telemetry.report("resumed", round=history.context(height).rounds)
    return state
