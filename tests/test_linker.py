"""Kernels are built without the system's linker: a newcomer's machine has none."""

import os
import subprocess
import sys
from pathlib import Path

BUILD_AND_RUN = """
import numpy as np
from pathlib import Path
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.selftest import self_test
device = open_device("pocl 3.0", cache=Path({cache!r}))
print(len(self_test(Operations(KernelLibrary(device))).checks))
"""


def test_pocl_links_with_tinycc_and_the_kernels_keep_their_bits(tmp_path: Path) -> None:
    """A linker that fails when it is called is proof enough."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "ld").write_text("#!/bin/sh\nexit 1\n")
    (trap / "ld").chmod(0o755)
    code = BUILD_AND_RUN.format(cache=str(tmp_path / "cache"))
    # clang takes the first ld that COMPILER_PATH leads to: ours must stand before the trap.
    environment = {**os.environ, "COMPILER_PATH": str(trap)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10
