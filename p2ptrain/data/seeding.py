"""Take a data set into the store: read it, cut it, keep every chunk, name it by its CID."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2ptrain.data.chunks import chunk_count, cut_records
from p2ptrain.data.formats import read_records
from p2ptrain.data.manifest import LICENCE_PATTERN, NAME_PATTERN, Manifest
from p2ptrain.data.records import Records
from p2ptrain.data.text import BY_DEFAULT, TextOptions
from p2ptrain.errors import ConfigError
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.limits import LICENCE_CHARS_MAX, MANIFEST_CHUNKS_MAX

UNKNOWN_LICENCE = "unknown"
Progress = Callable[[int, int], None]  # chunks stored, chunks in all


@dataclass(frozen=True, slots=True)
class Seeded:
    """A data set that is now in the store.

    cid          its name, for recipes
    manifest     what was found
    bytes_total  of all chunks
    """

    cid: Cid
    manifest: Manifest
    bytes_total: int


def seed_dataset(
    path: Path,
    blocks: BlockStore,
    *,
    name: str = "",
    licence: str = UNKNOWN_LICENCE,
    text: TextOptions = BY_DEFAULT,
    progress: Progress = lambda stored, total: None,
) -> Seeded:
    """Add a file or a folder to the store as a data set; doing it twice changes nothing.

    Args:
      name     letters, digits, space, . _ -; by default the file's name without its endings
      licence  for those who will export a network: an SPDX expression, or words
      text     how a text is taken

    Raises:
      ConfigError  the path, the data, the name or the licence cannot be used
      StoreError   the store is full; blocks that were stored are intact
    """
    name = name or _name_of(path)
    _check_words(name, licence)
    records = read_records(path, text)
    total = chunk_count(records)
    if total > MANIFEST_CHUNKS_MAX:
        raise ConfigError(
            f"{path} makes {total} chunks, more than the {MANIFEST_CHUNKS_MAX} of one manifest.\n"
            "Cut it into several data sets."
        )
    splits: dict[str, list[tuple[Cid, int]]] = {}
    size = 0
    for stored, cut in enumerate(cut_records(records), start=1):
        cid = blocks.put(cut.content)
        splits.setdefault(cut.split, []).append((cid, cut.records))
        size += len(cut.content)
        progress(stored, total)
    manifest = Manifest.from_canonical(_manifest(records, name, licence, splits).canonical)
    return Seeded(blocks.put(manifest.canonical), manifest, size)


def load_manifest(blocks: BlockStore, cid: Cid) -> Manifest:
    """The manifest of a data set in the store. Raises ConfigError if it is absent, StoreError."""
    content = blocks.get(cid)
    if content is None:
        raise ConfigError(
            f"the data set {cid} is not in the store.\n"
            "Seed it here (p2ptrain seed dataset PATH) or join a swarm that has it."
        )
    return Manifest.from_canonical(content)


def _manifest(
    records: Records, name: str, licence: str, splits: dict[str, list[tuple[Cid, int]]]
) -> Manifest:
    first = records.splits[0]
    form: dict[str, Any] = {
        "name": name,
        "licence": licence,
        "order": "kept" if records.ordered else "shuffled",
        "record": {"dtype": first.x.dtype.str.lstrip("|"), "shape": first.x.shape[1:]},
        "label": None
        if first.y is None
        else {"dtype": first.y.dtype.str.lstrip("|"), "classes": records.classes},
        "splits": tuple((split, tuple(items)) for split, items in splits.items()),
        "text": None
        if records.tokeniser is None
        else {"tokeniser": records.tokeniser.kind, "vocabulary": records.tokeniser.characters},
    }
    return Manifest.model_validate(form)


def _name_of(path: Path) -> str:
    stem = path.absolute().name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9 _-]+", "-", stem).strip("- ._")[:64] or "dataset"


def _check_words(name: str, licence: str) -> None:
    if not re.fullmatch(NAME_PATTERN.strip("^$"), name):
        raise ConfigError(
            f"--name {name!r}: a data set's name begins with a letter or digit and has up to 64 "
            "letters, digits, spaces, dots, - and _.\nGive another: --name NAME"
        )
    if not re.fullmatch(LICENCE_PATTERN.strip("^$"), licence) or len(licence) > LICENCE_CHARS_MAX:
        raise ConfigError(
            f"--licence {licence[:40]!r}: a licence has up to {LICENCE_CHARS_MAX} ASCII characters."
            "\nGive its SPDX name: --licence CC-BY-4.0"
        )
