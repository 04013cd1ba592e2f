"""What is on disk is what was written, or an error that says so; never something else."""

import subprocess
import sys
from pathlib import Path

import pytest
from full_disk import file_size_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import ConfigError, StoreError
from p2ptrain.store.atomic import make_folder, write_atomically
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.checkpoint import Checkpoint, CheckpointStore
from p2ptrain.store.durable import DurableRecord
from p2ptrain.store.lock import home_lock
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.limits import CHUNK_BYTES_MAX


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


# --- atomic files ----------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with file_size_limit(1000), pytest.raises(StoreError, match="Free some space"):
        write_atomically(path, b"new" * 5000)
    assert files(tmp_path) == {"file": b"old"}


def test_a_folder_where_a_file_stands_is_the_disks_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="make the folder"):
        make_folder(tmp_path / "file" / "below")


# --- blocks ----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=6))
def test_blocks_come_back_by_their_names(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("blocks")
    blocks = BlockStore(folder)
    cids = [blocks.put(content, durable=False) for content in contents]
    again = BlockStore(folder)
    assert [again.get(cid) for cid in cids] == contents
    assert set(again.cids()) == set(cids)
    assert again.bytes_used == blocks.bytes_used == sum(map(len, set(contents)))


def test_a_block_that_is_not_here_is_none(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path)
    cid = cid_of(b"x")
    assert blocks.get(cid) is None
    assert not blocks.has(cid)
    blocks.put(b"x")
    assert blocks.has(cid)
    blocks.remove(cid)
    assert not blocks.has(cid)
    assert blocks.bytes_used == 0


def test_a_block_that_changed_on_disk_is_set_aside_and_counts_as_absent(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path)
    cid = blocks.put(b"content")
    flipped(tmp_path / cid[-2:] / cid, 3)
    with pytest.raises(StoreError, match="set aside"):
        blocks.get(cid)
    assert blocks.get(cid) is None
    assert (tmp_path / "quarantine" / cid).exists()
    assert blocks.put(b"content") == cid
    assert blocks.get(cid) == b"content"


def test_the_quota_holds_also_after_opening_again(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path, bytes_max=10)
    blocks.put(b"12345678")
    for store in (blocks, BlockStore(tmp_path, bytes_max=10)):
        with pytest.raises(StoreError, match="8 of 10 bytes"):
            store.put(b"abc")
        store.put(b"12345678")  # it is there: costs nothing


def test_a_full_disk_leaves_the_blocks_intact(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path)
    cid = blocks.put(b"small")
    before = files(tmp_path)
    with file_size_limit(1000), pytest.raises(StoreError, match="Free some space"):
        blocks.put(b"x" * 5000)
    assert files(tmp_path) == before
    assert blocks.get(cid) == b"small"
    assert blocks.bytes_used == 5


def test_what_a_crash_left_half_written_is_no_block(tmp_path: Path) -> None:
    cid = cid_of(b"content")
    shelf = tmp_path / cid[-2:]
    shelf.mkdir()
    (shelf / (cid + ".tmp")).write_bytes(b"cont")
    blocks = BlockStore(tmp_path)
    assert (list(blocks.cids()), blocks.bytes_used, blocks.has(cid)) == ([], 0, False)
    blocks.put(b"content")
    assert files(tmp_path) == {f"{cid[-2:]}/{cid}": b"content"}


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x" * 59])
def test_a_name_that_is_no_cid_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="CID"):
        BlockStore(tmp_path).get(name)  # type: ignore[arg-type]


def test_a_block_over_the_limit_is_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most"):
        BlockStore(tmp_path).put(bytes(CHUNK_BYTES_MAX + 1))


# --- the durable record ----------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_record_is_the_one_that_was_saved_last(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    path = tmp_path_factory.mktemp("durable") / "votes"
    assert DurableRecord(path).load() is None
    DurableRecord(path).save(first)
    DurableRecord(path).save(second)
    assert DurableRecord(path).load() == second


def test_a_record_in_which_any_bit_flipped_is_refused(tmp_path: Path) -> None:
    record = DurableRecord(tmp_path / "votes")
    record.save(b"vote")
    for at in range(len((tmp_path / "votes").read_bytes())):
        flipped(tmp_path / "votes", at)
        with pytest.raises(StoreError, match="double signing"):
            record.load()
        flipped(tmp_path / "votes", at)
    assert record.load() == b"vote"


