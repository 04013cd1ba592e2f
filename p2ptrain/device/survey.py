"""Every OpenCL device of this machine, in words and numbers, for people and for `--json`.

Asking is enough to load every driver that is installed, and a broken one may crash or hang in
that: cli/devices.py does it in a process of its own.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pyopencl as cl

from p2ptrain.device.opencl import choose, find_devices, wanted_device
from p2ptrain.device.software import DriverNames, Freedom, software_behind

Kind = Literal["cpu", "gpu", "accelerator", "other"]
KINDS: tuple[tuple[int, Kind], ...] = (
    (cl.device_type.CPU, "cpu"),
    (cl.device_type.GPU, "gpu"),
    (cl.device_type.ACCELERATOR, "accelerator"),
)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device; sizes in bytes, names as the driver gives them.

    title                 what `join --device` takes
    chosen                whether p2ptrain computes on it unless told otherwise
    allocation_bytes_max  the largest single buffer
    local_bytes           local memory of a work-group
    freedom, licence      what is known of the driver's licence (software.py)
    """

    title: str
    name: str
    vendor: str
    kind: Kind
    platform: str
    platform_version: str
    driver_version: str
    opencl_version: str
    opencl_c_version: str
    compute_units: int
    memory_bytes: int
    allocation_bytes_max: int
    local_bytes: int
    freedom: Freedom
    licence: str
    chosen: bool


def survey() -> list[DeviceFacts]:
    """The facts of every device of every platform; empty where there is no driver."""
    found = find_devices()
    chosen = choose([info for _, info in found], wanted_device(None))
    return [_facts(handle, info.title, i == chosen) for i, (handle, info) in enumerate(found)]


def _facts(handle: Any, title: str, chosen: bool) -> DeviceFacts:
    platform = handle.platform.name.strip()
    names = DriverNames(platform, handle.vendor.strip(), handle.driver_version.strip())
    software = software_behind(names)
    return DeviceFacts(
        title=title,
        name=handle.name.strip(),
        vendor=names.vendor,
        kind=next((kind for bit, kind in KINDS if handle.type & bit), "other"),
        platform=platform,
        platform_version=handle.platform.version.strip(),
        driver_version=names.driver_version,
        opencl_version=handle.version.strip(),
        opencl_c_version=handle.opencl_c_version.strip(),
        compute_units=handle.max_compute_units,
        memory_bytes=handle.global_mem_size,
        allocation_bytes_max=handle.max_mem_alloc_size,
        local_bytes=handle.local_mem_size,
        freedom=software.freedom,
        licence=software.remark,
        chosen=chosen,
    )
