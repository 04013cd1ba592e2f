"""Text as data: tokenisers, splits, manifests, streams. protocol/data.md sections 2 and 3."""

import bz2
import gzip
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from p2ptrain.cli.main import app
from p2ptrain.config import Recipe
from p2ptrain.config_model import GptSection
from p2ptrain.data.assemble import check_fits, check_fits_text, text_streams
from p2ptrain.data.formats import read_records
from p2ptrain.data.manifest import Manifest
from p2ptrain.data.seeding import seed_dataset
from p2ptrain.data.shipped import SHAKESPEARE_PATH, recipe_path, seed_digits, seed_shakespeare
from p2ptrain.data.text import TextOptions, samples_in, text_records
from p2ptrain.data.tokenisers import BYTES, CHARACTERS, Tokeniser
from p2ptrain.errors import ConfigError
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.document import pack_document, unpack_document
from p2ptrain.wire.limits import CHUNK_BYTES_MAX

# Without surrogates, which are no characters, and without NUL, which is in no text.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=2, max_size=80)


@pytest.fixture
def blocks(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


def written(folder: Path, text: str | bytes, name: str = "play.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# --- tokenisers ------------------------------------------------------------------------------


@given(TEXTS)
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    for tokeniser in (
        Tokeniser(BYTES),
        Tokeniser(CHARACTERS, "".join(sorted(set(text)))),
    ):
        tokens = tokeniser.encode(text)
        assert tokens.dtype == np.uint8
        assert int(tokens.max()) < tokeniser.size <= 256
        assert tokeniser.decode(tokens) == text
        decode = tokeniser.decoder()
        assert "".join(decode(int(token)) for token in tokens) == text


def test_characters_are_counted_in_the_order_of_their_code_points() -> None:
    tokeniser = Tokeniser(CHARACTERS, "\n Aaé中😀")
    assert tokeniser.encode("😀 Aé\n").tolist() == [6, 1, 2, 4, 0]


def test_a_text_longer_than_a_slice_is_encoded_whole() -> None:
    text = "ab中" * 700_000
    assert np.array_equal(
        Tokeniser(CHARACTERS, "ab中").encode(text), np.tile(np.arange(3, dtype=np.uint8), 700_000)
    )


def test_a_character_that_the_vocabulary_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match="'c' is not in the vocabulary") as caught:
        Tokeniser(CHARACTERS, "ab").encode("abcd")
    assert "'ab'" in str(caught.value)


def test_bytes_that_are_no_character_are_shown_as_such() -> None:
    decode = Tokeniser(BYTES).decoder()
    assert [decode(byte) for byte in b"\xc3\xa9\xffx"] == ["", "é", "\ufffd", "x"]
    assert Tokeniser(BYTES).decode(np.array([0xFF, 0x78], np.uint8)) == "\ufffdx"


@pytest.mark.parametrize(
    ("kind", "characters"),
    [
        ("words", "a"),
        (BYTES, "a"),
        (CHARACTERS, ""),
        (CHARACTERS, "ba"),
        (CHARACTERS, "aa"),
        (CHARACTERS, "".join(map(chr, range(257)))),
    ],
)
def test_what_is_no_vocabulary_is_refused(kind: str, characters: str) -> None:
    with pytest.raises(ValueError, match=r"tokeniser|vocabulary"):
        Tokeniser(kind, characters)


# --- reading ---------------------------------------------------------------------------------


def test_the_first_tokens_train_and_the_last_test(tmp_path: Path, blocks: BlockStore) -> None:
    path = written(tmp_path, "0123456789" * 10)
    manifest = seed_dataset(path, blocks).manifest
    assert (manifest.name, manifest.licence, manifest.order) == ("play", "unknown", "kept")
    assert manifest.tokeniser == Tokeniser(CHARACTERS, "0123456789")
    streams = text_streams(manifest, blocks.get)
    assert streams.train.tolist() == list(range(10)) * 9
    assert streams.test.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("count", "share", "trained"), [(1_115_394, None, 1_003_854), (2, 0.1, 1), (999, 0.001, 998)]
)
def test_the_share_that_trains_is_rounded_down(
    count: int, share: float | None, trained: int
) -> None:
    records = text_records("x", [("x", b"a" * count)], TextOptions(None, share))
    assert [len(split.x) for split in records.splits] == [trained, count - trained]


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="--test-share"):
        TextOptions(None, share)


