"""The program behind `p2ptrain devices`: lists devices, or puts one to the test, and may die of it.

    python -m p2ptrain.cli.device_trial list
    python -m p2ptrain.cli.device_trial test TITLE KERNEL_CACHE

It answers with JSON as cli/isolated.py says: `list` with an array of DeviceFacts, `test` with a
Trial. A device that fails is an answer; only a driver's crash or our own bug ends it otherwise.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p2ptrain.cli.isolated import take_stdout
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.selftest import self_test
from p2ptrain.device.survey import survey
from p2ptrain.errors import DeviceError
from p2ptrain.train.compression import check_quantizer
from p2ptrain.wire.limits import ANSWER_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Trial:
    """What came out of a self-test.

    passed          whether the device may contribute
    reason          why not; empty if it may
    seconds         time it took, kernels compiled if they were not in the cache
    checks          probes and kernels that agreed
    contracted_fma  whether its kernels spell fma as a*b+c
    tile            register tile of its matrix product, "naive" or, if it failed, ""
    """

    passed: bool
    reason: str
    seconds: float
    checks: int = 0
    contracted_fma: bool = False
    tile: str = ""


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments ask for and answer."""
    # What a driver prints lands in a file: a loop of error messages must not fill the disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (ANSWER_BYTES_MAX, ANSWER_BYTES_MAX))
    answer: Any
    with take_stdout() as result:
        match arguments:
            case ["list"]:
                answer = [asdict(facts) for facts in survey()]
            case ["test", title, cache]:
                answer = asdict(trial(title, Path(cache)))
            case _:
                sys.exit(__doc__)
        json.dump(answer, result)


def trial(title: str, cache: Path) -> Trial:
    """Hold one device to the arithmetic of the protocol, as training does before it begins."""
    begun = time.perf_counter()
    try:
        library = KernelLibrary(open_device(title, cache))
        report = self_test(Operations(library))
        check_quantizer(library)
    except DeviceError as error:
        return Trial(False, str(error), time.perf_counter() - begun)
    seconds = time.perf_counter() - begun
    return Trial(True, "", seconds, len(report.checks) + 1, report.contracted_fma, report.tile)


if __name__ == "__main__":
    main(sys.argv[1:])
