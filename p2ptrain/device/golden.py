"""The golden hash of each kernel: what a device is held to.

A device is held to the hashes in kernels/golden.json, which the numpy twins made; so at start no
twin runs, and a device's owner and the authors compare the same bits. The cases themselves are in
the golden_* modules beside this one.

`python -m p2ptrain.device.golden` writes golden.json again, from the twins. That changes the
protocol's arithmetic and so its number in the recipe.
"""

import hashlib
import json

import numpy as np

from p2ptrain.device import (
    golden_basic,
    golden_conv,
    golden_gpt,
    golden_math,
    golden_optim,
    golden_vision,
)
from p2ptrain.device.golden_inputs import Array, Case
from p2ptrain.device.kernels import source_folder

CASES = (
    golden_gpt.cases,
    golden_basic.cases,
    golden_conv.cases,
    golden_math.cases,
    golden_optim.cases,
    golden_vision.cases,
)


def cases() -> list[Case]:
    """Every kernel of training once."""
    return [case for part in CASES for case in part()]


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
