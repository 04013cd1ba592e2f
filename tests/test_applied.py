"""The applied state, over a real compute process and disk: every way in which it moves on."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
from node_chain import ME, OTHER, certified, genesis_of, round_block
from swarm_router import SETTINGS

from p2ptrain.config import Recipe
from p2ptrain.errors import LocalProtocolError
from p2ptrain.node.applied import AppliedState
from p2ptrain.node.compute import Compute, compute_spec, open_compute
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.node.ledger import Ledger
from p2ptrain.node.serve import cut_state
from p2ptrain.store.checkpoint import CheckpointStore
from p2ptrain.store.transcript import Transcript
from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.effects import Reduce, Term
from p2ptrain.swarm.history import History, Link
from p2ptrain.swarm.statesync import ApplyReduced, LoadState, Rollback
from p2ptrain.train.outer import state_digest
from p2ptrain.train.worker_messages import TrainingArrays
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import CLOSE, Block
from p2ptrain.wire.peer_id import PeerId

RECIPE = """
name = "test"
rounds = 10
data.cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
model.layers = [16, 8, 4]
inner = { optimizer = "sgd", learning_rate = 0.1, batch = 4, local_steps = 2 }
outer = { optimizer = "nesterov", learning_rate = 0.7, momentum = 0.5 }
averaging = { codec = "int4", shard_values = 4096 }
"""


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once for all tests of applied states and of whole nodes."""
    folder = tmp_path_factory.getbasetemp() / "node kernels"
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class Made:
    """A block that could be certified, what led to it and what it led to."""

    link: Link
    effect: Reduce
    shards: tuple[bytes, ...]
    bytes_after: bytes

    @property
    def block(self) -> Digest:
        return self.link.context.block

    @property
    def certified_shards(self) -> ApplyReduced:
        return ApplyReduced(self.link, self.shards)


@dataclass
class Stage:
    """A peer's applied state, and the gradients that its blocks are made of."""

    compute: Compute
    state: AppliedState[Compute]
    gradients: Sequence[tuple[bytes, ...]]
    applied: list[Link] = field(default_factory=list)

    @property
    def genesis(self) -> Context:
        return self.state.history.genesis

    async def make(self, parent: Context, name: str, peer: PeerId = ME) -> Made:
        """A block on a parent whose state the compute process knows."""
        block = round_block(parent, name, peer)
        gradient = self.gradients[len(name) % 2]
        terms = (Term(peer, 65535, gradient),)
        effect = Reduce(block_digest(block), parent.block, terms, 4)
        result = await self.compute.reduce(effect.block, effect.parent, terms, 4)
        link = certified(parent, block, result.shards, result.state)
        return Made(link, effect, result.shards, await self.compute.state(effect.block))

    async def chain(self, parent: Context, length: int, name: str = "") -> list[Made]:
        made: list[Made] = []
        for number in range(length):
            made.append(
                await self.make(made[-1].link.context if made else parent, f"{name}{number}")
            )
        return made

    def certify(self, *made: Made) -> None:
        """The chain grows, as it does when averaging adopts a certificate."""
        for one in made:
            self.state.history.append(one.link)

    async def is_at(self, made: Made) -> bool:
        """Whether the state after this block is the base, is right, and is on the disk."""
        held = await self.compute.state(made.block)
        on_disk = self.state.ledger.state_of(made.block)
        return self.state.block == made.block and held == on_disk == made.bytes_after


@asynccontextmanager
async def stage(folder: Path, kernel_cache: Path) -> AsyncIterator[Stage]:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 16), np.float32), rng.integers(0, 4, 40).astype(np.int32)
    spec = compute_spec(Recipe.from_toml(RECIPE), threads=1, kernel_cache=kernel_cache)
    async with open_compute(spec, lambda: TrainingArrays(x, y, x[:8], y[:8])) as compute:
        bare = genesis_of(ME, OTHER)
        genesis = replace(bare, state=await compute.initial(bare.block))
        gradients = []
        for _ in range(2):
            work = await compute.train(rng.integers(0, 40, (2, 4)).astype(np.int32))
            assert work is not None
            gradients.append(work.shards)
        with Transcript(folder / "transcript.sqlite") as transcript:
            checkpoints = CheckpointStore(folder / "checkpoints")
            ledger = Ledger(History(genesis), SETTINGS, transcript, checkpoints)
            applied: list[Link] = []
            state = AppliedState(ME, compute, ledger, genesis.block, applied.append)
            state.held.add(genesis.block)
            with trio.fail_after(30):
                yield Stage(compute, state, gradients, applied)


