"""Torn writes, flipped bits, full disks and things in the way: each is found out, said, survived.

Checkpoints and durable records have theirs in test_store.py, votes in test_votes_record.py, the
key in test_identity.py, whole nodes in test_store_faults_node.py.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from full_disk import file_size_limit
from node_chain import chain_on, genesis_of, shards_of
from swarm_router import SETTINGS

from p2ptrain.errors import StoreError
from p2ptrain.node.ledger import Ledger
from p2ptrain.store import atomic
from p2ptrain.store.atomic import set_aside
from p2ptrain.store.checkpoint import CheckpointStore
from p2ptrain.store.lock import home_lock
from p2ptrain.store.recovery import open_transcript
from p2ptrain.store.reduced import ReducedBlock, ReducedStore
from p2ptrain.store.transcript import Transcript
from p2ptrain.swarm.history import History
from p2ptrain.wire.digest import digest

GENESIS = genesis_of()
CHAIN = chain_on(GENESIS, 6)
ITEMS = [("certificate", bytes([i]) * 32, bytes([i]) * 200) for i in range(20)]


def reduced(number: int) -> ReducedBlock:
    shards = (bytes([number]) * 5, b"", bytes([number]) * 9)
    return ReducedBlock(digest("block", bytes([number])), digest("state", bytes([number])), shards)


# --- the transcript -------------------------------------------------------------------------
def found_in(path: Path, calls: list[str]) -> tuple[list[tuple[str, bytes, bytes]], bool]:
    """What a node finds in a transcript when it starts, and whether something was lost."""
    opened = open_transcript(path, lambda: calls.append("forgetting"))
    with opened.transcript as transcript:
        entries = [(e.kind, e.block_id, e.payload) for e in transcript.iterate()]
        transcript.append("after", bytes(32), b"")
        transcript.verify()
    assert opened.lost == bool(opened.warnings) == bool(calls)
    return entries, opened.lost


def killed(folder: Path) -> Path:
    """The files of a transcript whose process was killed: some entries are in its log only."""
    with Transcript(folder / "alive.sqlite") as transcript:
        transcript.append_all(ITEMS[:10])
        transcript._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for item in ITEMS[10:]:
            transcript.append(*item)
        for suffix in ("", "-wal"):
            shutil.copy(folder / f"alive.sqlite{suffix}", folder / f"t.sqlite{suffix}")
    return folder / "t.sqlite"


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    assert found_in(killed(tmp_path), []) == (ITEMS, False)


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_no_flipped_bit_of_a_transcript_passes_for_the_truth(tmp_path: Path, suffix: str) -> None:
    """What is found is the beginning of what was written, and damage that shows is said."""
    path = killed(tmp_path)
    whole = {s: path.with_name(path.name + s).read_bytes() for s in ("", "-wal")}
    size = len(whole[suffix])
    for at in [*range(120), *range(120, size, size // 60)]:
        folder = tmp_path / f"flip {at}"
        folder.mkdir()
        for name, content in whole.items():
            flipped = bytearray(content)
            if name == suffix:
                flipped[at] ^= 1 << (at % 8)
            (folder / f"t.sqlite{name}").write_bytes(flipped)
        entries, lost = found_in(folder / "t.sqlite", [])
        assert entries == ITEMS[: len(entries)], at
        # SQLite takes a damaged end of its log for one that was never finished.
        assert lost or len(entries) == len(ITEMS) or suffix == "-wal", at
        assert not lost or (folder / "set-aside").is_dir()
        shutil.rmtree(folder)


def test_a_torn_transcript_keeps_what_is_whole(tmp_path: Path) -> None:
    with Transcript(tmp_path / "whole.sqlite") as transcript:
        transcript.append_all(ITEMS)
    content = (tmp_path / "whole.sqlite").read_bytes()
    for size in (0, 15, 16, 99, 100, 1000, 4095, 4096, 4097, len(content) - 1):
        path = tmp_path / f"{size}" / "t.sqlite"
        path.parent.mkdir()
        path.write_bytes(content[:size])
        entries, lost = found_in(path, [])
        assert entries == ITEMS[: len(entries)]
        assert lost == (size > 0)  # an empty file is a new database: the checkpoints know better


def test_a_crash_while_a_damaged_transcript_is_replaced_loses_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.sqlite"
    with Transcript(path) as transcript:
        transcript.append_all(ITEMS)
        transcript._database.execute("UPDATE entries SET payload = x'00' WHERE sequence = 12")
    path.with_name("t.sqlite.whole").write_bytes(b"left by a crash in the middle")
    calls: list[str] = []
    assert found_in(path, calls) == (ITEMS[:12], True)
    assert calls == ["forgetting"]


def test_a_folder_in_the_place_of_the_transcript_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "t.sqlite").mkdir()
    with pytest.raises(StoreError, match="cannot open the transcript"):
        open_transcript(tmp_path / "t.sqlite", lambda: None)
    assert (tmp_path / "t.sqlite").is_dir()


def test_many_damaged_files_say_that_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "SET_ASIDE_MAX", 2)
    for number in range(2):
        (tmp_path / "votes").write_text(str(number))
        assert set_aside(tmp_path / "votes").read_text() == str(number)
    (tmp_path / "votes").write_text("2")
    with pytest.raises(StoreError, match="this disk fails"):
        set_aside(tmp_path / "votes")
    assert (tmp_path / "votes").read_text() == "2"


# --- reduced shards -------------------------------------------------------------------------
def test_reduced_shards_come_back_and_the_oldest_go(tmp_path: Path) -> None:
    store = ReducedStore(tmp_path, keep=3)
    for number in (1, 2, 3, 3, 4):
        store.save(reduced(number))
    again = ReducedStore(tmp_path, keep=3)
    assert again.load_all() == ((reduced(2), reduced(3), reduced(4)), ())
    again.save(reduced(5))
    assert ReducedStore(tmp_path).load_all()[0] == (reduced(3), reduced(4), reduced(5))


@pytest.mark.parametrize("torn", [False, True], ids=["flipped", "torn"])
def test_damaged_reduced_shards_are_passed_over_and_can_be_written_again(
    tmp_path: Path, torn: bool
) -> None:
    ReducedStore(tmp_path).save(reduced(1))
    ReducedStore(tmp_path).save(reduced(2))
    path = min(tmp_path.iterdir())
    content = path.read_bytes()
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << (at % 8)
        path.write_bytes(content[:at] if torn else flipped)
        store = ReducedStore(tmp_path)
        found, warnings = store.load_all()
        assert found == (reduced(2),)
        assert "damaged" in warnings[0]
    store.save(reduced(1))
    assert store.load_all() == ((reduced(2), reduced(1)), ())


# --- the whole ledger -----------------------------------------------------------------------
@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    with open_transcript(folder / "transcript.sqlite", lambda: None).transcript as transcript:
        stores = CheckpointStore(folder / "checkpoints"), ReducedStore(folder / "reduced")
        yield Ledger(History(GENESIS), SETTINGS, transcript, *stores)


def record(ledger: Ledger, height: int) -> None:
    """One round of a voter, in its order."""
    link = CHAIN[height - 1]
    shards = shards_of(str(height - 1))
    ledger.keep(ReducedBlock(link.context.block, link.certificate.state, shards))
    ledger.extend((link,))
    ledger.history.append(link)
    ledger.save(height, b"state" * 400)
    ledger.note(height, shards)


WRITES: dict[str, Callable[[Ledger], None]] = {
    "reduced shards": lambda ledger: ledger.keep(
        ReducedBlock(digest("b"), digest("s"), (bytes(4000),))
    ),
    "certificate": lambda ledger: ledger.extend((CHAIN[2],)),
    "checkpoint": lambda ledger: ledger.save(2, bytes(4000)),
    "final": lambda ledger: ledger.finalize(CHAIN[1].context.block),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_loses_nothing_and_is_said(tmp_path: Path, write: str) -> None:
    with opened(tmp_path) as ledger:
        record(ledger, 1)
        record(ledger, 2)
        with file_size_limit(30), pytest.raises(StoreError, match=r"space|room") as caught:
            WRITES[write](ledger)
        assert "intact" in str(caught.value)
        record(ledger, 3)  # there is room again
    with opened(tmp_path) as ledger:
        restored = ledger.restore()
        assert (ledger.history.height, restored.block) == (3, CHAIN[2].context.block)
        assert restored.warnings == ()


def test_checkpoints_tell_that_the_end_of_a_transcript_is_missing(tmp_path: Path) -> None:
    """SQLite takes an empty file, or a log without its end, for whole; votes may be forgotten."""
    with opened(tmp_path) as ledger:
        for height in range(1, 7):
            record(ledger, height)
    (tmp_path / "transcript.sqlite").write_bytes(b"")
    with opened(tmp_path) as ledger:
        assert ledger.restore().forgot


def test_whichever_file_of_a_run_is_damaged_the_rest_is_gone_on_from(tmp_path: Path) -> None:
    """The state is at most one block back where a checkpoint is hit, the chain whole or shorter."""
    with opened(tmp_path / "whole") as ledger:
        for height in range(1, 7):
            record(ledger, height)
    for file in sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file()):
        home = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", home)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 16
        (home / file.relative_to(tmp_path / "whole")).write_bytes(content)
        with opened(home) as ledger:
            restored = ledger.restore()
            height = ledger.history.height_of(restored.block) or 0
            assert height or restored.state is None
            blocks = {one.block for one in restored.reduced}
            for link in ledger.history.after(height):  # and from there it is made again
                assert link.context.block in blocks
            if file.name != "transcript.sqlite":
                assert ledger.history.height == 6
                assert height >= 5
        shutil.rmtree(home)


# --- things in the way ----------------------------------------------------------------------
@pytest.mark.parametrize("name", ["checkpoints", "reduced"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("in the way")
    with pytest.raises(StoreError, match=name), opened(tmp_path):
        pass


def test_a_folder_in_the_place_of_the_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StoreError, match="lock"), home_lock(tmp_path):
        pass


def test_what_stands_in_the_lock_file_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff\x00 not a number")
    with home_lock(tmp_path):
        pass
