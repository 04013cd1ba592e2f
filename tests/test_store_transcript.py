"""The transcript: an append-only log in which nothing can be changed unseen."""

import sqlite3
from pathlib import Path

import pytest
from full_disk import file_size_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from p2ptrain.errors import StoreError
from p2ptrain.store.transcript import Entry, Transcript, chain_of
from p2ptrain.wire.digest import ZERO_DIGEST

BLOCK = bytes(32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "transcript.sqlite"


def filled(path: Path, count: int) -> None:
    with Transcript(path) as transcript:
        transcript.append_all([("certificate", BLOCK, bytes([i])) for i in range(count)])


def changed(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=32), st.binary(max_size=64))))
def test_entries_come_back_in_order_after_opening_again(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, bytes, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("transcript") / "t"
    with Transcript(path) as transcript:
        written = transcript.append_all(items)
    with Transcript(path) as transcript:
        assert list(transcript.iterate()) == written
        assert [(e.kind, e.block_id, e.payload) for e in written] == items
        assert transcript.verify() == len(transcript) == len(items)
        assert transcript.tail(2) == written[-2:]
        assert list(transcript.iterate(1)) == written[1:]


def test_the_chain_hash_is_the_specified_one(path: Path) -> None:
    with Transcript(path) as transcript:
        assert transcript.chain == ZERO_DIGEST
        entry = transcript.append("certificate", BLOCK, b"payload")
        assert transcript.chain == entry.chain
    assert entry.chain == chain_of(
        ZERO_DIGEST, Entry(0, "certificate", BLOCK, b"payload", ZERO_DIGEST)
    )
    assert entry.chain.hex() == "5129887bf4c404b42292a63b5bde7b22a54c0fc0c33b3af972d5a85fe2c066b7"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET payload = x'ff' WHERE sequence = 2",
        "UPDATE entries SET kind = 'x' WHERE sequence = 2",
        "UPDATE entries SET block_id = x'ff' WHERE sequence = 2",
        "UPDATE entries SET chain = zeroblob(32) WHERE sequence = 2",
        "DELETE FROM entries WHERE sequence = 2",
    ],
)
def test_whatever_is_changed_is_found_and_named(path: Path, statement: str) -> None:
    filled(path, 5)
    changed(path, statement)
    with Transcript(path) as transcript, pytest.raises(StoreError, match="damaged at entry 2"):
        transcript.verify()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET payload = x'ff' WHERE sequence = 2",
        "UPDATE entries SET sequence = 9 WHERE sequence = 1",
        "DELETE FROM entries WHERE sequence = 1",
    ],
)
def test_a_last_entry_that_does_not_fit_is_found_when_the_log_is_opened(
    path: Path, statement: str
) -> None:
    filled(path, 3)
    changed(path, statement)
    with pytest.raises(StoreError, match="damaged at entry"):
        Transcript(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(StoreError, match="is damaged"):
        Transcript(path)


def test_a_full_disk_appends_nothing_and_loses_nothing(path: Path) -> None:
    filled(path, 3)
    with Transcript(path) as transcript:
        chain = transcript.chain
        with file_size_limit(200_000), pytest.raises(StoreError, match="disk has room"):
            transcript.append_all([("big", BLOCK, bytes(50_000)) for _ in range(8)])
        assert (len(transcript), transcript.chain) == (3, chain)
        assert transcript.append("after", BLOCK, b"").sequence == 3
    with Transcript(path) as transcript:
        assert transcript.verify() == 4


def test_a_payload_over_the_limit_is_our_mistake(path: Path) -> None:
    with Transcript(path) as transcript, pytest.raises(ValueError, match="over the limit"):
        transcript.append("big", BLOCK, bytes((1 << 24) + 1))
