"""The energy of a run: the owner's tariff from a file, CPU seconds from the system."""

import subprocess
import sys
from pathlib import Path

import pytest

from p2ptrain.config_local import NodeConfig, node_config
from p2ptrain.errors import ConfigError
from p2ptrain.node.run_energy import cpu_seconds, event_of, read_tariff, run_energy
from p2ptrain.train.energy import Tariff


def config_with(folder: Path, text: str) -> NodeConfig:
    config = node_config(folder)
    config.config_path.mkdir(parents=True)
    (config.config_path / "config.toml").write_text(text, "utf-8")
    return config


def test_without_a_file_the_tariff_is_the_default(tmp_path: Path) -> None:
    assert read_tariff(node_config(tmp_path)) == Tariff()


def test_the_owner_states_watts_price_and_currency(tmp_path: Path) -> None:
    text = '[energy]\nwatts_per_core = 4\nprice_per_kwh = 0.5\ncurrency = "SEK"\n'
    assert read_tariff(config_with(tmp_path, text)) == Tariff(4, 0.5, "SEK")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[energy", "not valid TOML"),
        ("energy = 3", "energy is a section"),
        ("[energy]\nwatts = 3", "energy.watts: there is no such key; watts_per_core"),
        ("[energy]\nwatts_per_core = 'many'", "energy.watts_per_core = 'many': it is a number"),
        ("[energy]\nwatts_per_core = true", "it is a number"),
        ("[energy]\ncurrency = 3", "it is text"),
        ("[energy]\nprice_per_kwh = -1", "price_per_kwh = -1"),
        ("#" * 70_000, "longer than"),
    ],
)
def test_a_tariff_that_means_nothing_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_tariff(config_with(tmp_path, text))


def test_the_work_of_another_process_is_counted_while_it_runs_and_after() -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 0.15 <= cpu_seconds(child.pid) < 60
        before = run_energy(Tariff(), None).cpu_seconds
        assert run_energy(Tariff(), child.pid).cpu_seconds >= before + 0.15
        child.communicate(b"\n")
    assert run_energy(Tariff(), None).cpu_seconds >= before + 0.15
    assert cpu_seconds(child.pid) == 0


def test_the_event_states_what_the_figures_are_made_of() -> None:
    event = event_of(run_energy(Tariff(20.0, 0.4, "CHF"), None))
    assert set(event) == {
        "cpu_seconds", "kwh", "cost", "watts_per_core", "price_per_kwh", "currency",
    }  # fmt: skip
    assert event["currency"] == "CHF"
