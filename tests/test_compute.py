"""The compute process: real processes that train on real data, are interrupted, and die."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
from full_disk import file_size_limit

from p2ptrain.compress.blocks import INT8
from p2ptrain.config import Recipe
from p2ptrain.errors import ConfigError, DeviceError, StoreError
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.node.compute import (
    Compute,
    ComputeLimits,
    ComputeRefused,
    LocalWork,
    compute_spec,
    open_compute,
)
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.swarm.effects import Term
from p2ptrain.train.outer import state_digest
from p2ptrain.train.run_settings import unpack_settings
from p2ptrain.train.worker_messages import ComputeSpec, TrainingArrays
from p2ptrain.wire.digest import digest
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_root

DIGITS = Path(__file__).parents[1] / "p2ptrain" / "data" / "bundled" / "digits.npz"
BATCH = 16
GENESIS, FIRST, SECOND = (digest("test", name) for name in (b"genesis", b"first", b"second"))
ME, OTHER = PeerId("me"), PeerId("other")


@pytest.fixture(scope="session")
def arrays() -> TrainingArrays:
    """A real set, with a fifth held out."""
    with np.load(DIGITS) as archive:
        x = archive["X"].reshape(-1, 64).astype(np.float32) / np.float32(16)
        y = archive["y"].astype(np.int32)
    split = len(x) * 4 // 5
    return TrainingArrays(x[:split], y[:split], x[split:], y[split:])


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once for all tests of this file."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def spec(kernel_cache: Path) -> ComputeSpec:
    """A small network in five shards, int4, Nesterov outside."""
    recipe = Recipe.from_toml(
        f"""
        name = "test"
        rounds = 10
        data.cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
        model.layers = [64, 256, 10]
        inner = {{ optimizer = "sgd", learning_rate = 0.05, batch = {BATCH}, local_steps = 4 }}
        outer = {{ optimizer = "nesterov", learning_rate = 0.7, momentum = 0.5 }}
        averaging = {{ codec = "int4", shard_values = 4096 }}
        """
    )
    return compute_spec(recipe, threads=1, kernel_cache=kernel_cache)


def steps(seed: int, count: int = 8) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """Indices of some local steps."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1400, (count, BATCH)).astype(np.int32)


def term(work: LocalWork, factor: int = 65535) -> Term:
    return Term(ME, factor, work.shards)


async def trained(compute: Compute, seed: int, count: int = 8) -> LocalWork:
    work = await compute.train(steps(seed, count))
    assert work is not None
    return work