def test_a_folder_of_texts_is_one_text_in_the_order_of_the_names(tmp_path: Path) -> None:
    written(tmp_path, "cd", "b.txt")
    written(tmp_path, "ab", "a.txt")
    written(tmp_path, gzip.compress(b"ef"), "c.txt.gz")
    written(tmp_path, gzip.compress(b"another"), "a.txt.gz")
    written(tmp_path, bz2.compress(b"gh"), "d.txt.bz2")
    written(tmp_path, "not this", "notes.md")
    records = read_records(tmp_path, TextOptions(BYTES))
    assert b"".join(split.x.tobytes() for split in records.splits) == b"abcdefgh"


def test_a_broken_byte_is_named_with_its_file_and_place(tmp_path: Path) -> None:
    written(tmp_path, "fine", "a.txt")
    bad = written(tmp_path, b"caf\xe9 noir", "b.txt")
    with pytest.raises(ConfigError, match="byte 3 is not UTF-8") as caught:
        read_records(tmp_path)
    assert str(bad) in str(caught.value)
    assert "--tokeniser bytes" in str(caught.value)
    assert read_records(tmp_path, TextOptions(BYTES)).tokeniser == Tokeniser(BYTES)


def test_more_characters_than_a_byte_counts_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(map(chr, range(0x4E00, 0x4E00 + 257))))
    with pytest.raises(ConfigError, match="257 different characters") as caught:
        read_records(path)
    assert "--tokeniser bytes" in str(caught.value)
    assert len(read_records(path, TextOptions(BYTES)).splits[0].x) == 257 * 3 * 9 // 10


def test_a_single_token_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 tokens cannot be divided"):
        read_records(written(tmp_path, "x"))


def test_options_for_text_are_refused_of_what_is_none(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, X=np.zeros((3, 2), np.uint8))
    path = written(tmp_path, stream.getvalue(), "x.npz")
    with pytest.raises(ConfigError, match="it is no text"):
        read_records(path, TextOptions(None, 0.2))
    # Who asks for bytes gets the bytes of any file.
    assert read_records(path, TextOptions(BYTES)).tokeniser is not None
    with pytest.raises(ConfigError, match="it is no text"):
        read_records(tmp_path, TextOptions(BYTES))


def test_a_long_text_has_many_chunks(tmp_path: Path, blocks: BlockStore) -> None:
    text = np.random.default_rng(1).integers(32, 127, 2_500_000, np.uint8)
    manifest = seed_dataset(written(tmp_path, text.tobytes()), blocks).manifest
    assert [chunk.records for chunk in manifest.chunks("train")] == [
        CHUNK_BYTES_MAX,
        CHUNK_BYTES_MAX,
        2_250_000 - 2 * CHUNK_BYTES_MAX,
    ]
    assert np.array_equal(text_streams(manifest, blocks.get).train, text[:2_250_000] - 32)


# --- manifests and what comes of them ----------------------------------------------------------


def test_the_plays_are_divided_as_is_usual(blocks: BlockStore) -> None:
    seeded = seed_shakespeare(blocks)
    tokeniser = seeded.manifest.tokeniser
    assert tokeniser is not None
    assert tokeniser.size == 65
    text = bz2.decompress(SHAKESPEARE_PATH.read_bytes()).decode("utf-8")
    assert hashlib.sha256(text.encode()).hexdigest().startswith("86c4e6aa9db7c042ec79f339dcb96d42")
    streams = text_streams(seeded.manifest, blocks.get)
    assert len(streams.train) == int(0.9 * len(text))
    assert tokeniser.decode(np.concatenate([streams.train, streams.test])) == text
    recipe = Recipe.from_file(recipe_path("shakespeare-char"))
    assert recipe.data.cid == seeded.cid
    assert isinstance(recipe.model, GptSection)
    check_fits_text(seeded.manifest, recipe.model.vocabulary, recipe.model.context)
    assert recipe.rounds * recipe.inner.local_steps == 2000


def text_tree(**changes: object) -> dict[str, object]:
    return {
        "format": 1,
        "name": "x",
        "licence": "",
        "order": "kept",
        "record": {"dtype": "u1", "shape": []},
        "label": None,
        "splits": [["train", [[cid_of(b"\0\1\2"), 3]]], ["test", [[cid_of(b"\1\1"), 2]]]],
        "text": {"tokeniser": "characters", "vocabulary": "ab"},
        **changes,
    }


