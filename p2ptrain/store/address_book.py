"""The peers that this one has met, where they were reached, and how often that failed.

One SQLite file a home. A row is one address of one peer of one topic (a swarm or a data set). Rows
come into being only by a greeting: the addresses that a peer told in its hello, and the one at
which it was dialled; what others say of it is not written down. Peers that broke the rules are
deleted. So a peer that starts again finds its swarm without a link.

This is a cache: losing it costs a link, not a run. A file that is damaged, or of another version,
is set aside and begun anew; SQLite flushes its log only now and then (synchronous = NORMAL), which
may lose the last rows in a power failure and never harms the rest.

It also keeps the port that each listen address got, so that a peer that listens at any free port
is found again where it was.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import disk_errors, make_folder
from p2ptrain.wire.limits import (
    ADDRESS_AGE_DAYS_MAX,
    ADDRESS_CHARS_MAX,
    ADDRESS_FAILURES_MAX,
    ADDRESSES_MAX,
    ADDRESSES_REMEMBERED,
    LISTEN_PORTS_REMEMBERED,
    PEERS_RECALLED,
    REASON_BYTES_MAX,
)
from p2ptrain.wire.peer_id import PeerId, peer_id_in

VERSION = 1
DAMAGED_SUFFIX = ".damaged"
DAY_S = 86_400.0
# What another file at the same place would meet as well.
_NOT_ITS_FAULT = {"SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_CANTOPEN_ISDIR", "SQLITE_FULL"}

_ADDRESSES = """CREATE TABLE addresses (
    topic      TEXT NOT NULL,
    peer       TEXT NOT NULL,
    address    TEXT NOT NULL,
    met_at     REAL NOT NULL,
    worked_at  REAL,
    successes  INTEGER NOT NULL DEFAULT 0,
    failures   INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (topic, peer, address)
) STRICT, WITHOUT ROWID"""
_PORTS = """CREATE TABLE ports (
    listen TEXT PRIMARY KEY,
    port   INTEGER NOT NULL
) STRICT, WITHOUT ROWID"""
_MET = """
INSERT INTO addresses (topic, peer, address, met_at) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET met_at = excluded.met_at
"""
_REACHED = """
INSERT INTO addresses (topic, peer, address, met_at, worked_at, successes) VALUES (?, ?, ?, ?, ?, 1)
ON CONFLICT DO UPDATE SET met_at = excluded.met_at, worked_at = excluded.worked_at,
    successes = successes + 1, failures = 0, last_error = ''
"""
_MISSED = """
UPDATE addresses SET failures = failures + 1, last_error = ? WHERE peer = ? AND address = ?
"""
_RECALL = """
SELECT peer, address, worked_at, successes, failures, last_error FROM addresses
WHERE topic = ? ORDER BY failures > 0, coalesce(worked_at, 0) DESC, met_at DESC
"""
# Of each peer and topic, the addresses beyond ADDRESSES_MAX; of all, those beyond the whole's.
_CROWDED = """
DELETE FROM addresses WHERE (topic, peer, address) IN (
    SELECT topic, peer, address FROM (
        SELECT topic, peer, address, row_number() OVER (
            PARTITION BY topic, peer ORDER BY failures > 0, coalesce(worked_at, 0) DESC, met_at DESC
        ) AS place FROM addresses
    ) WHERE place > ?
)
"""
_OVERFULL = """
DELETE FROM addresses WHERE (topic, peer, address) IN (
    SELECT topic, peer, address FROM addresses ORDER BY met_at DESC LIMIT -1 OFFSET ?
)
"""


@dataclass(frozen=True, slots=True)
class Met:
    """A peer said hello. topics: its own; addresses: where it says that it listens."""

    peer: PeerId
    topics: tuple[str, ...]
    addresses: tuple[str, ...]
    unix_s: float


@dataclass(frozen=True, slots=True)
class Reached:
    """A dial of an address led to a greeting."""

    peer: PeerId
    topics: tuple[str, ...]
    address: str
    unix_s: float


@dataclass(frozen=True, slots=True)
class Missed:
    """A dial of an address failed; what was never written down is not now."""

    peer: PeerId
    address: str
    why: str
    unix_s: float


@dataclass(frozen=True, slots=True)
class Banned:
    """A peer broke the rules too often: it is forgotten."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Listening:
    """The port that a listen address with port 0 was given."""

    listen: str
    port: int


Note = Met | Reached | Missed | Banned | Listening


@dataclass(frozen=True, slots=True)
class Remembered:
    """One address of one peer.

    worked_at   when it last led to a greeting, Unix seconds; None: never
    successes   how often it did
    failures    attempts that failed since then
    last_error  why the last one failed; "" if it did not
    """

    peer: PeerId
    address: str
    worked_at: float | None
    successes: int
    failures: int
    last_error: str


