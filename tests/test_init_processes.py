"""Swarms of processes that begin from an exported network, and recipes that cannot be begun."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file
from test_swarm_processes import contributions, recipe, story

from p2ptrain.config import Recipe
from p2ptrain.config_local import node_config
from p2ptrain.data.shipped import recipe_path
from p2ptrain.data.weights import WeightsManifest, load_weights
from p2ptrain.model.networks import network_of
from p2ptrain.node.founding import tensors_of
from p2ptrain.node.local_swarm import peer_environment
from p2ptrain.node.rehearsal import run_command
from p2ptrain.node.telemetry import number
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.peer_id import peer_id_of

ACCURACY_ALREADY = 0.93  # of the first network; after its own first round it had about 0.56
TIMEOUT_S = 60.0


def beginning_from(weights: str, original: Path, path: Path) -> Path:
    """The same recipe, begun from a file of weights."""
    text = original.read_text()
    assert '\n# init = "model.safetensors"' in text, "the recipes that come with it show the key"
    path.write_text(text.replace('\n# init = "model.safetensors"', f'\ninit = "{weights}"'))
    return path


async def export(home: Path, swarm: str, out: Path) -> None:
    await run_command("export", "--home", str(home), "--swarm", swarm, "--out", str(out))


async def test_a_swarm_begins_where_an_exported_network_has_come_to(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        original = recipe(tmp_path, rounds=60)
        one = await s.found(original)
        (first,) = await s.end_of(one)
        assert number(one.rounds[0]["accuracy"]) < ACCURACY_ALREADY < number(first["accuracy"])
        model = tmp_path / "weights" / "first.safetensors"
        await export(tmp_path / "one", str(first["swarm"]), model)
        tensors = load_file(model)
        assert metadata(model)["init_cid"] == ""

        again = beginning_from("weights/first.safetensors", original, tmp_path / "again.toml")
        home = s.home("two", with_data=True)
        two = await s.start("two", home, "--swarm", str(again), "--wait-for", "1")
        link = await s.link_of(two)
        three = await s.join("three", link)
        await s.until(lambda: min(contributions(two), contributions(three)) >= 3)
        assert number(two.rounds[0]["round"]) == 1
        assert number(two.rounds[0]["accuracy"]) > ACCURACY_ALREADY
        assert [event["what"] for event in s.said(three, "fetched")] == [
            "recipe", "manifest of the weights", "initial weights", "manifest", "data set"
        ]  # fmt: skip

        s.swarm.kill("three")
        model.unlink()  # from here on everything comes from the stores
        three = await s.join("three", link)
        ends = await s.end_of(two, three)
        assert "resumed" in three.latest
        assert ends[0]["weights_sha256"] == ends[1]["weights_sha256"]
        later = tmp_path / "later.safetensors"
        await export(tmp_path / "three", str(ends[1]["swarm"]), later)

    founded = Recipe.from_canonical(bytes.fromhex(metadata(later)["recipe"]))
    assert founded.model.init == metadata(later)["init_cid"]
    blocks = BlockStore(node_config(tmp_path / "three").blocks_path)
    manifest = WeightsManifest.from_canonical(blocks.get(Cid(founded.model.init)) or b"")
    flat = np.concatenate([tensors[name].ravel() for name in tensors_of(founded)])
    assert load_weights(manifest, blocks.get) == flat.tobytes()


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return {key.removeprefix("p2ptrain."): text for key, text in file.metadata().items()}


def join(home: Path, swarm: str) -> tuple[int, str]:
    """Run a peer that ends by itself: its exit code and what it said."""
    command = [sys.executable, "-m", "p2ptrain.cli.main", "join", "--json", "--home", str(home),
               "--listen", "/ip4/127.0.0.1/tcp/0", "--swarm", swarm]  # fmt: skip
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        env=peer_environment(),
    )  # fmt: skip
    events = [json.loads(line)["event"] for line in ended.stdout.splitlines()]
    assert "device" not in events, "nothing is trained, nor prepared for it"
    return ended.returncode, ended.stderr


def test_a_recipe_whose_file_of_weights_is_not_there_is_the_founders_mistake(
    tmp_path: Path,
) -> None:
    path = beginning_from("none.safetensors", recipe_path("digits"), tmp_path / "recipe.toml")
    code, words = join(tmp_path / "home", str(path))
    assert code == 3
    assert f"{tmp_path / 'none.safetensors'} cannot be used as weights: there is no" in words
    assert "Correct init in the recipe's [model]" in words


def test_a_strangers_recipe_with_weights_that_are_not_finite_is_not_begun(tmp_path: Path) -> None:
    recipe = Recipe.from_file(recipe_path("digits")).founded_by(peer_id_of(bytes(32)))
    blocks = BlockStore(node_config(tmp_path).blocks_path)
    values = np.full(network_of(recipe).layout.size, np.nan, "<f4")
    manifest = WeightsManifest(
        tensors=tuple(tensors_of(recipe).items()), blocks=(blocks.put(values.tobytes()),)
    )
    trap = recipe.with_init(blocks.put(manifest.canonical))
    code, words = join(tmp_path, blocks.put(trap.canonical))
    assert code == 3
    assert "holds a value that is not finite" in words
    assert "ask its founder for another" in words
