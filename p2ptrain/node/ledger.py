"""What this node keeps of the run on disk, and can hand to others.

The History (swarm/history.py) is the chain in memory; the ledger is what makes it survive:

  transcript   every certificate ever adopted, hash-chained; written before anything follows
  reductions   what this peer reduced, written before it votes for it
  checkpoints  the newest states, each with its own certificate: the moment of applying

The transcript may be ahead of the checkpoints: a certificate is written at once, its state when it
is there. After a restart the state is the newest whole checkpoint's on the chain; what follows is
made again from the reduced shards, ours or those of others, who kept them too before they voted.

When another branch turns out to be the trunk, the transcript notes where the two parted
("switch") and goes on with the other; nothing is ever erased from it. That note waits for the first
block there that is applied or follows: whoever dies before has a whole chain, the old one, and
finds the better one again. A checkpoint of a chain that the transcript does not lead to is passed
over for an older one.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from p2ptrain.errors import StoreError
from p2ptrain.store.checkpoint import Checkpoint, CheckpointStore
from p2ptrain.store.reduced import ReducedBlock, ReducedStore
from p2ptrain.store.transcript import Transcript
from p2ptrain.swarm.chain import Context, Settings, advance
from p2ptrain.swarm.history import History, Link
from p2ptrain.wire.codec import pack, unpack
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import CHECKPOINTS_KEPT, REDUCED_BLOCKS_KEPT, REDUCED_BYTES_KEPT
from p2ptrain.wire.messages import ROUND, Certificate
from p2ptrain.wire.shards import merkle_root

CERTIFICATE, SWITCH = "certificate", "switch"  # kinds of transcript entries


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restart goes on from; the chain may be further already.

    block     whose state it is: of our chain
    state     parameters and outer momentum, float32 little-endian; None: the founding state
    reduced   blocks that we reduced, and may have voted for; oldest first
    forgot    whether blocks were certified and applied here that the transcript no longer has
    warnings  sentences for people
    """

    block: Digest
    state: bytes | None
    reduced: tuple[ReducedBlock, ...]
    forgot: bool
    warnings: tuple[str, ...]


