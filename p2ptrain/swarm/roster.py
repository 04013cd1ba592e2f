"""The members of a swarm, and what becomes of them with each block: pure functions.

Who is in, who votes when it sits on the committee, and who was away twice when it was its turn:
all of that follows from blocks (protocol/averaging.md section 1). In a small swarm the committee is
everybody and nobody is ever called; the rules are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2ptrain.errors import LocalProtocolError
from p2ptrain.swarm.committee import missed
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import COMMITTEE_MAX, SEEN_BLOCKS
from p2ptrain.wire.messages import BRANCH, ROUND, Block, Entry, Join
from p2ptrain.wire.peer_id import PeerId

if TYPE_CHECKING:
    from p2ptrain.swarm.chain import Context, Settings

ABSENT_BLOCKS_MAX = 2  # seats without a contribution, and calls without an answer, in a row: out


@dataclass(frozen=True, slots=True)
class Member:
    """One peer of a roster.

    peer         who
    anchor       newest point of its hash chain; None: the founder before its first contribution
    voter        whether it votes, reduces and proposes when it sits on the committee
    rounds       certified blocks with its contribution in them
    absent       consecutive ROUND blocks whose committee it sat on, or that called it, without it
    local_steps  steps that it declared for its next contribution, when it joined or in its last one
    """

    peer: PeerId
    anchor: Digest | None
    voter: bool
    rounds: int
    absent: int
    local_steps: int


def next_roster(context: Context, block: Block, settings: Settings) -> tuple[Member, ...]:
    """The roster after a legal block: joiners in, leavers and the long absent out."""
    if block.kind == BRANCH:
        return _after_branch(context, frozenset(block.living))
    if block.kind != ROUND:
        return context.roster
    entries = {e.peer: e for e in block.entries}
    gone = {s.signer for s in block.leaves}
    turns = _turns(context, block)
    members = [
        _after_round(m, entries.get(m.peer), turns.get(m.peer))
        for m in context.roster
        if m.peer not in gone
    ]
    members = [m for m in members if m.absent < ABSENT_BLOCKS_MAX]
    for signed in block.joins:
        join = signed.statement
        if not isinstance(join, Join):
            raise LocalProtocolError("a block's joins were not checked")
        members.append(Member(signed.signer, join.anchor, False, 0, 0, join.local_steps))
    return tuple(_promoted(sorted(members, key=lambda m: m.peer), settings))


def _turns(context: Context, block: Block) -> dict[PeerId, bool]:
    """Whose turn it was to be seen, and whether the block shows it; of all others it says naught.

    On the committee a contribution is what shows a member; of the called, their names do.
    """
    turns = dict.fromkeys(context.seats.committee, False)
    turns |= dict.fromkeys(missed(context.seats.called, block.living), False)
    return turns | dict.fromkeys(block.living, True)


def _after_round(member: Member, entry: Entry | None, shown: bool | None) -> Member:
    if entry is not None:
        return replace(
            member,
            anchor=entry.reveal,
            rounds=member.rounds + 1,
            absent=0,
            local_steps=entry.local_steps,
        )
    if shown is None:
        return member
    return replace(member, absent=0 if shown else member.absent + 1)


def _after_branch(context: Context, living: frozenset[PeerId]) -> tuple[Member, ...]:
    """The committee without those who are not among the living; the others stay as they are."""
    seats = context.seats.sitting
    return tuple(
        replace(m, absent=0) if m.peer in seats else m
        for m in context.roster
        if m.peer in living or m.peer not in seats
    )


def _promoted(members: list[Member], settings: Settings) -> list[Member]:
    """New voters, a few a block: a crowd of joiners must not outvote the old roster at once."""
    count = sum(m.voter for m in members)
    ready = [m for m in members if not m.voter and m.rounds >= settings.voter_after]
    if count == 0 and not ready:  # nobody could decide any more: whoever contributed most does
        ready = members
    ready.sort(key=lambda m: (-m.rounds, m.peer))
    chosen = {m.peer for m in ready[: max(1, count // 8)]}
    return [replace(m, voter=True) if m.peer in chosen else m for m in members]


def next_seen(
    context: Context, block: Block, roster: tuple[Member, ...]
) -> tuple[tuple[PeerId, ...], ...]:
    """Whom the last rounds showed alive: contributors, joiners, and who answered a call."""
    if len(roster) <= COMMITTEE_MAX:
        return ()
    if block.kind != ROUND:
        return context.seen
    entered = (signed.signer for signed in block.joins)
    shown = {*(e.peer for e in block.entries), *entered, *block.living}
    return (*context.seen, tuple(sorted(shown)))[-SEEN_BLOCKS:]
