"""Tells a folder from its copy: a stamp that names the machine and the file it was written to.

Whoever restores a backup, or copies a home to another machine, brings back old votes; to sign on
top of them can convict this peer of double voting. The stamp lies beside the votes and holds a
hash of this machine's id and its own inode number. A copy has another inode, or another machine:

  found out      cp, rsync, tar, a backup that was restored, a disk that moved to another machine
  not found out  a snapshot of a whole disk or virtual machine that is started again, in place of
                 the original or beside it; two of those at once are found out by what they sign

A file system that renumbers its inodes costs a false alarm: a peer sits out once. `remove` says
the same on purpose: what lies beside it is not to be trusted.
"""

import os
from pathlib import Path

from p2ptrain.store.atomic import disk_errors, flush_folder, make_folder, write_atomically
from p2ptrain.wire.digest import digest

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


class Stamp:
    """The file `stamp` in one folder."""

    def __init__(self, folder: Path, *, machine_ids: tuple[Path, ...] = _MACHINE_IDS) -> None:
        """Nothing is read or written yet."""
        self._path = folder / "stamp"
        self._machine_ids = machine_ids

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self._path.exists()

    def holds(self) -> bool:
        """Whether it is here, whole, and in the place where it was made. Raises StoreError."""
        with disk_errors(f"read {self._path}"):
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            with open(descriptor, "rb") as file:
                return file.read(256) == self._content(os.fstat(descriptor).st_ino)

    def make(self) -> None:
        """Write one; from here on the folder counts as the original. Raises StoreError."""
        make_folder(self._path.parent)
        write_atomically(self._path, b"")
        # In place, for the content names the file's own inode; torn, it is a stamp that fails.
        with disk_errors(f"write {self._path}"), self._path.open("r+b") as file:
            file.write(self._content(os.fstat(file.fileno()).st_ino))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Take it away, durably. Raises StoreError."""
        with disk_errors(f"remove {self._path}"):
            if self._path.exists():
                self._path.unlink()
                flush_folder(self._path.parent)

    def _content(self, inode: int) -> bytes:
        machine = digest("machine", self._machine_id())
        return f"p2ptrain stamp 1\n{machine.hex()}\n{inode}\n".encode("ascii")

    def _machine_id(self) -> bytes:
        """What this machine calls itself; empty where it has no name."""
        for path in self._machine_ids:
            try:
                return path.read_bytes().strip()
            except OSError:  # another place, or none: the inode still tells
                continue
        return b""
