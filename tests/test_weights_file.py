"""Files of weights: what comes out of one bit for bit, and what is refused, with which words."""

import io
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file
from weights_files import (
    COUNT,
    FOUNDER,
    SHAPES,
    SOME,
    entry,
    file_of,
    network,
    recipe_in,
    whole_file,
    with_value,
)

from p2ptrain.compress import blocks as codec_blocks
from p2ptrain.data.safetensors import read_header
from p2ptrain.data.weights import TINY, WeightsManifest, load_weights
from p2ptrain.data.weights_file import read_weights, store_weights
from p2ptrain.errors import ConfigError
from p2ptrain.node.founding import found
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.limits import CHUNK_BYTES_MAX

# --- from a file to values ------------------------------------------------------------------


@given(
    arrays(np.float32, COUNT, elements=st.floats(allow_nan=False, allow_infinity=False, width=32))
)
def test_what_was_exported_comes_back_bit_for_bit_but_for_what_counts_as_zero(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray[Any, Any]
) -> None:
    folder = tmp_path_factory.mktemp("round trip")
    (folder / "model.safetensors").write_bytes(whole_file(network(values)))
    blocks = BlockStore(folder / "blocks")
    cid = store_weights(folder / "model.safetensors", SHAPES, blocks)
    manifest = WeightsManifest.from_canonical(blocks.get(cid) or b"")
    expected = np.where(np.abs(values) < 2.0**-63, np.float32(0), values)
    assert load_weights(manifest, blocks.get) == expected.astype("<f4").tobytes()


def test_what_counts_as_zero_is_the_engines_own_bound() -> None:
    assert TINY == codec_blocks.TINY


def test_every_value_of_float16_comes_exactly(tmp_path: Path) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    save_file({"layer": halves}, tmp_path / "half.safetensors")
    values = read_weights(tmp_path / "half.safetensors", {"layer": (len(halves),)})
    assert values.dtype == np.dtype("<f4")
    assert np.array_equal(values.astype(np.float64), halves.astype(np.float64))


def test_every_value_of_bfloat16_comes_exactly(tmp_path: Path) -> None:
    upper = np.arange(1 << 16, dtype="<u2")
    expected = (upper.astype("<u4") << 16).view("<f4")  # by its definition
    known = np.isfinite(expected) & (np.abs(expected) >= TINY)
    upper, expected = upper[known], expected[known]
    content = file_of({"layer": entry([len(upper)], 0, 2 * len(upper), "BF16")}, upper.tobytes())
    (tmp_path / "brain.safetensors").write_bytes(content)
    values = read_weights(tmp_path / "brain.safetensors", {"layer": (len(upper),)})
    assert values.tobytes() == expected.tobytes()
    assert values[upper == 0x3FC0] == 1.5


def test_tensors_may_lie_in_any_order_as_the_library_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(dict(reversed(SOME.items())), path)
    expected = np.concatenate([tensor.ravel() for tensor in SOME.values()])
    assert read_weights(path, SHAPES).tobytes() == expected.tobytes()


def test_equal_weights_have_one_cid_whatever_else_is_in_the_file(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path / "blocks")
    zeros = dict(SOME, **{"layer1.bias": np.array([0, 3], np.float32)})
    other_zeros = dict(SOME, **{"layer1.bias": np.array([-(2.0**-64), 3], np.float32)})
    cids = set()
    for number, content in enumerate(
        [whole_file(zeros), whole_file(zeros, licence="CC0"), whole_file(other_zeros)]
    ):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        cids.add(store_weights(path, SHAPES, blocks))
    assert len(cids) == 1


