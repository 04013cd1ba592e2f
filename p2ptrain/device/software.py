"""Whether the software behind an OpenCL device is free: a table, and what it rests on.

p2ptrain asks for nothing but free software, and a driver is the part of an OpenCL device that
a user can choose. A row is matched against what the driver says of itself; the first that fits
counts, and a driver of no row is called unknown rather than guessed at. "Free" is said of the
OpenCL library with its compiler: the firmware of most GPUs is not free in any case.

What the rows rest on is the licence file of each project: PoCL, rusticl and Clover (both Mesa),
Intel's compute-runtime (NEO) and Beignet, ROCm's ROCclr (AMD's driver says HSA for it, and PAL
or a list of CPU extensions for the closed ones), clvk, Oclgrind, VC4CL.
"""

from dataclasses import dataclass
from typing import Literal

Freedom = Literal["free", "proprietary", "unknown"]


@dataclass(frozen=True, slots=True)
class DriverNames:
    """What a driver says of itself.

    platform        name of the OpenCL platform
    vendor          vendor of the device
    driver_version  version of the device's driver
    """

    platform: str
    vendor: str
    driver_version: str


@dataclass(frozen=True, slots=True)
class Software:
    """What is known of a driver's licence.

    freedom  free, proprietary or unknown
    remark   the licence, or why it is not free, or what is not known
    """

    freedom: Freedom
    remark: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; each pattern must occur, in any case, in the driver's names."""

    platform: str
    software: Software
    vendor: str = ""
    driver_version: str = ""

    def fits(self, names: DriverNames) -> bool:
        """Whether a driver is the one that this row is about."""
        pairs = (
            (self.platform, names.platform),
            (self.vendor, names.vendor),
            (self.driver_version, names.driver_version),
        )
        return all(pattern.lower() in text.lower() for pattern, text in pairs)


def _free(licence: str) -> Software:
    return Software("free", licence)


def _closed(owner: str) -> Software:
    return Software("proprietary", owner)


POCL = "Portable Computing Language"
AMD = "AMD Accelerated Parallel Processing"
TABLE = (
    Row(POCL, _closed("PoCL is free (MIT), the CUDA driver under it is not"), vendor="NVIDIA"),
    Row(POCL, _free("PoCL, MIT")),
    Row("rusticl", _free("Mesa, MIT")),
    Row("Clover", _free("Mesa, MIT")),
    Row("Oclgrind", _free("Oclgrind, BSD-3-Clause")),
    Row("clvk", _free("clvk, Apache-2.0; ask your Vulkan driver too")),
    Row("OpenCL for the Raspberry Pi", _free("VC4CL, MIT")),
    Row("Intel Gen OCL Driver", _free("Beignet, LGPL-2.1-or-later")),
    Row("Intel(R) OpenCL Graphics", _free("Intel compute-runtime, MIT")),
    Row("Intel(R) OpenCL HD Graphics", _free("Intel compute-runtime, MIT")),
    Row("Intel(R) CPU Runtime", _closed("Intel's CPU runtime")),
    Row("Intel(R) FPGA Emulation Platform", _closed("Intel's oneAPI runtime")),
    Row("Intel(R) OpenCL", _closed("Intel's CPU runtime")),
    Row(AMD, _closed("AMD's PAL driver, not ROCm"), driver_version="PAL"),  # may say HSAIL too
    Row(AMD, _free("ROCm, MIT"), driver_version="HSA"),
    Row(AMD, _closed("AMD's own driver, not ROCm")),
    Row("NVIDIA CUDA", _closed("NVIDIA's driver")),
    Row("Apple", _closed("Apple's driver")),
    Row("ARM Platform", _closed("Arm's Mali driver")),
    Row("QUALCOMM", _closed("Qualcomm's driver")),
    Row("PowerVR", _closed("Imagination's driver")),
    Row("Vivante", _closed("VeriSilicon's driver")),
)
UNKNOWN = Software("unknown", "not in our table; see who publishes its source")


def software_behind(names: DriverNames) -> Software:
    """What is known of the licence of a driver."""
    return next((row.software for row in TABLE if row.fits(names)), UNKNOWN)
