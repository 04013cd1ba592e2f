"""One node from start to end: identity, network, recipe, data, device, state, rounds, good-bye.

join() is the whole life of `p2ptrain join`; the order of its lines is the order of section 2.3 of
the design. Everything is opened in nested blocks, so whatever goes wrong, and whenever the user
stops it, what was opened is closed again in the right order.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, cast

import trio

from p2ptrain.config import Recipe
from p2ptrain.config_local import NodeConfig, SwarmLink
from p2ptrain.net.identity import Identity, load_or_create
from p2ptrain.net.transport import Etiquette
from p2ptrain.node.addresses import check_given
from p2ptrain.node.announcing import AnnouncingNode
from p2ptrain.node.applied import AppliedState
from p2ptrain.node.compute import Compute, ComputeLimits, compute_spec, open_compute
from p2ptrain.node.compute_process import ComputeProcess, StartWorker
from p2ptrain.node.fetch import TOLD_EVERY_S, Fetcher
from p2ptrain.node.following import Following
from p2ptrain.node.founding import found
from p2ptrain.node.greeting import judge_peer, make_hello
from p2ptrain.node.local_peers import LocalPeers
from p2ptrain.node.observed import open_status
from p2ptrain.node.obtain import obtain_data_set, obtain_recipe, obtain_weights
from p2ptrain.node.peers import Arrived, Departed, Peers
from p2ptrain.node.platform import THIS_MACHINE, Platform
from p2ptrain.node.remembering import Memory, open_memory
from p2ptrain.node.reporting import Summary
from p2ptrain.node.round import Rounds
from p2ptrain.node.run import run_rounds
from p2ptrain.node.samples import training_arrays
from p2ptrain.node.serve import REQUESTS, Server
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.lock import home_lock
from p2ptrain.train.worker_messages import TrainingArrays
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """What the user may choose; none of it changes what is computed.

    listen       multiaddrs to listen on; port 0 takes a free one
    peers        full multiaddrs to dial, beside those of the link
    rounds_max   leave after this many contributions; None: stay to the end
    local_steps  steps in a round, fewer than the recipe's on a slow machine; None: as many
    first_peers  round 1 of a new swarm waits until so many others have asked to enter
    device       which OpenCL device; "": PoCL's CPU
    threads      of a CPU device; 0: all cores
    mdns         announce this peer on the local network, and look for others there
    """

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    peers: tuple[str, ...] = ()
    rounds_max: int | None = None
    first_peers: int = 0
    local_steps: int | None = None
    device: str = ""
    threads: int = 0
    mdns: bool = False


@dataclass
class Node:
    """What is open while a node lives.

    topics    what our hello names: the swarm, then its data set as soon as it is known
    memory    of peers, for later runs
    local     peers on the local network; None without mDNS
    state     the applied state and its chain, once there are any
    training  whether the rounds have begun, so that there is one to finish
    """

    config: NodeConfig
    identity: Identity
    blocks: BlockStore
    peers: Peers
    fetcher: Fetcher
    server: Server
    telemetry: Telemetry
    topics: list[str]
    memory: Memory
    local: LocalPeers | None = None
    machines: Following[Any] | None = None
    announcing: AnnouncingNode | None = None
    rounds: Rounds | None = None
    compute: Compute | None = None
    state: AppliedState[Any] | None = None
    training: bool = False
    _stop_asked: bool = False
    _stopped: trio.Event = field(default_factory=trio.Event)

    def stop(self) -> None:
        """Finish the round, tell the others, and end. Before the rounds have begun: end at once."""
        self._stop_asked = True
        if self.rounds is None or not self.training:
            self._stopped.set()
        else:
            self.telemetry.report("phase", phase="leaving")
            self.rounds.leaving = True
            self.rounds.notice()

    @property
    def stopping(self) -> bool:
        """Whether stop was called."""
        return self._stop_asked

    async def wait_stopped(self) -> None:
        """Return when stop was called before there were rounds to finish."""
        await self._stopped.wait()

    async def cancel_when_stopped(self, scope: trio.CancelScope) -> None:
        """Cancel a scope when stop was called before there were rounds to finish."""
        await self.wait_stopped()
        scope.cancel()

    async def add_topic(self, topic: Cid) -> None:
        """Take part in something more: say so to all, and look for those who do as well."""
        if topic not in self.topics:
            self.topics.append(topic)
            self.peers.dial_again()  # those who refused us did not know that we belong to them
            self.peers.recall(await self.memory.recall([topic]))
            if self.local is not None:
                self.local.topics_changed()

    async def route(self) -> None:
        """Deal out all that comes from the network, for ever."""
        async for event in self.peers.events():
            match event:
                case Arrived() | Departed():
                    self.fetcher.peers_changed()
                    if self.announcing is not None:
                        self.announcing.peers_changed()
                    if self.machines is not None:
                        self.machines.peers_changed()
                    if self.rounds is not None:
                        self.rounds.notice()
                case received:
                    if isinstance(received.message, REQUESTS):
                        self.server.serve(self.peers, received.peer, received.message)
                    else:
                        self.fetcher.deliver(received.peer, received.message)
                    if self.announcing is not None:
                        self.announcing.deliver(received.peer, received.message)
                    if self.machines is not None:
                        self.machines.deliver(received.peer, received.message)


async def join(
    config: NodeConfig,
    target: Recipe | SwarmLink,
    options: JoinOptions,
    telemetry: Telemetry,
    platform: Platform = THIS_MACHINE,
) -> Summary | None:
    """Take part in a swarm until the run is over or the user stops it.

    Returns what was done; None if it was stopped before the rounds began.

    Raises ConfigError, StoreError, DeviceError, PeersMissing; StopNow at a second Ctrl-C.
    """
    with home_lock(config.state_path):
        identity = load_or_create(config.identity_path)
        blocks = BlockStore(config.blocks_path)
        summary: Summary | None = None
        async with AsyncExitStack() as stack:
            observed = await stack.enter_async_context(
                open_status(config, "join", identity.peer_id, telemetry)
            )
            swarm_id = await _swarm_id(target, identity, blocks, telemetry)
            topics = _topics(swarm_id, blocks)
            node = await stack.enter_async_context(
                open_node(config, identity, blocks, topics, options, telemetry, platform.carrier)
            )
            nursery = await stack.enter_async_context(trio.open_nursery())
            observed.node = node
            node.peers.swarm = swarm_id
            nursery.start_soon(platform.stopper, node.stop)
            nursery.start_soon(node.cancel_when_stopped, nursery.cancel_scope)
            if isinstance(target, SwarmLink):
                for address in target.peers:
                    node.peers.know((address,))
            summary = await _take_part(node, swarm_id, options, platform.start_worker)
            nursery.cancel_scope.cancel()
        return summary


async def _take_part(
    node: Node,
    swarm_id: Cid,
    options: JoinOptions,
    start_worker: StartWorker = ComputeProcess.start,
) -> Summary:
    """From a swarm id to the last round."""
    recipe = await obtain_recipe(node, swarm_id)
    link = SwarmLink(swarm_id, node.peers.transport.addresses)
    node.telemetry.report(
        "swarm", swarm=swarm_id, link=str(link), name=recipe.name, rounds=recipe.rounds
    )
    weights = await obtain_weights(node, recipe)
    manifest = await obtain_data_set(node, recipe)
    read = partial(training_arrays, node.blocks, manifest, recipe)
    device = _open_device(node, recipe, read, weights, options, start_worker)
    async with device as compute:
        return await run_rounds(node, recipe, manifest, compute, options)


async def _swarm_id(
    target: Recipe | SwarmLink, identity: Identity, blocks: BlockStore, telemetry: Telemetry
) -> Cid:
    """The swarm's name; a recipe file is founded by us, or found to be ours already."""
    if isinstance(target, SwarmLink):
        return target.swarm_id
    told = trio.current_time()

    def tell(stored: int, total: int) -> None:
        nonlocal told
        if trio.current_time() - told > TOLD_EVERY_S:
            told = trio.current_time()
            telemetry.report("storing", what="initial weights", done=stored, total=total)

    def store() -> Cid:
        # In a thread, for weights may be large; Ctrl-C leaves it behind, and with it a few blocks.
        report = partial(trio.from_thread.run_sync, tell)
        return found(target, identity.peer_id, blocks, report)

    with telemetry.waiting("the recipe and its initial weights to be stored"):
        run = cast(Any, trio.to_thread.run_sync)  # mypy's stubs know an older trio
        return cast(Cid, await run(store, abandon_on_cancel=True))


