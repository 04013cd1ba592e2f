"""An honest node that writes down what every round was averaged from, for the judge of a trial.

    python tests/swarm_watch.py RECORD join --swarm LINK ...      (else as p2ptrain)

It is p2ptrain's own node: three of its parts are watched, none is changed. RECORD is a file of
MessagePack values, one a note:

  reduced    what the compute process was given, and what it made of it
  certified  a certificate: its entries, and the limits and the deadline that its round had
  failed     a view whose deadline passed, and how late that was noticed

`read_notes` reads it back. hostile_judge.py says what follows from it.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack

from p2ptrain.node import compute, run
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.effects import Effect, Term
from p2ptrain.train import worker_messages as wire
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import Certificate

Note = dict[str, Any]


class Notes:
    """Appends notes to a file, each whole, for whoever reads it while or after we run."""

    def __init__(self, path: Path) -> None:
        """Begin anew."""
        self._file = path.open("wb", buffering=0)

    def write(self, kind: str, **values: object) -> None:
        """Add one note."""
        packed = msgpack.packb({"kind": kind, **values})
        assert isinstance(packed, bytes)
        self._file.write(packed)


def read_notes(path: Path) -> Iterator[Note]:
    """All notes of a file; a last one that a killed process left unfinished is not given."""
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(path.read_bytes())
    yield from unpacker


def watch(notes: Notes) -> None:
    """Put watched parts in the place of the node's own, in this process."""

    class WatchedCompute(compute.Compute):
        async def reduce(
            self, block: Digest, parent: Digest, terms: Sequence[Term], codec: int
        ) -> wire.Reduced:
            result = await super().reduce(block, parent, terms, codec)
            plain = [[t.peer, t.factor, list(t.shards)] for t in terms]
            notes.write("reduced", block=block, codec=codec, terms=plain, mean=list(result.shards))
            return result

    class WatchedAveraging(Averaging):
        def _adopt(self, now: float, context: Context, certificate: Certificate) -> list[Effect]:
            parent, views = self.context, self._views
            notes.write(
                "certified",
                at=now,
                block=block_digest(certificate.block),
                round=context.rounds,
                view=certificate.view,
                views=certificate.view - parent.view,
                entries=[[e.peer, e.weight, str(e.norm2)] for e in certificate.block.entries],
                members=[m.peer for m in parent.roster],
                limits2=[str(limit2) for limit2 in parent.limits],
                norm_max2=str(self.config.settings.norm_max2),
                seconds=now - views.entered_at,
                late_s=max(0.0, now - views.deadline),
            )
            return super()._adopt(now, context, certificate)

        def _view_failed(self, now: float) -> list[Effect]:
            views = self._views
            notes.write(
                "failed",
                at=now,
                view=views.view,
                stated_s=views.deadline - views.entered_at,
                late_s=now - views.deadline,
                waits=[wait.what for wait in self.waits],
            )
            return super()._view_failed(now)

    vars(compute)["Compute"] = WatchedCompute
    vars(run)["Averaging"] = WatchedAveraging


if __name__ == "__main__":
    watch(Notes(Path(sys.argv[1])))
    sys.argv[1:2] = []
    from p2ptrain.cli.main import run as command_line

    command_line()
