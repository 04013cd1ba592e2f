"""What a device must show before its results may reach other peers.

Probes ask for the arithmetic that the kernels are built on: multiply-add fused where it is asked
for and nowhere else, denormal numbers kept. Then each kernel runs on a fixed input, and the hash
of its result is compared with kernels/golden.json. It takes about a second, most of it the
building of kernels, which the driver's cache saves the second time.

    python -m p2ptrain.device.selftest [--device PART_OF_TITLE] [--plain-fma] [--untuned] [--json]

prints a line for each probe and kernel, and ends with code 1 if one of them differs.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.golden import cases, golden_hashes, result_hash
from p2ptrain.device.golden_inputs import finished
from p2ptrain.device.kernels import LOCAL_SIZE, KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.errors import DeviceError

# One product rounded by itself loses the 2^-24 of (1 + 2^-12)^2, and so contraction shows; and a
# product of normal numbers may be denormal, which a device that flushes would make zero.
PROBES = {
    "probe_contraction": (1 + 2.0**-12, 1 + 2.0**-12, -(1 + 2.0**-11), 0.0),
    "probe_denormal": (2.0**-100, 1.5 * 2.0**-30, 0.0, 1.5 * 2.0**-130),
}
ABSENT = "nothing in kernels/golden.json"
HASH_DIGITS = 64
SHOWN_DIGITS = 16  # of a hash in the table; --json has all of it


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """What was found of a device that passed.

    device          its title
    contracted_fma  whether kernels spell fma as a*b+c on it
    tile            the register tile of its matrix product, or "naive"
    checks          names of the probes and kernels that agreed
    """

    device: str
    contracted_fma: bool
    tile: str
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One probe or kernel and what came out.

    file     kernels/<file>.cl
    found    SHA-256 of the result, or what went wrong; of a probe the first value
    wanted   the same of a device that agrees
    seconds  it took, with the building of a kernel that was not built yet
    """

    file: str
    name: str
    found: str
    wanted: str
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether the device has the protocol's bits here."""
        return self.found == self.wanted

    @property
    def is_probe(self) -> bool:
        """Whether it asks for plain arithmetic, on which all kernels stand."""
        return self.name in PROBES


def self_test(operations: Operations, kernels: frozenset[str] | None = None) -> SelfTestReport:
    """Hold a device to the protocol's arithmetic.

    Args:
      kernels  "file.kernel" of each that a run uses; None: try all there are

    Raises:
      DeviceError  with the probes that gave other bits, else with the kernels that did
    """
    title = operations.device.info.title
    checks: list[Check] = []
    for check in run_checks(operations, kernels):
        if not check.is_probe and any(not earlier.agrees for earlier in checks if earlier.is_probe):
            break  # a device without the right arithmetic has no right kernel
        checks.append(check)
    wrong = [check for check in checks if not check.agrees]
    if wrong:
        raise DeviceError(
            f"{title} {_accusation(wrong)}: its results would differ from the other peers'; "
            "choose another device with P2PTRAIN_DEVICE"
        )
    names = tuple(check.name for check in checks)
    return SelfTestReport(title, operations.library.contracted_fma, tile_name(operations), names)


def run_checks(operations: Operations, kernels: frozenset[str] | None = None) -> Iterator[Check]:
    """Each probe and then each kernel on its fixed input, as they are done.

    Args:
      kernels  as for self_test
    """
    for name, (a, b, c, expected) in PROBES.items():
        begun = time.perf_counter()
        result = run_probe(operations, name, (a, b, c))
        wrong = result[result != np.float32(expected)]
        found = repr(float(wrong[0] if wrong.size else result[0]))
        wanted = repr(float(np.float32(expected)))
        yield Check("selftest", name, found, wanted, time.perf_counter() - begun)
    golden = golden_hashes()
    for case in cases(kernels):
        begun = time.perf_counter()
        try:
            found = result_hash(case.run(operations))
        except DeviceError as error:
            found = str(error).strip().partition("\n")[0]
        yield Check(
            case.file, case.name, found, golden.get(case.name, ABSENT), time.perf_counter() - begun
        )


def run_probe(
    operations: Operations, name: str, values: tuple[float, float, float]
) -> NDArray[np.float32]:
    """A probe's results where every work-item has the same three values."""
    device = operations.device
    a, b, c = (device.upload(np.full(LOCAL_SIZE, value, np.float32)) for value in values)
    out = device.empty((LOCAL_SIZE,))
    size = (LOCAL_SIZE,)
    launch = operations.library.launch(f"selftest.{name}", size, size, (a, b, c, out))
    return finished([launch], out)


def tile_name(operations: Operations) -> str:
    """The register tile of the matrix product in words."""
    tile = operations.tile
    return f"{tile.rows}x{tile.columns}" if tile else "naive"


def _accusation(wrong: Sequence[Check]) -> str:
    if wrong[0].is_probe:
        found = ", ".join(
            f"{check.name} (gives {check.found}, not {check.wanted})" for check in wrong
        )
        return f"fails the probe{'s' * (len(wrong) > 1)} {found} of kernels/selftest.cl"
    failed = [check for check in wrong if len(check.found) != HASH_DIGITS]
    if failed:
        return f"fails at kernel {failed[0].name} ({failed[0].found})"
    names = ", ".join(check.name for check in wrong)
    return (
        f"computes kernel{'s' * (len(wrong) > 1)} {names} with other bits than kernels/golden.json"
    )


def main(arguments: Sequence[str]) -> int:
    """Print what run_checks finds; returns the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", help="part of a device's title; default: $P2PTRAIN_DEVICE")
    parser.add_argument("--plain-fma", action="store_true", help="with the built-in fma")
    parser.add_argument("--untuned", action="store_true", help="with the simple kernels")
    parser.add_argument("--json", action="store_true", help="one JSON object, hashes in full")
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    library = KernelLibrary(open_device(options.device), False if options.plain_fma else None)
    operations = Operations(library)
    if options.untuned:
        operations.tile = None
    head = {
        "device": operations.device.info.title,
        "contracted_fma": library.contracted_fma,
        "tile": tile_name(operations),
    }
    checks: list[Check] = []
    if not options.json:
        _say(", ".join(f"{key} {value}" for key, value in head.items()))
    for check in run_checks(operations):
        checks.append(check)
        if not options.json:
            verdict = "agrees" if check.agrees else f"DIFFERS, wanted {check.wanted[:SHOWN_DIGITS]}"
            shown = check.found[:SHOWN_DIGITS] if len(check.found) == HASH_DIGITS else check.found
            _say(f"{check.file:14} {check.name:28} {shown:18} {check.seconds:6.2f} s  {verdict}")
    differing = sum(not check.agrees for check in checks)
    seconds = time.perf_counter() - begun
    if options.json:
        rows = [{**asdict(check), "agrees": check.agrees} for check in checks]
        _say(json.dumps({**head, "seconds": seconds, "differing": differing, "checks": rows}))
    else:
        _say(f"{len(checks)} checks in {seconds:.2f} s, {differing} of them differ")
    return 1 if differing else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
