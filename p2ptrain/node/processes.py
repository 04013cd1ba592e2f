"""What the kernel says about a process: memory and open files, from /proc."""

import os
from contextlib import suppress
from pathlib import Path

from p2ptrain.node.status import ProcessStatus

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def process_status(pid: int | None) -> ProcessStatus:
    """One process of this user; None: this one. Figures that cannot be had are None."""
    folder = Path(f"/proc/{pid or 'self'}")
    rss_bytes = open_fds = None
    with suppress(OSError, ValueError, IndexError):  # it has just ended, or is another user's
        rss_bytes = int((folder / "statm").read_text("ascii").split()[1]) * PAGE_BYTES
    with suppress(OSError):
        open_fds = len(os.listdir(folder / "fd"))
    return ProcessStatus(pid=pid or os.getpid(), rss_bytes=rss_bytes, open_fds=open_fds)
