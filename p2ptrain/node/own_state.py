"""Error feedback and the inner optimiser's state across restarts, of the node or the process.

They belong to this peer alone, and to one block: the newest applied one when they were read from
the compute process. keep() writes them now and then, so that it takes KEPT_SHARE of the time at
most, which for a small network is after every round; and when the node leaves. take() gives them
back.

What was kept may be some blocks older than the state. The inner optimiser's state is then still
the best there is. The residual is still right if none of those blocks has our work in it (each was
a round lost to us, protocol/codecs.md section 5); else it went into that contribution, what that
one left behind is not known, and error feedback begins at zero.
"""

from contextlib import suppress
from dataclasses import dataclass
from math import inf

import trio

from p2ptrain.errors import StoreError
from p2ptrain.node.applied import AppliedState
from p2ptrain.node.compute import Compute, ComputeRefused
from p2ptrain.node.compute_process import ComputeDied
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.own_state import OwnRecord, OwnStateFile
from p2ptrain.train.worker_messages import OwnState
from p2ptrain.wire.digest import Digest

KEPT_SHARE = 0.05  # of the time: 2 ms for the digits network, 40 ms for fashion, on a busy machine


@dataclass
class OwnStateKeeper:
    """Keeps and gives back what is this peer's own in one run.

    again_s  not written before this time on the trio clock, unless at once
    """

    state: AppliedState[Compute]
    file: OwnStateFile
    telemetry: Telemetry
    again_s: float = -inf
    _kept: Digest | None = None

    async def keep(self, *, at_once: bool = False) -> None:
        """Write what belongs to the newest applied block, if it is time. Raises StoreError."""
        began, block = trio.current_time(), self.state.block
        if block == self._kept or (began < self.again_s and not at_once):
            return
        # The state may move on meanwhile, or the process die, which the spine will notice.
        with suppress(ComputeDied, ComputeRefused):
            own = await self.state.compute.own(block)
            record = OwnRecord(block, own.residual, own.inner)
            await trio.to_thread.run_sync(self.file.save, record)
            self._kept = block
        ended = trio.current_time()
        self.again_s = ended + (ended - began) * (1 / KEPT_SHARE - 1)

    async def take(self) -> None:
        """Give the compute process what an earlier one had, if it is of use. Raises ComputeDied."""
        try:
            record = await trio.to_thread.run_sync(self.file.load)
            if record is None:
                return
            residual = record.residual if self._residual_counts(record.block) else b""
            await self.state.compute.take_own(self.state.block, OwnState(residual, record.inner))
        except (StoreError, ComputeRefused) as error:
            why = f"error feedback and the inner optimiser begin anew: {error}"
            self.telemetry.report("warning", text=why)

    def _residual_counts(self, block: Digest) -> bool:
        """Whether no block of the chain after this one, up to the state, has our work in it."""
        history, here = self.state.history, self.state.height
        there = history.height_of(block)
        if there is None or here is None or there > here:
            return False
        since = history.after(there)[: here - there]
        entries = (entry for link in since for entry in link.certificate.block.entries)
        return all(entry.peer != self.state.me for entry in entries)
