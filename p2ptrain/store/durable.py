"""One record that must survive a crash before its author says anything: votes, promises.

A peer that forgets a vote can sign against itself, so a record that cannot be read is an error of
its own; it is never taken for an empty one. The bytes mean nothing here.

    file = magic | length, 8 bytes little-endian | record | digest("durable record", record)
"""

from pathlib import Path

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import disk_errors, make_folder, write_atomically
from p2ptrain.wire.digest import DIGEST_BYTES, digest
from p2ptrain.wire.limits import DURABLE_BYTES_MAX

MAGIC = b"p2ptrain record 1\n"
_HEADER_BYTES = len(MAGIC) + 8


class RecordDamaged(StoreError):
    """The record is there and its bytes are not those that were written."""


class DurableRecord:
    """The record in one file; save returns when it is on the disk."""

    def __init__(self, path: Path, *, bytes_max: int = DURABLE_BYTES_MAX) -> None:
        """Open the record; the folder above it is made if need be. Raises StoreError.

        Args:
          path       the file; it need not exist
          bytes_max  the largest record that is written or read
        """
        self._path = path
        self._bytes_max = bytes_max
        make_folder(path.parent)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def save(self, record: bytes) -> None:
        """Replace the record. Raises StoreError, and then the old one is as it was."""
        if len(record) > self._bytes_max:
            raise ValueError(f"a record has at most {self._bytes_max} bytes, not {len(record)}")
        size = len(record).to_bytes(8, "little")
        write_atomically(self._path, MAGIC, size, record, digest("durable record", record))

    def load(self) -> bytes | None:
        """The record that was saved last, or None if none ever was.

        Raises:
          RecordDamaged  the file is not as it was written: what this peer promised is not known
          StoreError     it cannot be read
        """
        with disk_errors(f"read {self._path}"):
            try:
                with self._path.open("rb") as file:
                    content = file.read(_HEADER_BYTES + self._bytes_max + DIGEST_BYTES + 1)
            except FileNotFoundError:
                return None
        record = content[_HEADER_BYTES:-DIGEST_BYTES]
        size = int.from_bytes(content[len(MAGIC) : _HEADER_BYTES], "little")
        intact = content.startswith(MAGIC) and len(record) == size <= self._bytes_max
        if not intact or digest("durable record", record) != content[-DIGEST_BYTES:]:
            raise RecordDamaged(
                f"{self._path} is damaged, so what this peer has signed is not known and signing "
                "again could convict it of double signing.\n"
                "`p2ptrain join` sets it aside, and sits out before it signs again."
            )
        return record