async def test_our_own_reduction_becomes_the_base(tmp_path: Path, kernel_cache: Path) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        first = await one.make(one.genesis, "a")
        outcome = await one.state.reduce(first.effect)
        assert outcome == (first.link.certificate.reduced, first.link.context.state)
        assert state_digest(first.bytes_after) == first.link.context.state
        one.certify(first)
        assert not one.state.level
        assert await one.state.follow()
        assert await one.is_at(first)
        assert one.applied == [first.link]
        assert one.state.ledger.reduced_of(first.block) == first.shards


async def test_a_reduction_waits_for_its_parent_and_a_second_request_for_it_is_none(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one, trio.open_nursery() as nursery:
        first, second = await one.chain(one.genesis, 2)
        one.certify(first)
        outcomes: list[object] = []

        async def reduce() -> None:
            outcomes.append(await one.state.reduce(second.effect))

        nursery.start_soon(reduce)
        await trio.testing.wait_all_tasks_blocked()
        assert await one.state.reduce(second.effect) is None  # it is under way already
        assert not outcomes
        await one.state.sync(first.certified_shards)
        one.certify(second)
        assert await one.state.follow()  # waits for the reduction
        assert await one.is_at(second)
        assert outcomes == [(second.link.certificate.reduced, second.link.context.state)]


async def test_a_reduction_whose_parent_is_gone_or_left_behind_ends(
    tmp_path: Path, kernel_cache: Path
) -> None:
    """It waited for ever, with all its bytes, and whoever followed waited for it."""
    async with stage(tmp_path, kernel_cache) as one, trio.open_nursery() as nursery:
        first, second, third = await one.chain(one.genesis, 3)
        rival = await one.make(one.genesis, "rival")
        on_rival = await one.make(rival.link.context, "on rival")
        one.certify(first, second)
        outcomes: list[object] = []

        async def reduce(made: Made) -> None:
            outcomes.append(await one.state.reduce(made.effect))

        nursery.start_soon(reduce, on_rival)  # a parent that was never ours
        nursery.start_soon(reduce, third)  # on the second, which we are about to leave
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == [None]
        assert await one.state.switch(1, ((await one.make(first.link.context, "new")).link,))
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == [None, None]
        await one.state.sync(first.certified_shards)
        assert await one.state.reduce(rival.effect) is None  # on the founding block: too late


async def test_a_block_without_contributions_is_carried_over(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        first = await one.make(one.genesis, "a")
        close = certified(first.link.context, Block(first.block, CLOSE, (), (), (), ()))
        one.certify(first)
        one.state.history.append(close)
        await one.state.reduce(first.effect)
        assert await one.state.follow()
        assert one.state.block == close.context.block
        assert await one.compute.state(one.state.block) == first.bytes_after
        assert one.applied == [first.link, close]


async def test_a_candidate_with_another_outcome_than_was_certified_is_not_applied(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        first, rival = await one.make(one.genesis, "a"), await one.make(one.genesis, "bb")
        await one.state.reduce(first.effect)
        other = certified(
            one.genesis, first.link.certificate.block, rival.shards, rival.link.context.state
        )
        one.state.history.append(other)
        assert not await one.state.follow()
        assert one.state.block == one.genesis.block
        await one.state.sync(ApplyReduced(other, rival.shards))
        assert one.state.level
        assert await one.compute.state(one.state.block) == rival.bytes_after


async def test_certified_shards_that_give_another_state_here_are_our_fault(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        first, rival = await one.make(one.genesis, "a"), await one.make(one.genesis, "bb")
        one.certify(first)
        with pytest.raises(LocalProtocolError, match="another state"):
            await one.state.sync(ApplyReduced(first.link, rival.shards))


async def test_a_certified_state_is_loaded_and_followed_from(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        *_, third, fourth = chain = await one.chain(one.genesis, 4)
        one.certify(*chain)
        await one.state.sync(LoadState(third.link, cut_state(third.bytes_after)))
        assert await one.is_at(third)
        assert one.state.held == {third.block, one.genesis.block}
        await one.state.sync(chain[1].certified_shards)  # late: it changes nothing
        assert await one.is_at(third)
        await one.state.sync(fourth.certified_shards)
        assert await one.is_at(fourth)
        assert one.applied == [third.link, fourth.link]


async def test_a_switch_takes_the_state_back_and_up_the_other_branch(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        first, second, third = old = await one.chain(one.genesis, 3)
        new = await one.chain(first.link.context, 2, "new")
        one.certify(*old)
        for made in old:
            await one.state.sync(made.certified_shards)
        one.state.pending_finals += [first.block, second.block]
        assert await one.state.switch(1, tuple(made.link for made in new))
        assert one.state.height is None
        assert not await one.state.follow()
        await one.state.finalize()  # what was final on the branch that we left is forgotten
        assert second.block not in one.state.pending_finals
        await one.state.sync(Rollback(third.block))
        await one.state.sync(Rollback(first.block))
        assert one.state.block == first.block
        assert one.state.held <= {first.block, one.genesis.block}
        for made in new:
            await one.state.sync(made.certified_shards)
        assert await one.is_at(new[-1])


async def test_a_roll_back_to_the_founding_block_forgets_what_was_reduced(
    tmp_path: Path, kernel_cache: Path
) -> None:
    """The process forgets its candidates then; ours are applied from their shards."""
    async with stage(tmp_path, kernel_cache) as one:
        first, second = await one.chain(one.genesis, 2)
        one.certify(first)
        await one.state.reduce(first.effect)
        await one.state.sync(Rollback(one.genesis.block))
        assert await one.state.follow()
        assert await one.is_at(first)
        one.certify(second)
        await one.state.sync(Rollback(second.block))  # not held: ignored
        assert await one.is_at(first)


async def test_a_switch_is_decided_again_if_the_chain_has_grown_meanwhile(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one, trio.open_nursery() as nursery:
        first, second = await one.chain(one.genesis, 2)
        rival = await one.make(one.genesis, "rival")
        one.certify(first)
        switched: list[bool] = []

        async def switch() -> None:
            switched.append(await one.state.switch(0, (rival.link,)))

        async with one.state._lock:  # a state is being written
            nursery.start_soon(switch)
            await trio.testing.wait_all_tasks_blocked()
            one.certify(second)
        await trio.testing.wait_all_tasks_blocked()
        assert switched == [False]
        assert one.state.history.tip == second.link.context


async def test_after_the_compute_process_died_a_new_one_goes_on_with_what_was_reduced(
    tmp_path: Path, kernel_cache: Path
) -> None:
    """Nobody else needs to be there: a lone peer's certified block was lost with the process."""
    async with stage(tmp_path, kernel_cache) as one:
        for known in (False, True):  # from the founding block, then from a checkpoint
            tip = one.state.history.tip
            made = await one.make(tip, f"{known}")
            await one.state.reduce(made.effect)
            one.certify(made)
            assert one.compute.pid is not None
            os.kill(one.compute.pid, signal.SIGKILL)
            with pytest.raises(ComputeDied):
                await one.compute.state(tip.block)
            await one.state.restart()
            assert one.state.block == tip.block
            assert one.state.held == {tip.block, one.genesis.block}
            assert await one.state.follow()
            assert await one.is_at(made)


async def test_finalize_keeps_what_a_roll_back_may_need(tmp_path: Path, kernel_cache: Path) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        chain = await one.chain(one.genesis, 4)
        one.certify(*chain)
        for made in chain[:3]:
            await one.state.sync(made.certified_shards)
        one.state.pending_finals += [made.block for made in (*chain[:2], chain[3])]
        await one.state.finalize()
        assert one.state.held == {one.genesis.block, chain[1].block, chain[2].block}
        assert one.state.pending_finals == [chain[3].block]  # final, and not applied yet
        final = one.state.ledger.checkpoints.load_final().checkpoint
        assert final is not None
        assert final.vector == chain[1].bytes_after
        await one.state.sync(Rollback(chain[1].block))
        assert one.state.block == chain[1].block
        for made in chain[2:]:
            await one.state.sync(made.certified_shards)
        await one.state.finalize()
        assert one.state.held == {one.genesis.block, chain[3].block}