@dataclass
class Ledger:
    """The durable side of one run's history.

    reductions  what this peer reduced; None: it never votes
    recorded    height of the newest applied block, whose state is on disk
    logged      height up to which the transcript has the certificates
    results     Merkle root and state of the blocks that an earlier run reduced: it may have voted
    """

    history: History
    settings: Settings
    transcript: Transcript
    checkpoints: CheckpointStore
    reductions: ReducedStore | None = None
    recorded: int = 0
    logged: int = 0
    results: dict[Digest, tuple[Digest, Digest]] = field(default_factory=dict)
    _sequences: array[int] = field(default_factory=lambda: array("Q"))  # of the logged heights
    _reduced: OrderedDict[Digest, tuple[bytes, ...]] = field(default_factory=OrderedDict)
    _reduced_bytes: int = 0
    _saved: list[Digest] = field(default_factory=list)
    _parted: Digest | None = None
    _order: int = 0

    def __post_init__(self) -> None:
        self.history.archive = self

    def links(self, base: Context, height: int, count: int) -> tuple[Link, ...]:
        """Links that have left the memory, from the transcript again (swarm/history.py, Archive).

        Raises StoreError.
        """
        wanted = self._sequences[height - 1 : height - 1 + count]
        entries = takewhile(lambda e: e.sequence <= wanted[-1], self.transcript.iterate(wanted[0]))
        ours, found = set(wanted), list[Link]()
        for entry in entries:
            if entry.sequence in ours:
                certificate = unpack(Certificate, entry.payload)
                base = advance(base, certificate, self.settings)
                found.append(Link(certificate, base))
        return tuple(found)

    def extend(self, links: Sequence[Link]) -> None:
        """Make certificates durable that are about to be appended to the history.

        Raises StoreError; then the disk says what it said before.
        """
        new = [*self.history.after(self.logged), *links]
        entries = [(CERTIFICATE, link.context.block, pack(link.certificate)) for link in new]
        if self._parted is not None:
            entries.insert(0, (SWITCH, self._parted, b""))
        logged = self.transcript.append_all(entries)[len(entries) - len(new) :]
        self._parted = None
        self._sequences.extend(entry.sequence for entry in logged)
        self.logged += len(new)

    def keep(self, reduced: ReducedBlock) -> None:
        """Make durable what a block's reduction gave, before anybody votes for it.

        Raises StoreError.
        """
        if self.reductions is not None:
            self.reductions.save(reduced)

    def save(self, height: int, state: bytes) -> None:
        """Make durable that the block of this height was applied, and the state after it.

        A state that was fetched may be of a block that closes the run, and no block comes after it.
        It is that of the last final block too, which then gets the checkpoint that export takes.

        Raises StoreError; then the disk says what it said before.
        """
        link = self.history.link(height)
        final = self._last_final(link.context)
        is_new = final is not None and final.context.block not in self._saved
        if final is not None and is_new and final.context.state == link.context.state:
            self._save(final, state)
            self._save(link, state)
            self.checkpoints.mark_final(final.context.block)
        else:
            self._save(link, state)

    def note(self, height: int, reduced: tuple[bytes, ...]) -> None:
        """The state of this height is on disk, and so is the chain up to there.

        Args:
          reduced  the block's reduced shards; empty if it is not a ROUND or they were not seen
        """
        self.recorded = max(self.recorded, height)
        if reduced:
            self.remember(self.history.block(height), reduced)
        self.history.cool(self.logged)

    def record(self, height: int, state: bytes, reduced: tuple[bytes, ...]) -> None:
        """All that makes a block of the history applied, in order. Raises StoreError."""
        self.save(height, state)
        if height > self.logged:
            self.extend(())
        self.note(height, reduced)

    def remember(self, block: Digest, reduced: tuple[bytes, ...]) -> None:
        """Hold reduced shards for those who follow, as many as memory allows."""
        if block in self._reduced:
            return
        self._reduced[block] = reduced
        self._reduced_bytes += sum(map(len, reduced))
        while self._keeps_too_much():
            _, gone = self._reduced.popitem(last=False)
            self._reduced_bytes -= sum(map(len, gone))

    def _keeps_too_much(self) -> bool:
        many = len(self._reduced) > REDUCED_BLOCKS_KEPT or self._reduced_bytes > REDUCED_BYTES_KEPT
        return many and len(self._reduced) > 1

    def switch(self, height: int) -> None:
        """The blocks above this height are about to be replaced by those of another branch.

        The disk says so together with the first block of that branch that is applied or followed
        by another.
        """
        if self.logged > height:
            self._parted = self.history.block(height)
            self.logged = height
            del self._sequences[height:]
        self.recorded = min(self.recorded, height)
        self._forget_above(height)

    def finalize(self, block: Digest) -> None:
        """A block is final: its checkpoint is what export takes."""
        if block in self._saved:
            self.checkpoints.mark_final(block)

    def restore(self) -> Restored:
        """Read what an earlier run of this node left, if there was one.

        The transcript's hashes were checked when it was opened. Raises StoreError if its
        certificates do not fit together.
        """
        for entry in self.transcript.iterate():
            if entry.kind == SWITCH:
                height = self._height(Digest(entry.block_id))
                del self._sequences[height:]
                self.history.switch(height, ())
            else:
                self._extend(entry.payload)
                self._sequences.append(entry.sequence)
                self.history.cool(self.history.height)
        self.logged = self.history.height
        reduced, warnings = self.reductions.load_all() if self.reductions else ((), ())
        for one in reduced:
            self.remember(one.block, one.shards)
            self.results[one.block] = merkle_root(one.shards), one.state
        newest = self.checkpoints.load_newest().checkpoint
        self._order = newest.round if newest else 0
        loaded = self.checkpoints.load_newest(self._follows)
        warnings = (*loaded.warnings, *warnings)
        checkpoint = loaded.checkpoint
        forgot = newest is not None and (checkpoint is None or checkpoint.round != newest.round)
        if checkpoint is None:
            warnings = (*warnings, *self._without_checkpoint())
            return Restored(self.history.genesis.block, None, reduced, forgot, warnings)
        block = Digest(checkpoint.block_id)
        if self.history.height_of(block) is None:  # we died before the transcript had it too
            self._cut(self._height(unpack(Certificate, checkpoint.certificate).block.parent))
            entry = self.transcript.append(CERTIFICATE, block, checkpoint.certificate)
            self._sequences.append(entry.sequence)
            self._extend(checkpoint.certificate)
            self.logged = self.history.height
        self.recorded = self._height(block)
        self._saved.append(block)
        self._mark_newest_final()
        return Restored(block, checkpoint.vector, reduced, forgot, warnings)

    def _without_checkpoint(self) -> Iterator[str]:
        """What to say when no state of the chain is on disk; what there is gets out of the way."""
        if self.history.height:
            yield (
                "no checkpoint of this swarm's chain is whole: its state is made again from the "
                "founding one, or fetched from the others"
            )
        for path in self.checkpoints.set_all_aside():
            yield f"a checkpoint that does not belong to the chain was set aside: {path}"

    def _mark_newest_final(self) -> None:
        """We may have died between a certificate and the mark that it makes due."""
        final = self._last_final(self.history.tip)
        if final is not None and final.context.block in self.checkpoints.blocks():
            self.checkpoints.mark_final(final.context.block)

    def _last_final(self, context: Context) -> Link | None:
        """The newest block that is final in a block's context; None: not even the first is."""
        unfinal = context.unfinal
        height = self._height(unfinal[0]) - 1 if unfinal else self._height(context.block)
        return self.history.link(height) if height else None

    def _follows(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is of our chain, or of a block on one of our chain."""
        if self.history.height_of(Digest(checkpoint.block_id)) is not None:
            return True
        certificate = unpack(Certificate, checkpoint.certificate)
        return self.history.height_of(certificate.block.parent) is not None

    def _cut(self, height: int) -> None:
        """Drop the blocks above a height, on the disk too."""
        if height < self.history.height:
            self.transcript.append(SWITCH, self.history.block(height), b"")
            del self._sequences[height:]
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
        for block in map(self.history.block, range(height + 1, self.history.height + 1)):
            if block in self._saved:
                self._saved.remove(block)
            self._reduced_bytes -= sum(map(len, self._reduced.pop(block, ())))
