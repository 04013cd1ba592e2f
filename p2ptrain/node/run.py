"""From an opened device to the last block: restore, catch up, train, say good-bye."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf
from typing import TYPE_CHECKING

import trio

from p2ptrain.compress.codecs import CODECS, WARMUP_CODEC
from p2ptrain.config import Recipe
from p2ptrain.data.manifest import Manifest
from p2ptrain.errors import ConfigError
from p2ptrain.node.announcing import AnnouncingNode, Work
from p2ptrain.node.applied import AppliedState
from p2ptrain.node.compute import Compute
from p2ptrain.node.convictions import Convictions
from p2ptrain.node.curve_file import CurveFile
from p2ptrain.node.ledger import Ledger
from p2ptrain.node.machines import Machines
from p2ptrain.node.own_state import OwnStateKeeper
from p2ptrain.node.reporting import Reporter, Summary
from p2ptrain.node.restoring import open_ledger, restore
from p2ptrain.node.round import Rounds
from p2ptrain.node.run_energy import event_of, read_tariff, run_energy
from p2ptrain.node.samples import training_samples
from p2ptrain.node.votes import Votes
from p2ptrain.store.own_state import OwnStateFile
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.catchup import CatchUp
from p2ptrain.swarm.certificates import Rules
from p2ptrain.swarm.chain import Context, Settings, genesis
from p2ptrain.swarm.history import Link
from p2ptrain.swarm.inputs import AveragingConfig
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.statesync import Shapes, StateSync
from p2ptrain.wire.digest import ZERO_DIGEST, digest
from p2ptrain.wire.envelope import Ed25519Signer, Ed25519Verifier, swarm_digest
from p2ptrain.wire.limits import REVEALS_MAX, REVEALS_SPARE, STATE_PIECE_BYTES
from p2ptrain.wire.messages import Goodbye
from p2ptrain.wire.peer_id import PeerId

if TYPE_CHECKING:
    from p2ptrain.node.node import JoinOptions, Node

CATCH_UP_S_MAX = 5.0  # how long to look for a better chain before our own rounds begin
LINGER_S = 3.0  # after the last block: others may have missed its certificate


@dataclass(frozen=True, slots=True)
class _Identity:
    """What signs, and what it signs for."""

    config: AveragingConfig
    reveals: Reveals


async def run_rounds(
    node: Node, recipe: Recipe, manifest: Manifest, compute: Compute, options: JoinOptions
) -> Summary:
    """Train until the run is over or the node is stopped, and sum up.

    Raises StoreError, DeviceError.
    """
    tariff = read_tariff(node.config)  # before the work: a mistake in it must not cost the run
    identity = _identity(node, recipe, compute)
    founding = await _genesis(recipe, identity.config, compute)
    with open_ledger(node, recipe, founding, identity.config.settings) as ledger:
        state = await restore(node, ledger, compute)
        own = _own_state(node, recipe, state)
        await own.take()
        curve = CurveFile(node.config.swarm_path(recipe.swarm_id), recipe.name)
        reporter = Reporter(
            node.identity.peer_id, recipe.swarm_id, node.peers, node.telemetry, state, curve
        )
        async with trio.open_nursery() as nursery:
            machines = _machines(nursery, node, recipe, identity, state)
            rounds = Rounds(
                me=node.identity.peer_id,
                recipe=recipe,
                machines=machines,
                sample_count=training_samples(manifest, recipe),
                rounds_max=options.rounds_max,
                local_steps=local_steps_of(recipe, options.local_steps),
                first_peers=options.first_peers,
                leaving=node.stopping,
                keep=own.keep,
                take=own.take,
            )
            _connect(node, machines, rounds, reporter, ledger)
            node.announcing = _announcing(node, machines, rounds)
            node.announcing.start(nursery)
            nursery.start_soon(reporter.report_waits, machines.averaging)
            await _catch_up(node, machines, recipe)
            machines.start_averaging()
            node.training = True
            node.telemetry.report("phase", phase="training")
            with (
                node.telemetry.waits(lambda: machines.averaging.waits),
                node.telemetry.waits(lambda: rounds.waits),
            ):
                await rounds.run()
            await own.keep(at_once=True)
            summary = await reporter.summary(finished=rounds.finished)
            reporter.curve.finish(summary.rounds, summary.loss, summary.accuracy)
            energy = run_energy(tariff, compute.pid)
            await _say_goodbye(node, finished=summary.finished)
            nursery.cancel_scope.cancel()
    node.telemetry.report("energy", text=str(energy), **event_of(energy))
    node.telemetry.report("curve", path=str(reporter.curve.folder / "curve.png"))
    node.telemetry.report("done", **summary.values)
    return summary


def local_steps_of(recipe: Recipe, wanted: int | None) -> int:
    """The most steps that this peer declares: as many as it wants, the recipe's at the most.

    Raises ConfigError.
    """
    most = recipe.inner.steps_max
    if wanted is None:
        return most
    if not 1 <= wanted <= most:
        raise ConfigError(
            f"--local-steps {wanted}: the recipe allows {most} (inner.local_steps, _max).\n"
            f"A slow peer may take fewer, from 1 to {most}; its weight is less by as much."
        )
    return wanted


def settings_of(recipe: Recipe, shard_bytes: tuple[int, ...]) -> Settings:
    """What the averaging machine must know of a recipe.

    shard_bytes  of each shard in the recipe's codec
    """
    number = recipe.averaging.number
    codec = CODECS[number]
    return Settings(
        codec=number,
        shard_bytes=shard_bytes,
        rounds=recipe.rounds,
        weight_max=recipe.inner.batch * recipe.inner.steps_max,
        norm_max2=floor(recipe.averaging.norm_max**2 * 2.0**64),
        voter_after=recipe.averaging.voter_after,
        warmup_rounds=recipe.averaging.warmup_rounds,
        warmup_shard_bytes=tuple(WARMUP_CODEC.shard_bytes(codec.values(n)) for n in shard_bytes),
        batch=recipe.inner.batch,
        local_steps=recipe.inner.local_steps,
        local_steps_max=recipe.inner.steps_max,
        local_steps_min=recipe.inner.local_steps_min,
    )


def _identity(node: Node, recipe: Recipe, compute: Compute) -> _Identity:
    assert compute.opened is not None
    private_key = node.identity.private_key
    swarm = swarm_digest(recipe.swarm_id)
    # From the key, so that a restart finds the same chain; secret, since the key is.
    seed = digest("reveal seed", private_key, swarm)
    return _Identity(
        AveragingConfig(
            me=node.identity.peer_id,
            swarm=swarm,
            signer=Ed25519Signer(private_key),
            verifier=Ed25519Verifier(),
            settings=settings_of(recipe, compute.opened.shard_bytes),
        ),
        Reveals(seed, min(recipe.rounds + REVEALS_SPARE, REVEALS_MAX)),
    )


async def _genesis(recipe: Recipe, config: AveragingConfig, compute: Compute) -> Context:
    """The founding block: its state is computed here and must be everyone's."""
    founder = PeerId(recipe.founder.key)
    block = genesis(config.swarm, founder, ZERO_DIGEST).block
    return genesis(config.swarm, founder, await compute.initial(block))


