"""What people have on disk: what is read from it, and how everything broken is refused."""

import bz2
import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.data.formats import IDX_DTYPES, read_idx, read_records
from p2ptrain.errors import ConfigError

PICTURES = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
LABELS = np.array([0, 2, 1, 2, 0], np.uint8)


def idx(array: NDArray[np.generic], kind: int = 0x08) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return head + array.astype(IDX_DTYPES[kind]).tobytes()


def npz(**arrays: NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def written(folder: Path, content: bytes, name: str = "set") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", IDX_DTYPES)
def test_every_idx_type_is_read(kind: int) -> None:
    array = np.arange(-3, 9).reshape(3, 4).astype(IDX_DTYPES[kind])
    assert np.array_equal(read_idx("x", idx(array, kind)), array)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_idx_files_keeps_its_splits(tmp_path: Path, packed: bool) -> None:
    for split, count in (("train", 5), ("t10k", 2)):
        for part, array in (("images-idx3", PICTURES[:count]), ("labels-idx1", LABELS[:count])):
            content = idx(array)
            name = f"{split}-{part}-ubyte" + (".gz" if packed else "")
            written(tmp_path, gzip.compress(content) if packed else content, name)
    written(tmp_path, b"readme", "README.md")
    records = read_records(tmp_path)
    assert [(split.name, len(split.x)) for split in records.splits] == [("train", 5), ("test", 2)]
    assert np.array_equal(records.splits[0].x, PICTURES)
    assert records.splits[0].y is not None
    assert records.splits[0].y.tolist() == LABELS.tolist()
    assert (records.classes, records.divided) == (3, True)


def test_one_pair_of_idx_files_has_no_split(tmp_path: Path) -> None:
    written(tmp_path, idx(PICTURES), "images-idx3-ubyte")
    written(tmp_path, idx(LABELS), "labels-idx1-ubyte")
    assert not read_records(tmp_path).divided


def test_one_idx_file_has_records_without_labels(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, gzip.compress(idx(PICTURES))))
    assert records.splits[0].y is None