class AddressBook:
    """One home's address book; close it, or use it in a with statement.

    warning   what is to be said to the user about opening it; "" if nothing
    """

    def __init__(self, path: Path, now_unix_s: float) -> None:
        """Open or begin the book, and drop what is too old. Raises StoreError."""
        make_folder(path.parent)
        self._path = path
        self.warning = ""
        try:
            self._database = self._open(now_unix_s)
        except (sqlite3.DatabaseError, _Unusable) as error:
            cause = getattr(error, "sqlite_errorname", "")
            if isinstance(error, sqlite3.Error) and cause in _NOT_ITS_FAULT:
                raise self._error("open", error) from error
            self._set_aside()
            self.warning = (
                f"the address book {path} cannot be used ({error}); it is set aside and a new one "
                "begun. Nothing but remembered addresses is lost."
            )
            with self._errors("begin"):
                self._database = self._open(now_unix_s)

    def recall(self, topics: Collection[str]) -> list[Remembered]:
        """The addresses of the best PEERS_RECALLED peers of each topic, best first.

        Raises StoreError.
        """
        found: dict[str, Remembered] = {}
        with self._errors("read"):
            for topic in topics:
                peers: set[str] = set()
                for row in self._database.execute(_RECALL, (topic,)):
                    remembered = _remembered(row)
                    if remembered is None:
                        continue
                    if remembered.peer not in peers and len(peers) >= PEERS_RECALLED:
                        continue
                    peers.add(remembered.peer)
                    found.setdefault(remembered.address, remembered)
        return list(found.values())

    def ports(self) -> dict[str, int]:
        """The port that each listen address had last. Raises StoreError."""
        with self._errors("read"):
            rows = self._database.execute("SELECT listen, port FROM ports").fetchall()
        return {listen: port for listen, port in rows if 0 < port < 1 << 16}

    def record(self, notes: Sequence[Note]) -> None:
        """Write down what happened, all or nothing. Raises StoreError."""
        with self._errors("write to"), _transaction(self._database):
            for note in notes:
                self._write(note)
            self._database.execute(_CROWDED, (ADDRESSES_MAX,))
            self._database.execute(_OVERFULL, (ADDRESSES_REMEMBERED,))

    def _write(self, note: Note) -> None:
        run, many = self._database.execute, self._database.executemany
        match note:
            case Met(peer, topics, addresses, now):
                many(_MET, [(t, peer, a, now) for t in topics for a in addresses])
            case Reached(peer, topics, address, now):
                many(_REACHED, [(topic, peer, address, now, now) for topic in topics])
            case Missed(peer, address, why, _):
                words = why[:REASON_BYTES_MAX].encode("utf-8", "replace").decode("utf-8")
                run(_MISSED, (words, peer, address))
            case Banned(peer):
                run("DELETE FROM addresses WHERE peer = ?", (peer,))
            case Listening(listen, port):
                (count,) = run("SELECT count(*) FROM ports").fetchone()
                if count >= LISTEN_PORTS_REMEMBERED:
                    run("DELETE FROM ports")
                run("INSERT OR REPLACE INTO ports VALUES (?, ?)", (listen, port))

    def close(self) -> None:
        """Close the file; nothing else may be called after it."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self, now_unix_s: float) -> sqlite3.Connection:
        # Used from worker threads, one at a time.
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        database.text_factory = lambda data: data.decode("utf-8", "replace")  # a bit may flip
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            tables = [
                sql for (sql,) in database.execute("SELECT sql FROM sqlite_schema ORDER BY 1")
            ]
            if not tables:
                begin = f"BEGIN; {_ADDRESSES}; {_PORTS}; PRAGMA user_version = {VERSION}; COMMIT"
                database.executescript(begin)
            elif version != VERSION:
                raise _Unusable(f"it is of version {version}, not {VERSION}")
            elif tables != [_ADDRESSES, _PORTS]:
                raise _Unusable("its tables are others")
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _Unusable(verdict)
            _prune(database, now_unix_s)
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self) -> None:
        """Rename the file out of the way, over one that was set aside before; its log goes."""
        with disk_errors(f"set {self._path} aside"):
            self._path.replace(self._path.with_name(self._path.name + DAMAGED_SUFFIX))
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(doing, error) from error

    def _error(self, doing: str, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"cannot {doing} the address book {self._path}: {error}.\n"
            "It is a cache of peers' addresses: check that the disk has room, or delete it."
        )


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _prune(database: sqlite3.Connection, now_unix_s: float) -> None:
    """Drop what was not met for long, and what fails over and over."""
    oldest = now_unix_s - ADDRESS_AGE_DAYS_MAX * DAY_S
    with _transaction(database):
        database.execute("DELETE FROM addresses WHERE met_at < ?", (oldest,))
        database.execute("DELETE FROM addresses WHERE failures >= ?", (ADDRESS_FAILURES_MAX,))


class _Unusable(Exception):
    """The file is of another version, or SQLite's own check finds it damaged."""


def _remembered(row: tuple[str, str, float | None, int, int, str]) -> Remembered | None:
    """A row as it is used; None if a bit has flipped in what makes it an address."""
    peer, address, worked_at, successes, failures, last_error = row
    try:
        if len(address) > ADDRESS_CHARS_MAX or peer_id_in(address) != peer:
            return None
    except ValueError:
        return None
    return Remembered(PeerId(peer), address, worked_at, successes, failures, last_error)
