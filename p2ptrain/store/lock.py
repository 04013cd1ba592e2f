"""One process at a time in one home: two that vote with one key would convict it of lying.

The lock is the kernel's (flock): it goes with the process however that ends, so that nobody ever
has to delete a stale lock file.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from p2ptrain.errors import ConfigError
from p2ptrain.store.atomic import disk_errors, make_folder


@contextmanager
def home_lock(folder: Path) -> Iterator[None]:
    """Hold folder (made if need be) for this process. Raises ConfigError if another has it."""
    make_folder(folder)
    path = folder / "lock"
    with disk_errors(f"open {path}"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise ConfigError(
                f"another p2ptrain (process {holder}) is using {folder}.\n"
                "Stop it, or give this one a folder of its own: --home DIR"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def lock_holder(folder: Path) -> int | None:
    """The process that holds a folder's lock, or None; without taking the lock, be it for a moment.

    A process that has just tried and failed to get it may be in the way for a millisecond; the
    process id in the file says who it is, and its open files say that it is.
    """
    path = folder / "lock"
    try:
        pid = int(path.read_text("ascii"))
        lock = path.stat()
        opened = list(Path(f"/proc/{pid}/fd").iterdir())
    except (OSError, ValueError):
        return None  # no lock, nobody's id in it, or nobody of that id (or not our user's)
    for descriptor in opened:
        with suppress(OSError):  # it was closed while we looked
            if os.path.samestat(descriptor.stat(), lock):
                return pid
    return None
