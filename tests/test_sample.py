"""`p2ptrain sample`: a trained network found in a home or in a file, and the text it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from p2ptrain.cli.export import tensors_in
from p2ptrain.cli.sample import command, first_token, shown
from p2ptrain.cli.trained import find_trained, newest_run
from p2ptrain.config import Recipe
from p2ptrain.config_local import NodeConfig, node_config
from p2ptrain.data.seeding import seed_dataset
from p2ptrain.data.shipped import recipe_path, seed_digits
from p2ptrain.data.text import TextOptions
from p2ptrain.data.tokenisers import BYTES, CHARACTERS, Tokeniser
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.errors import ConfigError
from p2ptrain.model.gpt import GptSpec
from p2ptrain.model.networks import network_of
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.checkpoint import Checkpoint, CheckpointStore
from p2ptrain.store.export import safetensors_bytes
from p2ptrain.train.next_token import NextToken
from p2ptrain.wire.digest import digest
from p2ptrain.wire.peer_id import peer_id_of

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)

TEXT = "to be, or not to be: that is the question\n" * 40
RECIPE = """
name = "{name}"
rounds = 5
[data]
cid = "{cid}"
[model]
{model}
[inner]
optimizer = "sgd"
learning_rate = 0.1
batch = 2
local_steps = 1
"""
GPT = 'kind = "gpt"\nblocks = 1\nheads = 3\nchannels = 9\ncontext = 7\nvocabulary = {vocabulary}'


@pytest.fixture(scope="module")
def operations() -> Operations:
    return Operations(KernelLibrary(open_device()))


@pytest.fixture(autouse=True)
def _no_lasting_cache(operations: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command names a cache of kernels to the driver, which lives in another test's home."""
    monkeypatch.setenv("POCL_CACHE_DIR", "")


def random_parameters(recipe: Recipe) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    layout = network_of(recipe).layout
    vector = np.zeros(layout.padded_size, np.float32)
    vector[: layout.size] = np.random.default_rng(5).normal(0, 0.5, layout.size)
    return vector


def keep_run(config: NodeConfig, recipe: Recipe, round_number: int = 3) -> Recipe:
    """Have a home in which a recipe was trained."""
    founded = recipe.founded_by(peer_id_of(bytes(32)))
    BlockStore(config.blocks_path).put(founded.canonical)
    block = digest("block", founded.name.encode())
    state = random_parameters(founded).tobytes()
    store = CheckpointStore(config.checkpoints_path(founded.swarm_id))
    store.save(Checkpoint(round_number, block, b"", b"", state))
    return founded


def text_run(home: Path, *, tokeniser: str = CHARACTERS, vocabulary: int = 0) -> Recipe:
    """The same, of a small GPT that learns TEXT."""
    config = node_config(home)
    path = home / "play.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(TEXT)
    seeded = seed_dataset(path, BlockStore(config.blocks_path), text=TextOptions(tokeniser))
    assert seeded.manifest.tokeniser is not None
    model = GPT.format(vocabulary=vocabulary or seeded.manifest.tokeniser.size)
    recipe = Recipe.from_toml(RECIPE.format(name="play", cid=seeded.cid, model=model))
    return keep_run(config, recipe)