def test_a_record_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    record = DurableRecord(tmp_path / "votes")
    record.save(b"vote")
    whole = (tmp_path / "votes").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "votes").write_bytes(whole[:length])
        with pytest.raises(StoreError, match="damaged"):
            record.load()
    (tmp_path / "votes").write_bytes(whole + b"\0")
    with pytest.raises(StoreError, match="damaged"):
        record.load()


def test_a_full_disk_leaves_the_old_record(tmp_path: Path) -> None:
    record = DurableRecord(tmp_path / "votes", bytes_max=5000)
    record.save(b"old")
    with file_size_limit(1000), pytest.raises(StoreError, match="Free some space"):
        record.save(bytes(5000))
    assert record.load() == b"old"
    with pytest.raises(ValueError, match="at most"):
        record.save(bytes(5001))


def test_a_record_that_was_written_under_a_larger_limit_is_refused(tmp_path: Path) -> None:
    DurableRecord(tmp_path / "votes").save(bytes(5000))
    with pytest.raises(StoreError, match="damaged"):
        DurableRecord(tmp_path / "votes", bytes_max=4999).load()


# --- checkpoints -----------------------------------------------------------------------------


def checkpoint(step: int, local: bytes = b"") -> Checkpoint:
    block_id = bytes([step]) * 32
    return Checkpoint(step, block_id, b"certificate", b"context", bytes([step]) * 400, local)


def test_the_newest_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.load_newest().checkpoint is None
    for step in (2, 10, 9):
        store.save(checkpoint(step, b"feedback"))
    again = CheckpointStore(tmp_path)
    assert again.load_newest().checkpoint == checkpoint(10, b"feedback")
    assert again.load(bytes([2]) * 32).checkpoint == checkpoint(2, b"feedback")
    assert again.load(bytes(32)).checkpoint is None


def test_a_torn_or_flipped_newest_falls_back_to_the_one_before(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save(checkpoint(step))
    newest = max(tmp_path.glob("*.checkpoint"))
    whole = newest.read_bytes()
    for torn in (b"", whole[:10], whole[:70], whole[:-1], whole + b"\0"):
        newest.write_bytes(torn)
        loaded = store.load_newest()
        assert loaded.checkpoint == checkpoint(1)
        assert "damaged" in loaded.warnings[0]
    for at in range(0, len(whole), 7):
        newest.write_bytes(whole)
        flipped(newest, at)
        assert store.load_newest().checkpoint == checkpoint(1), at


def test_a_whole_file_under_another_name_is_not_believed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(1))
    (path,) = tmp_path.glob("*.checkpoint")
    path.rename(path.with_name(path.name.replace("000000000001", "000000000002")))
    assert store.load_newest().checkpoint is None


def test_only_the_newest_are_kept_and_the_final_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.load_final().checkpoint is None
    store.save(checkpoint(1))
    store.mark_final(bytes([1]) * 32)
    for step in (2, 3, 4):
        store.save(checkpoint(step))
    assert [path.name[:12] for path in sorted(tmp_path.glob("*.checkpoint"))] == [
        f"{step:012d}" for step in (1, 3, 4)
    ]
    assert store.load_final().checkpoint == checkpoint(1)
    store.mark_final(bytes([4]) * 32)
    store.save(checkpoint(5))
    assert CheckpointStore(tmp_path).load_final().checkpoint == checkpoint(4)


def test_a_damaged_final_mark_is_no_final_mark(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(1))
    store.mark_final(bytes([1]) * 32)
    (tmp_path / "final").write_bytes(b"\xff" * 64)
    assert store.load_final().checkpoint is None
    store.save(checkpoint(2))


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(checkpoint(1))
    with file_size_limit(100), pytest.raises(StoreError, match="Free some space"):
        store.save(checkpoint(2))
    assert store.load_newest().checkpoint == checkpoint(1)
    assert not list(tmp_path.glob("*.tmp"))


# --- one process a home ----------------------------------------------------------------------

HOLD = (
    "import sys; from pathlib import Path; from p2ptrain.store.lock import home_lock\n"
    "with home_lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


def test_a_second_process_is_told_who_has_the_home_and_a_killed_one_leaves_no_lock(
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"process {other.pid}"), home_lock(tmp_path):
            pass
        other.kill()
        other.wait()
        with home_lock(tmp_path):
            pass
