"""`p2ptrain seed run`: holds and serves a run without training, so that it outlives its trainers.

A mirror follows the run as any outsider does: it takes the chain from whoever is ahead and checks
every certificate, takes states or certified shards and checks each by its hash, and writes both
down as a trainer does (node/ledger.py). It has no device, contributes nothing and has no vote.

What it serves: recipe, data set and initial weights (blocks), the chain, the newest states, reduced
shards. A trainer that lost its states takes them from here; so does whoever wants to export the
weights, or to found a new run from them, when no trainer is left.

Trainers tell strangers about their newest certificate only every 10 s. A mirror asks more often,
for what it has not got is lost if all trainers go at once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from p2ptrain.config import Recipe
from p2ptrain.config_local import NodeConfig, SwarmLink
from p2ptrain.net.identity import load_or_create
from p2ptrain.node.announcing import AnnouncingNode
from p2ptrain.node.following import Following
from p2ptrain.node.node import JoinOptions, Node, open_node
from p2ptrain.node.observed import open_status
from p2ptrain.node.obtain import obtain_data_set, obtain_recipe, obtain_weights
from p2ptrain.node.replica import Replica
from p2ptrain.node.restoring import open_ledger, restore
from p2ptrain.node.run import settings_of
from p2ptrain.node.signals import StopNow, stop_on_signals
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.lock import home_lock
from p2ptrain.swarm.catchup import CatchUp
from p2ptrain.swarm.certificates import Rules, is_finished
from p2ptrain.swarm.chain import Settings, genesis
from p2ptrain.swarm.statesync import Shapes, StateSync
from p2ptrain.wire.digest import ZERO_DIGEST, Digest
from p2ptrain.wire.envelope import Ed25519Signer, Ed25519Verifier, swarm_digest
from p2ptrain.wire.limits import STATE_PIECE_BYTES
from p2ptrain.wire.messages import Goodbye
from p2ptrain.wire.peer_id import PeerId

ASK_EVERY_S = 1.0  # what a mirror may miss if all trainers vanish at once
TOLD_EVERY_S = 2.0
SERVED_BYTES_TOLD = 100_000  # questions and pings alone are no news


@dataclass(frozen=True, slots=True)
class MirrorOptions:
    """What the user may choose.

    listen  multiaddrs to listen on
    peers   full multiaddrs to dial, beside those of the link
    data    whether to hold the data set too: without it nobody can go on with the run
    once    end as soon as there is nothing more to fetch, rather than stay and serve
    mdns    announce it on the local network, and look for others there
    """

    listen: tuple[str, ...] = JoinOptions().listen
    peers: tuple[str, ...] = ()
    data: bool = True
    once: bool = False
    mdns: bool = False


def mirror_run(
    config: NodeConfig, link: SwarmLink, options: MirrorOptions, telemetry: Telemetry
) -> None:
    """Hold a run and serve it until Ctrl-C.

    Raises ConfigError, StoreError, PeersMissing.
    """
    with home_lock(config.state_path):
        try:
            trio.run(_mirror, config, link, options, telemetry)
        except* StopNow:
            pass


async def _mirror(
    config: NodeConfig, link: SwarmLink, options: MirrorOptions, telemetry: Telemetry
) -> None:
    identity = load_or_create(config.identity_path)
    blocks = BlockStore(config.blocks_path)
    dialled = JoinOptions(listen=options.listen, peers=options.peers, mdns=options.mdns)
    async with (
        open_status(config, "seed run", identity.peer_id, telemetry) as observed,
        open_node(config, identity, blocks, [link.swarm_id], dialled, telemetry) as node,
        trio.open_nursery() as nursery,
    ):
        observed.node = node
        node.peers.swarm = link.swarm_id
        nursery.start_soon(stop_on_signals, node.stop)
        nursery.start_soon(_stop_when_asked, node, nursery.cancel_scope)
        for address in link.peers:
            node.peers.know((address,))
        recipe = await obtain_recipe(node, link.swarm_id)
        telemetry.report(
            "swarm",
            swarm=link.swarm_id,
            link=str(SwarmLink(link.swarm_id, node.peers.transport.addresses)),
            name=recipe.name,
            rounds=recipe.rounds,
        )
        weights = await obtain_weights(node, recipe)
        if options.data:
            await obtain_data_set(node, recipe)
        async with _following(nursery, node, recipe, Replica(recipe, weights)) as mirror:
            telemetry.report("phase", phase="following the run")
            await mirror.keep(once=options.once)
        node.peers.broadcast(Goodbye("this mirror stops"))
        nursery.cancel_scope.cancel()


async def _stop_when_asked(node: Node, scope: trio.CancelScope) -> None:
    await node.wait_stopped()
    node.peers.broadcast(Goodbye("this mirror stops"))
    scope.cancel()


@asynccontextmanager
async def _following(
    nursery: trio.Nursery, node: Node, recipe: Recipe, replica: Replica
) -> AsyncIterator["Mirror"]:
    """The machines of a mirror, with what an earlier one of this home has left."""
    settings = settings_of(recipe, replica.shard_bytes)
    swarm = swarm_digest(recipe.swarm_id)
    founder = PeerId(recipe.founder.key)
    block = genesis(swarm, founder, ZERO_DIGEST).block
    founding = genesis(swarm, founder, await replica.initial(block))
    with open_ledger(node, recipe, founding, settings) as ledger:
        state = await restore(node, ledger, replica)
        pieces = -(-replica.state_bytes // STATE_PIECE_BYTES)
        shapes = Shapes(pieces, len(replica.shard_bytes))
        mirror = Mirror(
            nursery=nursery,
            peers=node.peers,
            telemetry=node.telemetry,
            state=state,
            catchup=CatchUp(
                node.identity.peer_id, Rules(swarm, Ed25519Verifier(), settings), ledger.history
            ),
            statesync=StateSync(ledger.history, state.block, state.held, shapes),
            on_chain=lambda: None,
            recipe=recipe,
            settings=settings,
        )
        mirror.on_chain = mirror.notice
        state.on_apply = lambda link: mirror.notice()
        node.machines = mirror
        node.state = state
        node.server.open(node.peers, ledger)
        mirror.start()
        mirror.peers_changed()
        node.announcing = AnnouncingNode(
            peers=node.peers,
            telemetry=node.telemetry,
            state=state,
            swarm=swarm,
            signer=Ed25519Signer(node.identity.private_key),
            verifier=Ed25519Verifier(),
        )
        node.announcing.start(nursery)
        yield mirror


@dataclass(kw_only=True)
class Mirror(Following[Replica]):
    """One run, followed and served."""

    recipe: Recipe
    settings: Settings
    _told: tuple[Digest, int, int] | None = None
    _told_s: float = field(default_factory=trio.current_time)

    async def keep(self, *, once: bool) -> None:
        """Follow the run for ever; with once, until nobody who answers has more of it."""
        self.nursery.start_soon(self._ask_often)
        while True:
            news = self.news
            await self._follow_tip()
            self._tell(at_once=False)
            if once and self.state.level and self.caught_up.is_set():
                self._tell(at_once=True)
                return
            with trio.move_on_after(TOLD_EVERY_S):
                await news.wait()

    async def _follow_tip(self) -> None:
        """Bring the state to the newest block that is known, and say which blocks are final."""
        while not self.state.level:
            if not await self.state.follow():
                await self.sync()
        history = self.state.history
        tip = history.tip
        oldest = history.height_of(tip.unfinal[0]) if tip.unfinal else tip.height + 1
        if oldest is not None and oldest > 1:
            self.state.pending_finals = [history.context(oldest - 1).block]
            await self.state.finalize()

    async def _ask_often(self) -> None:
        while True:
            await trio.sleep(ASK_EVERY_S)
            if not self.catchup.running:
                self.to_catchup.post(self.catchup.start)

    def _tell(self, *, at_once: bool) -> None:
        """Say how far the run is and how much went out, when there is news, now and then."""
        statistics = self.peers.transport.statistics().values()
        sent = sum(each.bytes_sent for each in statistics)
        tip, now = self.state.history.tip, trio.current_time()
        news = (self.state.block, len(self.peers.connected), sent // SERVED_BYTES_TOLD)
        if news == self._told or (now - self._told_s < TOLD_EVERY_S and not at_once):
            return
        self._told, self._told_s = news, now
        self.telemetry.report(
            "mirrored",
            round=tip.rounds,
            rounds=self.recipe.rounds,
            finished=is_finished(tip, self.settings),
            peers=len(self.peers.connected),
            bytes_sent=sent,
            block=tip.block.hex(),
            state=tip.state.hex(),
        )
