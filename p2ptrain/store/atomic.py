"""Write a file so that after any crash it holds either the old bytes or the new, never a mix.

The new bytes go to a temporary file beside the old one, are flushed to the disk (fsync), and the
file is renamed over the old one, which POSIX makes atomic; then the folder is flushed, or the
rename itself could be lost. (Pillai et al., All File Systems Are Not Created Equal, OSDI 2014.)
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2ptrain.errors import StoreError
from p2ptrain.wire.limits import SET_ASIDE_MAX

TEMPORARY_SUFFIX = ".tmp"
ASIDE = "set-aside"  # the folder of what was found damaged
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomically(path: Path, *parts: bytes, durable: bool = True) -> None:
    """Put parts, one after the other, into the file at path, whose folder must exist.

    Args:
      durable  flush to the disk before returning; False keeps the atomicity, and the promise of
               old or new then holds for a crash of the process, not for a loss of power

    Raises:
      StoreError  the disk is full or refuses; the old file is as it was
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with disk_errors(f"write {path}"):
        try:
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, readable by this user alone. Raises StoreError."""
    with disk_errors(f"make the folder {folder}"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Delete what a crash in the middle of a write left behind. Raises StoreError."""
    with disk_errors(f"clean {folder}"):
        for path in folder.glob("*" + TEMPORARY_SUFFIX):
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Move a file into the folder `set-aside` beside it, under a free name; returns the new path.

    Raises StoreError, also when very much lies there already.
    """
    folder = path.parent / ASIDE
    make_folder(folder)
    with disk_errors(f"set {path} aside"):
        for number in range(SET_ASIDE_MAX):
            target = folder / f"{path.name}.{number}"
            if not target.exists():
                path.replace(target)
                flush_folder(folder)
                flush_folder(path.parent)
                return target
    raise StoreError(
        f"{path} is damaged, and {folder} holds {SET_ASIDE_MAX} damaged files of that name "
        "already: this disk fails.\nMove the home to another disk: --home DIR"
    )


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn OSError into StoreError that says what was tried, why it failed and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            todo = (
                "Free some space or choose another folder with --home; what was stored is intact."
            )
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            todo = "Make the folder writable for this user, or choose another with --home."
        else:
            todo = "Check the disk; what was stored before is intact."
        raise StoreError(f"cannot {doing}: {error.strerror or error}.\n{todo}") from error
