"""The log that makes a run auditable: what was signed and certified, chained by hashes.

Each entry's chain hash covers the hash before it, so nobody, this peer included, can change, drop
or reorder an entry without changing every hash after it. The log is SQLite with a write-ahead log
and full synchronisation: an entry that append has returned is on the disk.

    chain of entry n = digest("transcript", chain of n - 1, n as 8 bytes little-endian,
                              kind, block id, payload)          chain before entry 0: 32 zero bytes
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import make_folder
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.limits import TRANSCRIPT_PAYLOAD_BYTES_MAX

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    sequence INTEGER PRIMARY KEY,
    kind     TEXT NOT NULL,
    block_id BLOB NOT NULL,
    payload  BLOB NOT NULL,
    chain    BLOB NOT NULL
) STRICT
"""
_COLUMNS = "SELECT sequence, kind, block_id, payload, chain FROM entries"
# What SQLite says when the file may well be whole: the disk is full, a folder closed, a lock held.
_NOT_DAMAGE = ("FULL", "CANTOPEN", "PERM", "READONLY", "LOCKED", "BUSY", "NOMEM", "AUTH", "IOERR")


_TODO = "`p2ptrain join` sets it aside and goes on from what is whole; check the disk."


class TranscriptDamaged(StoreError):
    """The log's bytes are not those that were written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log.

    sequence  counts from 0 without gaps
    kind      what the payload is, such as "contribution" or "certificate"
    block_id  32 bytes: the block it belongs to
    payload   canonical bytes, signatures included
    chain     32 bytes: the hash of this entry and all before it
    """

    sequence: int
    kind: str
    block_id: bytes
    payload: bytes
    chain: Digest


def chain_of(previous: Digest, entry: Entry) -> Digest:
    """The chain hash that an entry must have after previous."""
    count = entry.sequence.to_bytes(8, "little")
    kind = entry.kind.encode("utf-8")
    return digest("transcript", previous, count, kind, entry.block_id, entry.payload)


class Transcript:
    """One swarm's log in one file; close it, or use it in a with statement."""

    def __init__(self, path: Path) -> None:
        """Open or begin the log. Raises StoreError, also when its last entry is damaged."""
        self._path = path
        make_folder(path.parent)
        with self._database_errors("open"):
            # The node appends from worker threads, one at a time.
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._open()
        except StoreError:
            self.close()
            raise

    def _open(self) -> None:
        with self._database_errors("open"):
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(_SCHEMA)
        last = self.tail(2)
        self._count = last[-1].sequence + 1 if last else 0
        self._chain = last[-1].chain if last else ZERO_DIGEST
        before = last[0].chain if len(last) == 2 else ZERO_DIGEST
        if last and chain_of(before, last[-1]) != last[-1].chain:
            raise self._damaged(last[-1].sequence)

    def __len__(self) -> int:
        return self._count

    @property
    def chain(self) -> Digest:
        """The hash of the whole log; 32 zero bytes when it is empty."""
        return self._chain

    def append(self, kind: str, block_id: bytes, payload: bytes) -> Entry:
        """Add one entry; it is on the disk on return. Raises StoreError; then nothing changed."""
        return self.append_all([(kind, block_id, payload)])[0]

    def append_all(self, items: Sequence[tuple[str, bytes, bytes]]) -> list[Entry]:
        """Add entries (kind, block id, payload), all or none. Raises StoreError."""
        entries: list[Entry] = []
        chain = self._chain
        for kind, block_id, payload in items:
            if len(payload) > TRANSCRIPT_PAYLOAD_BYTES_MAX:
                raise ValueError(f"a payload of {len(payload)} bytes is over the limit")
            bare = Entry(self._count + len(entries), kind, block_id, payload, ZERO_DIGEST)
            chain = chain_of(chain, bare)
            entries.append(Entry(bare.sequence, kind, block_id, payload, chain))
        rows = [(e.sequence, e.kind, e.block_id, e.payload, e.chain) for e in entries]
        with self._database_errors("append to"), self._transaction():
            self._database.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)
        self._count += len(entries)
        self._chain = chain
        return entries

    def iterate(self, start: int = 0) -> Iterator[Entry]:
        """Entries from sequence start on, in order. Raises StoreError."""
        with self._database_errors("read"):
            query = f"{_COLUMNS} WHERE sequence >= ? ORDER BY sequence"
            for row in self._database.execute(query, (start,)):
                yield self._entry(row)

    def tail(self, count: int) -> list[Entry]:
        """The last entries, at most count, in order. Raises StoreError."""
        with self._database_errors("read"):
            query = f"{_COLUMNS} ORDER BY sequence DESC LIMIT ?"
            return [self._entry(row) for row in self._database.execute(query, (count,))][::-1]

    def verified(self) -> Iterator[Entry]:
        """All entries in order, each checked before it is given.

        Raises:
          TranscriptDamaged  names the first entry that is missing or not what was written
        """
        chain, expected = ZERO_DIGEST, 0
        for entry in self.iterate():
            chain = chain_of(chain, entry)
            if entry.sequence != expected or entry.chain != chain:
                raise self._damaged(expected)
            yield entry
            expected += 1
        if expected != self._count:
            raise self._damaged(expected)

    def verify(self) -> int:
        """Recompute every hash and return the number of entries. Raises as verified()."""
        return sum(1 for _ in self.verified())

    def close(self) -> None:
        """Close the file; nothing else may be called after it."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _database_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                raise TranscriptDamaged(
                    f"the transcript {self._path} is damaged: {error}.\n{_TODO}"
                ) from error
            raise StoreError(
                f"cannot {doing} the transcript {self._path}: {error}.\n"
                "Check that the disk has room and the file is whole; entries before are intact."
            ) from error

    def _damaged(self, sequence: int) -> TranscriptDamaged:
        return TranscriptDamaged(
            f"the transcript {self._path} is damaged at entry {sequence}: its hashes do not fit."
            f"\n{_TODO}"
        )

    def _entry(self, row: tuple[object, ...]) -> Entry:
        match row:  # a flipped bit may have made another type of a column
            case (int(sequence), str(kind), bytes(block_id), bytes(payload), bytes(chain)):
                return Entry(sequence, kind, block_id, payload, Digest(chain))
            case _:
                raise self._damaged(int(row[0]) if isinstance(row[0], int) else 0)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the bytes are at fault, and not the disk or a lock: our statements never are."""
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT").removeprefix("SQLITE_")
    short = name == "IOERR_SHORT_READ"  # the file was cut off
    return short or not name.startswith(_NOT_DAMAGE)
