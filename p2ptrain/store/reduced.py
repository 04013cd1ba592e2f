"""Reduced shards on disk: with them the state after a block can be made again, by anybody.

A voter keeps what it reduced before it votes for it. So whatever a quorum has certified can be
rebuilt after every voter has crashed, though the contributions are gone: the newest checkpoint,
and the reduced shards of each block after it. One file a block, a byte a parameter.

    file   = magic | block, 32 bytes | state, 32 bytes | number of shards, 8 bytes little-endian |
             length of each, 8 bytes | shards | digest("reduced shards", all between)
"""

import re
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.store.atomic import disk_errors, make_folder, remove_temporaries, write_atomically
from p2ptrain.wire.digest import DIGEST_BYTES, Digest, digest
from p2ptrain.wire.limits import PARAMETERS_MAX, REDUCED_FILES_KEPT, SHARDS_MAX

MAGIC = b"p2ptrain reduced 1\n"
_HEADER_BYTES = len(MAGIC) + 2 * DIGEST_BYTES + 8
_FILE_BYTES_MAX = 2 * PARAMETERS_MAX  # a byte a parameter, scales, lengths: well below two
_NAME = re.compile(r"(\d{12})-([0-9a-f]{64})\.reduced")


@dataclass(frozen=True, slots=True)
class ReducedBlock:
    """What a reduction gave.

    block   digest of the block
    state   digest of the state after it
    shards  the reduced shards, in order
    """

    block: Digest
    state: Digest
    shards: tuple[bytes, ...]


class ReducedStore:
    """The reduced shards of the newest blocks of one swarm, in one folder."""

    def __init__(self, folder: Path, *, keep: int = REDUCED_FILES_KEPT) -> None:
        """Open the folder, made if need be; keep >= 1 newest files. Raises StoreError."""
        self._folder = folder
        self._keep = keep
        make_folder(folder)
        paths = self._paths()
        self._kept = [Digest(bytes.fromhex(path.name[13:77])) for path in paths]
        self._order = int(paths[-1].name[:12]) if paths else 0

    def save(self, reduced: ReducedBlock) -> None:
        """Write one block's shards, durably, and drop the oldest. Harmless twice.

        Raises StoreError; then what was there is intact.
        """
        if reduced.block in self._kept:
            return
        shards = reduced.shards
        lengths = b"".join(len(shard).to_bytes(8, "little") for shard in shards)
        head = reduced.block + reduced.state + len(shards).to_bytes(8, "little") + lengths
        path = self._folder / f"{self._order + 1:012d}-{reduced.block.hex()}.reduced"
        write_atomically(path, MAGIC, head, *shards, digest("reduced shards", head, *shards))
        self._order += 1
        self._kept.append(reduced.block)
        if len(self._kept) > self._keep:
            self._prune()

    def load_all(self) -> tuple[tuple[ReducedBlock, ...], tuple[str, ...]]:
        """All that is whole, oldest first, and a sentence about each file that is not."""
        found: list[ReducedBlock] = []
        warnings: list[str] = []
        for path in self._paths():
            reduced = _read(path)
            if reduced is None:
                warnings.append(f"reduced shards {path.name} are damaged and were passed over")
                self._forget(path)
            else:
                found.append(reduced)
        return tuple(found), tuple(warnings)

    def _forget(self, path: Path) -> None:
        """Remove a damaged file, so that the block can be written again."""
        with disk_errors(f"remove {path}"):
            path.unlink(missing_ok=True)
        self._kept.remove(Digest(bytes.fromhex(path.name[13:77])))

    def _prune(self) -> None:
        remove_temporaries(self._folder)
        with disk_errors(f"remove old shards in {self._folder}"):
            for path in self._paths()[: -self._keep]:
                path.unlink(missing_ok=True)
        del self._kept[: -self._keep]

    def _paths(self) -> list[Path]:
        """The files, oldest first."""
        with disk_errors(f"read {self._folder}"):
            return sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))


def _read(path: Path) -> ReducedBlock | None:
    """What a file holds; None unless every byte is as it was written. Raises StoreError."""
    with disk_errors(f"read {path}"):
        size = path.stat().st_size
        content = path.read_bytes() if size <= _FILE_BYTES_MAX else b""
    count = int.from_bytes(content[_HEADER_BYTES - 8 : _HEADER_BYTES], "little")
    if not content.startswith(MAGIC) or count > SHARDS_MAX:
        return None
    start = _HEADER_BYTES + 8 * count
    head, shards = content[len(MAGIC) : start], []
    for index in range(count):
        at = _HEADER_BYTES + 8 * index
        end = start + int.from_bytes(content[at : at + 8], "little")
        shards.append(content[start:end])
        start = end
    if content[start:] != digest("reduced shards", head, *shards):
        return None
    block, state = Digest(head[:DIGEST_BYTES]), Digest(head[DIGEST_BYTES : 2 * DIGEST_BYTES])
    # A whole file under another's name would be taken for a block that it is not.
    return ReducedBlock(block, state, tuple(shards)) if path.name[13:77] == block.hex() else None
