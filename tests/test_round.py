"""Whole nodes over a simulated network, with real devices: rounds, deaths, leaving, lost news."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
import trio
import trio.testing
from swarm_router import SETTINGS
from test_applied import Made, Stage, kernel_cache, stage  # noqa: F401
from test_peers import IDENTITIES, Member, member

from p2ptrain.config import Recipe
from p2ptrain.config_local import NodeConfig
from p2ptrain.data.shipped import seed_digits
from p2ptrain.net.identity import Identity
from p2ptrain.net.transport import Etiquette
from p2ptrain.node import round as round_module
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.node.convictions import Convictions
from p2ptrain.node.machines import Machines
from p2ptrain.node.node import JoinOptions, Node, _take_part, open_node
from p2ptrain.node.reporting import Summary
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.node.votes import Votes
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.checkpoint import CheckpointStore
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.catchup import CatchUp
from p2ptrain.swarm.effects import Apply
from p2ptrain.swarm.inputs import AveragingConfig
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.statesync import Shapes, StateSync
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.digest import digest
from p2ptrain.wire.envelope import Ed25519Signer, Ed25519Verifier
from p2ptrain.wire.messages import ReducedPiece
from p2ptrain.wire.shards import merkle_proofs
from simnet.memnet import MemNet

Event = Mapping[str, Value]
SWARM = digest("swarm", b"test")


# --- machines ---------------------------------------------------------------------------------
@asynccontextmanager
async def machines_of(
    one: Stage, me: Member, nursery: trio.Nursery, folder: Path
) -> AsyncIterator[Machines]:
    """The machines around a state; nothing drives them yet."""
    history, identity = one.state.history, IDENTITIES[0]
    config = AveragingConfig(
        me.me, SWARM, Ed25519Signer(identity.private_key), Ed25519Verifier(), SETTINGS
    )
    yield Machines(
        nursery=nursery,
        peers=me.peers,
        telemetry=me.peers.telemetry,
        state=one.state,
        votes=Votes(folder),
        convictions=Convictions(folder),
        averaging=Averaging(config, history.tip, None, Reveals(SWARM, 10), None, None),
        catchup=CatchUp(me.me, config.rules, history),
        statesync=StateSync(history, one.state.block, one.state.held, Shapes(1, 1)),
        on_chain=lambda: None,
    )
    nursery.cancel_scope.cancel()


@pytest.fixture
async def quiet(
    tmp_path: Path,
    kernel_cache: Path,  # noqa: F811
) -> AsyncIterator[tuple[Stage, Machines]]:
    """Machines of a peer that hears nobody but the test."""
    async with (
        stage(tmp_path, kernel_cache) as one,
        member(MemNet(), IDENTITIES[0]) as me,
        trio.open_nursery() as nursery,
        machines_of(one, me, nursery, tmp_path) as machines,
    ):
        yield one, machines


def deliver(machines: Machines, made: Made) -> None:
    """A donor sends the reduced shards of a block."""
    for shard, proof in enumerate(merkle_proofs(made.shards)):
        piece = ReducedPiece(made.block, shard, proof, made.shards[shard])
        machines.deliver(IDENTITIES[1].peer_id, piece)


async def test_the_chain_may_move_at_any_moment_of_a_fetch(quiet: tuple[Stage, Machines]) -> None:
    """The news came between StateSync's last effect and the look at the chain, and was lost."""
    one, machines = quiet
    first, second = await one.chain(one.genesis, 2)
    one.certify(first)
    machines.start()
    fetched = trio.Event()

    def grow(link: object) -> None:
        if link is first.link:
            one.certify(second)

    one.state.on_apply = grow

    async def sync() -> None:
        await machines.sync()
        fetched.set()

    machines.nursery.start_soon(sync)
    await trio.testing.wait_all_tasks_blocked()
    deliver(machines, first)
    while one.state.block != first.block:
        await trio.testing.wait_all_tasks_blocked(0.01)
    await trio.testing.wait_all_tasks_blocked(0.05)
    deliver(machines, second)
    with trio.fail_after(10):
        await fetched.wait()
    assert await one.is_at(second)


