"""One OpenCL device: choice, context, queue and arrays. The only importer of pyopencl.

A device is opened once by the compute process. Every command goes into one in-order queue, so
launches need no events: a read waits for all that was enqueued before it, and `finish` for
everything.

Unless it is asked for another, p2ptrain computes on a CPU through PoCL (Portable Computing
Language), because every user has it from pip and its bits were checked. A selector, from an
argument or from P2PTRAIN_DEVICE, is a part of "platform version / platform name / device name",
or "gpu" or "cpu". Platforms are told apart by their version, since two PoCLs share one name, and
a platform that has no device (Mesa's Clover shows one) is skipped. A whole title names its device
even if it is a part of another's, and of equal devices all but the first have a number behind.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyopencl as cl
from numpy.typing import DTypeLike, NDArray

from p2ptrain.device.linker import use_bundled_linker
from p2ptrain.errors import DeviceError

SELECTOR_VARIABLE = "P2PTRAIN_DEVICE"
INSTALL_HINT = "install one with: pip install 'pyopencl[pocl]'"


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What a device is, in words and numbers.

    name              as the driver gives it
    platform_name     the OpenCL implementation
    platform_version  its version; with the name it identifies the implementation
    is_cpu            whether it is a CPU
    compute_units     cores of a CPU, multiprocessors of a GPU
    local_bytes       local memory of a work-group
    driver_version    of the device's driver
    ordinal           1, or which one it is of several that are equal in all names
    """

    name: str
    platform_name: str
    platform_version: str
    is_cpu: bool
    compute_units: int
    local_bytes: int
    driver_version: str = ""
    ordinal: int = 1

    @property
    def title(self) -> str:
        """What a selector is matched against, and what status shows."""
        number = f" #{self.ordinal}" if self.ordinal > 1 else ""
        return f"{self.platform_version} / {self.platform_name} / {self.name}{number}"


@dataclass(frozen=True, slots=True)
class LocalMemory:
    """A kernel argument: local memory of that many bytes for each work-group."""

    nbytes: int


class DeviceArray:
    """A C-ordered array in the device's memory."""

    def __init__(
        self,
        device: "Device",
        shape: tuple[int, ...],
        dtype: DTypeLike,
        lent: NDArray[Any] | None = None,
    ) -> None:
        self.device = device
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.size = int(np.prod(shape, dtype=np.int64))
        self.nbytes = self.size * self.dtype.itemsize
        # OpenCL has no empty buffers, and an empty array is still a legal argument of a kernel.
        self.handle = device.allocate(max(self.nbytes, 4), lent)

    def viewed_as(self, shape: tuple[int, ...], dtype: DTypeLike) -> "DeviceArray":
        """The same memory, or its beginning, as an array of another shape and type."""
        view = DeviceArray.__new__(DeviceArray)
        view.device, view.handle = self.device, self.handle
        view.shape, view.dtype = shape, np.dtype(dtype)
        view.size = int(np.prod(shape, dtype=np.int64))
        view.nbytes = view.size * view.dtype.itemsize
        if view.nbytes > self.nbytes:
            raise ValueError(f"{view.nbytes} bytes seen in an array of {self.nbytes}")
        return view

    def write(self, values: NDArray[Any]) -> None:
        """Copy values to the device; they may be changed afterwards.

        Args:
          values  of this array's dtype and size
        """
        host = np.ascontiguousarray(values)
        if host.dtype != self.dtype or host.size != self.size:
            raise ValueError(
                f"{host.dtype} x {host.size} written to an array of {self.dtype} x {self.size}"
            )
        if self.nbytes:
            self.device.copy(self.handle, host)

    def read(self) -> NDArray[Any]:
        """Wait for the work enqueued so far and copy the array to the host."""
        host = np.empty(self.shape, self.dtype)
        if self.nbytes:
            self.device.copy(host, self.handle)
        return host


