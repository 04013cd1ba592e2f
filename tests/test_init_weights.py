"""A recipe that begins from weights: its name, and what strangers may have put into it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_files import (
    COUNT,
    FOUNDER,
    RECIPE,
    SHAPES,
    SOME,
    recipe_in,
    whole_file,
    with_value,
)

from p2ptrain.config import Recipe
from p2ptrain.data.weights import WeightsManifest, load_weights
from p2ptrain.errors import ConfigError
from p2ptrain.node.founding import found, tensors_of, weights_manifest, weights_reader
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.document import pack_document, unpack_document
from p2ptrain.wire.limits import CHUNK_BYTES_MAX
from p2ptrain.wire.peer_id import PeerId, peer_id_of

# --- the recipe ---------------------------------------------------------------------------------


def test_founding_puts_the_cid_in_the_place_of_the_path(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path / "blocks")
    recipe = recipe_in(tmp_path, whole_file(SOME))
    assert recipe.weights_path == tmp_path / "weights" / "model.safetensors"
    swarm = found(recipe, FOUNDER, blocks)
    canonical = blocks.get(swarm) or b""
    assert b"safetensors" not in canonical
    founded = Recipe.from_canonical(canonical)
    assert founded.founder.key == FOUNDER
    assert founded.model.init.startswith("bafkrei")
    manifest = weights_manifest(founded, blocks.get(Cid(founded.model.init)) or b"")
    expected = np.concatenate([tensor.ravel() for tensor in SOME.values()]).tobytes()
    assert weights_reader(manifest, blocks)() == expected
    assert found(recipe, FOUNDER, blocks) == swarm, "a founder may start again"
    written = Recipe.from_toml(RECIPE.replace("weights/model.safetensors", founded.model.init))
    assert found(written, FOUNDER, blocks) == swarm, "the CID may be written too"


def test_other_weights_are_another_swarm(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path / "blocks")
    one = found(recipe_in(tmp_path, whole_file(SOME)), FOUNDER, blocks)
    two = found(recipe_in(tmp_path, whole_file(with_value(7))), FOUNDER, blocks)
    three = found(Recipe.from_toml(RECIPE.replace("init = ", "# ")), FOUNDER, blocks)
    assert len({one, two, three}) == 3


def test_a_path_may_be_absolute_or_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for named, path in (("/data/a.safetensors", "/data/a.safetensors"),
                        ("~/a.safetensors", "/home/me/a.safetensors")):  # fmt: skip
        recipe = recipe_in(tmp_path, b"", RECIPE.replace("weights/model.safetensors", named))
        assert recipe.weights_path == Path(path)


@pytest.mark.parametrize("named", ["model.bin", "bafkrei", "Qmnope", " "])
def test_what_is_no_file_of_weights_and_no_cid_is_named(named: str) -> None:
    with pytest.raises(ConfigError, match=r"model.init = .*neither a .safetensors file nor a CID"):
        Recipe.from_toml(RECIPE.replace("weights/model.safetensors", named))


def test_a_canonical_recipe_names_no_file() -> None:
    tree = Recipe.from_toml(RECIPE.replace("init = ", "# ")).model_dump()
    tree["model"]["init"] = "/etc/model.safetensors"
    with pytest.raises(ConfigError, match="names a file; peers know weights by their CID"):
        Recipe.from_canonical(pack_document(tree))


def test_a_recipe_from_before_weights_is_not_canonical_any_more() -> None:
    tree = unpack_document(Recipe.from_toml(RECIPE.replace("init = ", "# ")).canonical)
    del tree["model"]["init"]
    with pytest.raises(ConfigError, match="not in canonical form"):
        Recipe.from_canonical(pack_document(tree))


# --- what others may have put into a recipe (rules and bytes: protocol/vectors/data.json) ---------


def manifest_in(blocks: BlockStore, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A manifest of SOME's weights, changed by somebody who writes his own."""
    values = np.concatenate([tensor.ravel() for tensor in SOME.values()])
    tree: dict[str, Any] = {
        "format": 1,
        "kind": "weights",
        "tensors": [[name, list(shape)] for name, shape in SHAPES.items()],
        "blocks": [blocks.put(values.tobytes())],
    }
    change(tree)
    return pack_document(tree)


HUGE = ["layer0.weight", [1 << 29]]
STRANGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "huge": (lambda t: t.update(tensors=[HUGE], blocks=t["blocks"] * 2048), "has shape"),
    "beyond all": (lambda t: t.update(tensors=[["x", [1 << 29] * 8]]), "1 blocks cannot hold"),
    "of another network": (lambda t: t.update(tensors=[["x", [17]]]), "it has besides 'x' .17."),
    "a data set": (lambda t: t.update(splits=[]), "names no manifest of weights: splits: "),
    "a long name": (lambda t: t.update(tensors=[["x" * 65, [17]]]), "of weights: tensors"),
    "an escape sequence": (lambda t: t.update(tensors=[["\x1b[2J", [17]]]), "tensors.*pattern"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), STRANGE.values(), ids=STRANGE.keys())
def test_a_manifest_that_is_not_of_this_network_is_refused_before_its_blocks_are_fetched(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    recipe = Recipe.from_toml(RECIPE)
    with pytest.raises(ConfigError, match=said) as caught:
        weights_manifest(recipe, manifest_in(BlockStore(tmp_path / "blocks"), change))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_manifest_longer_than_a_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than 1048576 bytes"):
        WeightsManifest.from_canonical(bytes(CHUNK_BYTES_MAX + 1))


def test_a_block_that_is_absent_or_another_one_is_refused(tmp_path: Path) -> None:
    content = manifest_in(BlockStore(tmp_path / "blocks"), lambda tree: None)
    manifest = weights_manifest(Recipe.from_toml(RECIPE), content)
    with pytest.raises(ConfigError, match="is not here"):
        load_weights(manifest, lambda cid: None)
    with pytest.raises(ConfigError, match="these are not the bytes of block"):
        load_weights(manifest, lambda cid: bytes(4 * COUNT))


def test_the_tensors_of_a_recipe_are_those_of_an_export() -> None:
    assert tensors_of(Recipe.from_toml(RECIPE)) == SHAPES
    assert list(tensors_of(Recipe.from_toml(RECIPE))) == list(SHAPES)


def test_another_founders_recipe_is_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, b"", RECIPE + f'[founder]\nkey = "{peer_id_of(b"x" * 32)}"\n')
    with pytest.raises(ConfigError, match="founded by another peer"):
        found(recipe, PeerId(FOUNDER), BlockStore(tmp_path / "blocks"))