def _topics(swarm_id: Cid, blocks: BlockStore) -> list[str]:
    """What our first hello names: the swarm, and its data set if we have the recipe."""
    content = blocks.get(swarm_id)
    if content is None:
        return [swarm_id]
    return [swarm_id, Recipe.from_canonical(content, f"the recipe of swarm {swarm_id}").data.cid]


@asynccontextmanager
async def open_node(
    config: NodeConfig,
    identity: Identity,
    blocks: BlockStore,
    topics: list[str],
    options: JoinOptions,
    telemetry: Telemetry,
    carrier: Any = None,
) -> AsyncIterator[Node]:
    """Listen, dial, serve and route while the block runs; carrier: as of open_host."""
    with telemetry.waiting("libp2p to be loaded"):  # half a second, in which a status can be had
        libp2p_host = await trio.to_thread.run_sync(import_module, "p2ptrain.net.libp2p_host")
    check_given(options.peers)
    addresses: list[str] = []
    strikes: dict[PeerId, int] = {}
    etiquette = Etiquette(
        hello=lambda: make_hello(tuple(topics), tuple(addresses)),
        judge_hello=lambda peer, data: judge_peer(strikes, tuple(topics), peer, data),
    )
    async with (
        open_memory(config.address_book_path, topics, telemetry) as memory,
        libp2p_host.open_host(
            identity,
            listen=memory.listen_as_before(options.listen),
            etiquette=etiquette,
            carrier=carrier,
        ) as transport,
        trio.open_nursery() as nursery,
    ):
        addresses += transport.addresses
        telemetry.report("started", peer=identity.peer_id, addresses=list(transport.addresses))
        memory.note_ports(options.listen, transport.addresses)
        peers = Peers(transport, telemetry, strikes=strikes, note=memory.note)
        node = Node(
            config, identity, blocks, peers, Fetcher(peers, blocks, telemetry),
            Server(blocks, telemetry), telemetry, topics, memory,
        )  # fmt: skip
        for address in options.peers:
            peers.know((address,))
        peers.recall(await memory.recall(topics))
        if options.mdns:
            node.local = LocalPeers(peers, topics, telemetry)
            nursery.start_soon(node.local.run)
        nursery.start_soon(memory.keep_writing)
        nursery.start_soon(node.route)
        nursery.start_soon(peers.keep_dialling)
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_device(
    node: Node,
    recipe: Recipe,
    read: Callable[[], TrainingArrays],
    weights: Callable[[], bytes] | None,
    options: JoinOptions,
    start_worker: StartWorker,
) -> AsyncIterator[Compute]:
    node.telemetry.report("phase", phase="preparing the device")
    spec = compute_spec(
        recipe,
        device=options.device,
        threads=options.threads,
        kernel_cache=node.config.kernels_path,
    )
    limits = ComputeLimits()
    async with AsyncExitStack() as stack:
        with node.telemetry.waiting("the OpenCL device: opened and tested", limits.open_s):
            opening = open_compute(spec, read, limits, weights, start_worker)
            node.compute = compute = await stack.enter_async_context(opening)
        assert compute.opened is not None
        node.telemetry.report("device", name=compute.opened.device)
        with node.telemetry.waits(lambda: compute.waits):
            yield compute
