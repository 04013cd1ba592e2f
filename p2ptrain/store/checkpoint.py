"""Certified states on disk: written whole or not at all, checked when read, the newest few kept.

A checkpoint is one file. Its name sorts by round, its body is five sections, and its last 32
bytes are the digest of all sections, so a torn or flipped file is known for one. Loading takes
the newest file that is whole and says in a warning which ones it passed over.

A certified block may still be replaced until the next view certifies on it (DESIGN section 4),
so the caller marks a block final when it is; the final one is never pruned.

    file    = magic | length of each section, 8 bytes little-endian | sections | digest
    digest  = digest("checkpoint", round, block id, certificate, context, vector, local)
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import (
    disk_errors,
    make_folder,
    remove_temporaries,
    set_aside,
    write_atomically,
)
from p2ptrain.wire.digest import DIGEST_BYTES, digest
from p2ptrain.wire.limits import CHECKPOINT_SECTION_BYTES_MAX, CHECKPOINTS_KEPT

MAGIC = b"p2ptrain checkpoint 1\n"
_HEADER_BYTES = len(MAGIC) + 5 * 8
_HEX = re.compile(rb"[0-9a-f]{64}")
_NAME = re.compile(r"(\d{12})-([0-9a-f]{64})\.checkpoint")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after one certified block.

    round        outer steps in it, 0 <= round < 10^12
    block_id     32 bytes
    certificate  canonical bytes of the certificate
    context      canonical bytes of what else a peer needs to go on: header, roster, beacon
    vector       the shared state, float32 little-endian
    local        this peer's own state at this block (error feedback, inner optimiser); not shared
    """

    round: int
    block_id: bytes
    certificate: bytes
    context: bytes
    vector: bytes
    local: bytes = b""

    @property
    def sections(self) -> tuple[bytes, ...]:
        """What the file holds, in its order."""
        step = self.round.to_bytes(8, "little")
        return (step + self.block_id, self.certificate, self.context, self.vector, self.local)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a folder of checkpoints had to offer.

    checkpoint  None if there was no whole one
    warnings    a sentence for each file that was passed over, for people
    """

    checkpoint: Checkpoint | None
    warnings: tuple[str, ...] = ()


class CheckpointStore:
    """The checkpoints of one swarm, in one folder."""

    def __init__(self, folder: Path, *, keep: int = CHECKPOINTS_KEPT) -> None:
        """Open the folder, made if need be; keep >= 1 newest files. Raises StoreError."""
        self._folder = folder
        self._keep = keep
        make_folder(folder)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then prune. Raises StoreError, and then the older ones are intact."""
        sections = checkpoint.sections
        if len(checkpoint.block_id) != DIGEST_BYTES:
            raise ValueError(f"a block id has {DIGEST_BYTES} bytes, not {len(checkpoint.block_id)}")
        sizes = struct.pack("<5Q", *map(len, sections))
        path = self._path(checkpoint.round, checkpoint.block_id)
        write_atomically(path, MAGIC, sizes, *sections, digest("checkpoint", *sections))
        self._prune()

    def mark_final(self, block_id: bytes) -> None:
        """Say that a block can no longer be replaced. Raises StoreError.

        Not flushed: if the power goes, an older block counts as the last final one.
        """
        name = block_id.hex().encode("ascii")
        write_atomically(self._folder / "final", name, durable=False)

    def set_all_aside(self) -> list[Path]:
        """Move every file out of the way, for a person to look at. Raises StoreError."""
        return [set_aside(path) for path in self._paths()]

    def load_newest(self, wanted: Callable[[Checkpoint], bool] = lambda _: True) -> Loaded:
        """The whole checkpoint of the highest round, of those that are wanted."""
        return self._first_whole(reversed(self._paths()), wanted)

    def load_final(self) -> Loaded:
        """The checkpoint of the block that was last marked final. Raises StoreError."""
        block_id = self._final_id()
        return self._first_whole(p for p in self._paths() if block_id and _block_of(p) == block_id)

    def load(self, block_id: bytes) -> Loaded:
        """The checkpoint of one block."""
        return self._first_whole(p for p in self._paths() if _block_of(p) == block_id)

    def blocks(self) -> set[bytes]:
        """Blocks of which there is a file, whole or not. Raises StoreError."""
        return {_block_of(path) for path in self._paths()}

    def _path(self, step: int, block_id: bytes) -> Path:
        return self._folder / f"{step:012d}-{block_id.hex()}.checkpoint"

    def _paths(self) -> list[Path]:
        """The files, oldest first."""
        with disk_errors(f"read {self._folder}"):
            return sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))

    def _final_id(self) -> bytes | None:
        path = self._folder / "final"
        with disk_errors(f"read {path}"):
            text = path.read_bytes() if path.exists() else b""
        # A marker that is damaged only means that the next final block will set it again.
        return bytes.fromhex(text.decode("ascii")) if _HEX.fullmatch(text) else None

    def _first_whole(
        self, paths: Iterator[Path], wanted: Callable[[Checkpoint], bool] = lambda _: True
    ) -> Loaded:
        warnings: list[str] = []
        for path in paths:
            try:
                checkpoint = _read(path)
            except StoreError as error:
                warnings.append(str(error))
                continue
            if wanted(checkpoint):
                return Loaded(checkpoint, tuple(warnings))
        return Loaded(None, tuple(warnings))

    def _prune(self) -> None:
        final = self._final_id()
        # Here rather than when opened, so that an export beside a running node disturbs nothing.
        remove_temporaries(self._folder)
        with disk_errors(f"remove old checkpoints in {self._folder}"):
            for path in self._paths()[: -self._keep]:
                if _block_of(path) != final:
                    path.unlink(missing_ok=True)


def _block_of(path: Path) -> bytes:
    return bytes.fromhex(path.name[13:77])


def _read(path: Path) -> Checkpoint:
    """The checkpoint in a file. Raises StoreError unless every byte is as it was written."""
    with disk_errors(f"read {path}"), path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) != _HEADER_BYTES or not header.startswith(MAGIC):
            raise _damaged(path)
        lengths = struct.unpack_from("<5Q", header, len(MAGIC))
        whole = path.stat().st_size == _HEADER_BYTES + sum(lengths) + DIGEST_BYTES
        if not whole or max(lengths) > CHECKPOINT_SECTION_BYTES_MAX:
            raise _damaged(path)
        sections = [file.read(length) for length in lengths]
        if digest("checkpoint", *sections) != file.read(DIGEST_BYTES):
            raise _damaged(path)
    head, certificate, context, vector, local = sections
    step, block_id = int.from_bytes(head[:8], "little"), head[8:]
    # A whole file under another's name would be taken for a block that it is not.
    if path.name != f"{step:012d}-{block_id.hex()}.checkpoint":
        raise _damaged(path)
    return Checkpoint(step, block_id, certificate, context, vector, local)


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"checkpoint {path.name} is damaged (torn or changed on disk) and was skipped"
    )
