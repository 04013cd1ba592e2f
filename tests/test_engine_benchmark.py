"""The engine's benchmark measures what it says: workloads, arithmetic, processes in turn."""

import os
from pathlib import Path

import pytest

from benchmarks.engine import line_of, rows_of
from benchmarks.engine_models import WORKLOADS, is_text, make_images, make_indices, make_tokens
from benchmarks.engine_ours import NETWORKS
from benchmarks.engine_profile import argument_names, multiply_adds
from benchmarks.engine_runs import Program, ProgramFailed, Timed, take_turns
from p2ptrain.train.local import check_data

CORES = tuple(sorted(os.sched_getaffinity(0)))


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_arithmetic_of_a_step_is_its_networks(name: str) -> None:
    workload, network = WORKLOADS[name], NETWORKS[name]()
    every_product_thrice = 6e-9 * network.products * workload.batch
    # Left out is the first layer's gradient by its input; of the MLP that is a fifth.
    assert 0.79 * every_product_thrice < workload.gflop < 1.01 * every_product_thrice


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_data_fit_the_networks(name: str) -> None:
    workload, network = WORKLOADS[name], NETWORKS[name]()
    order = make_indices(workload, 7)
    assert order.shape == (7, workload.batch)
    if is_text(workload):
        tokens = make_tokens()
        check_data(tokens, order[:0].ravel(), network)
        assert order.max() + workload.shape[0] < len(tokens)
    else:
        x, y = make_images(workload)
        check_data(x.reshape(len(x), -1), y, network)
        assert order.max() < len(x)


def test_programs_take_their_steps_in_turn(tmp_path: Path) -> None:
    programs = [[Program("peak", "mlp", CORES[:1])], [Program("peak", "mlp", CORES[-1:])]]
    results = take_turns(programs, 2, tmp_path)
    assert [len(timed.seconds) for timed in results] == [2, 2]
    assert all(timed.peak > 0 and timed.best <= timed.median for timed in results)


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match="KeyError"):
        take_turns([[Program("p2ptrain", "nothing", CORES)]], 1, tmp_path)


def test_the_table_compares_with_torch() -> None:
    peak = Timed(Program("peak", "mlp", (0,)), 1, 80.0, [1.0], [1.0], 100.0)
    ours = Timed(Program("p2ptrain", "mlp", (0,)), 10, 120.0, [0.004, 0.005, 0.009], [0.004])
    torch = Timed(Program("torch", "mlp", (0,), "fused"), 10, 320.0, [0.006, 0.010, 0.020], [0.006])
    row, _ = rows_of([peak, ours, torch], WORKLOADS["mlp"])
    assert row["speed_best"] == pytest.approx(1.5)
    assert row["speed_median"] == pytest.approx(2.0)
    assert row["of_peak"] == pytest.approx(WORKLOADS["mlp"].gflop / 0.004 / 100)
    assert " 2.00 median  1.50 best" in line_of(row)


def test_the_profile_knows_the_arguments_of_kernels() -> None:
    names = argument_names()
    assert {"M", "N", "K"} <= set(names["gemm_naive"])
    assert multiply_adds("gemm_naive", {"M": 2, "N": 3, "K": 5}) == 30
    assert multiply_adds("bias", {"C": 3}) == 0