def test_a_manifest_of_records_has_no_key_for_text(blocks: BlockStore) -> None:
    tree = unpack_document(seed_digits(blocks).manifest.canonical)
    assert "text" not in tree
    with pytest.raises(ConfigError, match="no manifest"):
        Manifest.from_canonical(pack_document({**tree, "text": None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"order": "shuffled"},
        {"record": {"dtype": "u1", "shape": [1]}},
        {"record": {"dtype": "<u2", "shape": []}},
        {"label": {"dtype": "u1", "classes": 2}},
        {"text": {"tokeniser": "words", "vocabulary": "ab"}},
        {"text": {"tokeniser": "bytes", "vocabulary": "ab"}},
        {"text": {"tokeniser": "characters", "vocabulary": ""}},
        {"text": {"tokeniser": "characters", "vocabulary": "ba"}},
        {"text": {"tokeniser": "characters", "vocabulary": "aa"}},
        {"text": {"tokeniser": "characters", "vocabulary": ["a", "b"]}},
        {"text": {"tokeniser": "characters", "vocabulary": "".join(map(chr, range(1, 258)))}},
        {"text": {"tokeniser": "characters"}},
        {"text": {"tokeniser": "characters", "vocabulary": "ab", "more": 1}},
    ],
)
def test_a_manifest_of_text_outside_its_bounds_is_refused(changes: dict[str, object]) -> None:
    assert Manifest.from_canonical(pack_document(text_tree())).text is not None
    with pytest.raises(ConfigError, match="no manifest"):
        Manifest.from_canonical(pack_document(text_tree(**changes)))


def test_a_token_outside_the_vocabulary_is_its_authors_mistake() -> None:
    manifest = Manifest.from_canonical(pack_document(text_tree()))
    content = {cid_of(part): part for part in (b"\0\1\2", b"\1\1")}
    with pytest.raises(ConfigError, match="token 2 of 2"):
        text_streams(manifest, content.get)


def test_a_network_that_does_not_fit_the_text_is_refused(
    tmp_path: Path, blocks: BlockStore
) -> None:
    manifest = seed_dataset(written(tmp_path, "0123456789" * 10), blocks).manifest
    check_fits_text(manifest, 10, 9)
    check_fits_text(manifest, 12, 1)
    with pytest.raises(ConfigError, match="vocabulary = 9 does not fit") as caught:
        check_fits_text(manifest, 9, 9)
    assert "Write vocabulary = 10" in str(caught.value)
    with pytest.raises(ConfigError, match="'test' has 10 tokens: a sample takes 11"):
        check_fits_text(manifest, 10, 10)
    with pytest.raises(ConfigError, match='kind = "gpt"'):
        check_fits(manifest, (1, 10))
    digits = seed_digits(blocks).manifest
    with pytest.raises(ConfigError, match="no text"):
        check_fits_text(digits, 65, 64)
    with pytest.raises(ConfigError, match="no text"):
        text_streams(digits, blocks.get)


def test_a_split_has_a_sample_for_each_token_that_has_enough_behind_it() -> None:
    assert [samples_in(tokens, 3) for tokens in (0, 3, 4, 10)] == [0, 0, 1, 7]


# --- the command -----------------------------------------------------------------------------


def seeded(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["seed", "dataset", "--once", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_seeding_a_text_prints_what_its_recipe_says(tmp_path: Path) -> None:
    text = seeded("tinyshakespeare", "--home", tmp_path)
    for expected in ("1,003,854 train, 111,540 test", "65 characters", 'kind = "gpt"'):
        assert expected in text
    assert "vocabulary = 65" in text


def test_init_text_writes_the_recipe_and_says_how_to_seed_its_data(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    result = CliRunner().invoke(app, ["init", "text", "-o", str(out)])
    assert "p2ptrain seed dataset tinyshakespeare --once" in result.output
    assert Recipe.from_file(out).name == "shakespeare-char"


def test_seeding_bytes_with_a_share_of_ones_own_answers_in_json(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xff\xfe" * 50)
    options = ("--tokeniser", "bytes", "--test-share", "0.25", "--json", "--home", tmp_path)
    found = json.loads(seeded(path, *options))
    assert (found["tokeniser"], found["vocabulary"]) == ("bytes", 256)
    assert found["splits"] == {"train": 75, "test": 25}
