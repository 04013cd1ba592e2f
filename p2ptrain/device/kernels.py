"""Find, build and launch the OpenCL kernels of kernels/.

Theory of operation. A source file is read with its `#include "x.cl"` lines replaced by the files
they name, so that a path with spaces or a compiler without -I makes no difference. A program is
built once for each file and set of defines and kept; the driver keeps the compiled form on disk
(PoCL under POCL_CACHE_DIR).

A `Launch` is one kernel object, made when it is first enqueued, with its arguments set once: 1.5
microseconds to enqueue, against 8 when the arguments are set each time. A plan is a list of
launches that is replayed.

Fused multiply-add. Built-ins of pip's PoCL 3.0 are not inlined on some CPUs, where `fma()` costs
ten times what it should. There the kernels are built with -DCONTRACTED_FMA, which spells it as
a*b+c in a place where the compiler may contract it. That is allowed only after `contracts_fma`
has seen this device do so with the right bits.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from p2ptrain.device.opencl import Device, DeviceArray, LocalMemory
from p2ptrain.errors import DeviceError

Argument = DeviceArray | LocalMemory | np.int32 | np.uint32 | np.float32 | np.uint64 | np.int64

PACKAGE = Path(__file__).parents[1]
# In the wheel the kernels are beside the package's modules, in a checkout beside the package.
SOURCE_FOLDERS = (PACKAGE / "_kernels", PACKAGE.parent / "kernels")
INCLUDE = re.compile(r'^#include "([a-z_]+\.cl)"$', re.MULTILINE)
CONTRACTED_FMA = "CONTRACTED_FMA=1"
# Scalars of a launch that a plan sets anew at each step, by these names (Launch.varying):
#   slot                  which of the loaded steps: where its indices begin and its losses go
#   step                  which local step of the round, a part of the counter of random draws
#   noise_low, noise_high the round's key of random draws, as two uint32
VARYING = ("slot", "step", "noise_low", "noise_high")
# Files that nearly every run uses, one program where they are built without tunables: each program
# costs 25 ms when it comes from the driver's cache, and 100 ms when it is compiled.
TOGETHER = ("selftest", "elementwise", "reduce", "softmax_xent", "rng", "optim", "residual")
LOCAL_SIZE = 64  # of kernels with one work-item a value


def source_folder() -> Path:
    """The folder of the kernel sources, in a wheel or in a checkout.

    Raises:
      DeviceError  neither is there: the installation is damaged
    """
    for folder in SOURCE_FOLDERS:
        if (folder / "common.cl").is_file():
            return folder
    looked = " and ".join(str(folder) for folder in SOURCE_FOLDERS)
    raise DeviceError(f"the kernel sources are missing from {looked}; install p2ptrain again")


def read_source(*names: str) -> str:
    """The texts of kernels/<name>.cl, each included file in place of its first #include."""
    folder = source_folder()
    included: set[str] = set()

    def expand(file: str) -> str:
        if file in included:
            return ""
        included.add(file)
        return INCLUDE.sub(lambda match: expand(match[1]), (folder / file).read_text("utf-8"))

    return "\n".join(expand(f"{name}.cl") for name in names)


def files_of(file: str) -> tuple[str, ...]:
    """The files of the program that kernels/<file>.cl is built in without tunables."""
    return TOGETHER if file in TOGETHER else (file,)