async def test_a_round_gives_equal_bits_in_two_processes(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    """One reduces, the other applies the certified shards; then both train on alike."""
    async with open_compute(spec, lambda: arrays) as one, open_compute(spec, lambda: arrays) as two:
        assert one.opened is not None
        genesis = await one.initial(GENESIS)
        assert await two.initial(GENESIS) == genesis
        mine, yours = await trained(one, 1), await trained(two, 2)
        assert mine.parent == GENESIS
        assert mine.base_state == genesis
        assert mine.samples == 8 * BATCH
        assert mine.root == merkle_root(mine.shards)
        assert tuple(len(shard) for shard in mine.shards) == one.opened.shard_bytes
        assert mine.root != yours.root

        reduced = await one.reduce(FIRST, GENESIS, [term(mine), term(yours, 40000)], 4)
        assert reduced.root == merkle_root(reduced.shards)
        assert await two.apply_reduced(FIRST, GENESIS, reduced.shards) == reduced.state
        await one.apply(FIRST, mine_included=True)
        await two.apply(FIRST, mine_included=True)
        states = [await compute.state(FIRST) for compute in (one, two)]
        assert states[0] == states[1]
        assert state_digest(states[0]) == reduced.state
        evaluations = [await compute.evaluate() for compute in (one, two)]
        assert evaluations[0] == evaluations[1]
        assert evaluations[0].count == len(arrays.test_x)
        tensors = await one.parameters(FIRST)
        assert {name: tensor.shape for name, tensor in tensors.items()} == {
            "layer0.weight": (256, 64),
            "layer0.bias": (256,),
            "layer1.weight": (10, 256),
            "layer1.bias": (10,),
        }


async def test_the_founding_state_is_the_weights_that_the_recipe_names(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    """Padded, with momentum at rest; also in the process that comes after one that died."""
    count = 64 * 256 + 256 + 256 * 10 + 10
    weights = np.linspace(-1, 1, count, dtype="<f4").tobytes()
    async with open_compute(spec, lambda: arrays, weights=lambda: weights) as compute:
        assert compute.opened is not None
        expected = weights + bytes(compute.opened.state_bytes - len(weights))
        for _ in range(2):
            assert await compute.initial(GENESIS) == state_digest(expected)
            assert await compute.state(GENESIS) == expected
            tensors = await compute.parameters(GENESIS)
            assert tensors["layer0.weight"].tobytes() == weights[: 4 * 64 * 256]
            await compute.close()
            await compute.start()


async def test_training_learns(spec: ComputeSpec, arrays: TrainingArrays) -> None:
    """Ten rounds of one peer alone."""
    async with open_compute(spec, lambda: arrays) as compute:
        await compute.initial(GENESIS)
        block = GENESIS
        for number in range(10):
            work = await trained(compute, number, 20)
            parent, block = block, digest("test", bytes([number]))
            await compute.reduce(block, parent, [term(work)], 4)
            await compute.apply(block, mine_included=True)
            await compute.finalize(parent)
        assert (await compute.evaluate()).accuracy > 0.9


async def test_a_contribution_that_is_left_out_leaves_no_trace(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    """Left out: the next contribution is that of a peer which never made this one. Counted: not."""
    zeros = tuple(INT8.encode(np.zeros(4096, np.float32)) for _ in range(5))
    async with open_compute(spec, lambda: arrays) as compute:
        await compute.initial(GENESIS)
        await compute.apply_reduced(FIRST, GENESIS, zeros)
        await compute.apply(FIRST, mine_included=False)
        without = await trained(compute, 2)
        await compute.rollback(GENESIS)
        await trained(compute, 1)
        await compute.apply(FIRST, mine_included=False)
        assert (await trained(compute, 2)).root == without.root
        await compute.rollback(GENESIS)
        await compute.apply(FIRST, mine_included=True)
        assert (await trained(compute, 2)).root != without.root


async def test_blocks_are_gone_back_to_and_forgotten(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    async with open_compute(spec, lambda: arrays) as compute:
        genesis = await compute.initial(GENESIS)
        work = await trained(compute, 1)
        first = (await compute.reduce(FIRST, GENESIS, [term(work)], 4)).state
        assert first != genesis
        assert await compute.carry(SECOND, FIRST) == first
        with pytest.raises(ComputeRefused, match="does not follow"):
            await compute.apply(SECOND, mine_included=False)
        await compute.apply(FIRST, mine_included=True)
        await compute.apply(SECOND, mine_included=False)
        await compute.rollback(FIRST)
        await compute.apply(SECOND, mine_included=False)
        await compute.finalize(FIRST)
        for request in (compute.state(GENESIS), compute.rollback(GENESIS)):
            with pytest.raises(ComputeRefused) as caught:
                await request
            assert caught.value.reason == "unknown block"
        state = await compute.state(SECOND)
        assert await compute.load_state(GENESIS, state) == first
        with pytest.raises(ComputeRefused, match="malformed"):
            await compute.load_state(GENESIS, state[:-4])
        with pytest.raises(ComputeRefused, match=r"codecs 4\.1"):
            await compute.apply_reduced(FIRST, GENESIS, [b""] * 5)


async def test_a_reduction_is_answered_while_training_goes_on(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    async with open_compute(spec, lambda: arrays) as compute, trio.open_nursery() as nursery:
        await compute.initial(GENESIS)
        work = await trained(compute, 1)
        ended = trio.Event()

        async def train_long() -> None:
            assert await compute.train(steps(2, 200_000)) is None
            ended.set()

        nursery.start_soon(train_long)
        with trio.fail_after(30):
            await trio.testing.wait_all_tasks_blocked()  # the training is asked for
            reduced = await compute.reduce(FIRST, GENESIS, [term(work)], 4)
            assert await compute.state(FIRST)
            assert reduced.state != work.base_state
            assert not ended.is_set()
            await compute.cancel()
            await ended.wait()
        # What was cancelled left nothing behind, and the process goes on.
        assert (await trained(compute, 1)).root == work.root


async def test_a_caller_that_goes_away_cancels_its_training(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    async with open_compute(spec, lambda: arrays) as compute:
        await compute.initial(GENESIS)
        with trio.move_on_after(0.2) as scope:
            await compute.train(steps(2, 200_000))
        assert scope.cancelled_caught
        with trio.fail_after(30):
            await trained(compute, 1)


async def test_after_kill_9_in_training_it_is_restarted_from_a_state(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    async with open_compute(spec, lambda: arrays) as compute:
        await compute.initial(GENESIS)
        state, work = await compute.state(GENESIS), await trained(compute, 1)
        assert compute.pid is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_soon, compute.pid)
            with pytest.raises(ComputeDied, match="SIGKILL"):
                await compute.train(steps(2, 200_000))
        assert not compute.alive
        with pytest.raises(DeviceError):
            await compute.evaluate()
        assert await compute.restart(GENESIS, state) == work.base_state
        assert (await trained(compute, 1)).root == work.root


async def kill_soon(pid: int) -> None:
    await trio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)


async def test_a_process_that_misses_its_deadline_is_killed(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    async with open_compute(spec, lambda: arrays) as compute:
        await compute.initial(GENESIS)
        pid = compute.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # as a driver that hangs
        with pytest.raises(ComputeDied, match=r"no answer to Train within 0\.2 s"):
            await compute.train(steps(1), timeout_s=0.2)
    assert not is_running(pid)


async def test_it_ends_with_its_node(spec: ComputeSpec, arrays: TrainingArrays) -> None:
    """Stdin closed, as when the node is killed: it ends by itself, in the midst of training."""
    limits = ComputeLimits(close_s=30)
    async with open_compute(spec, lambda: arrays, limits) as compute:
        await compute.initial(GENESIS)
        pid = compute.pid
        assert pid is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ignore_death, compute)
            await trio.sleep(0.1)
            with trio.fail_after(5):
                await compute.close()
    assert not is_running(pid)


async def ignore_death(compute: Compute) -> None:
    with pytest.raises(ComputeDied):
        await compute.train(steps(2, 200_000))


async def test_ctrl_c_in_the_terminal_does_not_reach_it(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    async with open_compute(spec, lambda: arrays) as compute:
        assert compute.pid is not None
        assert os.getsid(compute.pid) != os.getsid(0)


def compiled_files(folder: Path) -> set[Path]:
    """What PoCL has compiled."""
    return set(folder.rglob("*.so"))


async def test_the_compute_process_compiles_nothing_itself(
    spec: ComputeSpec, arrays: TrainingArrays, tmp_path: Path
) -> None:
    """Its children have done so when it opens: it would keep the compiler's memory."""
    async with open_compute(replace(spec, kernel_cache=str(tmp_path)), lambda: arrays) as compute:
        compiled = compiled_files(tmp_path)
        assert compiled
        await compute.initial(GENESIS)
        await trained(compute, 1)
        await compute.evaluate()
        assert compiled_files(tmp_path) == compiled


async def test_what_cannot_be_opened_is_said(spec: ComputeSpec, arrays: TrainingArrays) -> None:
    wrong_device = replace(spec, device="no such device")
    with pytest.raises(DeviceError, match="no such device"):
        await open_and_close(wrong_device, arrays)
    run = unpack_settings(spec.run)
    wrong_inputs = replace(spec, run=replace(run, network=ModelSpec((65, 10))).packed())
    with pytest.raises(ConfigError, match="inputs"):
        await open_and_close(wrong_inputs, arrays)


async def open_and_close(spec: ComputeSpec, arrays: TrainingArrays) -> None:
    async with open_compute(spec, lambda: arrays):
        pass


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_data_that_find_no_room_in_memory_are_an_error_with_words(
    spec: ComputeSpec, arrays: TrainingArrays
) -> None:
    with pytest.raises(StoreError, match="no room in memory"), file_size_limit(4096):
        async with open_compute(spec, lambda: arrays):
            pass