def _own_state(node: Node, recipe: Recipe, state: AppliedState[Compute]) -> OwnStateKeeper:
    path = node.config.swarm_path(recipe.swarm_id) / "own-state"
    return OwnStateKeeper(state, OwnStateFile(path), node.telemetry)


def _machines(
    nursery: trio.Nursery,
    node: Node,
    recipe: Recipe,
    identity: _Identity,
    state: AppliedState[Compute],
) -> Machines:
    opened, config = state.compute.opened, identity.config
    assert opened is not None
    history = state.history
    votes = Votes(node.config.swarm_path(recipe.swarm_id))
    remembered = votes.load()
    for warning in remembered.warnings:
        node.telemetry.report("warning", text=warning)
    averaging = Averaging(
        config,
        history.tip,
        history.certificate,
        identity.reveals,
        remembered.votes,
        remembered.commit,
    )
    averaging.recall(state.ledger.results)
    convictions = Convictions(node.config.swarm_path(recipe.swarm_id))
    _recall_liars(node, averaging, convictions)
    if remembered.doubtful:
        averaging.doubt()
    pieces = -(-opened.state_bytes // STATE_PIECE_BYTES)
    return Machines(
        nursery=nursery,
        peers=node.peers,
        telemetry=node.telemetry,
        state=state,
        votes=votes,
        convictions=convictions,
        averaging=averaging,
        catchup=CatchUp(config.me, Rules(config.swarm, config.verifier, config.settings), history),
        statesync=StateSync(
            history, state.block, state.held, Shapes(pieces, len(opened.shard_bytes))
        ),
        on_chain=lambda: None,
    )


def _recall_liars(node: Node, averaging: Averaging, convictions: Convictions) -> None:
    """Whoever was proven a liar in an earlier run of this peer is refused in this one."""
    proofs, warning = convictions.load(averaging.config.rules)
    if warning:
        node.telemetry.report("warning", text=warning)
    averaging.recall_proofs(proofs)
    for proof in proofs:
        node.peers.ban(proof.first.signer, "a proof stands against it")


def _connect(
    node: Node, machines: Machines, rounds: Rounds, reporter: Reporter, ledger: Ledger
) -> None:
    """Tie the parts to one another and to the network."""

    def applied(link: Link) -> None:
        rounds.applied.append(link)
        rounds.notice()

    rounds.report = reporter.report
    machines.state.on_apply = applied
    machines.on_chain = rounds.notice
    node.machines = machines
    node.state = machines.state
    node.rounds = rounds
    node.server.open(node.peers, ledger)


def _announcing(node: Node, machines: Machines, rounds: Rounds) -> AnnouncingNode:
    """What tells the others about us, and us about them."""
    config = machines.averaging.config

    def fell_silent(silent: frozenset[PeerId]) -> None:
        machines.silent = silent
        machines.peers_changed()

    return AnnouncingNode(
        peers=node.peers,
        telemetry=node.telemetry,
        state=machines.state,
        swarm=config.swarm,
        signer=config.signer,
        verifier=config.verifier,
        work=lambda: Work(rounds.trained_samples, rounds.samples_per_s, rounds.local_steps),
        on_silent=fell_silent,
    )


async def _catch_up(node: Node, machines: Machines, recipe: Recipe) -> None:
    """Find the chain that the others are on; a founder or a lone restart goes on with its own."""
    machines.start()
    node.telemetry.report("phase", phase="catching up")
    is_joiner = machines.state.history.height == 0 and recipe.founder.key != node.identity.peer_id
    what, limit_s = "the others, to say which chain they are on", CATCH_UP_S_MAX
    with node.telemetry.waiting(what, inf if is_joiner else limit_s):
        while is_joiner or node.peers.prospects:
            with trio.move_on_after(limit_s):
                await node.peers.wait_for_somebody()
                await machines.caught_up.wait()
            # Who has nothing of his own waits for a peer; others know enough to go on.
            if machines.caught_up.is_set() or not is_joiner:
                return


async def _say_goodbye(node: Node, *, finished: bool) -> None:
    """Stay a moment for those who missed the last certificate, and tell everyone."""
    if finished and node.peers.connected:
        with node.telemetry.waiting("those who missed the last certificate", LINGER_S):
            await trio.sleep(LINGER_S)
    why = "the run is over" if finished else "this peer leaves"
    node.peers.broadcast(Goodbye(why))