class Device:
    """An open device with its context and its one in-order queue."""

    def __init__(self, handle: Any, info: DeviceInfo) -> None:
        self.info = info
        try:
            self.context = cl.Context([handle])
            self.queue = cl.CommandQueue(self.context)
        except cl.Error as error:
            raise DeviceError(f"{self.info.title} cannot be opened: {error}") from error

    def allocate(self, nbytes: int, lent: NDArray[Any] | None = None) -> Any:
        """A buffer of the device's memory, of undefined content.

        Args:
          lent  memory of the host to use in place of its own, read only

        Raises:
          DeviceError  the device has not enough memory
        """
        flags = cl.mem_flags
        try:
            if lent is not None:
                return cl.Buffer(self.context, flags.READ_ONLY | flags.USE_HOST_PTR, hostbuf=lent)
            return cl.Buffer(self.context, flags.READ_WRITE, nbytes)
        except cl.Error as error:
            raise DeviceError(f"{self.info.title} gives no {nbytes} bytes: {error}") from error

    def copy(self, destination: Any, source: Any) -> None:
        """Copy between host and device and wait until it is done."""
        try:
            cl.enqueue_copy(self.queue, destination, source, is_blocking=True)
        except cl.Error as error:
            raise DeviceError(f"{self.info.title} failed at a copy: {error}") from error

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> DeviceArray:
        """An array of undefined content."""
        return DeviceArray(self, shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> DeviceArray:
        """An array of zeros."""
        return self.upload(np.zeros(shape, dtype))

    def upload(self, values: NDArray[Any]) -> DeviceArray:
        """A new array with the shape, dtype and content of a host array."""
        array = DeviceArray(self, values.shape, values.dtype)
        array.write(values)
        return array

    def borrow(self, values: NDArray[Any]) -> DeviceArray:
        """An array that kernels only read, with the content of a host array.

        A CPU works in the host's own memory, so that a data set is not held twice: whoever lends
        values keeps them alive and as they are. Other devices get a copy.
        """
        lent = np.ascontiguousarray(values)
        if not self.info.is_cpu or not lent.nbytes:
            return self.upload(lent)
        return DeviceArray(self, lent.shape, lent.dtype, lent)

    def flush(self) -> None:
        """Have the device begin with what is enqueued, without waiting for it."""
        self.queue.flush()

    def finish(self) -> None:
        """Wait until everything that was enqueued is done."""
        try:
            self.queue.finish()
        except cl.Error as error:
            raise DeviceError(f"{self.info.title} failed: {error}") from error


def describe(handle: Any) -> DeviceInfo:
    """The facts of a pyopencl device."""
    return DeviceInfo(
        name=handle.name.strip(),
        platform_name=handle.platform.name.strip(),
        platform_version=handle.platform.version.strip(),
        is_cpu=bool(handle.type & cl.device_type.CPU),
        compute_units=handle.max_compute_units,
        local_bytes=handle.local_mem_size,
        driver_version=handle.driver_version.strip(),
    )


def open_device(selector: str | None = None, cache: Path | None = None) -> Device:
    """Open the device that the selector names, else the first PoCL CPU, else any CPU.

    Args:
      selector  part of a device's title, or "cpu" or "gpu"; default: $P2PTRAIN_DEVICE
      cache     where PoCL keeps compiled kernels; only heeded before the first device is opened

    Raises:
      DeviceError  no device at all, or none that the selector names; the text lists what exists
    """
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        os.environ["POCL_CACHE_DIR"] = str(cache)
    use_bundled_linker()
    found = find_devices()
    if not found:
        raise DeviceError(f"no OpenCL device was found; {INSTALL_HINT}")
    wanted = wanted_device(selector)
    index = choose([info for _, info in found], wanted)
    if index is None:
        titles = "\n  ".join(info.title for _, info in found)
        asked = f'named "{wanted}"' if wanted else "that is a CPU (ask for another by its name)"
        raise DeviceError(f"no OpenCL device {asked}; there are:\n  {titles}")
    return Device(*found[index])


def wanted_device(selector: str | None) -> str:
    """The selector that is asked for: the argument, else P2PTRAIN_DEVICE, else none ("")."""
    return selector if selector is not None else os.environ.get(SELECTOR_VARIABLE, "")


def choose(devices: Sequence[DeviceInfo], selector: str) -> int | None:
    """Index of the device that a selector opens: a whole title, else PoCL, else the first."""
    matching = [index for index, info in enumerate(devices) if is_selected(info, selector)]
    exact = selector.strip().lower()

    def rank(index: int) -> tuple[bool, bool]:
        info = devices[index]
        return info.title.lower() != exact, "pocl" not in info.platform_version.lower()

    return min(matching, key=rank, default=None)  # the first of equals


def find_devices() -> list[tuple[Any, DeviceInfo]]:
    """Every device as a pyopencl object and its facts, equal ones numbered."""
    seen: Counter[str] = Counter()
    found: list[tuple[Any, DeviceInfo]] = []
    for handle in device_handles():
        info = describe(handle)
        seen[info.title] += 1
        found.append((handle, replace(info, ordinal=seen[info.title])))
    return found


def device_handles() -> list[Any]:
    """Every device of every platform that has one, as pyopencl objects."""
    try:
        platforms = cl.get_platforms()
    except cl.LogicError:  # PLATFORM_NOT_FOUND_KHR: there is a loader, and no driver
        return []
    handles: list[Any] = []
    for platform in platforms:
        try:
            handles.extend(platform.get_devices())
        except cl.RuntimeError:  # DEVICE_NOT_FOUND: Clover without hardware
            continue
    return handles


def is_selected(info: DeviceInfo, selector: str) -> bool:
    """Whether a selector names this device; the empty one names every CPU."""
    wanted = selector.strip().lower()
    if wanted in ("", "cpu"):
        return info.is_cpu
    if wanted == "gpu":
        return not info.is_cpu
    return wanted in info.title.lower()
