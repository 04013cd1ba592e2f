"""What a device must show before its results may reach other peers.

Probes ask for the arithmetic that the kernels are built on: multiply-add fused where it is asked
for and nowhere else, denormal numbers kept. Then each kernel runs on a fixed input, and the hash
of its result is compared with kernels/golden.json. It takes about a second, most of it the
building of kernels, which the driver's cache saves the second time.
"""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.golden import cases, golden_hashes, result_hash
from p2ptrain.device.golden_inputs import finished
from p2ptrain.device.kernels import LOCAL_SIZE
from p2ptrain.device.operations import Operations
from p2ptrain.errors import DeviceError


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


def self_test(operations: Operations, files: frozenset[str] | None = None) -> SelfTestReport:
    """Hold a device to the protocol's arithmetic.

    Args:
      files  kernel files to try, such as those that a model uses, beside what all need; None: all

    Raises:
      DeviceError  with the first probe or kernel that gave other bits
    """
    title = operations.device.info.title
    golden = golden_hashes()
    checks: list[str] = []
    for name, (a, b, c, expected) in PROBES.items():
        if np.any(run_probe(operations, name, (a, b, c)) != np.float32(expected)):
            raise DeviceError(
                f"{title} fails the probe {name} of kernels/selftest.cl: its results would "
                "differ from the other peers'; choose another device with P2PTRAIN_DEVICE"
            )
        checks.append(name)
    for case in cases():
        if files is not None and case.file not in files | ALWAYS:
            continue
        if result_hash(case.run(operations)) != golden[case.name]:
            raise DeviceError(
                f"{title} computes kernel {case.name} with other bits than kernels/golden.json: "
                "its results would differ from the other peers'; choose another device with "
                "P2PTRAIN_DEVICE"
            )
        checks.append(case.name)
    tile = operations.tile
    tile_name = f"{tile.rows}x{tile.columns}" if tile else "naive"
    return SelfTestReport(title, operations.library.contracted_fma, tile_name, tuple(checks))


# One product rounded by itself loses the 2^-24 of (1 + 2^-12)^2, and so contraction shows; and a
# product of normal numbers may be denormal, which a device that flushes would make zero.
ALWAYS = frozenset({"selftest", "gemm", "elementwise", "reduce", "optim"})
PROBES = {
    "probe_contraction": (1 + 2.0**-12, 1 + 2.0**-12, -(1 + 2.0**-11), 0.0),
    "probe_denormal": (2.0**-100, 1.5 * 2.0**-30, 0.0, 1.5 * 2.0**-130),
}


def run_probe(
    operations: Operations, name: str, values: tuple[float, float, float]
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """A probe's results where every work-item has the same three values."""
    device = operations.device
    a, b, c = (device.upload(np.full(LOCAL_SIZE, value, np.float32)) for value in values)
    out = device.empty((LOCAL_SIZE,))
    size = (LOCAL_SIZE,)
    launch = operations.library.launch(f"selftest.{name}", size, size, (a, b, c, out))
    return finished([launch], out)
