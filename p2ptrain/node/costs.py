"""What each peer costs this node beside its bytes: answers, states read from disk, signatures.

An asker spends 50 bytes and has a megabyte read, hashed and sent. So what is served to a peer, and
what is computed for it, has a budget; what exceeds it is not served, or is a fault. The figures in
wire/limits.py are several times what an honest peer can want, so they never show in a run.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2ptrain.net.budget import Budget
from p2ptrain.wire.limits import (
    PEERS_REMEMBERED,
    SERVED_BYTES_BURST,
    SERVED_BYTES_PER_S,
    SIGNATURES_PER_PEER_BURST,
    SIGNATURES_PER_PEER_PER_S,
    STATE_READS_BURST,
    STATE_READS_PER_S,
)
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class _Budgets:
    """Those of one peer."""

    served: Budget
    state_reads: Budget
    signatures: Budget


@dataclass
class Costs:
    """Budgets of the peers that cost something lately.

    clock  seconds that only go forward
    """

    clock: Callable[[], float] = trio.current_time
    _of: OrderedDict[PeerId, _Budgets] = field(default_factory=OrderedDict)

    def may_be_served(self, peer: PeerId) -> bool:
        """Whether a peer has not had more than its due of answers."""
        return self._budgets(peer).served.spend(0, self.clock())

    def serve(self, peer: PeerId, answer_bytes: int) -> None:
        """Charge an answer."""
        self._budgets(peer).served.owe(answer_bytes, self.clock())

    def may_read_state(self, peer: PeerId) -> bool:
        """Whether a whole state may be read from disk for a peer now."""
        return self._budgets(peer).state_reads.spend(0, self.clock())

    def read_state(self, peer: PeerId) -> None:
        """Charge it."""
        self._budgets(peer).state_reads.owe(1, self.clock())

    def may_check(self, peer: PeerId, signatures: int) -> bool:
        """Charge signatures that its message made us check; False: those were too many."""
        return not signatures or self._budgets(peer).signatures.spend(signatures, self.clock())

    def _budgets(self, peer: PeerId) -> _Budgets:
        found = self._of.get(peer)
        if found is None:
            now = self.clock()
            found = self._of[peer] = _Budgets(
                Budget(rate_per_s=SERVED_BYTES_PER_S, burst=SERVED_BYTES_BURST, now=now),
                Budget(rate_per_s=STATE_READS_PER_S, burst=STATE_READS_BURST, now=now),
                Budget(
                    rate_per_s=SIGNATURES_PER_PEER_PER_S, burst=SIGNATURES_PER_PEER_BURST, now=now
                ),
            )
            if len(self._of) > PEERS_REMEMBERED:
                self._of.popitem(last=False)
        self._of.move_to_end(peer)
        return found
