"""Who wants in and who wants out: pending Joins and Leaves, and our own wish.

Wishes are kept, a bounded number of them, until a block takes them up or they are too old. A
member that gets one from its signer passes it to the voters, for a joiner may be connected to one
member only (protocol/averaging.md section 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from p2ptrain.swarm.certificates import check_wish
from p2ptrain.swarm.chain import Context, voters
from p2ptrain.swarm.effects import Effect, Send
from p2ptrain.swarm.inputs import AveragingConfig
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.limits import (
    ADMITTED_MAX,
    CHANGES_PER_BLOCK_MAX,
    COMMITTEE_MAX,
    JOINS_PENDING_MAX,
)
from p2ptrain.wire.messages import Join, Leave, Signed, Statement
from p2ptrain.wire.peer_id import PeerId

ANSWERS_MAX = 3  # to one roll call: the first may be lost; a round may take minutes


@dataclass(slots=True)
class Wish:
    """What this peer itself wants; anchor and local_steps are those of its Join."""

    anchor: Digest
    local_steps: int = 1
    join: bool = False
    leave: bool = False


class Admissions:
    """Pending wishes of others, and our own."""

    def __init__(self, config: AveragingConfig, anchor: Digest) -> None:
        self._config = config
        self._pending: dict[PeerId, Signed] = {}
        self._answers: set[PeerId] = set()  # of the members that the newest block calls
        self._said = 0  # how often we have answered its call
        self.convicted: AbstractSet[PeerId] = frozenset()  # they are not let in, nor called in
        self.wish = Wish(anchor)

    def take(self, context: Context, sender: PeerId, signed: Signed) -> list[Effect]:
        """Keep a checked wish and pass it on, once; raises if it may not be in the next block."""
        known = self._pending.get(signed.signer)
        if known == signed:
            return []
        check_wish(self._config.rules, context, signed, sender)
        if known is None and len(self._pending) >= JOINS_PENDING_MAX:
            return []
        self._pending[signed.signer] = signed
        if sender != signed.signer or context.member(self._config.me) is None:
            return []
        others = [p for p in voters(context) if p not in (self._config.me, sender)]
        return [Send(peer, Statement(signed)) for peer in others]

    def follow(self, context: Context) -> None:
        """Forget the wishes that this context has granted or that have become too old."""
        self._answers.clear()
        self._said = 0
        self._pending = {
            peer: signed for peer, signed in self._pending.items() if self.is_open(context, signed)
        }

    def is_open(self, context: Context, signed: Signed) -> bool:
        """Whether a wish is of now: otherwise it is merely late, which is nobody's fault."""
        wish = signed.statement
        inside = context.member(signed.signer) is not None
        return isinstance(wish, Join | Leave) and (
            wish.tip in context.recent and inside == isinstance(wish, Leave)
        )

    def is_answer(self, context: Context, signed: Signed) -> bool:
        """Whether a Join is a called member's answer to the roll call of the newest block."""
        join = signed.statement
        here = isinstance(join, Join) and join.tip == context.block
        return here and signed.signer in context.seats.called

    def take_answer(self, signed: Signed) -> None:
        """Note a checked answer."""
        self._answers.add(signed.signer)

    def answered(self, context: Context) -> tuple[PeerId, ...]:
        """Who is to be listed as living, sorted: those first in the draw who have answered."""
        found = [peer for peer in context.seats.called if peer in self._answers - self.convicted]
        return tuple(sorted(found[:COMMITTEE_MAX]))

    def joiners(self) -> tuple[PeerId, ...]:
        """Peers outside that want in: they are told of new blocks too."""
        return tuple(
            peer
            for peer in sorted(self._pending)
            if isinstance(self._pending[peer].statement, Join)
        )

    def granted(self, context: Context) -> tuple[tuple[Signed, ...], tuple[Signed, ...]]:
        """The joins and leaves for the next block: as many as leave 1 to ADMITTED_MAX members.

        Members that the block will drop for absence are not counted out: the bounds are kept
        without that.
        """
        wishes = [self._pending[p] for p in sorted(self._pending)]
        leaves = [w for w in wishes if isinstance(w.statement, Leave)][:CHANGES_PER_BLOCK_MAX]
        joins = [
            w for w in wishes if isinstance(w.statement, Join) and w.signer not in self.convicted
        ][:CHANGES_PER_BLOCK_MAX]
        room = max(0, ADMITTED_MAX - len(context.roster))
        staying = len(context.roster) - len(leaves)
        return tuple(joins[:room]), tuple(leaves if staying > 0 else leaves[1:])

    def ask(self, context: Context, connected: Iterable[PeerId]) -> list[Effect]:
        """Say what we want to everyone who can help, if we want anything."""
        inside = context.member(self._config.me) is not None
        tip = context.block
        if self.wish.join and not inside:
            signed = self._sign(Join(tip, self.wish.anchor, self.wish.local_steps))
        elif self.wish.leave and inside:
            signed = self._sign(Leave(tip))
            self._pending[self._config.me] = signed
        elif inside and self._config.me in context.seats.called and self._said < ANSWERS_MAX:
            self._said += 1
            answer = Statement(self._sign(Join(tip, self.wish.anchor, self.wish.local_steps)))
            return [Send(peer, answer) for peer in voters(context)]
        else:
            return []
        known = sorted({*connected, *voters(context)} - {self._config.me})
        return [Send(peer, Statement(signed)) for peer in known]

    def _sign(self, wish: Join | Leave) -> Signed:
        return sign_statement(self._config.signer, self._config.swarm, wish)
