"""What is damaged is set aside, never deleted, and the node goes on from what is whole.

Nothing here decides whether going on is safe: who has forgotten what it signed must not vote until
it has sat out (protocol/averaging.md section 12), and the caller sees to that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import ASIDE, disk_errors, flush_folder, set_aside
from p2ptrain.store.transcript import Entry, Transcript, TranscriptDamaged


@dataclass(frozen=True, slots=True)
class Opened:
    """A transcript that is whole, every hash checked.

    lost      whether entries were lost on the way
    warnings  sentences for people
    """

    transcript: Transcript
    lost: bool = False
    warnings: tuple[str, ...] = ()


def open_transcript(path: Path, forgetting: Callable[[], None]) -> Opened:
    """Open a transcript and check it; a damaged one is set aside, and its whole part copied.

    forgetting is called first of all if entries are lost: it must make that durable.

    Raises StoreError if the disk refuses.
    """
    entries: list[Entry] = []
    try:
        transcript = Transcript(path)
        try:
            for entry in transcript.verified():
                entries.append(entry)  # noqa: PERF402 (what came before the damage is kept)
        except StoreError:
            transcript.close()
            raise
    except TranscriptDamaged as error:
        happened = str(error).partition("\n")[0]
    else:
        return Opened(transcript)
    forgetting()
    _replace(path, entries)
    warning = (
        f"{happened} It was set aside ({path.parent / ASIDE}); the {len(entries)} entries before "
        "the damage are kept, and what came after is fetched from the others."
    )
    return Opened(Transcript(path), lost=True, warnings=(warning,))


def _replace(path: Path, entries: list[Entry]) -> None:
    """Put a log of these entries in the place of a damaged one."""
    whole = path.with_name(path.name + ".whole")
    with disk_errors(f"write {whole}"):
        for suffix in ("", "-wal", "-shm"):
            whole.with_name(whole.name + suffix).unlink(missing_ok=True)
    with Transcript(whole) as copy:  # closing it empties its own log
        copy.append_all([(e.kind, e.block_id, e.payload) for e in entries])
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            set_aside(part)
    with disk_errors(f"write {path}"):
        whole.replace(path)
        flush_folder(path.parent)
