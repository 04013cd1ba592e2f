"""What a run has cost this peer: CPU seconds of its processes, and the owner's tariff.

The tariff stands in config.toml in the config folder, which need not be there:

    [energy]
    watts_per_core = 10.0   # what a computing core draws, its share of the rest included
    price_per_kwh = 0.30
    currency = "EUR"
"""

import os
import time
import tomllib
from dataclasses import asdict
from pathlib import Path

from p2ptrain.config_local import NodeConfig
from p2ptrain.errors import ConfigError
from p2ptrain.train.energy import Energy, Tariff, energy_of

CONFIG_BYTES_MAX = 1 << 16  # a page of settings
UTIME_FIELD, STIME_FIELD = 11, 12  # of /proc/PID/stat behind the name, in clock ticks


def read_tariff(config: NodeConfig) -> Tariff:
    """The owner's tariff; the default one where there is no file. Raises ConfigError."""
    path = config.config_path / "config.toml"
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return Tariff()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}.\nCheck its permissions."
        ) from None
    if len(text) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path} is longer than {CONFIG_BYTES_MAX} bytes; is it a config file?")
    try:
        section = tomllib.loads(text.decode("utf-8")).get("energy", {})
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    allowed = {"watts_per_core": (int, float), "price_per_kwh": (int, float), "currency": (str,)}
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: energy is a section: [energy]")
    for key, value in section.items():
        if key not in allowed:
            raise ConfigError(f"{path}: energy.{key}: there is no such key; {', '.join(allowed)}")
        if not isinstance(value, allowed[key]) or isinstance(value, bool):
            kind = "text" if key == "currency" else "a number"
            raise ConfigError(f"{path}: energy.{key} = {value!r}: it is {kind}")
    return Tariff(**section)


def run_energy(tariff: Tariff, compute_pid: int | None) -> Energy:
    """What this process and the compute process have used up since they were started.

    Args:
      compute_pid  of the compute process that runs; those that have ended are counted anyway
    """
    ended = os.times()
    running = cpu_seconds(compute_pid) if compute_pid is not None else 0.0
    children = ended.children_user + ended.children_system
    return energy_of(time.process_time() + children + running, tariff)


def event_of(energy: Energy) -> dict[str, float | str]:
    """The figures of the event "energy"."""
    return {
        "cpu_seconds": round(energy.cpu_seconds, 3),
        "kwh": energy.kwh,
        "cost": energy.cost,
        **asdict(energy.tariff),
    }


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a running process, all its threads together; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[UTIME_FIELD]) + int(fields[STIME_FIELD])) / os.sysconf("SC_CLK_TCK")
