"""What this node keeps of the run on disk, and can hand to others.

The History (swarm/history.py) is the chain in memory; the ledger is what makes it survive: the
transcript (every certificate ever adopted, hash-chained) and the newest checkpoints. It also
remembers the reduced shards of the newest rounds, with which others follow without reducing.

A checkpoint holds its own certificate and is written first: it is the moment at which a block is
applied. If the node dies before the transcript has the certificate too, the restart adds it.

When another branch turns out to be the trunk, the transcript notes where the two parted
("switch") and goes on with the other; nothing is ever erased from it. A checkpoint of a chain that
the transcript does not lead to (we died while changing over) is passed over for an older one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from p2ptrain.errors import StoreError
from p2ptrain.store.checkpoint import Checkpoint, CheckpointStore
from p2ptrain.store.transcript import Transcript
from p2ptrain.swarm.chain import Settings, advance
from p2ptrain.swarm.history import History, Link
from p2ptrain.wire.codec import pack, unpack
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import CHECKPOINTS_KEPT, REDUCED_BYTES_KEPT
from p2ptrain.wire.messages import ROUND, Certificate

CERTIFICATE, SWITCH = "certificate", "switch"  # kinds of transcript entries


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restart goes on from: the state after the history's tip, and files passed over.

    state     parameters and outer momentum, float32 little-endian
    warnings  sentences for people
    """

    state: bytes
    warnings: tuple[str, ...]


@dataclass
class Ledger:
    """The durable side of one run's history.

    recorded  height of the newest applied block: the transcript ends there
    """

    history: History
    settings: Settings
    transcript: Transcript
    checkpoints: CheckpointStore
    recorded: int = 0
    _reduced: OrderedDict[Digest, tuple[bytes, ...]] = field(default_factory=OrderedDict)
    _reduced_bytes: int = 0
    _saved: list[Digest] = field(default_factory=list)
    _parted: Digest | None = None
    _order: int = 0

    def record(self, height: int, state: bytes, reduced: tuple[bytes, ...]) -> None:
        """Make durable that the block of this height was applied, and all blocks below it.

        Args:
          state    after that block
          reduced  its reduced shards; empty if it is not a ROUND or they were not seen

        Raises StoreError; then the disk says what it said before.
        """
        link = self.history.link(height)
        self._save(link, state)
        # After a roll-back the state may be below what is recorded already.
        new = self.history.after(self.recorded)[: max(0, height - self.recorded)]
        entries = [(CERTIFICATE, one.context.block, pack(one.certificate)) for one in new]
        if self._parted is not None:
            entries.insert(0, (SWITCH, self._parted, b""))
        self.transcript.append_all(entries)
        self._parted = None
        self.recorded = max(self.recorded, height)
        if reduced and link.context.block not in self._reduced:
            self._reduced[link.context.block] = reduced
            self._reduced_bytes += sum(map(len, reduced))
            while self._reduced_bytes > REDUCED_BYTES_KEPT and len(self._reduced) > 1:
                _, gone = self._reduced.popitem(last=False)
                self._reduced_bytes -= sum(map(len, gone))

    def switch(self, height: int) -> None:
        """The blocks above this height are about to be replaced by those of another branch.

        The disk says so together with the first block of that branch that is applied: whoever
        dies before has a whole chain, the old one, and finds the better one again.
        """
        if self.recorded > height:
            self._parted = self.history.context(height).block
            self.recorded = height
        self._forget_above(height)

    def finalize(self, block: Digest) -> None:
        """A block is final: its checkpoint is what export takes."""
        if block in self._saved:
            self.checkpoints.mark_final(block)

    def restore(self) -> Restored | None:
        """Read what an earlier run of this node left; None if there is nothing.

        Raises StoreError if the transcript is damaged or no checkpoint of its chain is whole.
        """
        for entry in self.transcript.iterate():
            if entry.kind == SWITCH:
                self.history.switch(self._height(Digest(entry.block_id)), ())
            else:
                self._extend(entry.payload)
        newest = self.checkpoints.load_newest().checkpoint
        self._order = newest.round if newest else 0
        loaded = self.checkpoints.load_newest(self._follows)
        checkpoint = loaded.checkpoint
        if checkpoint is None:
            if self.history.height:
                raise StoreError(
                    "the transcript has a run's history, but no checkpoint of it is whole.\n"
                    "Move this swarm's folder away and join again: others hold the state."
                )
            return None
        block = Digest(checkpoint.block_id)
        if self.history.height_of(block) is None:  # we died before the transcript had it too
            self._cut(self._height(unpack(Certificate, checkpoint.certificate).block.parent))
            self.transcript.append(CERTIFICATE, block, checkpoint.certificate)
            self._extend(checkpoint.certificate)
        # If the newest checkpoint was lost: what came after is fetched or certified again.
        self._cut(self._height(block))
        self.recorded = self.history.height
        self._saved.append(block)
        return Restored(checkpoint.vector, loaded.warnings)

    def _follows(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is of our chain, or of a block on one of our chain."""
        if self.history.height_of(Digest(checkpoint.block_id)) is not None:
            return True
        certificate = unpack(Certificate, checkpoint.certificate)
        return self.history.height_of(certificate.block.parent) is not None

    def _cut(self, height: int) -> None:
        """Drop the blocks above a height, on the disk too."""
        if height < self.history.height:
            self.transcript.append(SWITCH, self.history.context(height).block, b"")
            self.history.switch(height, ())

    def reduced_of(self, block: Digest) -> tuple[bytes, ...] | None:
        """The reduced shards of a block, if they are still held."""
        return self._reduced.get(block)

    def state_of(self, block: Digest) -> bytes | None:
        """The state after a block, if its checkpoint is still on disk."""
        checkpoint = self.checkpoints.load(block).checkpoint if block in self._saved else None
        return checkpoint.vector if checkpoint else None

    def states(self) -> tuple[Digest, ...]:
        """Blocks whose state we can serve, newest first: those from which others can follow.

        A state is of use only while the reduced shards of every later round are held as well.
        """
        offered: list[Digest] = []
        for height in range(self.recorded, 0, -1):
            link = self.history.link(height)
            block = link.context.block
            if block in self._saved:
                offered.append(block)
            missing = link.certificate.block.kind == ROUND and block not in self._reduced
            if missing or len(offered) == CHECKPOINTS_KEPT:
                break
        return tuple(offered)

    def _save(self, link: Link, state: bytes) -> None:
        # The store sorts by this number: it must grow with time, whichever way the rounds go.
        self._order += 1
        block = link.context.block
        self.checkpoints.save(Checkpoint(self._order, block, pack(link.certificate), b"", state))
        if block not in self._saved:
            self._saved.append(block)
            del self._saved[:-CHECKPOINTS_KEPT]  # the store keeps no more either

    def _extend(self, packed: bytes) -> None:
        certificate = unpack(Certificate, packed)
        context = advance(self.history.tip, certificate, self.settings)
        self.history.append(Link(certificate, context))

    def _height(self, block: Digest) -> int:
        height = self.history.height_of(block)
        if height is None:
            raise StoreError(
                "the transcript of this swarm does not fit together.\n"
                "Move this swarm's folder away and join again: others hold the state."
            )
        return height

    def _forget_above(self, height: int) -> None:
        for link in self.history.after(height):
            if link.context.block in self._saved:
                self._saved.remove(link.context.block)
            self._reduced_bytes -= sum(map(len, self._reduced.pop(link.context.block, ())))
