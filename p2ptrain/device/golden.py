"""The golden hash of each kernel: what a device is held to.

A device is held to the hashes in kernels/golden.json, which the numpy twins made; so at start no
twin runs, and a device's owner and the authors compare the same bits. The cases themselves are in
the golden_* modules beside this one.

`python -m p2ptrain.device.golden` writes golden.json again, from the twins. That changes the
protocol's arithmetic and so its number in the recipe.
"""

import hashlib
import json
from importlib import import_module

import numpy as np

from p2ptrain.device.golden_inputs import Array, Case
from p2ptrain.device.kernels import source_folder

# The module of the cases of each file of kernels/. A module is imported when a run uses one of
# its files: all of them at once would be a tenth of the start of a compute process.
MODULES = {
    "golden_gpt": {"attention", "layernorm", "embedding", "dropout"},
    "golden_basic": {"selftest", "gemm", "elementwise", "reduce", "rng"},
    "golden_shared": {"residual", "softmax_xent"},
    "golden_conv": {"conv"},
    "golden_math": {"selftest"},
    "golden_optim": {"optim"},
    "golden_vision": {"pool", "groupnorm", "images"},
}


def cases(kernels: frozenset[str] | None = None) -> list[Case]:
    """What a device is held to.

    Args:
      kernels  "file.kernel" of each that is to run on it; None: every kernel of training once
    """
    files = {kernel.partition(".")[0] for kernel in kernels} | {"selftest"} if kernels else None
    found = [
        case
        for name, its_files in MODULES.items()
        if files is None or files & its_files
        for case in import_module(f"p2ptrain.device.{name}").cases()
    ]
    return [case for case in found if kernels is None or case.concerns(kernels)]


def result_hash(result: Array) -> str:
    """SHA-256 of a result's little-endian bytes, in hexadecimal."""
    little = np.ascontiguousarray(result, result.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


def golden_hashes() -> dict[str, str]:
    """The hash that each case must have, from kernels/golden.json."""
    text = (source_folder() / "golden.json").read_text("utf-8")
    hashes: dict[str, str] = json.loads(text)
    return hashes


def twin_hashes() -> dict[str, str]:
    """The hash of each case as its twin computes it."""
    return {case.name: result_hash(case.twin()) for case in cases()}


if __name__ == "__main__":
    (source_folder() / "golden.json").write_text(json.dumps(twin_hashes(), indent=2) + "\n")
