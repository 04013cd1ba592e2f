"""The self-test of a device: its table, its verdict, and what it says of a device that fails."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from same_bits import MODELS, SEED, fixed_data

from p2ptrain.cli.device_trial import trial
from p2ptrain.device import golden, selftest
from p2ptrain.device.golden_inputs import Case
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.errors import DeviceError
from p2ptrain.train.local import Trainer

WRONG = "0" * 64
FEW = ("probe_exp", "philox_uniform")

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
ALL = {case.name: case for case in golden.cases()}


@pytest.fixture(autouse=True)
def _few_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kernels are enough to see what becomes of them."""
    few = [ALL[name] for name in FEW]
    monkeypatch.setattr(
        selftest,
        "cases",
        lambda kernels: (
            few if kernels is None else [case for case in few if case.concerns(kernels)]
        ),
    )


def with_wrong_hashes(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    changed = {**golden.golden_hashes(), **dict.fromkeys(names, WRONG)}
    monkeypatch.setattr(selftest, "golden_hashes", lambda: changed)


def with_wrong_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = (*selftest.PROBES["probe_contraction"][:3], 2.0**-24)
    monkeypatch.setattr(selftest, "PROBES", {**selftest.PROBES, "probe_contraction": fused})


@pytest.mark.parametrize("options", [[], ["--plain-fma"], ["--untuned"]])
def test_the_table_has_a_line_for_each_probe_and_kernel(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert selftest.main(options) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert DEVICE.info.title in head
    assert [line.split()[1] for line in lines] == [*selftest.PROBES, *FEW]
    assert all(line.endswith("agrees") for line in lines)
    assert golden.golden_hashes()["probe_exp"].startswith(lines[2].split()[2])
    assert last.startswith("4 checks in")
    assert last.endswith("0 of them differ")


def test_a_difference_is_marked_and_ends_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_wrong_hashes(monkeypatch, "probe_exp")
    assert selftest.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    marked = [line.split()[1] for line in lines if "DIFFERS" in line]
    assert marked == ["probe_exp"]
    assert lines[-1].endswith("1 of them differ")


def test_json_has_hashes_in_full_and_what_was_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_wrong_hashes(monkeypatch, "philox_uniform")
    assert selftest.main(["--json", "--plain-fma", "--untuned"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["contracted_fma"], found["tile"], found["differing"]) == (False, "naive", 1)
    philox = found["checks"][-1]
    assert (philox["name"], philox["file"], philox["agrees"]) == ("philox_uniform", "rng", False)
    assert (philox["wanted"], len(philox["found"])) == (WRONG, 64)


def test_every_kernel_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_wrong_hashes(monkeypatch, *FEW)
    with pytest.raises(DeviceError, match="kernels probe_exp, philox_uniform with other bits"):
        selftest.self_test(OPERATIONS)


def test_a_device_that_fails_a_probe_is_tried_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    with_wrong_hashes(monkeypatch, *FEW)
    with_wrong_probe(monkeypatch)
    with pytest.raises(DeviceError, match=r"probe probe_contraction \(gives 0\.0, not 5\.96") as e:
        selftest.self_test(OPERATIONS)
    assert "probe_exp" not in str(e.value)


def test_the_list_of_devices_says_which_probe_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_wrong_probe(monkeypatch)
    found = trial(DEVICE.info.title, tmp_path)
    assert not found.passed
    assert "probe_contraction" in found.reason


def test_a_kernel_that_does_not_build_is_a_failure_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_operations: Operations) -> None:
        raise DeviceError("kernels/rng.cl does not build: no such type")

    broken: Case = replace(ALL["philox_uniform"], run=refuse)  # type: ignore[arg-type]
    monkeypatch.setattr(selftest, "cases", lambda _kernels: [broken])
    with pytest.raises(DeviceError, match=r"fails at kernel philox_uniform \(.*no such type"):
        selftest.self_test(OPERATIONS)


def test_only_what_a_run_uses_is_tried() -> None:
    every, gelu = frozenset({"gemm.gemm_tiled"}), frozenset({"elementwise.gelu"})
    assert selftest.self_test(OPERATIONS, every).checks == (*selftest.PROBES, *FEW)
    assert selftest.self_test(OPERATIONS, frozenset()).checks == tuple(selftest.PROBES)
    assert "probe_tanh" in {case.name for case in golden.cases(gelu)}
    assert "probe_tanh" not in {case.name for case in golden.cases(every)}


@pytest.mark.parametrize("name", MODELS)
def test_each_kernel_of_a_run_runs_in_its_self_test(name: str) -> None:
    """So that no kernel trains which the device was not held to."""
    subject = MODELS[name]()
    network, operations = subject.network, Operations(KernelLibrary(DEVICE))
    Trainer(operations, network, subject.inner, fixed_data(network), SEED).plan()
    used = operations.library.used
    tested = Operations(KernelLibrary(DEVICE))
    for case in golden.cases(used):
        case.run(tested)
    assert used <= tested.library.used
