"""`p2ptrain seed dataset`: serves a data set from the store until it is stopped."""

from collections.abc import Sequence

import trio

from p2ptrain.config_local import NodeConfig
from p2ptrain.net.identity import load_or_create
from p2ptrain.node.node import JoinOptions, Node, open_node
from p2ptrain.node.observed import open_status
from p2ptrain.node.signals import StopNow, stop_on_signals
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.lock import home_lock
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.messages import Goodbye

SERVED_TOLD_EVERY_S = 2.0


def serve_dataset(
    config: NodeConfig,
    cid: Cid,
    listen: Sequence[str],
    telemetry: Telemetry,
    *,
    mdns: bool = False,
) -> None:
    """Serve what the store holds to peers that name this data set, until Ctrl-C.

    Raises ConfigError if another process uses the home, or an address cannot be listened on.
    """
    options = JoinOptions(listen=tuple(listen) or JoinOptions().listen, mdns=mdns)
    with home_lock(config.state_path):
        try:
            trio.run(_serve, config, cid, options, telemetry)
        except* StopNow:
            pass


async def _serve(config: NodeConfig, cid: Cid, options: JoinOptions, telemetry: Telemetry) -> None:
    identity = load_or_create(config.identity_path)
    blocks = BlockStore(config.blocks_path)
    stopped = trio.Event()
    async with (
        open_status(config, "seed dataset", identity.peer_id, telemetry) as observed,
        open_node(config, identity, blocks, [cid], options, telemetry) as node,
        trio.open_nursery() as nursery,
    ):
        observed.node = node
        telemetry.report("phase", phase="serving")
        nursery.start_soon(stop_on_signals, stopped.set)
        nursery.start_soon(_tell, node)
        await stopped.wait()
        node.peers.broadcast(Goodbye("this seeder stops"))
        nursery.cancel_scope.cancel()


async def _tell(node: Node) -> None:
    """Say now and then how much went out, when it has grown."""
    told = -1
    while True:
        statistics = node.peers.transport.statistics().values()
        sent = sum(each.bytes_sent for each in statistics)
        if sent != told:
            told = sent
            node.telemetry.report("serving", peers=len(node.peers.connected), bytes_sent=sent)
        await trio.sleep(SERVED_TOLD_EVERY_S)
