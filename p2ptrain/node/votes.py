"""What this peer has promised and sent in one swarm, on disk before anybody hears of it.

Whoever forgets a vote can sign against itself. A damaged record is set aside and counts as
forgotten; so does one in a folder that is the copy of another (store/stamp.py). The averaging
machine then sits out before it signs anything that counts, and says when it is certain again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from p2ptrain.errors import StoreError
from p2ptrain.store.atomic import set_aside
from p2ptrain.store.durable import DurableRecord, RecordDamaged
from p2ptrain.store.stamp import Stamp
from p2ptrain.swarm.effects import CommitRecord, VoteRecord
from p2ptrain.wire.codec import pack, unpack

RecordT = TypeVar("RecordT", VoteRecord, CommitRecord)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an earlier run of this peer left.

    votes     votes and promises, if there were any
    commit    its last contribution, if there was one
    doubtful  whether there may have been more than that
    warnings  sentences for people
    """

    votes: VoteRecord | None
    commit: CommitRecord | None
    doubtful: bool
    warnings: tuple[str, ...]


class Votes:
    """Three small files in the swarm's folder: votes and promises, contribution, stamp."""

    def __init__(self, folder: Path) -> None:
        """Open them; they need not exist. Raises StoreError."""
        self._folder = folder
        self._stamp = Stamp(folder)
        self._votes = DurableRecord(folder / "votes")
        self._commit = DurableRecord(folder / "contribution")

    def save(self, record: VoteRecord | CommitRecord) -> None:
        """Replace the record of that kind; it is on the disk on return. Raises StoreError."""
        file = self._votes if isinstance(record, VoteRecord) else self._commit
        file.save(pack(record))

    def load(self) -> Remembered:
        """What is whole of it. Raises StoreError if the disk refuses."""
        warnings: list[str] = []
        votes = self._whole(VoteRecord, self._votes, warnings)
        commit = self._whole(CommitRecord, self._commit, warnings)
        certain = self._stamp.holds()
        if not certain and (votes is not None or commit is not None):
            why = (
                "was copied or restored, or its last run was cut short while it sat out"
                if self._stamp.exists
                else "has no stamp: it was restored, damaged, or written by an older version"
            )
            warnings.append(
                f"the folder {self._folder} {why}. It may lack votes that this peer has sent, so "
                "it sits out before it votes again: about 10 s, longer if the others need it. "
                "Never run two copies of one home at once."
            )
        return Remembered(votes, commit, not certain, tuple(warnings))

    def be_certain(self) -> None:
        """From here on the records are complete, wherever they came from. Raises StoreError."""
        self._stamp.make()

    def _whole(
        self, kind: type[RecordT], file: DurableRecord, warnings: list[str]
    ) -> RecordT | None:
        try:
            record = file.load()
            return None if record is None else unpack(kind, record)
        except (RecordDamaged, ValueError) as error:
            self._stamp.remove()  # first: from here on it counts as forgotten, whatever happens
            aside = set_aside(file.path)
            warnings.append(
                f"{str(error).partition(chr(10))[0]}\nIt was set aside as {aside}; this peer sits "
                "out before it votes again."
            )
            return None


def swarms_in_doubt(folder: Path) -> tuple[str, ...]:
    """Names of the swarms in a state folder whose records look copied or restored.

    Raises StoreError.
    """
    swarms = folder / "swarms"
    try:
        found = sorted(swarms.iterdir()) if swarms.is_dir() else []
    except OSError as error:
        raise StoreError(
            f"cannot read {swarms}: {error.strerror}.\nMake it readable for this user."
        ) from error
    voted = [path for path in found if (path / "votes").exists()]
    return tuple(path.name for path in voted if not Stamp(path).holds())