@pytest.mark.parametrize(
    "names", [("X", "y"), ("x", "y"), ("data", "target"), ("x_train", "y_train")]
)
def test_npz_is_read_by_the_names_that_are_in_use(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays: dict[str, NDArray[np.generic]] = {names[0]: PICTURES, names[1]: LABELS.astype("i8")}
    content = npz(**arrays)
    records = read_records(written(tmp_path, content))
    assert np.array_equal(records.splits[0].x, PICTURES)
    assert records.classes == 3
    assert not records.divided


def test_npz_with_four_arrays_has_two_splits(tmp_path: Path) -> None:
    content = npz(x_train=PICTURES, y_train=LABELS, x_test=PICTURES[:1], y_test=LABELS[:1])
    assert [split.name for split in read_records(written(tmp_path, content)).splits] == [
        "train",
        "test",
    ]


def test_doubles_big_endian_and_fortran_order_become_little_endian_records(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    for array in (values.astype(">f8"), np.asfortranarray(values)):
        split = read_records(written(tmp_path, npz(X=array))).splits[0]
        assert split.x.dtype == np.dtype("<f4")
        assert np.array_equal(split.x, values.astype(np.float32))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\xff\xfenot text", "none of IDX, .npz and UTF-8"),
        (b"text\0with zero", "zero bytes"),
        (gzip.compress(idx(PICTURES), mtime=0)[:-6], "gzip stream is broken"),
        (b"\x1f\x8bnot gzip at all", "gzip stream is broken"),
        (gzip.compress(b"x" * 100, mtime=0)[:20] + b"\0" * 30, "gzip stream is broken"),
        (gzip.compress(b"x" * 3_000_000), "unpacks to more than"),
        (bz2.compress(b"x" * 3_000_000), "unpacks to more than"),
        (bz2.compress(b"x" * 100)[:-3], "bzip2 stream is broken"),
        (bz2.compress(b"x" * 100)[:-9] + b"123456789", "bzip2 stream is broken"),
        (b"\0\0", "does not begin as an IDX"),
        (b"\0\0\x07\x01\0\0\0\0", "does not begin as an IDX"),
        (b"\0\0\x08\x00", "0 dimensions"),
        (b"\0\0\x08\xff" + b"\1" * 1020, "255 dimensions"),
        (idx(PICTURES)[:-1], "promises 46 bytes and it has 45"),
        (idx(PICTURES) + b"!", "promises 46 bytes and it has 47"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "promises"),
        (idx(PICTURES[:0]), "no records"),
        (idx(np.zeros((2, 0, 3), np.uint8)), "no records"),
        (npz(X=PICTURES)[:40], "zip archive is broken"),
        (npz(X=PICTURES, y=LABELS[:-1]), "5 records but 4 labels"),
        (npz(X=PICTURES, y=LABELS - 1.0), "labels .* not one integer"),
        (npz(X=PICTURES, y=LABELS.astype(np.int8) - 1), "label .* outside"),
        (npz(X=PICTURES, y=LABELS.astype(np.int64) << 40), "label .* outside"),
        (npz(X=PICTURES, y=np.eye(5, dtype=np.uint8)), "not one integer"),
        (npz(X=np.array([1.0, np.nan], np.float32)), "NaN"),
        (npz(X=np.array([1.0, 1e300])), "beyond float32"),
        (npz(X=np.array([1j])), "type complex128"),
        (npz(X=np.array(["a"])), "type <U1"),
        (npz(X=np.array(5, np.uint8)), "no records"),
        (npz(X=np.zeros((1, 1 << 20), np.uint8)), "larger than a chunk"),
        (npz(a=PICTURES), "arrays are called a"),
        (npz(x_train=PICTURES, x_test=PICTURES[:, :1]), r"test records are .*\[1, 3\]"),
        (npz(x_train=PICTURES, y_train=LABELS, x_test=PICTURES), "another none"),
        (npz(X=np.zeros((3000, 1000), np.uint8)), "unpacks to more than"),
        (zipped("X.npy", b"\x93NUMPY\x01\x00"), "not an array"),
        (zipped("X.npy", b"hello"), "not an array"),
        (zipped("readme.txt", b""), "not an array"),
    ],
)
def test_whatever_is_broken_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    path = written(tmp_path, content)
    with np.errstate(over="ignore"), pytest.raises(ConfigError, match=said) as caught:
        read_records(path, bytes_max=2_000_000)
    assert str(path) in str(caught.value)
    assert "\n" in str(caught.value), "the second line says what to do"


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    content = npz(X=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(ConfigError, match="Python objects"):
        read_records(written(tmp_path, content))


def test_a_head_that_asks_for_more_than_follows_allocates_nothing(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)}
    )
    with pytest.raises(ConfigError, match="promises shape"):
        read_records(written(tmp_path, zipped("X.npy", stream.getvalue())))


def test_labels_without_pictures_are_missed(tmp_path: Path) -> None:
    written(tmp_path, idx(PICTURES), "train-images-idx3-ubyte")
    written(tmp_path, idx(LABELS), "t10k-labels-idx1-ubyte")
    with pytest.raises(ConfigError, match="test has labels but no images"):
        read_records(tmp_path)


def test_a_folder_without_idx_files_says_how_they_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train-images-idx3-ubyte"):
        read_records(tmp_path)


def test_a_path_that_is_not_there_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a file or a folder"):
        read_records(tmp_path / "none")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_readers(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    for head in (b"", b"\0\0\x08\x02", b"PK\x03\x04", b"\x1f\x8b\x08", zipped("x.npy", tail)[:60]):
        try:
            read_records(written(folder, head + tail), bytes_max=10_000)
        except ConfigError:
            continue