def sampled(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


def test_the_logits_are_those_of_an_evaluation_whatever_stands_behind(
    operations: Operations,
) -> None:
    network = GptSpec(2, 3, 9, 7, 11)
    rng = np.random.default_rng(1)
    vector = np.zeros(network.layout.padded_size, np.float32)
    vector[: network.layout.size] = rng.normal(0, 0.3, network.layout.size)
    following = NextToken(operations, network, vector)
    text = rng.integers(0, 11, 7, np.uint8)
    rows = [following(text[:count]) for count in (1, 2, 3, 4, 5, 6, 7)]
    assert all(row.shape == (11,) and row.dtype == np.float32 for row in rows)
    following(text[::-1])
    again = [following(text[:count]) for count in (7, 4, 1)]
    for one, other in zip(again, (rows[6], rows[3], rows[0]), strict=True):
        assert one.tobytes() == other.tobytes()
    assert len({row.tobytes() for row in rows}) == 7


def test_the_newest_run_of_a_home_writes_the_same_text_for_the_same_seed(tmp_path: Path) -> None:
    recipe = text_run(tmp_path)
    common = ("--home", tmp_path, "--prompt", "to be", "--tokens", "20")
    text = sampled(*common)
    assert text.startswith("to be")
    assert len(text) == len("to be") + 20 + len("\n")
    assert set(text) <= set(TEXT)
    assert sampled(*common, "--seed", "0") == text
    assert sampled(*common, "--seed", "1") != text
    assert sampled(recipe.swarm_id, *common) == text
    found = json.loads(sampled(*common, "--json"))
    assert (found["prompt"], found["network"]) == ("to be", "round 3 of play")
    assert found["prompt"] + found["text"] + "\n" == text


def test_bytes_are_written_too_and_the_network_may_know_more_tokens(tmp_path: Path) -> None:
    text_run(tmp_path / "bytes", tokeniser=BYTES)
    found = json.loads(sampled("--home", tmp_path / "bytes", "--json", "-n", "20"))
    assert len(found["text"]) <= 20
    text_run(tmp_path / "more", vocabulary=200)
    assert set(sampled("--home", tmp_path / "more", "--temperature", "100", "-n", "20")) <= set(
        TEXT
    )


def weights_file(path: Path, run: Recipe, **inside: str) -> Path:
    """A file of the run's weights with these of the keys that an export has."""
    tensors = tensors_in(run, random_parameters(run).tobytes())
    header, bodies = safetensors_bytes(tensors, {f"p2ptrain.{k}": v for k, v in inside.items()})
    path.write_bytes(header + b"".join(bodies))
    return path


def test_a_file_with_its_vocabulary_inside_needs_nothing_of_a_home(tmp_path: Path) -> None:
    recipe = text_run(tmp_path / "home")
    inside = {"recipe": recipe.canonical.hex(), "tokeniser": CHARACTERS}
    file = weights_file(
        tmp_path / "all.safetensors", recipe, **inside, vocabulary="".join(sorted(set(TEXT)))
    )
    text = sampled("--home", tmp_path / "home", "-n", "12")
    assert sampled(file, "--home", tmp_path / "empty", "-n", "12") == text


@pytest.mark.parametrize(
    ("tokeniser", "vocabulary", "why"),
    [
        (CHARACTERS, "ba", "not in strictly ascending order"),
        (CHARACTERS, "", "vocabulary of 0 characters"),
        (CHARACTERS, "a\ud800", "surrogates not allowed"),
        (CHARACTERS, "".join(map(chr, range(32, 132))), "has 100"),
        (BYTES, "", "has 256"),
        ("words", "", "there is no tokeniser 'words'"),
    ],
    ids=["order", "none", "half a character", "many characters", "many bytes", "words"],
)
def test_a_vocabulary_in_a_file_that_cannot_be_its_networks_is_refused(
    tmp_path: Path, tokeniser: str, vocabulary: str, why: str
) -> None:
    recipe = text_run(tmp_path)
    inside = {"recipe": recipe.canonical.hex(), "tokeniser": tokeniser, "vocabulary": vocabulary}
    file = weights_file(tmp_path / "bad.safetensors", recipe, **inside)
    assert why in refused(file, "--home", tmp_path)


def test_a_file_of_another_network_is_refused_without_a_word_of_init(tmp_path: Path) -> None:
    recipe, other = text_run(tmp_path / "one"), text_run(tmp_path / "two", vocabulary=30)
    file = weights_file(tmp_path / "other.safetensors", other, recipe=recipe.canonical.hex())
    words = refused(file, "--home", tmp_path)
    assert "its tensors are not those of the recipe's network" in words
    assert "init" not in words


def test_an_exported_file_writes_what_the_run_writes(tmp_path: Path) -> None:
    recipe = text_run(tmp_path)
    common = ("--home", tmp_path, "-n", "12")
    whole = weights_file(tmp_path / "with.safetensors", recipe, recipe=recipe.canonical.hex())
    bare = weights_file(tmp_path / "bare.safetensors", recipe)
    text = sampled(*common)
    assert sampled(whole, *common) == text
    assert "--recipe" in refused(bare, *common)
    cid = recipe.data.cid
    (tmp_path / "play.toml").write_text(
        RECIPE.format(name="play", cid=cid, model=GPT.format(vocabulary=recipe.model.vocabulary))  # type: ignore[union-attr]
    )
    assert sampled(bare, "--recipe", tmp_path / "play.toml", *common) == text
    text_free = refused(whole, "--home", tmp_path / "elsewhere")
    assert "seed dataset" in text_free


def test_what_cannot_be_sampled_from_is_refused(tmp_path: Path) -> None:
    assert "no network was trained in this home" in refused("--home", tmp_path)
    recipe = text_run(tmp_path / "text")
    home = ("--home", tmp_path / "text")
    assert "'Z' is not in the vocabulary" in refused(*home, "--prompt", "ZZ")
    assert "--temperature" in refused(*home, "--temperature", "-1")
    assert "never been in the swarm" in refused(recipe.swarm_id, "--home", tmp_path)
    assert "cannot read" in refused("none.safetensors", *home)
    assert "its own" in refused(recipe.swarm_id, "--recipe", "x.toml", *home)


def test_a_network_that_classifies_writes_no_text(tmp_path: Path) -> None:
    config = node_config(tmp_path)
    seed_digits(BlockStore(config.blocks_path))
    keep_run(config, Recipe.from_file(recipe_path("digits")))
    assert "this network classifies" in refused("--home", tmp_path)


def test_a_run_without_a_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    config = node_config(tmp_path)
    recipe = text_run(tmp_path)
    assert newest_run(config) == recipe.swarm_id
    assert find_trained("", None, config).source == "round 3 of play"
    for path in config.checkpoints_path(recipe.swarm_id).glob("*.checkpoint"):
        path.write_bytes(path.read_bytes()[:-1])
    assert "no checkpoint" in refused("--home", tmp_path)


def test_what_would_steer_a_terminal_is_not_printed() -> None:
    assert shown("a\x1b[2Jb\x9bc\r\n\té中") == "a\ufffd[2Jb\ufffdc\n\té中"


def test_without_a_prompt_the_text_begins_behind_a_line() -> None:
    assert first_token(Tokeniser(BYTES)).tolist() == [10]
    assert first_token(Tokeniser(CHARACTERS, "\t\na")).tolist() == [1]
    assert first_token(Tokeniser(CHARACTERS, "ab")).tolist() == [0]
