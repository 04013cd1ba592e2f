"""Read what people have: folders of IDX or .txt files, .npz, UTF-8 text, any of them packed.

The content decides what a file is, not its name, unless a tokeniser is asked for: then it is text.
No claim inside a file is believed before it is compared with the bytes that are there, so that a
small file cannot ask for a large amount of memory: gzip and bzip2 streams are read up to a limit,
the sizes in zip and npy heads are checked before anything is allocated. Whatever is wrong is a
ConfigError: what, why, what to do.

IDX (http://yann.lecun.com/exdb/mnist): two zero bytes, a type byte, the number of dimensions,
the dimensions as 4 bytes big-endian each, the values big-endian.
"""

import bz2
import gzip
import io
import math
import re
import zlib
from pathlib import Path

import numpy as np

from p2ptrain.data.npz import read_npz
from p2ptrain.data.records import TEST, TRAIN, Array, Records, Split, checked, unusable
from p2ptrain.data.text import BY_DEFAULT, TextOptions, text_records
from p2ptrain.errors import ConfigError
from p2ptrain.wire.limits import DATASET_BYTES_MAX, DATASET_FILES_MAX, RECORD_DIMENSIONS_MAX

IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_NAME = re.compile(r"(?P<split>\w*?)[-_.]?(?P<part>images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?")
_TEXT_NAME = re.compile(r"(.+\.txt)(\.gz|\.bz2)?")
_GZIP = b"\x1f\x8b"
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")  # with the head of the first block: BZh alone may be text
_SPLIT_NAMES = {
    "": TRAIN,
    "train": TRAIN,
    "t10k": TEST,
    "test": TEST,
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def read_records(
    path: Path, text: TextOptions = BY_DEFAULT, *, bytes_max: int = DATASET_BYTES_MAX
) -> Records:
    """The records in a file or a folder.

    Args:
      text       how a text is taken; what it asks for is refused of anything else
      bytes_max  the most that may be unpacked into memory

    Raises:
      ConfigError  path cannot be read, or what is in it cannot be used
    """
    try:
        if path.is_dir():
            return _read_folder(path, text, bytes_max)
        content = _read_file(path, bytes_max)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or error}.\nCheck the path and its permissions."
        ) from None
    source = str(path)
    if text.tokeniser is not None or not content.startswith((b"PK", b"\0\0")):
        return text_records(source, [(source, content)], text)
    _refuse_options(source, text)
    if content.startswith(b"PK"):
        return checked(source, read_npz(source, content, bytes_max))
    return checked(source, [Split(TRAIN, read_idx(source, content), None)])


def read_idx(source: str, content: bytes) -> Array:
    """The array in the bytes of an IDX file. Raises ConfigError unless every byte has its place."""
    kind, dimensions = (content[2], content[3]) if len(content) >= 4 else (0, 0)
    head = 4 + 4 * dimensions
    if not content.startswith(b"\0\0") or kind not in IDX_DTYPES or len(content) < head:
        raise unusable(source, "it does not begin as an IDX file does", "Fetch the file again.")
    if not 1 <= dimensions <= RECORD_DIMENSIONS_MAX + 1:
        raise unusable(source, f"it has {dimensions} dimensions", "Fetch the file again.")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, 4))
    dtype = np.dtype(IDX_DTYPES[kind])
    expected = head + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise unusable(
            source,
            f"its head promises {expected:,} bytes and it has {len(content):,}",
            "The file is cut short or has something appended; fetch it again.",
        )
    return np.frombuffer(content, dtype, offset=head).reshape(shape)


def _read_file(path: Path, bytes_max: int) -> bytes:
    """A file's bytes, unpacked if it is gzip or bzip2."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a file or a folder.\nCheck the path.")
    if path.stat().st_size > bytes_max:
        raise _too_large(path, bytes_max)
    content = path.read_bytes()
    if not content:
        raise unusable(str(path), "it is empty", "Give a file with data.")
    packing = "gzip" if content.startswith(_GZIP) else "bzip2" if _BZIP2.match(content) else ""
    if not packing:
        return content
    stream = io.BytesIO(content)
    try:
        with gzip.open(stream) if packing == "gzip" else bz2.open(stream) as file:
            content = file.read(bytes_max + 1)
    except (OSError, zlib.error, EOFError) as error:  # OSError is what both call bad data
        raise unusable(
            str(path), f"its {packing} stream is broken ({error})", "Fetch the file again."
        ) from None
    if len(content) > bytes_max:
        raise _too_large(path, bytes_max)
    return content


def _too_large(path: Path, bytes_max: int) -> ConfigError:
    return unusable(
        str(path),
        f"it unpacks to more than {bytes_max:,} bytes",
        "Cut it into several data sets, or seed on a machine with more memory.",
    )


def _refuse_options(source: str, text: TextOptions) -> None:
    if text != BY_DEFAULT:
        raise unusable(
            source, "it is no text", "Leave out --tokeniser and --test-share, which are for texts."
        )


def _read_folder(folder: Path, text: TextOptions, bytes_max: int) -> Records:
    """What is in a folder: IDX files, or else text."""
    paths = sorted(folder.iterdir())
    texts: dict[str, Path] = {}
    for path in paths:
        match = _TEXT_NAME.fullmatch(path.name)
        if match:
            # Sorted, so that the unpacked one of x and x.gz comes first and is taken.
            texts.setdefault(match[1], path)
    if texts and (text.tokeniser is not None or not any(map(_is_idx_images, paths))):
        return _read_texts(folder, [texts[name] for name in sorted(texts)], text, bytes_max)
    _refuse_options(str(folder), text)
    return _read_idx_folder(folder, bytes_max)


def _is_idx_images(path: Path) -> bool:
    match = _IDX_NAME.fullmatch(path.name)
    return bool(match and match["part"] == "images" and match["split"].lower() in _SPLIT_NAMES)


def _read_texts(folder: Path, paths: list[Path], text: TextOptions, bytes_max: int) -> Records:
    """All files of one folder as one text, in the order of their names."""
    files: list[tuple[str, bytes]] = []
    left = bytes_max
    for path in paths:
        content = _read_file(path, left)
        left -= len(content)
        files.append((str(path), content))
    return text_records(str(folder), files, text)


def _read_idx_folder(folder: Path, bytes_max: int) -> Records:
    """Splits of a folder of IDX files named like MNIST's, such as train-images-idx3-ubyte.gz."""
    parts: dict[str, dict[str, Path]] = {}
    # Sorted, so that the unpacked one of x and x.gz comes first and is taken.
    for path in sorted(folder.iterdir())[: 2 * DATASET_FILES_MAX]:
        match = _IDX_NAME.fullmatch(path.name)
        if match and match["split"].lower() in _SPLIT_NAMES:
            named = parts.setdefault(_SPLIT_NAMES[match["split"].lower()], {})
            named.setdefault(match["part"], path)
    source = str(folder)
    if not any("images" in named for named in parts.values()):
        raise unusable(
            source,
            "there are no IDX files in it and no .txt files",
            "Names of IDX files are like train-images-idx3-ubyte and train-labels-idx1-ubyte, with"
            " t10k- or test- for the test split, with or without .gz.",
        )
    splits: list[Split] = []
    for name in sorted(parts, key=list(_SPLIT_NAMES.values()).index):
        if "images" not in parts[name]:
            raise unusable(source, f"{name} has labels but no images", "Add the missing file.")
        arrays = {
            part: read_idx(str(path), _read_file(path, bytes_max))
            for part, path in parts[name].items()
        }
        splits.append(Split(name, arrays["images"], arrays.get("labels")))
    return checked(source, splits)
