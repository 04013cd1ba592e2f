"""Data sets as chunks: equal bytes everywhere, every byte checked. protocol/data.md."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2ptrain.config import Recipe
from p2ptrain.config_model import MlpSection
from p2ptrain.data.assemble import Samples, assemble, check_fits, model_inputs
from p2ptrain.data.chunks import chunk_count, cut_records, permutation
from p2ptrain.data.manifest import Manifest
from p2ptrain.data.records import Array, Split, checked
from p2ptrain.data.seeding import load_manifest, seed_dataset
from p2ptrain.data.shipped import DIGITS_PATH, recipe_path, seed_digits
from p2ptrain.data.text import TextOptions
from p2ptrain.errors import ConfigError, StoreError
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import Cid, cid_of
from p2ptrain.wire.document import pack_document, unpack_document
from p2ptrain.wire.limits import CHUNK_BYTES_MAX


@pytest.fixture
def blocks(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


def test_the_digits_have_the_cid_that_their_recipe_names(blocks: BlockStore) -> None:
    seeded = seed_digits(blocks)
    recipe = Recipe.from_file(recipe_path("digits"))
    assert seeded.cid == recipe.data.cid
    assert isinstance(recipe.model, MlpSection)
    check_fits(seeded.manifest, recipe.model.layers)


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not here")
def test_the_fashion_recipe_names_what_debians_files_give(blocks: BlockStore) -> None:
    seeded = seed_dataset(FASHION, blocks, licence="MIT")
    assert seeded.cid == Recipe.from_file(recipe_path("fashion")).data.cid


def test_seeding_twice_changes_nothing(blocks: BlockStore) -> None:
    first = seed_digits(blocks)
    used = blocks.bytes_used
    assert seed_digits(blocks) == first
    assert blocks.bytes_used == used


def test_the_digits_come_back_whole_one_in_five_held_out(blocks: BlockStore) -> None:
    manifest = load_manifest(blocks, seed_digits(blocks).cid)
    train, test = (assemble(manifest, name, blocks.get) for name in ("train", "test"))
    assert (len(train.x), len(test.x)) == (1438, 359)
    source = np.load(DIGITS_PATH)
    order = permutation(1797)
    assert np.array_equal(np.concatenate([train.x, test.x]), source["X"][order])
    assert train.y is not None
    assert test.y is not None
    assert np.array_equal(np.concatenate([train.y, test.y]), source["y"][order])
    # A fair sample: every class is in the held-out part about as often as in the whole.
    assert np.abs(np.bincount(test.y) / 359 - np.bincount(source["y"]) / 1797).max() < 0.04


def test_the_fixed_permutation_is_the_specified_one() -> None:
    assert permutation(8).tolist() == [5, 2, 7, 4, 0, 6, 3, 1]
    assert sorted(permutation(1000).tolist()) == list(range(1000))


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["u1", "<i2", "<i4", "<f4"]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=12),
        elements=st.integers(0, 100),
    )
)
def test_any_records_come_back_bit_for_bit(x: Array) -> None:
    records = checked("x", [Split("train", x, None), Split("test", x[:1], None)])
    order = permutation(len(x))
    cuts = list(cut_records(records))
    assert len(cuts) == chunk_count(records)
    assert b"".join(cut.content for cut in cuts if cut.split == "train") == x[order].tobytes()


def test_chunks_are_full_but_for_the_last_and_never_too_large() -> None:
    x = np.zeros((2500, 1000), np.uint8)
    records = checked("x", [Split("train", x, np.zeros(2500, np.int64))])
    cuts = list(cut_records(records))
    assert [(cut.split, cut.records) for cut in cuts] == [
        ("train", 1047),
        ("train", 953),
        ("test", 500),
    ]
    assert all(len(cut.content) == cut.records * 1001 <= CHUNK_BYTES_MAX for cut in cuts)


def test_the_name_and_the_licence_are_part_of_the_cid(blocks: BlockStore) -> None:
    cids = {
        seed_dataset(DIGITS_PATH, blocks, name=name, licence=licence).cid
        for name in ("a", "b")
        for licence in ("MIT", "CC0-1.0")
    }
    assert len(cids) == 4


@pytest.mark.parametrize("words", [{"name": "a/b"}, {"name": "\n"}, {"licence": "\x1b[31m"}])
def test_words_that_could_harm_a_terminal_are_refused(
    blocks: BlockStore, words: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="--"):
        seed_dataset(DIGITS_PATH, blocks, **words)  # type: ignore[arg-type]


def test_progress_ends_at_the_number_of_chunks(blocks: BlockStore) -> None:
    seen: list[tuple[int, int]] = []
    seed_digits(blocks, lambda stored, total: seen.append((stored, total)))
    assert seen == [(1, 2), (2, 2)]


def test_a_chunk_that_is_missing_or_changed_is_not_assembled(blocks: BlockStore) -> None:
    manifest = seed_digits(blocks).manifest
    content = {cid: blocks.get(cid) for cid in manifest.chunk_cids}
    with pytest.raises(ConfigError, match="is not here"):
        assemble(manifest, "train", lambda _: None)
    changed = {cid: bytes(c or b"")[:-1] + b"\x01" for cid, c in content.items()}
    with pytest.raises(ConfigError, match="not the bytes"):
        assemble(manifest, "train", changed.get)
    with pytest.raises(ConfigError, match="no split 'validation'"):
        assemble(manifest, "validation", blocks.get)


@pytest.mark.parametrize(
    ("dtype", "content", "said"),
    [
        ("u1", b"\1\1\0", "3 bytes for 1 records"),
        ("u1", b"\1\x03", "label 3 of 3 classes"),
        ("<f4", b"\0\0\xc0\x7f\0", "not finite"),
    ],
)
def test_a_chunk_that_breaks_its_manifest_is_its_authors_mistake(
    dtype: str, content: bytes, said: str
) -> None:
    tree = {
        "format": 1,
        "name": "x",
        "licence": "",
        "order": "kept",
        "record": {"dtype": dtype, "shape": [1]},
        "label": {"dtype": "u1", "classes": 3},
        "splits": [["train", [[cid_of(content), 1]]]],
    }
    manifest = Manifest.from_canonical(pack_document(tree))
    with pytest.raises(ConfigError, match=said):
        assemble(manifest, "train", {cid_of(content): content}.get)


def test_a_part_of_the_chunks_can_be_assembled(tmp_path: Path, blocks: BlockStore) -> None:
    text = np.random.default_rng(1).integers(32, 127, 2_500_000, np.uint8).tobytes()
    (tmp_path / "long.txt").write_bytes(text)
    manifest = seed_dataset(tmp_path / "long.txt", blocks, text=TextOptions("bytes")).manifest
    part = assemble(manifest, "train", blocks.get, only=[1])
    assert part.x.tobytes() == text[CHUNK_BYTES_MAX : 2 * CHUNK_BYTES_MAX]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("name", "\x1b[2J"),
        ("licence", "x" * 200),
        ("order", "random"),
        ("record", {"dtype": "|O", "shape": [8, 8]}),
        ("record", {"dtype": "u1", "shape": [1 << 20, 1 << 20]}),
        ("record", {"dtype": "u1", "shape": [1024, 1024]}),
        ("record", {"dtype": "u1", "shape": [0]}),
        ("label", {"dtype": "u1", "classes": 0}),
        ("label", {"dtype": "u1", "classes": 1 << 20}),
        ("splits", []),
        ("splits", [["train", []]]),
        ("splits", [["other", [[cid_of(b""), 1]]]]),
        ("splits", [["train", [["../etc", 1]]]]),
        ("splits", [["train", [[cid_of(b""), 0]]]]),
        ("splits", [["train", [[cid_of(b""), 1]]], ["train", [[cid_of(b""), 1]]]]),
        ("more", 1),
    ],
)
def test_a_manifest_outside_its_bounds_is_refused(
    blocks: BlockStore, key: str, value: object
) -> None:
    tree = unpack_document(seed_digits(blocks).manifest.canonical)
    with pytest.raises(ConfigError, match="no manifest"):
        Manifest.from_canonical(pack_document({**tree, key: value}))


def test_a_chunk_is_no_manifest(blocks: BlockStore) -> None:
    chunk = seed_digits(blocks).manifest.chunk_cids[0]
    with pytest.raises(ConfigError, match="no manifest"):
        load_manifest(blocks, chunk)
    with pytest.raises(ConfigError, match="not in the store"):
        load_manifest(blocks, Cid(cid_of(b"nothing")))


def test_a_full_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="block store is full"):
        seed_digits(BlockStore(tmp_path, bytes_max=100_000))


def test_inputs_are_exact_products_in_float32() -> None:
    samples = Samples(np.array([[[0, 1], [2, 255]]], np.uint8), None)
    rows = model_inputs(samples, 1 / 255)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[0.0, *(np.float32(v) * np.float32(1 / 255) for v in (1, 2, 255))]]


def test_a_network_that_does_not_fit_the_data_is_refused(
    tmp_path: Path, blocks: BlockStore
) -> None:
    manifest = seed_digits(blocks).manifest
    for layers in ((63, 10), (64, 9)):
        with pytest.raises(ConfigError, match=r"layers = \[64, \.\.\., 10\]"):
            check_fits(manifest, layers)
    check_fits(manifest, (64, 12))
    np.savez(tmp_path / "x.npz", X=np.zeros((10, 3), np.uint8))
    with pytest.raises(ConfigError, match="no labels"):
        check_fits(seed_dataset(tmp_path / "x.npz", blocks).manifest, (3, 2))
