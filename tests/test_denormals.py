"""No kernel writes a denormal number, however small its inputs are: kernels/common.cl says why."""

import sys
from types import ModuleType

import numpy as np
import pytest

from p2ptrain.device import golden, golden_inputs
from p2ptrain.device.golden_inputs import Case, Floats
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.reference_math import flush_tiny

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
NORMAL_MIN = 2.0**-126
# Factors of all fixed inputs in [-2, 2). Of the last, a part is flushed and the rest as small as a
# kernel's inputs can be.
SCALES = (2.0**-32, 2.0**-50, 2.0**-61)
# Smaller than what any kernel writes: for those that read what comes from outside.
RAW_SCALES = (2.0**-66, 2.0**-100, 2.0**-124)
FROM_OUTSIDE = {"elementwise", "images", "optim", "gemm"}


def modules() -> list[ModuleType]:
    """Where the golden cases and their inputs are written down."""
    return [golden_inputs, *(sys.modules[f"p2ptrain.device.{name}"] for name in golden.MODULES)]


def scale_inputs(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    """Make the fixed inputs of all cases smaller, and flush them as every kernel does."""
    original = golden_inputs.uniform

    def scaled(stream: int, *shape: int) -> Floats:
        values = (original(stream, *shape) * np.float32(scale)).astype(np.float32)
        return flush_tiny(values) if scale in SCALES else values

    for module in modules():
        monkeypatch.setattr(module, "uniform", scaled, raising=False)


def denormal_count(values: Floats) -> int:
    magnitude = np.abs(values)
    return int(((magnitude > 0) & (magnitude < NORMAL_MIN)).sum())


# Those of detmath are there for denormals, and random numbers have no inputs.
CASES = [case for case in golden.cases() if case.file not in ("selftest", "rng")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_kernel_writes_a_denormal_number(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = (*SCALES, *RAW_SCALES) if case.file in FROM_OUTSIDE else SCALES
    for scale in scales:
        with monkeypatch.context() as patch:
            scale_inputs(patch, scale)
            for operations in (OPERATIONS, PLAIN):
                result = case.run(operations)
                if result.dtype == np.float32:
                    assert denormal_count(result) == 0, scale


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bits_are_the_twins_where_inputs_are_tiny(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale_inputs(monkeypatch, SCALES[-1])
    result = case.run(OPERATIONS)
    np.testing.assert_array_equal(result.view(np.uint8), case.twin().view(np.uint8))
