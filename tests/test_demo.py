"""The demo, run as a newcomer runs it; its exported network judged by plain numpy."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from p2ptrain.cli.demo import ACCURACY_MIN, is_good
from p2ptrain.config import Recipe
from p2ptrain.data.assemble import Samples, assemble
from p2ptrain.data.shipped import DIGITS_LICENCE, recipe_path, seed_digits
from p2ptrain.node.local_swarm import peer_environment
from p2ptrain.node.rehearsal import NAMES, Outcome
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.digest import DIGEST_BYTES

DEMO_TIMEOUT_S = 240.0
RECIPE = Recipe.from_file(recipe_path("digits"))


def test_four_peers_train_digits_survive_a_kill_and_export_what_was_printed(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    command = [sys.executable, "-m", "p2ptrain.cli.main", "demo", "--json", "--out", str(model)]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=DEMO_TIMEOUT_S,
        check=False,
        env=peer_environment(),
    )
    assert ended.returncode == 0, ended.stderr
    printed = json.loads(ended.stdout)
    assert printed["accuracy"] >= ACCURACY_MIN
    assert printed["equal"]
    assert printed["killed"] == "one"
    survivors = [printed["peers"][name] for name in NAMES if name != "one"]
    assert len({peer["weights_sha256"] for peer in survivors}) == 1
    assert all(peer["finished"] and peer["rounds"] == RECIPE.rounds for peer in survivors)
    assert all(peer["contributed"] and peer["bytes_sent"] for peer in survivors)

    test = held_out(tmp_path)
    assert accuracy(load_file(model), test) == pytest.approx(printed["accuracy"], abs=1e-9)
    with safe_open(model, "np") as file:
        metadata = {key.removeprefix("p2ptrain."): value for key, value in file.metadata().items()}
    assert metadata["swarm_id"] == printed["swarm"]
    recipe = Recipe.from_canonical(bytes.fromhex(metadata["recipe"]), "the exported file")
    assert recipe.swarm_id == printed["swarm"]
    assert metadata["round"] == str(RECIPE.rounds)
    assert len(bytes.fromhex(metadata["certificate"])) == DIGEST_BYTES
    assert metadata["data_cid"] == RECIPE.data.cid
    assert metadata["licence"] == DIGITS_LICENCE


def held_out(folder: Path) -> Samples:
    """The fifth of the bundled digits that nobody trained on."""
    blocks = BlockStore(folder / "blocks")
    return assemble(seed_digits(blocks).manifest, "test", blocks.get)


def accuracy(network: dict[str, NDArray[np.float32]], samples: Samples) -> float:
    """A ReLU network evaluated with nothing but numpy: what anyone can do with the file."""
    values = samples.x.reshape(len(samples.x), -1).astype(np.float64) * RECIPE.data.scale
    layers = len(network) // 2
    for index in range(layers):
        values = values @ network[f"layer{index}.weight"].T + network[f"layer{index}.bias"]
        if index < layers - 1:
            values = np.maximum(values, 0)
    return float((values.argmax(axis=1) == samples.y).mean())


@pytest.mark.parametrize(
    ("lowest", "hashes", "good"),
    [
        (ACCURACY_MIN, {"a"}, True),
        (ACCURACY_MIN - 1 / 359, {"a"}, False),
        (1.0, {"a", "b"}, False),
    ],
)
def test_the_demo_is_good_with_the_accuracy_and_one_hash(
    lowest: float, hashes: set[str], good: bool
) -> None:
    outcome = Outcome("swarm", (), "one", Path("model"), lowest, frozenset(hashes), 1.0)
    assert is_good(outcome) is good
