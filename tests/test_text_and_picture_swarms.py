"""Swarms of processes that learn a text, and pictures by convolutions: the same bits on each peer.

The stories are those of test_swarm_processes.py: nothing sleeps, each step waits for an event.
"""

import math
from pathlib import Path

from test_swarm_processes import ALONE, Story, story

from p2ptrain.config import Recipe
from p2ptrain.config_local import node_config
from p2ptrain.data.seeding import seed_dataset
from p2ptrain.data.shipped import recipe_path
from p2ptrain.data.text import TextOptions
from p2ptrain.data.tokenisers import CHARACTERS
from p2ptrain.node.local_swarm import Event
from p2ptrain.node.rehearsal import run_command
from p2ptrain.node.telemetry import number
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import Cid

TEXT = "to be, or not to be: that is the question.\n" * 60
VOCABULARY = "".join(sorted(set(TEXT)))
TEXT_RECIPE = f"""
name = "question"
rounds = 3
[data]
cid = "CID"
[model]
kind = "gpt"
blocks = 1
heads = 3
channels = 24
context = 11
vocabulary = {len(VOCABULARY)}
dropout = 0.1
[inner]
optimizer = "adamw"
learning_rate = 0.02
schedule = "cosine"
warmup_steps = 5
weight_decay = 0.1
clip_norm = 1.0
batch = 5
local_steps = 20
[averaging]
shard_values = 4096
"""

PICTURE_RECIPE = f"""
name = "pictures"
rounds = 8
[data]
cid = "{Recipe.from_file(recipe_path("digits")).data.cid}"
scale = 0.0625
mean = [0.3]
deviation = [0.4]
crop_padding = 1
flip = true
[model]
kind = "convnet"
input = [8, 8, 1]
layers = [
  "conv 3x3 8", "norm 4", "relu",
  "residual 8 groups 4",
  "global-pool", "linear 10",
]
[inner]
optimizer = "adamw"
learning_rate = 0.02
beta2 = 0.99
batch = 32
local_steps = 50
[averaging]
shard_values = 4096
[[phases]]
rounds = 2
size = 4
"""


def text_home(s: Story, name: str) -> tuple[Path, Cid]:
    """A home that has the text."""
    home = s.home(name)
    path = s.folder / "question.txt"
    path.write_text(TEXT)
    blocks = BlockStore(node_config(home).blocks_path)
    return home, seed_dataset(path, blocks, text=TextOptions(CHARACTERS)).cid


async def trained_by_two(s: Story, founder_home: Path, recipe: Path) -> list[Event]:
    """Found a swarm, have a second peer join it before it trains, and see it to its end."""
    one = await s.start("one", founder_home, "--swarm", str(recipe), "--wait-for", "1")
    await s.until(lambda: "device" in one.latest)  # kernels that are not built yet are built once
    two = await s.join("two", await s.link_of(one))
    ends = await s.end_of(one, two)
    assert all(number(end["contributed"]) >= 1 for end in ends), "both have taken part"
    assert ends[0]["weights_sha256"] == ends[1]["weights_sha256"]
    return ends


async def test_two_peers_learn_a_text_and_anyone_can_sample_what_they_export(
    tmp_path: Path,
) -> None:
    async with story(tmp_path) as s:
        home, cid = text_home(s, "one")
        path = tmp_path / "question.toml"
        path.write_text(TEXT_RECIPE.replace("CID", cid))
        first, _ = await trained_by_two(s, home, path)
        losses = [number(event["loss"]) for event in s.swarm.peers["one"].rounds]
        file, two, empty = tmp_path / "question.safetensors", tmp_path / "two", s.home("empty")
        exported = await run_command(
            "export", "--home", str(two), "--swarm", str(first["swarm"]), "--out", str(file)
        )
        sampled = await run_command(
            "sample", str(file), "--prompt", "to be", "-n", "12", "--home", str(empty)
        )
    assert len(losses) == first["rounds"] == 3
    assert losses[-1] < losses[0] < math.log(len(VOCABULARY))
    assert exported["p2ptrain.tokeniser"] == CHARACTERS
    assert exported["p2ptrain.vocabulary"] == VOCABULARY
    text = str(sampled["text"])
    assert len(text) == 12
    assert set(text) <= set(VOCABULARY)


async def test_two_peers_learn_pictures_by_convolutions(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        path = tmp_path / "pictures.toml"
        path.write_text(PICTURE_RECIPE)
        first, _ = await trained_by_two(s, s.home("one", with_data=True), path)
        rounds = s.swarm.peers["one"].rounds
    assert number(first["rounds"]) == 8
    assert number(first["loss"]) < 0.8 * number(rounds[0]["loss"])
    assert number(first["accuracy"]) > 0.5 > number(rounds[0]["accuracy"])


async def test_a_founder_of_text_without_data_is_told_of_the_plays(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        home = s.home("founder")
        swarm = str(recipe_path("shakespeare-char"))
        await s.swarm.start(s.nursery, "founder", home, *ALONE, "--swarm", swarm)
        founder = s.swarm.peers["founder"]
        assert await s.code_of(founder) == 3
        assert "'tinyshakespeare' for the bundled plays" in "\n".join(founder.stderr)