async def test_a_fetch_ends_when_what_it_waits_for_was_reduced_here(
    quiet: tuple[Stage, Machines],
) -> None:
    one, machines = quiet
    (first,) = await one.chain(one.genesis, 1)
    one.certify(first)
    machines.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machines.sync)
        await trio.testing.wait_all_tasks_blocked()
        await one.state.reduce(first.effect)
        assert await one.state.follow()
        machines.notice()
        with trio.fail_after(5):
            while nursery.child_tasks:
                await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_death_on_a_task_that_nobody_waits_for_is_told_and_made_up_for(
    quiet: tuple[Stage, Machines],
) -> None:
    """Who waited for certificates did not notice: its vote never came."""
    one, machines = quiet
    told = trio.Event()
    machines.on_chain = told.set
    (first,) = await one.chain(one.genesis, 1)
    assert one.compute.pid is not None
    os.kill(one.compute.pid, signal.SIGKILL)
    await machines._carry_out(first.effect)
    await told.wait()
    with pytest.raises(ComputeDied):
        machines.check_compute()
    machines.check_compute()  # told once
    await one.state.restart()
    machines.reduce_again()
    with trio.fail_after(10):
        await machines.to_averaging.take()  # the outcome, for the machine
    one.certify(first)
    assert await one.state.follow()


async def test_a_block_on_a_chain_that_was_just_left_is_skipped(
    quiet: tuple[Stage, Machines],
) -> None:
    """Averaging hears of a switch by its next step; it may have certified one more before."""
    one, machines = quiet
    first, second = await one.chain(one.genesis, 2)
    rival = await one.make(one.genesis, "rival")
    one.certify(first)
    assert await one.state.switch(0, (rival.link,))
    await machines._carry_out(Apply(second.link.certificate, second.link.context, ()))
    assert one.state.history.tip == rival.link.context


# --- whole nodes ------------------------------------------------------------------------------
RECIPE = """
name = "test"
rounds = {rounds}
data.cid = "{cid}"
data.scale = 0.0625
model.layers = [64, 16, 10]
inner = {{ optimizer = "sgd", learning_rate = 0.1, batch = 8, local_steps = 2 }}
outer = {{ optimizer = "nesterov", learning_rate = 0.7, momentum = 0.5 }}
averaging = {{ codec = "int4", shard_values = 4096, voter_after = 0 }}
"""


@dataclass
class Run:
    """One node's run, in progress or over. `watch` is called with each of its events.

    ready   set when it has caught up and is about to take part
    after   do not begin before this
    """

    number: int
    watch: Callable[["Run", Event], None]
    node: Node | None = None
    ready: trio.Event = field(default_factory=trio.Event)
    after: trio.Event | None = None
    events: list[Event] = field(default_factory=list)
    summary: Summary | None = None

    def take(self, event: Event) -> None:
        self.events.append(event)
        if event.get("phase") == "training":
            self.ready.set()
        self.watch(self, event)

    def told(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]


@dataclass
class Swarm:
    """Nodes on one network, each with a home of its own; the first is the founder."""

    folder: Path
    kernels: Path
    net: MemNet = field(default_factory=MemNet)

    def founded(self, rounds: int) -> Cid:
        """Found a swarm: its recipe and data are in the founder's store, and nowhere else."""
        store = BlockStore(self._config(0).blocks_path)
        cid = seed_digits(store).cid
        recipe = Recipe.from_toml(RECIPE.format(rounds=rounds, cid=cid))
        return store.put(recipe.founded_by(IDENTITIES[0].peer_id).canonical)

    def _config(self, number: int) -> NodeConfig:
        home = self.folder / str(number)
        return NodeConfig(home / "config", home / "data", home / "state", self.kernels)

    def exported_by(self, run: Run) -> str:
        """SHA-256 of the state that an export of this node takes."""
        assert run.summary is not None
        folder = self._config(run.number).checkpoints_path(Cid(run.summary.swarm))
        checkpoint = CheckpointStore(folder).load_final().checkpoint
        assert checkpoint is not None
        return sha256(checkpoint.vector).hexdigest()

    async def take_part(self, run: Run, swarm_id: Cid, options: JoinOptions) -> None:
        """One node's life."""
        config, identity = self._config(run.number), IDENTITIES[run.number]
        blocks = BlockStore(config.blocks_path)
        telemetry = Telemetry(run.take)
        async with open_node(config, identity, blocks, [swarm_id], options, telemetry) as node:
            run.node = node
            if run.after is not None:
                await run.after.wait()
            run.summary = await _take_part(node, swarm_id, options)


