"""Every kernel gives the bits of its numpy twin, whatever the tile, the threads or the spelling
of fma. DESIGN section 5; the kernels' contracts are the headers in kernels/.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.device import reference
from p2ptrain.device.golden import cases, golden_hashes, result_hash, twin_hashes
from p2ptrain.device.golden_inputs import Case, uniform
from p2ptrain.device.kernels import KernelLibrary, read_source, source_folder
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations, Tile, row_major
from p2ptrain.device.products import best_tile, gemm_naive, gemm_tiled
from p2ptrain.device.selftest import PROBES, self_test
from p2ptrain.errors import DeviceError

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

DEVICE = open_device()
OPERATIONS = Operations(KernelLibrary(DEVICE))
# The same kernels with the built-in fma, which is what a device gets that does not contract.
PLAIN = Operations(KernelLibrary(DEVICE, contracted_fma=False))
TILES = [Tile(6, 2, 1), Tile(6, 2, 4), Tile(6, 2, 8), Tile(8, 2, 16), Tile(1, 1, 4)]

sizes = st.integers(1, 70)
by_tile = pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.rows}x{t.vectors}x{t.width}")


def bits(values: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    return values.view(np.uint32)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("operations", [OPERATIONS, PLAIN], ids=["contracted", "built-in"])
def test_a_kernel_has_the_bits_of_its_twin(case: Case, operations: Operations) -> None:
    np.testing.assert_array_equal(bits(case.run(operations)), bits(case.twin()))


def test_golden_hashes_are_those_of_the_twins() -> None:
    """If this fails the arithmetic has changed: `python -m p2ptrain.device.golden`, and its number
    in the recipe goes up.
    """
    assert golden_hashes() == twin_hashes()


def test_the_device_of_the_tests_passes_its_self_test() -> None:
    report = self_test(OPERATIONS)
    assert set(report.checks) == {case.name for case in cases()} | set(PROBES)
    assert report.device == DEVICE.info.title


def test_a_device_with_other_bits_is_refused_and_the_kernel_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = {**golden_hashes(), "softmax_xent": "0" * 64}
    monkeypatch.setattr("p2ptrain.device.selftest.golden_hashes", lambda: changed)
    with pytest.raises(DeviceError, match="kernel softmax_xent"):
        self_test(OPERATIONS)


def test_a_device_that_contracts_everywhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = {"probe_contraction": (*PROBES["probe_contraction"][:3], 2.0**-24)}
    monkeypatch.setattr("p2ptrain.device.selftest.PROBES", fused)
    with pytest.raises(DeviceError, match="probe_contraction"):
        self_test(OPERATIONS)


# --- gemm.cl -----------------------------------------------------------------------------------


def product(operations: Operations, a: Floats, b: Floats, tile: Tile | None) -> Floats:
    """A B on the device, A stored transposed."""
    (m, k), n = a.shape, b.shape[1]
    out = DEVICE.empty((m, n))
    left = row_major(DEVICE.upload(np.ascontiguousarray(a.T)), k, m).transposed
    right, to = row_major(DEVICE.upload(b), k, n), row_major(out, m, n)
    if tile is None:
        gemm_naive(operations.library, left, right, to).enqueue()
    else:
        gemm_tiled(operations.library, tile, (left, right), to).enqueue()
    result: Floats = out.read()
    return result


@by_tile
@settings(max_examples=10, deadline=None)
@given(m=sizes, n=sizes, k=st.integers(1, 600))
def test_every_tile_has_the_bits_of_the_naive_product(tile: Tile, m: int, n: int, k: int) -> None:
    a, b = uniform(m, m, k), uniform(n + 100, k, n)
    naive = product(PLAIN, a, b, None)
    np.testing.assert_array_equal(bits(product(OPERATIONS, a, b, tile)), bits(naive))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 255), (2, 5, 256), (4, 3, 257), (5, 4, 513)])
def test_the_naive_product_is_the_canonical_order(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    a, b = uniform(1, m, k), uniform(2, k, n)
    np.testing.assert_array_equal(bits(product(PLAIN, a, b, None)), bits(reference.gemm(a, b)))


def test_chunks_are_added_left_to_right_each_from_zero() -> None:
    """1 is lost beside 2^24 where a chunk begins at the sum before it, and is not from +0."""
    a = np.zeros((1, 512), np.float32)
    a[0, [0, 256, 257]] = [2.0**24, 1, 1]
    ones = np.ones((512, 1), np.float32)
    assert product(OPERATIONS, a, ones, None)[0, 0] == 2.0**24 + 2


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38], ids=["inf", "nan", "overflow"])
def test_a_product_shows_what_is_not_finite(value: float) -> None:
    a = np.full((7, 20), value, np.float32)
    b = np.ones((20, 9), np.float32)
    for tile in (None, best_tile(OPERATIONS.library)):
        assert not np.isfinite(product(OPERATIONS, a, b, tile)).any()


# --- the other kernels -------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 200), columns=sizes)
def test_column_sums_have_one_order_whatever_the_shape(rows: int, columns: int) -> None:
    d = uniform(rows, rows, columns)
    out = DEVICE.empty((columns,))
    OPERATIONS.column_sums(DEVICE.upload(d), out, 0).enqueue()
    np.testing.assert_array_equal(bits(out.read()), bits(reference.column_sums(d)))


def test_philox_gives_the_published_words() -> None:
    """Known answers of Random123's kat_vectors for philox4x32-10."""
    ones = np.uint32(0xFFFFFFFF)
    zero = np.zeros((1, 4), np.uint32)
    words = reference.philox(zero, (np.uint32(0), np.uint32(0)))[0]
    assert [hex(word) for word in words] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    words = reference.philox(np.full((1, 4), ones), (ones, ones))[0]
    assert [hex(word) for word in words] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]