def source_bytes(file: str) -> int:
    """Length of the source of that program, by which the time to compile it may be guessed."""
    return sum((source_folder() / f"{name}.cl").stat().st_size for name in files_of(file))


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel that may not have been built yet: its name, and what builds it."""

    name: str
    build: Callable[[], Any]


class Launch:
    """One kernel with its arguments and its geometry, ready to be enqueued again and again.

    The kernel is built when it is first needed: recording a plan compiles nothing, and says which
    kernels a run will want.
    """

    __slots__ = (
        "_arguments",
        "_global_size",
        "_kernel",
        "_local_size",
        "_queue",
        "_source",
        "tuned_as",
        "varying",
    )

    def __init__(
        self,
        queue: Any,
        source: Source,
        global_size: tuple[int, ...],
        local_size: tuple[int, ...],
        arguments: Sequence[Argument],
        varying: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.varying = varying
        self.tuned_as = ""  # the name of its operation in tiles.py, if tuning chooses its tile
        self._queue = queue
        self._source = source
        self._kernel: Any = None
        self._global_size = global_size
        self._local_size = local_size
        self._arguments = arguments  # keeps the arrays alive: OpenCL does not count their owners

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self._source.name

    @property
    def kernel(self) -> Any:
        """The kernel object with its arguments. Raises DeviceError if it does not build."""
        if self._kernel is None:
            kernel = self._source.build()
            for index, argument in enumerate(self._arguments):
                kernel.set_arg(index, _as_opencl(argument))
            self._kernel = kernel
        return self._kernel

    def set_scalar(self, index: int, value: np.int32 | np.uint32 | np.float32) -> None:
        """Give one scalar argument another value for the launches to come."""
        self.kernel.set_arg(index, value)

    def enqueue(self) -> None:
        """Put the launch into the queue, without waiting.

        Raises:
          DeviceError  it does not build, or the driver refuses it
        """
        kernel = self._kernel or self.kernel
        try:
            cl.enqueue_nd_range_kernel(self._queue, kernel, self._global_size, self._local_size)
        except cl.Error as error:
            raise DeviceError(f"kernel {self.name} cannot be launched: {error}") from error


class KernelLibrary:
    """The kernels of kernels/, built for one device as they are asked for."""

    def __init__(self, device: Device, contracted_fma: bool | None = None) -> None:
        """Bind to a device.

        Args:
          device          where the kernels run
          contracted_fma  None: a probe decides; a value forces it, which tests do
        """
        self.device = device
        self._contracted_fma = contracted_fma
        self._programs: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        self._used: set[str] = set()

    @property
    def used(self) -> frozenset[str]:
        """Every kernel that a launch was made of, as "file.kernel"."""
        return frozenset(self._used)

    @cached_property
    def contracted_fma(self) -> bool:
        """Whether kernels may spell a fused multiply-add as a*b+c on this device."""
        if self._contracted_fma is not None:
            return self._contracted_fma
        try:
            program = self._program("selftest", (CONTRACTED_FMA,))
        except DeviceError:
            return False  # a compiler without this pragma; fma() is always there
        return contracts_fma(self.device, program)

    def launch(
        self,
        kernel: str,
        global_size: tuple[int, ...],
        local_size: tuple[int, ...],
        arguments: Sequence[Argument],
        defines: Sequence[str] = (),
        varying: Mapping[str, int] = MappingProxyType({}),
    ) -> Launch:
        """A launch of one kernel.

        Args:
          kernel       "file.name": kernels/file.cl and the function in it
          global_size  work-items, a multiple of local_size in each dimension
          local_size   work-items of a group; few different ones, each is compiled at first use
          arguments    arrays, local memory and numpy scalars, in the kernel's order and types
          defines      "NAME=value" for the kernel's #ifndef tunables
          varying      index of each argument that a plan sets anew at each step, by its name
        """
        file, name = kernel.split(".")
        self._used.add(kernel)

        def make() -> Any:
            fused = (CONTRACTED_FMA,) if self.contracted_fma else ()
            program = self._program(file, (*defines, *fused))
            try:
                return cl.Kernel(program, name)
            except cl.Error as error:
                title = self.device.info.title
                raise DeviceError(f"kernel {kernel} cannot be made on {title}: {error}") from error

        queue = self.device.queue
        source = Source(name, make)
        return Launch(queue, source, global_size, local_size, arguments, varying)

    def _program(self, file: str, defines: tuple[str, ...]) -> Any:
        plain = not set(defines) - {CONTRACTED_FMA}
        files = files_of(file) if plain else (file,)
        if (files, defines) not in self._programs:
            self._programs[files, defines] = build(self.device, files, defines)
        return self._programs[files, defines]


def build(device: Device, files: tuple[str, ...], defines: tuple[str, ...]) -> Any:
    """Build one program of kernels/<file>.cl; no option that relaxes arithmetic is ever passed.

    Raises:
      DeviceError  with the compiler's log
    """
    options = ["-cl-std=CL1.2", *(f"-D{define}" for define in defines)]
    try:
        with warnings.catch_warnings():
            # The compiler's notes, such as on an unused static function, are for developers:
            # PYOPENCL_COMPILER_OUTPUT=1 and a build by hand show them.
            warnings.simplefilter("ignore", cl.CompilerWarning)
            return cl.Program(device.context, read_source(*files)).build(options)
    except cl.Error as error:
        raise DeviceError(
            f"kernels/{', '.join(files)}.cl does not build on {device.info.title}: {error}"
        ) from (error)


def contracts_fma(device: Device, program: Any) -> bool:
    """Whether this device fuses a*b+c where contraction is on, with the bits of a real fma.

    The inputs are such that a product rounded before the addition gives another sum: each
    a * b is 1 + 2^-11 + 2^-24 exactly, c is -(1 + 2^-11), and only a fused operation keeps 2^-24.

    Args:
      program  of selftest.cl, with contraction on
    """
    n = LOCAL_SIZE
    a = np.full(n, 1 + 2.0**-12, np.float32)
    c = np.full(n, -(1 + 2.0**-11), np.float32)
    out = device.zeros((n,))
    arguments = (device.upload(a), device.upload(a), device.upload(c), out)
    probe = Source("probe_fma", partial(cl.Kernel, program, "probe_fma"))
    Launch(device.queue, probe, (n,), (LOCAL_SIZE,), arguments).enqueue()
    return np.array_equal(out.read(), np.full(n, 2.0**-24, np.float32))


def ceil_to(count: int, multiple: int) -> int:
    """The least multiple that is not below count."""
    return -(-count // multiple) * multiple


def _as_opencl(argument: Argument) -> Any:
    if isinstance(argument, DeviceArray):
        return argument.handle
    if isinstance(argument, LocalMemory):
        return cl.LocalMemory(argument.nbytes)
    return argument


def run(launches: Sequence[Launch], result: DeviceArray) -> NDArray[Any]:
    """Enqueue launches in order and read one result; for self-tests and tests."""
    for launch in launches:
        launch.enqueue()
    return result.read()
