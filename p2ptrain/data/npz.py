"""Read .npz files that may have been made to harm: no pickles, no bombs, no false heads.

An .npz is a zip of .npy files. numpy's own reader allocates what a head asks for before it looks
at the bytes, so every head is first compared with the size of its member.
"""

import io
import math
import zipfile
import zlib

import numpy as np

from p2ptrain.data.records import TEST, TRAIN, Array, Split, unusable

# Pairs of array names that are understood, lower case: records and labels of one split.
PAIRS = (
    (TRAIN, ("x_train", "train_x", "x_tr", "train_images"), ("y_train", "train_y", "train_labels")),
    (TEST, ("x_test", "test_x", "x_te", "test_images"), ("y_test", "test_y", "test_labels")),
    ("validation", ("x_val", "val_x", "val_images"), ("y_val", "val_y", "val_labels")),
)
UNDIVIDED = (TRAIN, ("x", "data", "images"), ("y", "target", "labels"))
_MEMBERS_MAX = 64


def read_npz(source: str, content: bytes, bytes_max: int) -> list[Split]:
    """The splits in the bytes of an .npz file. Raises ConfigError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = _read_members(source, archive, bytes_max)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise unusable(
            source, f"its zip archive is broken ({error})", "Save it again with numpy.savez."
        ) from None
    splits = [split for pair in PAIRS if (split := _pair(arrays, pair))]
    if not any(split.name == TRAIN for split in splits):
        undivided = _pair(arrays, UNDIVIDED)
        splits = [undivided, *splits] if undivided else []
    if not splits:
        raise unusable(
            source,
            f"its arrays are called {', '.join(sorted(arrays)[:8]) or 'nothing at all'}",
            "Save records and labels as X and y, or x_train, y_train, x_test, y_test.",
        )
    return splits


def _read_members(source: str, archive: zipfile.ZipFile, bytes_max: int) -> dict[str, Array]:
    members = archive.infolist()
    if len(members) > _MEMBERS_MAX or sum(m.file_size for m in members) > bytes_max:
        raise unusable(
            source,
            f"it unpacks to more than {bytes_max:,} bytes or {_MEMBERS_MAX} arrays",
            "Cut it into several data sets.",
        )
    arrays: dict[str, Array] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        # The zip reader stops at the size that was announced, whatever the stream holds.
        with archive.open(member) as file:
            arrays[name.lower()] = _read_npy(f"{source}:{name}", file.read())
    return arrays


def _read_npy(source: str, content: bytes) -> Array:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version[0] == 1:
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    except ValueError as error:
        raise unusable(
            source, f"it is not an array ({error})", "Save it again with numpy.savez."
        ) from None
    if dtype.hasobject:
        raise unusable(
            source,
            "it holds Python objects, which can run code when they are read",
            "Save an array of numbers.",
        )
    body = len(content) - stream.tell()
    if math.prod(shape) * dtype.itemsize != body or min(shape, default=0) < 0:
        raise unusable(
            source,
            f"its head promises shape {list(shape)} of {dtype} and {body:,} bytes follow",
            "The file is damaged; save it again with numpy.savez.",
        )
    flat = np.frombuffer(content, dtype, offset=stream.tell())
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _pair(
    arrays: dict[str, Array], pair: tuple[str, tuple[str, ...], tuple[str, ...]]
) -> Split | None:
    name, record_names, label_names = pair
    x = next((arrays[n] for n in record_names if n in arrays), None)
    y = next((arrays[n] for n in label_names if n in arrays), None)
    return None if x is None else Split(name, x, y)
