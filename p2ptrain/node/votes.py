"""What this peer has promised and sent in one swarm, on disk before anybody hears of it."""

from pathlib import Path

from p2ptrain.store.durable import DurableRecord
from p2ptrain.swarm.effects import CommitRecord, VoteRecord
from p2ptrain.wire.codec import pack, unpack


class Votes:
    """Two small files in the swarm's folder: the votes and promises, and the contribution."""

    def __init__(self, folder: Path) -> None:
        """Open them; they need not exist. Raises StoreError."""
        self._votes = DurableRecord(folder / "votes")
        self._commit = DurableRecord(folder / "contribution")

    def save(self, record: VoteRecord | CommitRecord) -> None:
        """Replace the record of that kind; it is on the disk on return. Raises StoreError."""
        file = self._votes if isinstance(record, VoteRecord) else self._commit
        file.save(pack(record))

    def load(self) -> tuple[VoteRecord | None, CommitRecord | None]:
        """What an earlier run of this peer left. Raises StoreError if it is damaged."""
        votes, commit = self._votes.load(), self._commit.load()
        return (
            unpack(VoteRecord, votes) if votes is not None else None,
            unpack(CommitRecord, commit) if commit is not None else None,
        )