@pytest.fixture
def swarm(
    tmp_path: Path,
    kernel_cache: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Swarm:
    """Nodes whose transport is simulated; all else is as in a process of their own."""
    one = Swarm(tmp_path, kernel_cache)

    def open_host(
        identity: Identity, *, listen: object, etiquette: Etiquette, carrier: None
    ) -> object:
        return one.net.open(identity, etiquette)

    monkeypatch.setattr("p2ptrain.net.libp2p_host.open_host", open_host)
    monkeypatch.setattr("p2ptrain.node.run.LINGER_S", 1.0)
    return one


def ignore(run: Run, event: Event) -> None:
    """Watch nothing."""


def pid_of(run: Run) -> int:
    assert run.node is not None
    assert run.node.machines is not None
    pid = run.node.machines.state.compute.pid
    assert isinstance(pid, int)
    return pid


async def live(
    swarm: Swarm, rounds: int, watches: Sequence[Callable[[Run, Event], None]], wait_for: int = 0
) -> list[Run]:
    """Run one node a watch to the end, the founder waiting for some others first."""
    swarm_id = swarm.founded(rounds)
    founder = f"/memory/1/p2p/{IDENTITIES[0].peer_id}"
    runs = [Run(number, watch) for number, watch in enumerate(watches)]
    if len(runs) > 1:  # or its rounds could be over before the others are there
        runs[0].after = runs[-1].ready
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            for run in runs:
                options = JoinOptions(
                    peers=(founder,) if run.number else (), first_peers=wait_for, threads=1
                )
                nursery.start_soon(swarm.take_part, run, swarm_id, options)
    return runs


def agree(runs: Sequence[Run], rounds: int) -> bool:
    """Whether all finished with equal bits."""
    summaries = [run.summary for run in runs if run.summary is not None]
    assert len(summaries) == len(runs)
    assert all(s.finished and s.rounds == rounds for s in summaries), summaries
    return len({(s.weights_sha256, s.block) for s in summaries}) == 1


async def test_nodes_that_meet_end_with_the_same_bits(swarm: Swarm) -> None:
    """The joiner has nothing but an address: recipe, data and state come from the founder."""
    runs = await live(swarm, 40, [ignore, ignore], wait_for=1)
    assert agree(runs, 40)
    for run in runs:
        assert not run.told("strike")
        assert not run.told("warning")
        assert run.summary is not None
        assert run.summary.contributed > 0
        assert swarm.exported_by(run) == run.summary.weights_sha256, "the last round is final"


async def test_nodes_warm_up_and_then_send_few_values(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.replace('"int4"', '"topk", topk = 512, warmup_rounds = 2')
    recipe = recipe.replace('"nesterov", learning_rate = 0.7, momentum = 0.5', '"plain"')
    monkeypatch.setitem(globals(), "RECIPE", recipe)
    runs = await live(swarm, 12, [ignore, ignore], wait_for=1)
    assert agree(runs, 12)
    for run in runs:
        assert not run.told("strike") and not run.told("warning")  # noqa: PT018
        assert run.summary and run.summary.contributed > 3  # noqa: PT018
        assert (run.summary.accuracy or 0) > 0.5


async def test_a_lone_node_survives_the_death_of_its_compute_process(swarm: Swarm) -> None:
    """Wherever it dies: while it trains, reduces or evaluates, nobody else can help."""

    def kill(run: Run, event: Event) -> None:
        if event["event"] in ("trained", "round") and len(run.events) % 3 == 0:
            killed.append(str(event["event"]))
            if len(killed) <= 2:
                os.kill(pid_of(run), signal.SIGKILL)

    killed: list[str] = []
    runs = await live(swarm, 8, [kill])
    assert agree(runs, 8)
    assert len(killed) >= 2
    assert runs[0].told("warning")


async def test_a_node_that_is_stopped_while_others_are_missing_leaves_in_time(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for a block that nobody could certify, and took no notice."""
    monkeypatch.setattr(round_module, "LEAVE_S_MAX", 0.5)
    stopped_at: list[float] = []

    def stop(run: Run, event: Event) -> None:
        if event["event"] == "round" and event["members"] == 2 and not stopped_at:
            stopped_at.append(trio.current_time())
            swarm.net.partition(())  # in no group: everyone is alone
            assert run.node is not None
            nursery.start_soon(stop_later, run.node)

    async def stop_later(node: Node) -> None:
        await trio.sleep(1)
        node.stop()

    swarm_id = swarm.founded(1000)
    founder = Run(0, stop)
    async with trio.open_nursery() as nursery:
        joiner = Run(1, ignore)
        address = f"/memory/1/p2p/{IDENTITIES[0].peer_id}"
        options = JoinOptions(threads=1, first_peers=1)
        nursery.start_soon(
            swarm.take_part, joiner, swarm_id, JoinOptions(peers=(address,), threads=1)
        )
        with trio.fail_after(30):
            await swarm.take_part(founder, swarm_id, options)
        nursery.cancel_scope.cancel()
    assert stopped_at
    assert trio.current_time() - stopped_at[0] < 5
    assert founder.summary is not None
    assert not founder.summary.finished


def test_deaths_of_the_compute_process_are_counted_within_an_hour() -> None:
    deaths = round_module.Deaths()
    assert [deaths.another(float(now)) for now in (0, 10, 3599)] == [1, 2, 3]
    assert deaths.another(3605.0) == 3
    assert deaths.another(9000.0) == 1
