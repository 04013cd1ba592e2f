"""One small record that must survive a crash before its author says anything: votes, promises.

A peer that forgets a vote can sign against itself, so a record that cannot be read is an error
that stops the peer; it is never taken for an empty one. The bytes mean nothing here.

    file = magic | length, 8 bytes little-endian | record | digest("durable record", record)
"""

from pathlib import Path

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import disk_errors, make_folder, write_atomically
from p2ptrain.wire.digest import DIGEST_BYTES, digest
from p2ptrain.wire.limits import DURABLE_BYTES_MAX

MAGIC = b"p2ptrain record 1\n"
_HEADER_BYTES = len(MAGIC) + 8
_FILE_BYTES_MAX = _HEADER_BYTES + DURABLE_BYTES_MAX + DIGEST_BYTES


class DurableRecord:
    """The record in one file; save returns when it is on the disk."""

    def __init__(self, path: Path) -> None:
        """path: the file; its folder is made if need be. Raises StoreError."""
        self._path = path
        make_folder(path.parent)

    def save(self, record: bytes) -> None:
        """Replace the record. Raises StoreError, and then the old one is as it was."""
        if len(record) > DURABLE_BYTES_MAX:
            raise ValueError(f"a record has at most {DURABLE_BYTES_MAX} bytes, not {len(record)}")
        size = len(record).to_bytes(8, "little")
        write_atomically(self._path, MAGIC, size, record, digest("durable record", record))

    def load(self) -> bytes | None:
        """The record that was saved last, or None if none ever was.

        Raises:
          StoreError  the file is there but damaged: what this peer has promised is not known
        """
        with disk_errors(f"read {self._path}"):
            try:
                with self._path.open("rb") as file:
                    content = file.read(_FILE_BYTES_MAX + 1)
            except FileNotFoundError:
                return None
        record = content[_HEADER_BYTES:-DIGEST_BYTES]
        size = int.from_bytes(content[len(MAGIC) : _HEADER_BYTES], "little")
        intact = content.startswith(MAGIC) and len(record) == size <= DURABLE_BYTES_MAX
        if not intact or digest("durable record", record) != content[-DIGEST_BYTES:]:
            raise StoreError(
                f"{self._path} is damaged, so what this peer has voted for is not known and voting "
                "again could convict it of double signing.\n"
                "Restore the file from a backup, or join again under a new identity: --home DIR"
            )
        return record
