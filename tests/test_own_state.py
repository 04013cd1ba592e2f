"""Error feedback and the inner optimiser's state: kept, given back, and dropped where they must."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import trio
from node_chain import ME, OTHER
from test_applied import Stage, kernel_cache, stage
from test_swarm_processes import recipe, story

from p2ptrain.config import Recipe
from p2ptrain.config_local import node_config
from p2ptrain.errors import StoreError
from p2ptrain.node.compute import Compute, ComputeRefused, LocalWork, compute_spec, open_compute
from p2ptrain.node.own_state import OwnStateKeeper
from p2ptrain.node.telemetry import Telemetry, Value
from p2ptrain.store.own_state import OwnRecord, OwnStateFile
from p2ptrain.swarm.effects import Term
from p2ptrain.train.worker_messages import ComputeSpec, OwnState, TrainingArrays
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest

__all__ = ["kernel_cache"]  # a fixture
GENESIS, FIRST = digest("test", b"genesis"), digest("test", b"first")
RECORD = OwnRecord(FIRST, b"residual", b"inner state")
RECIPE = """
name = "test"
rounds = 10
data.cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
model.layers = [16, 8, 4]
inner = {{ optimizer = "{optimizer}", learning_rate = 0.01, batch = 4, local_steps = 5 }}
"""


def spec_of(optimizer: str, kernel_cache: Path) -> ComputeSpec:
    text = RECIPE.format(optimizer=optimizer)
    return compute_spec(Recipe.from_toml(text), threads=1, kernel_cache=kernel_cache)


def arrays() -> TrainingArrays:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 16), np.float32), rng.integers(0, 4, 40).astype(np.int32)
    return TrainingArrays(x, y, x[:8], y[:8])


async def work_of(compute: Compute, seed: int) -> LocalWork:
    indices = np.random.default_rng(seed).integers(0, 40, (5, 4)).astype(np.int32)
    work = await compute.train(indices)
    assert work is not None
    return work


async def first_round(compute: Compute) -> None:
    """A round with our work in it."""
    await compute.initial(GENESIS)
    work = await work_of(compute, 1)
    await compute.reduce(FIRST, GENESIS, [Term(ME, 65535, work.shards)], 4)
    await compute.apply(FIRST, mine_included=True)


# --- the compute process ----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
async def test_a_new_process_goes_on_with_the_same_bits(optimizer: str, kernel_cache: Path) -> None:
    async with open_compute(spec_of(optimizer, kernel_cache), arrays) as compute:
        await first_round(compute)
        state, own = await compute.state(FIRST), await compute.own(FIRST)
        assert any(own.residual), "rounding to 4 bits loses something"
        expected = await work_of(compute, 2)

        await compute.restart(FIRST, state)
        anew = await work_of(compute, 2)
        await compute.restart(FIRST, state)
        await compute.take_own(FIRST, own)
        assert await compute.own(FIRST) == own
        again = await work_of(compute, 2)
        assert (again.root, again.loss) == (expected.root, expected.loss)
        assert anew.root != expected.root, "what was taken matters"


async def test_a_residual_is_spent_by_a_contribution_whose_maker_has_died(
    kernel_cache: Path,
) -> None:
    async with open_compute(spec_of("adamw", kernel_cache), arrays) as compute:
        await first_round(compute)
        state, own = await compute.state(FIRST), await compute.own(FIRST)
        work = await work_of(compute, 2)
        for included in (False, True):
            await compute.restart(FIRST, state)
            await compute.take_own(FIRST, own)
            block = digest("test", b"second", bytes([included]))
            await compute.reduce(block, FIRST, [Term(ME, 65535, work.shards)], 4)
            await compute.apply(block, mine_included=included)
            later = await compute.own(block)
            assert later.inner == own.inner
            assert later.residual == (bytes(len(own.residual)) if included else own.residual)


async def test_what_is_not_of_this_recipe_is_not_taken(kernel_cache: Path) -> None:
    async with open_compute(spec_of("sgd", kernel_cache), arrays) as compute:
        await first_round(compute)
        own = await compute.own(FIRST)
        nan = np.array([np.nan], "<f4").tobytes()
        for residual, inner in (
            (own.residual[:-4], own.inner),
            (own.residual[:-1], own.inner),
            (own.residual + bytes(4), own.inner),
            (nan + own.residual[4:], own.inner),
            (own.residual, own.inner[:-4]),
            (own.residual, own.inner[:5]),
            (own.residual, own.inner[:-4] + nan),
        ):
            with pytest.raises(ComputeRefused, match="malformed"):
                await compute.take_own(FIRST, OwnState(residual, inner))
        with pytest.raises(ComputeRefused, match="unknown block"):
            await compute.take_own(ZERO_DIGEST, own)
        assert await compute.own(FIRST) == own


# --- the file -----------------------------------------------------------------------------------


def test_the_newest_record_comes_back(tmp_path: Path) -> None:
    file = OwnStateFile(tmp_path / "swarm" / "own-state")
    assert file.load() is None
    file.save(OwnRecord(GENESIS, b"", b""))
    assert file.load() == OwnRecord(GENESIS, b"", b"")
    file.save(RECORD)
    assert OwnStateFile(tmp_path / "swarm" / "own-state").load() == RECORD


def test_a_torn_or_changed_file_is_known_for_one(tmp_path: Path) -> None:
    path = tmp_path / "own-state"
    file = OwnStateFile(path)
    file.save(RECORD)
    whole = path.read_bytes()
    for index in range(len(whole)):
        flipped = bytearray(whole)
        flipped[index] ^= 1
        for content in (whole[:index], bytes(flipped)):
            path.write_bytes(content)
            with pytest.raises(StoreError, match="is damaged"):
                file.load()
    path.write_bytes(whole + b"x")
    with pytest.raises(StoreError, match="is damaged"):
        file.load()


# --- keeping and taking -------------------------------------------------------------------------


class Kept:
    """A keeper over a stage, and what it told."""

    def __init__(self, one: Stage, folder: Path) -> None:
        self.events: list[dict[str, Value]] = []
        self.file = OwnStateFile(folder / "own-state")
        telemetry = Telemetry(lambda event: self.events.append(dict(event)))
        self.keeper = OwnStateKeeper(one.state, self.file, telemetry)

    def block(self) -> Digest | None:
        record = self.file.load()
        return record.block if record else None


async def test_the_newest_block_is_kept_at_once_when_asked_and_else_when_it_is_time(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        kept = Kept(one, tmp_path)
        await kept.keeper.take()  # there is nothing
        await kept.keeper.keep()
        assert kept.block() == one.genesis.block
        first = await one.make(one.genesis, "a")
        one.certify(first)
        await one.state.sync(first.certified_shards)
        kept.keeper.again_s = trio.current_time() + 60  # as after a file that took 3 s
        await kept.keeper.keep()
        assert kept.block() == one.genesis.block
        await kept.keeper.keep(at_once=True)
        assert kept.block() == first.block
        assert not kept.events


async def test_a_residual_counts_as_long_as_no_later_block_has_our_work(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        kept = Kept(one, tmp_path)
        own = await one.compute.own(one.genesis.block)
        residual = np.arange(len(own.residual) // 4, dtype="<f4").tobytes()
        theirs = await one.make(one.genesis, "a", OTHER)
        ours = await one.make(theirs.link.context, "b", ME)
        for made, counts in ((theirs, True), (ours, False)):
            one.certify(made)
            await one.state.sync(made.certified_shards)
            kept.file.save(OwnRecord(one.genesis.block, residual, own.inner))
            await kept.keeper.take()
            taken = await one.compute.own(made.block)
            assert taken.residual == (residual if counts else bytes(len(residual)))
        kept.file.save(OwnRecord(ZERO_DIGEST, residual, own.inner))  # of a branch that is gone
        await kept.keeper.take()
        assert not any((await one.compute.own(ours.block)).residual)


async def test_what_cannot_be_taken_is_said_and_costs_nothing_else(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        kept = Kept(one, tmp_path)
        own = await one.compute.own(one.genesis.block)
        kept.file.save(OwnRecord(one.genesis.block, own.residual, b"of another recipe"))
        await kept.keeper.take()
        (tmp_path / "own-state").write_bytes(b"torn")
        await kept.keeper.take()
        said = [str(event["text"]) for event in kept.events]
        assert len(said) == 2
        assert all("the inner optimiser begin anew" in text for text in said)
        assert await one.compute.own(one.genesis.block) == own


async def test_a_process_that_has_died_is_the_spines_affair(
    tmp_path: Path, kernel_cache: Path
) -> None:
    async with stage(tmp_path, kernel_cache) as one:
        kept = Kept(one, tmp_path)
        await kept.keeper.keep()
        first = await one.make(one.genesis, "a")
        one.certify(first)
        await one.state.sync(first.certified_shards)
        assert one.compute.pid is not None
        os.kill(one.compute.pid, signal.SIGKILL)
        await kept.keeper.keep(at_once=True)
        assert kept.block() == one.genesis.block


# --- a node ---------------------------------------------------------------------------------------


async def test_a_peer_that_leaves_has_kept_what_belongs_to_its_last_block(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        path = recipe(tmp_path, rounds=30)
        (left,) = await s.end_of(await s.found(path, "--rounds", "3"))
        swarm = node_config(tmp_path / "one").swarm_path(Cid(str(left["swarm"])))
        record = OwnStateFile(swarm / "own-state").load()
        assert record is not None
        assert record.block.hex() == left["block"]
        again = await s.found(path, "--rounds", "5")
        await s.end_of(again)
        assert "resumed" in again.latest
        assert not s.said(again, "warning")
