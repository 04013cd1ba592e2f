"""Tuning: tiles by the name of an operation, in a file; speed alone may depend on them."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from p2ptrain.cli.main import app
from p2ptrain.cli.tune import run_trial
from p2ptrain.config_layers import parse_layer
from p2ptrain.data.shipped import recipe_path
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.products import Tile, best_tile
from p2ptrain.device.tiles import TileChoices, read_tiles, tiles_content, tiles_path
from p2ptrain.errors import DeviceError
from p2ptrain.model.batches import Network
from p2ptrain.model.convnet import ConvNetSpec
from p2ptrain.model.gpt import GptSpec
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.train.local import Trainer, TrainingData, open_operations
from p2ptrain.train.optimizers import InnerConfig
from p2ptrain.train.tuning import tune

DEVICE = open_device()
LIBRARY = KernelLibrary(DEVICE)
DEFAULT = best_tile(LIBRARY)
LAYERS = ("conv 3x3 9", "relu", "max-pool 2", "residual 8 stride 2", "global-pool", "linear 3")
CONVNET = ConvNetSpec((9, 7, 2), tuple(map(parse_layer, LAYERS)))

needs_tiles = pytest.mark.skipif(DEFAULT is None, reason="this device has no tiled kernels")


def stepped(network: Network, operations: Operations) -> tuple[bytes, list[str]]:
    """The bits of two steps, and the names of what tuning may choose tiles for."""
    samples = 12
    if network.inputs:
        x = np.linspace(-1, 1, samples * network.inputs, dtype=np.float32).reshape(samples, -1)
        y = (np.arange(samples) % network.classes).astype(np.int32)
        data = TrainingData(x, y, x, y)
    else:
        text, none = (np.arange(60) % 5).astype(np.uint8), np.empty(0, np.int32)
        data = TrainingData(text, none, text, none)
    trainer = Trainer(operations, network, InnerConfig(batch=5), data, 1)
    indices = np.arange(10, dtype=np.int32).reshape(2, 5)
    result = trainer.pseudo_gradient(trainer.initial_parameters(), indices)
    names = {launch.tuned_as for launch in trainer.plan().launches if launch.tuned_as}
    return result.gradient.tobytes(), sorted(names)


@needs_tiles
@pytest.mark.parametrize(
    "network", [ModelSpec((5, 33, 3)), CONVNET, GptSpec(1, 2, 10, 7, 5)], ids=["mlp", "conv", "gpt"]
)
def test_chosen_tiles_are_used_and_change_no_bit(network: Network) -> None:
    assert DEFAULT is not None
    plain = Operations(LIBRARY)
    expected, names = stepped(network, plain)
    assert names
    other = Tile(3, 1, DEFAULT.width)
    chosen = Operations(LIBRARY, None, dict.fromkeys(names, other))
    assert stepped(network, chosen) == (expected, names)
    assert all(chosen.tiles.of(name) == other for name in names)


@needs_tiles
def test_tuning_measures_every_product_and_finds_tiles_that_can_be_kept(tmp_path: Path) -> None:
    assert DEFAULT is not None
    lines: list[str] = []
    tuned = tune(LIBRARY, DEFAULT, ModelSpec((8, 16, 3)), 4, 0.5, lines.append)
    assert tuned.measured == (
        "gemm 4x16x8 rc", "gemm 4x3x16 rc", "gemm 3x16x4 cr", "gemm 4x16x3 rr", "gemm 16x8x4 cr",
    )  # fmt: skip
    assert set(tuned.tiles) <= set(tuned.measured)
    assert tuned.best_s <= tuned.default_s
    assert lines
    path = tiles_path(tmp_path, DEVICE.info)
    path.write_bytes(tiles_content(DEVICE.info.title, tuned.tiles))
    assert read_tiles(path, DEFAULT.width) == tuned.tiles
    assert open_operations(DEVICE, tmp_path).tiles.chosen == tuned.tiles


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '{"tiles": 3}', '{"tiles": {"a": [0, 2]}}', '{"tiles": {"a": [8, 99]}}',
        '{"tiles": {"a": [8]}}', '{"tiles": {"a": "8x2"}}', '{"tiles": {"a": [true, null]}}',
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_leaves_the_default_tiles(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tiles.json"
    path.write_text(content)
    assert read_tiles(path, 8) == {}
    assert TileChoices(Tile(6, 2, 8), read_tiles(path, 8)).of("a") == Tile(6, 2, 8)


def test_each_device_has_a_file_of_its_own(tmp_path: Path) -> None:
    info = DEVICE.info
    first = tiles_path(tmp_path, info)
    assert first == tiles_path(tmp_path, info)
    others = [
        type(info)(**{**{s: getattr(info, s) for s in info.__slots__}, **change})
        for change in ({"driver_version": "other"}, {"compute_units": 99}, {"name": "other"})
    ]
    assert len({first, *(tiles_path(tmp_path, other) for other in others)}) == 4


@needs_tiles
def test_the_command_keeps_what_it_found(tmp_path: Path) -> None:
    ran = CliRunner().invoke(
        app,
        ["tune", str(recipe_path("digits")), "--seconds", "1", "--home", str(tmp_path), "--json"],
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["sweeps"] >= 3
    assert json.loads(Path(found["path"]).read_text())["device"] == DEVICE.info.title


def test_a_driver_that_crashes_while_tuning_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that measures is killed the way a driver's abort ends it."""
    (tmp_path / "sitecustomize.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"crashed or hung.*\n.*default tiles"):
        run_trial(["", "1", "", ""], 30, {}, None)  # type: ignore[arg-type]


def test_what_cannot_be_tuned_is_said(tmp_path: Path) -> None:
    arguments = ["tune", str(recipe_path("digits")), "--device", "no such device"]
    ran = CliRunner().invoke(app, [*arguments, "--home", str(tmp_path)])
    assert isinstance(ran.exception, DeviceError)
    assert "no such device" in str(ran.exception)
    assert not list(tmp_path.rglob("tiles-*.json"))
