"""What is this peer's own at some block, on disk: error feedback, inner optimiser's state.

Nobody else has it and nobody else needs it: a peer that has lost it trains on without, a little
worse for some rounds. So this file is written for the crash of a process, not for a loss of power,
and one that is damaged is as good as none. It is apart from the checkpoints because it is up to
three times as large as a state, and need not be written for each.

    file = magic | block, 32 bytes | length of residual, 8 bytes little-endian | residual | inner |
           digest("own state", all between)
"""

from dataclasses import dataclass
from pathlib import Path

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import disk_errors, make_folder, write_atomically
from p2ptrain.wire.digest import DIGEST_BYTES, Digest, digest
from p2ptrain.wire.limits import OWN_STATE_BYTES_MAX

MAGIC = b"p2ptrain own state 1\n"
_HEAD_BYTES = DIGEST_BYTES + 8


@dataclass(frozen=True, slots=True)
class OwnRecord:
    """What was this peer's own.

    block     the block that it belongs to
    residual  what rounding had lost by then; it counts only until the next contribution
    inner     the inner optimiser's state; still of use some blocks later
    """

    block: Digest
    residual: bytes
    inner: bytes


class OwnStateFile:
    """The newest record, in one file."""

    def __init__(self, path: Path) -> None:
        """Open it; the folder above it is made if need be. Raises StoreError."""
        self._path = path
        make_folder(path.parent)

    def save(self, record: OwnRecord) -> None:
        """Replace the record. Raises StoreError; then the old one is as it was."""
        head = record.block + len(record.residual).to_bytes(8, "little")
        parts = (head, record.residual, record.inner)
        write_atomically(self._path, MAGIC, *parts, digest("own state", *parts), durable=False)

    def load(self) -> OwnRecord | None:
        """The newest record; None if there is none. Raises StoreError if it cannot be read."""
        with disk_errors(f"read {self._path}"):
            if not self._path.exists():
                return None
            if self._path.stat().st_size > OWN_STATE_BYTES_MAX:
                raise _damaged(self._path)
            content = self._path.read_bytes()
        if not content.startswith(MAGIC):
            raise _damaged(self._path)
        head = content[len(MAGIC) : len(MAGIC) + _HEAD_BYTES]
        rest = content[len(MAGIC) + _HEAD_BYTES : -DIGEST_BYTES]
        size = int.from_bytes(head[DIGEST_BYTES:], "little")
        residual, inner = rest[:size], rest[size:]
        if digest("own state", head, residual, inner) != content[-DIGEST_BYTES:]:
            raise _damaged(self._path)
        return OwnRecord(Digest(head[:DIGEST_BYTES]), residual, inner)


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is damaged.\nIt is written anew in time; check the disk.")
