"""The commands, run as people run them: arguments in; text, exit code and files out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from typer.testing import CliRunner

from p2ptrain.cli.export import rounds_until
from p2ptrain.cli.main import app, report
from p2ptrain.config import ARITHMETIC, Recipe
from p2ptrain.config_local import NodeConfig, node_config
from p2ptrain.data.shipped import DIGITS_PATH, RECIPES, recipe_path, seed_digits
from p2ptrain.errors import (
    ConfigError,
    DeviceError,
    P2PTrainError,
    RemoteProtocolError,
    StoreError,
)
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.checkpoint import Checkpoint, CheckpointStore
from p2ptrain.store.lock import home_lock
from p2ptrain.store.transcript import Transcript
from p2ptrain.wire.cid import Cid, cid_of
from p2ptrain.wire.codec import block_digest, certificate_digest, pack
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.messages import CLOSE, ROUND, Block, Certificate, Entry
from p2ptrain.wire.peer_id import peer_id_of
from p2ptrain.wire.statements import Norm2

FOUNDER = peer_id_of(bytes(32))
DIGITS_CID = Recipe.from_file(recipe_path("digits")).data.cid


def ran(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


# --- seed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["digits", str(DIGITS_PATH)])
def test_seeding_the_digits_prints_the_cid_of_their_recipe(tmp_path: Path, path: str) -> None:
    said = ["--name", "digits", "--licence", "CC-BY-4.0"] if path != "digits" else []
    text = ran("seed", "dataset", path, *said, "--once", "--home", tmp_path)
    for expected in ("1,438 train, 359 test", "u1 [8, 8]", "10 classes", f'cid = "{DIGITS_CID}"'):
        assert expected in text
    assert BlockStore(node_config(tmp_path).blocks_path).has(Cid(DIGITS_CID))


def test_seeding_can_answer_in_json(tmp_path: Path) -> None:
    found = json.loads(ran("seed", "dataset", "digits", "--once", "--json", "--home", tmp_path))
    assert found["cid"] == DIGITS_CID
    assert found["splits"] == {"train": 1438, "test": 359}


def test_seeding_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    text = refused("seed", "dataset", tmp_path / "none", "--once", "--home", tmp_path)
    assert "not a file or a folder" in text


def test_a_home_in_use_is_not_written_to(tmp_path: Path) -> None:
    with home_lock(node_config(tmp_path).state_path):
        text = refused("seed", "dataset", "digits", "--once", "--home", tmp_path)
    assert "another p2ptrain" in text


# --- init, identity, version -----------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_init_writes_a_recipe_that_is_valid(tmp_path: Path, name: str) -> None:
    out = tmp_path / "recipe.toml"
    assert f"join --swarm {out}" in ran("init", name, "-o", out).replace("\n", "")
    assert Recipe.from_file(out).name == name


def test_init_overwrites_only_when_told_to(tmp_path: Path) -> None:
    out = tmp_path / "recipe.toml"
    out.write_text("mine")
    assert "--force" in refused("init", "-o", out)
    assert out.read_text() == "mine"
    ran("init", "-o", out, "--force")
    assert Recipe.from_file(out).name == "digits"


def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    first = json.loads(ran("identity", "--json", "--home", tmp_path))
    assert first["peer_id"].startswith("12D3KooW")
    assert json.loads(ran("identity", "--json", "--home", tmp_path)) == first
    assert first["peer_id"] in ran("identity", "--home", tmp_path)


def test_the_version_names_the_arithmetic() -> None:
    assert f"(arithmetic {ARITHMETIC})" in ran("--version")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["init", "cifar"], ["seed", "dataset"], ["export"], ["init", "--no-such"]],
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    ran(*arguments, code=2)


# --- export ----------------------------------------------------------------------------------


def certificate(parent: Digest, kind: int, view: int) -> Certificate:
    entry = Entry(FOUNDER, digest("commit", bytes([view])), 160, Norm2(1), digest("reveal"), 1)
    block = Block(parent, kind, (entry,) if kind == ROUND else (), (), (), ())
    return Certificate(view, block, ZERO_DIGEST, digest("state"), ())


def trained_home(home: Path) -> tuple[NodeConfig, Recipe, list[Certificate]]:
    """A home after a run of two rounds and a closing block; its state is 0, 1, 2, ..."""
    config = node_config(home)
    blocks = BlockStore(config.blocks_path)
    seed_digits(blocks)
    recipe = Recipe.from_file(recipe_path("digits")).founded_by(FOUNDER)
    blocks.put(recipe.canonical)
    chain: list[Certificate] = []
    parent = digest("genesis")
    for view, kind in enumerate((ROUND, ROUND, CLOSE), start=1):
        chain.append(certificate(parent, kind, view))
        parent = block_digest(chain[-1].block)
    with Transcript(config.transcript_path(recipe.swarm_id)) as transcript:
        transcript.append_all([("certificate", block_digest(c.block), pack(c)) for c in chain])
    return config, recipe, chain


def save_final(config: NodeConfig, recipe: Recipe, final: Certificate, state: bytes) -> None:
    store = CheckpointStore(config.checkpoints_path(recipe.swarm_id))
    block = block_digest(final.block)
    store.save(Checkpoint(2, block, pack(final), b"", state))
    store.mark_final(block)


def test_an_export_is_the_final_network_with_its_provenance(tmp_path: Path) -> None:
    config, recipe, chain = trained_home(tmp_path)
    parameters = np.arange(20480, dtype="<f4")  # 19,210 parameters, padded to 5 x 4096
    momentum = np.ones(20480, "<f4")
    save_final(config, recipe, chain[1], parameters.tobytes() + momentum.tobytes())
    out = tmp_path / "model.safetensors"
    text = ran("export", "--swarm", recipe.swarm_id, "--out", out, "--home", tmp_path)
    assert "round 2 of digits" in text
    tensors = load_file(out)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "layer0.weight": (256, 64),
        "layer0.bias": (256,),
        "layer1.weight": (10, 256),
        "layer1.bias": (10,),
    }
    assert tensors["layer0.bias"][0] == 64 * 256
    with safe_open(out, "numpy") as file:
        metadata = file.metadata()
    assert metadata["p2ptrain.swarm_id"] == recipe.swarm_id
    assert metadata["p2ptrain.certificate"] == certificate_digest(chain[1]).hex()
    assert metadata["p2ptrain.licence"] == "CC-BY-4.0"
    assert metadata["p2ptrain.data_cid"] == DIGITS_CID
    assert cid_of(bytes.fromhex(metadata["p2ptrain.recipe"])) == recipe.swarm_id


def test_an_export_can_answer_in_json_and_takes_a_link(tmp_path: Path) -> None:
    config, recipe, chain = trained_home(tmp_path)
    save_final(config, recipe, chain[0], bytes(4 * 20480))
    link = f"p2ptrain:{recipe.swarm_id}?peer=/ip4/192.0.2.1/tcp/1"
    out = tmp_path / "m"
    found = json.loads(ran("export", "--swarm", link, "--out", out, "--home", tmp_path, "--json"))
    assert found["p2ptrain.round"] == "1"
    assert found["tensors"]["layer1.weight"] == [10, 256]
    assert found["bytes"] == out.stat().st_size


def test_an_export_without_a_final_network_says_what_is_missing(tmp_path: Path) -> None:
    config, recipe, chain = trained_home(tmp_path)
    where = ("--out", tmp_path / "m", "--home", tmp_path)
    assert "no round" in refused("export", "--swarm", recipe.swarm_id, *where)
    assert "never been in" in refused("export", "--swarm", cid_of(b"other"), *where)
    assert "link" in refused("export", "--swarm", "nonsense", *where)
    save_final(config, recipe, chain[1], bytes(400))
    assert "does not hold the network" in refused("export", "--swarm", recipe.swarm_id, *where)
    assert not (tmp_path / "m").exists()


def test_rounds_are_counted_on_the_branch_that_was_taken(tmp_path: Path) -> None:
    trunk = certificate(digest("genesis"), ROUND, 1)
    left = certificate(block_digest(trunk.block), ROUND, 2)
    taken = certificate(block_digest(trunk.block), ROUND, 3)
    with Transcript(tmp_path / "t") as transcript:
        for one in (trunk, left):
            transcript.append("certificate", block_digest(one.block), pack(one))
        transcript.append("switch", block_digest(trunk.block), b"")
        transcript.append("certificate", block_digest(taken.block), pack(taken))
        assert rounds_until(transcript, block_digest(taken.block)) == 2
        assert rounds_until(transcript, block_digest(trunk.block)) == 1
        with pytest.raises(ConfigError, match="not in the transcript"):
            rounds_until(transcript, block_digest(left.block))


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("what: why.\nwhat to do [now]"), 3),
        (StoreError("what: why.\nwhat to do [now]"), 4),
        (DeviceError("what: why.\nwhat to do [now]"), 5),
        (RemoteProtocolError("peer", "rule 1", "why.\nwhat to do [now]"), 6),
    ],
)
def test_an_error_is_said_in_words_and_by_its_exit_code(
    capsys: pytest.CaptureFixture[str], error: P2PTrainError, code: int
) -> None:
    assert report(error) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.endswith("\nwhat to do [now]\n")


def test_a_command_that_fails_exits_with_its_code_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "p2ptrain.cli.main", "init", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
