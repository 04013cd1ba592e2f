"""`p2ptrain devices`: the OpenCL devices of this machine, and which of them may contribute.

Theory of operation. Nothing here loads a driver: the list is made by a process of its own, and
each device is held to the protocol's arithmetic by another (cli/device_trial.py), so that a
driver that crashes or hangs costs its own line and no more. If listing itself dies, one of the
installed drivers does it to every OpenCL program on this machine; then each is loaded alone, to
find out which, and the rest is shown all the same. OCL_ICD_VENDORS tells the loader which to load.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from p2ptrain.cli.isolated import Died, ask
from p2ptrain.cli.options import Home, Json
from p2ptrain.config_local import node_config
from p2ptrain.errors import DeviceError
from p2ptrain.store.atomic import make_folder
from p2ptrain.wire.limits import LISTING_TIMEOUT_S, SELFTEST_TIMEOUT_S

PROGRAM = "p2ptrain.cli.device_trial"  # not imported: it loads pyopencl
VENDORS_VARIABLE = "OCL_ICD_VENDORS"
VENDORS_FOLDER = Path("/etc/OpenCL/vendors")
BUNDLED = "a driver inside the package pyopencl"
WITHOUT_DRIVER = """\
no OpenCL driver was found on this machine.
For the CPU: pip install 'pyopencl[pocl]' brings PoCL along, as the lock file does; or, on Debian,
apt install pocl-opencl-icd. For a GPU with free drivers: mesa-opencl-icd (with RUSTICL_ENABLE set
to the name of its driver), intel-opencl-icd, or ROCm's rocm-opencl-icd; your user may have to be in
the group render."""


@dataclass(frozen=True, slots=True)
class Found:
    """One device, and the environment in which its driver can be loaded."""

    facts: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Broken:
    """A driver that takes down whoever loads it: where it is named, and what became of the try."""

    icd: str
    reason: str


def command(
    selftest: Annotated[
        bool, typer.Option("--selftest/--no-selftest", help="Hold each device to the arithmetic.")
    ] = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the OpenCL devices, and say which of them compute with the bits of the protocol."""
    cache = node_config(home).kernels_path
    make_folder(cache)
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    progress.print("looking for OpenCL devices ...")
    devices, broken = list_devices(cache)
    trials: list[dict[str, Any]] = []
    for number, device in enumerate(devices if selftest else (), start=1):
        progress.print(f"self-test {number} of {len(devices)}: {device.facts['title']} ...")
        trials.append(put_to_the_test(device, cache))
    if as_json:
        typer.echo(as_object(devices, trials, broken))
    else:
        out = Console(highlight=False, markup=False, soft_wrap=True)
        for index, device in enumerate(devices):
            out.print("\n".join(words_for(device.facts, trials[index] if trials else None)))
        if devices:
            out.print("join with one of them:  p2ptrain join --device 'TITLE or a part of it' ...")
    check_usable(devices, trials, broken)


def list_devices(cache: Path) -> tuple[list[Found], list[Broken]]:
    """All devices, and the drivers that crash or hang when they are loaded.

    Raises:
      DeviceError  the list cannot be made, and no driver is to blame
    """
    listed = ask(PROGRAM, ["list"], LISTING_TIMEOUT_S, {})
    if not isinstance(listed, Died):
        return [Found(facts) for facts in listed], []
    devices: list[Found] = []
    broken: list[Broken] = []
    # The first is a folder without an .icd in it: then pyopencl's own PoCL alone is loaded.
    tried = [cache, *icd_files(os.environ)]
    for icd in tried:
        environment = {VENDORS_VARIABLE: str(icd)}
        alone = ask(PROGRAM, ["list"], LISTING_TIMEOUT_S, environment)
        if isinstance(alone, Died):
            broken.append(Broken(str(icd) if icd != cache else BUNDLED, alone.reason))
        else:
            devices += [Found(facts, environment) for facts in alone]
    if len(broken) in (0, len(tried)):
        raise DeviceError(f"the OpenCL devices cannot be listed: {explain(listed)}")
    return devices, broken


def icd_files(environment: Mapping[str, str]) -> list[Path]:
    """The files that name the installed drivers, sorted; empty if there are none."""
    named = Path(environment.get(VENDORS_VARIABLE) or VENDORS_FOLDER)
    return sorted(named.glob("*.icd")) if named.is_dir() else [named] if named.exists() else []


def put_to_the_test(device: Found, cache: Path) -> dict[str, Any]:
    """A Trial as a mapping, `died` added: whether the driver crashed or hung in it."""
    arguments = ["test", device.facts["title"], str(cache)]
    trial = ask(PROGRAM, arguments, SELFTEST_TIMEOUT_S, device.environment)
    if isinstance(trial, Died):
        return {"passed": False, "died": True, "reason": explain(trial)}
    return {**trial, "died": False}


def explain(died: Died) -> str:
    """How a process ended, with its last line of stderr, which mostly says why."""
    last_line = died.last_words.rpartition("\n")[2]
    return f"{died.reason}: {last_line}" if last_line else died.reason


def check_usable(devices: list[Found], trials: list[dict[str, Any]], broken: list[Broken]) -> None:
    """Raises DeviceError if p2ptrain could compute with none of the devices as things are."""
    if broken:
        lines = "\n".join(f"  {each.icd}: {each.reason}" for each in broken)
        raise DeviceError(
            "an OpenCL driver takes down every program that asks for devices, p2ptrain too.\n"
            f"{lines}\nRemove or mend it, or name a folder of .icd files without it: "
            f"export {VENDORS_VARIABLE}=FOLDER"
        )
    if not devices:
        raise DeviceError(WITHOUT_DRIVER)
    if trials and not any(trial["passed"] for trial in trials):
        raise DeviceError(
            "no OpenCL device passed the self-test, so none may contribute.\n"
            "PoCL on the CPU does: pip install 'pyopencl[pocl]'"
        )


def as_object(devices: list[Found], trials: list[dict[str, Any]], broken: list[Broken]) -> str:
    """The JSON object of --json; selftest is null where none was made."""
    rows = [
        {**device.facts, "selftest": trials[index] if trials else None}
        for index, device in enumerate(devices)
    ]
    unloadable = [{"icd": each.icd, "reason": each.reason} for each in broken]
    return json.dumps({"devices": rows, "broken_drivers": unloadable})


def words_for(facts: Mapping[str, Any], trial: Mapping[str, Any] | None) -> list[str]:
    """Lines about one device; the first is its title alone, to be copied."""
    free = {"free": "free software", "proprietary": "not free software"}
    units = facts["compute_units"]
    lines = [
        facts["title"],
        f"    {facts['kind'].upper()} of {facts['vendor']}, {units} compute "
        f"unit{'' if units == 1 else 's'}, {_gigabytes(facts['memory_bytes'])} of memory, "
        f"{_gigabytes(facts['allocation_bytes_max'])} in one buffer",
        f"    driver {facts['driver_version']}, {facts['opencl_c_version']}; "
        f"{free.get(facts['freedom'], 'licence unknown')} ({facts['licence']})",
    ]
    if trial is not None:
        lines.append(f"    self-test: {_verdict(trial)}")
    if facts["chosen"]:
        lines.append("    this one is taken unless --device or P2PTRAIN_DEVICE names another")
    return lines


def _verdict(trial: Mapping[str, Any]) -> str:
    if trial["passed"]:
        return f"passed, {trial['checks']} checks in {trial['seconds']:.1f} s; it may contribute"
    return f"{'DIED' if trial['died'] else 'FAILED'}: {trial['reason']}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
