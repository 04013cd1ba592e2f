"""Content-addressed blocks on disk: chunks of data, manifests, recipes.

A block's file is named by its CID, so equal content is kept once, a block is complete or absent
(written beside and renamed), and every read is checked against the name: a disk that flips a bit
is found out before its bytes reach training or another peer. A block that fails goes to the
quarantine folder, after which it counts as absent and can be fetched again.
"""

from collections.abc import Iterator
from pathlib import Path

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import (
    TEMPORARY_SUFFIX,
    disk_errors,
    make_folder,
    remove_temporaries,
    write_atomically,
)
from p2ptrain.wire.cid import Cid, cid_of, parse_cid
from p2ptrain.wire.limits import CHUNK_BYTES_MAX


class BlockStore:
    """The blocks in one folder. One process writes at a time (store/lock.py); any may read."""

    def __init__(self, folder: Path, *, bytes_max: int | None = None) -> None:
        """Open the store, making its folder if need be.

        Args:
          folder     its own folder; a file a block, on shelves by the last two letters of its name
          bytes_max  the quota; None for as much as the disk holds

        Raises:
          StoreError  the folder cannot be made or read
        """
        self._folder = folder
        self._bytes_max = bytes_max
        make_folder(folder)
        with disk_errors(f"read {folder}"):
            self._bytes = sum(path.stat().st_size for path in self._files())

    @property
    def bytes_used(self) -> int:
        """The sum of the blocks' sizes."""
        return self._bytes

    def put(self, content: bytes, *, durable: bool = True) -> Cid:
        """Keep a block and return its name; a block that is there already costs nothing.

        Args:
          content  at most CHUNK_BYTES_MAX bytes
          durable  flush to the disk before returning; False for what can be fetched again

        Raises:
          StoreError  the quota or the disk is full; what was stored is intact
        """
        if len(content) > CHUNK_BYTES_MAX:
            raise ValueError(f"a block has at most {CHUNK_BYTES_MAX} bytes, not {len(content)}")
        cid = cid_of(content)
        path = self._path(cid)
        if path.exists():
            return cid
        if self._bytes_max is not None and self._bytes + len(content) > self._bytes_max:
            raise StoreError(
                f"the block store is full: {self._bytes:,} of {self._bytes_max:,} bytes are used "
                f"and {len(content):,} more are needed.\nRaise the quota or remove a data set."
            )
        make_folder(path.parent)
        # Here rather than when opened: a reader beside a running node must disturb nothing.
        remove_temporaries(path.parent)
        write_atomically(path, content, durable=durable)
        self._bytes += len(content)
        return cid

    def get(self, cid: Cid) -> bytes | None:
        """The block's bytes, checked against its name; None if it is not here.

        Raises:
          StoreError  the bytes are not those of this name; the block is now in quarantine
        """
        path = self._path(cid)
        with disk_errors(f"read {path}"):
            if not path.exists():
                return None
            content = path.read_bytes()
        if cid_of(content) == cid:
            return content
        self._quarantine(path, len(content))
        raise StoreError(
            f"block {cid} was damaged on disk and set aside in {self._folder / 'quarantine'}.\n"
            "It is fetched or seeded again when it is next needed; check the disk."
        )

    def has(self, cid: Cid) -> bool:
        """Whether the block is here; its bytes are checked by get."""
        return self._path(cid).exists()

    def remove(self, cid: Cid) -> None:
        """Forget a block, if it is here. Raises StoreError."""
        path = self._path(cid)
        with disk_errors(f"remove {path}"):
            if path.exists():
                size = path.stat().st_size
                path.unlink()
                self._bytes -= size

    def cids(self) -> Iterator[Cid]:
        """The names of all blocks here, in no promised order."""
        return (parse_cid(path.name) for path in self._files())

    def _path(self, cid: Cid) -> Path:
        # parse_cid keeps a peer's text such as "../../x" from ever becoming a path.
        return self._folder / parse_cid(cid)[-2:] / cid

    def _shelves(self) -> Iterator[Path]:
        return (path for path in self._folder.iterdir() if len(path.name) == 2 and path.is_dir())

    def _files(self) -> Iterator[Path]:
        found = (path for shelf in self._shelves() for path in shelf.iterdir())
        return (path for path in found if path.suffix != TEMPORARY_SUFFIX)

    def _quarantine(self, path: Path, size: int) -> None:
        aside = self._folder / "quarantine"
        make_folder(aside)
        with disk_errors(f"set aside {path}"):
            path.replace(aside / path.name)
        self._bytes -= size