def test_large_weights_are_cut_into_blocks_and_progress_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((2, CHUNK_BYTES_MAX // 4 - 5)).astype(np.float32)
    path, blocks, told = tmp_path / "x.safetensors", BlockStore(tmp_path / "blocks"), []
    path.write_bytes(whole_file({"layer": values}))
    cid = store_weights(path, {"layer": values.shape}, blocks, lambda *step: told.append(step))
    manifest = WeightsManifest.from_canonical(blocks.get(cid) or b"")
    sizes = [len(blocks.get(block) or b"") for block in manifest.block_cids]
    assert sizes == [CHUNK_BYTES_MAX, CHUNK_BYTES_MAX - 40]
    assert told == [(1, 2), (2, 2)]
    assert load_weights(manifest, blocks.get) == values.tobytes()


# --- what is refused in a file ----------------------------------------------------------------


def without(name: str) -> dict[str, np.ndarray[Any, Any]]:
    return {key: tensor for key, tensor in SOME.items() if key != name}


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "does not begin as a .safetensors file does, or is cut short"),
    "seven bytes": (bytes(7), "does not begin"),
    "a text": (b"layer0.weight = [1, 2]\n", "does not begin"),
    "a header longer than the file": (b"\xff" * 8 + b"{}", "does not begin"),
    "a header longer than the limit": ((1 << 25).to_bytes(8, "little") + bytes(1 << 25), "begin"),
    "no JSON": (file_of(b"{]", b""), "header is not what the format asks for"),
    "not UTF-8": (file_of(b'{"\xff": 1}', b""), "header is not what the format asks for"),
    "JSON without end": (file_of(b"[" * 200_000, b""), "header is not what the format asks for"),
    "a long number": (file_of(b"1" * 10_000, b""), "header is not what the format asks for"),
    "a list": (file_of([], b""), "no map of tensors"),
    "a name twice": (file_of(b'{"a": 1, "a": 1}', b""), "a name stands in it twice"),
    "no entry": (file_of({"a": 1}, b""), "does not describe 'a'"),
    "no offsets": (file_of({"a": {"dtype": "F32", "shape": []}}, b""), "does not describe 'a'"),
    "one offset": (file_of({"a": {**entry([], 0, 4), "data_offsets": [0]}}, b""), "describe 'a'"),
    "a size that is true": (file_of({"a": entry([True], 0, 4)}, bytes(4)), "impossible shape"),
    "a size below 0": (file_of({"a": entry([-1, -1], 0, 4)}, bytes(4)), "impossible shape"),
    "a size of 2^63": (file_of({"a": entry([1 << 63], 0, 4)}, bytes(4)), "impossible shape"),
    "nine dimensions": (file_of({"a": entry([1] * 9, 0, 4)}, bytes(4)), "impossible shape"),
    "an offset with a point": (file_of({"a": entry([1], 0.0, 4)}, bytes(4)), "impossible"),
    "an end before the begin": (file_of({"a": entry([0], 4, 0)}, bytes(4)), "more or fewer bytes"),
    "too few bytes": (file_of({"a": entry([2], 0, 4)}, bytes(4)), "more or fewer bytes than its"),
    "a gap": (file_of({"a": entry([1], 4, 8)}, bytes(8)), "overlap, or there are bytes between"),
    "overlapping tensors": (
        file_of({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, bytes(8)),
        "overlap, or there are bytes between",
    ),
    "bytes behind the last": (whole_file(SOME) + b"\0", "promises .* bytes and it has"),
    "the last byte missing": (whole_file(SOME)[:-1], "promises .* bytes and it has"),
    "a tensor missing": (
        whole_file(without("layer1.bias")),
        r"not those of the recipe's network: it lacks layer1.bias \[2\]\.",
    ),
    "a tensor too many": (
        whole_file({**SOME, "layer2.bias": np.zeros(2, np.float32)}),
        r"it has besides 'layer2.bias' \[2\]\.",
    ),
    "another shape": (
        whole_file({**SOME, "layer0.weight": SOME["layer0.weight"].T}),
        r"layer0.weight has shape \[2, 3\] where \[3, 2\] is expected",
    ),
    "many differences": (
        whole_file({f"x{i}": np.zeros(1, np.float32) for i in range(30)}),
        "'x10' .1. and 27 more",
    ),
    "NaN": (whole_file(with_value(np.nan)), r"layer1.weight holds nan at \[1, 2\], where a finite"),
    "infinity": (whole_file(with_value(-np.inf)), r"layer1.weight holds -inf at \[1, 2\]"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_cannot_be_used_is_refused_with_its_reason(
    tmp_path: Path, content: bytes, said: str
) -> None:
    recipe, blocks = recipe_in(tmp_path, content), BlockStore(tmp_path / "blocks")
    with pytest.raises(ConfigError, match=said) as caught:
        found(recipe, FOUNDER, blocks)
    assert str(tmp_path / "weights" / "model.safetensors") in str(caught.value)
    assert "\n" in str(caught.value), "what to do stands on a line of its own"
    assert blocks.bytes_used == 0, "nothing is stored before all is checked"


@pytest.mark.parametrize("dtype", ["F64", "I8", "F8_E4M3", "BOOL"])
def test_a_type_that_would_have_to_be_rounded_is_refused(tmp_path: Path, dtype: str) -> None:
    body = bytes(8 * COUNT)
    header: dict[str, Any] = {}
    at = 0
    for name, shape in SHAPES.items():
        header[name] = entry(list(shape), at, at + 8 * prod(shape), dtype)
        at += 8 * prod(shape)
    recipe = recipe_in(tmp_path, file_of(header, body))
    with pytest.raises(ConfigError, match=f"layer0.weight is '{dtype}' where F32 or F16 or BF16"):
        found(recipe, FOUNDER, BlockStore(tmp_path / "blocks"))


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path / "blocks")
    recipe = recipe_in(tmp_path, b"")
    (tmp_path / "weights" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        found(recipe, FOUNDER, blocks)
    (tmp_path / "weights" / "model.safetensors").mkdir()
    with pytest.raises(ConfigError, match="there is no such file"):
        found(recipe, FOUNDER, blocks)


@given(st.binary(max_size=200))
def test_no_header_makes_the_reader_fail_in_another_way(content: bytes) -> None:
    for whole in (content, file_of(content, b"")):
        with suppress(ConfigError):
            read_header("a file", io.BytesIO(whole))


@given(st.data())
def test_no_changed_byte_makes_founding_fail_in_another_way(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = whole_file(SOME)
    content = bytearray(good)
    content[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "model.safetensors"
    path.write_bytes(content)
    with suppress(ConfigError):
        assert np.isfinite(read_weights(path, SHAPES)).all()