# --- the device and its launcher ---------------------------------------------------------------


HASHES = """
from p2ptrain.device.golden import cases, result_hash
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
operations = Operations(KernelLibrary(open_device()))
for case in cases():
    print(case.name, result_hash(case.run(operations)))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_bits_do_not_depend_on_the_number_of_threads(threads: str) -> None:
    environment = {**os.environ, "POCL_MAX_PTHREAD_COUNT": threads}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HASHES],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert dict(line.split() for line in done.stdout.splitlines()) == golden_hashes()


def test_a_selector_that_names_nothing_is_answered_with_what_there_is() -> None:
    with pytest.raises(DeviceError, match="abacus") as caught:
        open_device("abacus")
    assert DEVICE.info.title in str(caught.value)


def test_a_kernel_that_does_not_build_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match=r"kernels/reduce\.cl does not build"):
        KernelLibrary(DEVICE).launch("reduce.column_sums", (64,), (64,), (), ("C=)",)).enqueue()


def test_wide_tiles_without_contraction_do_not_build() -> None:
    """Their products would be rounded before the addition."""
    with pytest.raises(DeviceError, match="needs CONTRACTED_FMA"):
        product(PLAIN, uniform(1, 3, 4), uniform(2, 4, 5), Tile(6, 2, 8))


def test_kernels_are_found_in_a_wheel_and_in_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout = source_folder()
    wheel = tmp_path / "_kernels"
    monkeypatch.setattr("p2ptrain.device.kernels.SOURCE_FOLDERS", (wheel, checkout))
    assert source_folder() == checkout
    shutil.copytree(checkout, wheel)
    assert source_folder() == wheel
    monkeypatch.setattr("p2ptrain.device.kernels.SOURCE_FOLDERS", (tmp_path,))
    with pytest.raises(DeviceError, match="install p2ptrain again"):
        source_folder()


def test_an_array_takes_only_its_own_type_and_size() -> None:
    array = DEVICE.zeros((3,))
    for wrong in (np.zeros(3), np.zeros(4, np.float32)):
        with pytest.raises(ValueError, match="written to an array"):
            array.write(wrong)


@pytest.mark.parametrize("path", sorted(source_folder().glob("*.cl")), ids=lambda p: p.stem)
def test_every_kernel_file_keeps_the_rules(path: Path) -> None:
    """Rules of arithmetic: no relaxed or inexact built-in in any source; a header in each."""
    source = read_source(path.stem)
    assert re.match(r"/\*\n \* \w+: ", source), "a header says first what the file is for"
    assert source.count("#pragma OPENCL FP_CONTRACT OFF") == 1
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    assert not re.search(r"\b(native_\w+|mad|r?sqrt|exp2?|log|tanh|pow|erf|ldexp)\(", code)
    assert not re.search(r"atomic|sub_group|fast", code)


def test_the_result_hash_is_of_little_endian_bytes() -> None:
    values = np.array([1.0, 2.0], np.float32)
    assert result_hash(values) == result_hash(values.astype(">f4"))


def test_a_cpu_reads_what_it_borrows_in_the_memory_of_the_host() -> None:
    """A data set of 188 MB was held twice in the compute process."""
    lent = np.arange(8192, dtype=np.float32)
    borrowed, copied = DEVICE.borrow(lent), DEVICE.upload(lent)
    assert np.array_equal(borrowed.read(), lent)
    lent[0] = 77
    assert (borrowed.read()[0], copied.read()[0]) == (77 if DEVICE.info.is_cpu else 0, 0)


def test_a_device_borrows_from_memory_that_cannot_be_written() -> None:
    read_only = np.frombuffer(np.arange(64, dtype=np.float32).tobytes(), np.float32)
    assert np.array_equal(DEVICE.borrow(read_only).read(), read_only)
    empty = DEVICE.borrow(np.zeros((0, 3), np.float32))
    assert empty.read().shape == (0, 3)
