"""What makes a block legal on its parent, and a certificate valid.

What a block or certificate must be by itself (order, no peer twice, what goes with which kind) is
checked when it is made, in wire/statements.py. Everything here is a pure check against the context
of the block's parent: it raises RemoteProtocolError with the section of protocol/averaging.md that
was broken, or returns. The same checks of a block serve proposals (before voting) and certificates
(before adopting), so that nobody can be made to adopt what an honest voter would not vote for.

  5.5  entries: of the committee, each once, with the reveal that follows from the chain and a norm
       that local steps can end at
  5.6  joins and leaves: signed, recent, and such that a roster of 1 to ROSTER_MAX remains
  5.8  kind: ROUND until the rounds of the recipe are done, then CLOSE; BRANCH at any time
  5.9  who is listed as living in a ROUND: only members that the roll call named
  7.1  too few ballots     7.2  a ballot's signature     7.3  a ballot of a peer without a vote
  7.4  view, reduced root or state that cannot be
"""

from __future__ import annotations

from dataclasses import dataclass

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.chain import (
    Context,
    Settings,
    committee,
    electorate,
    norm2_max,
    reveal_follows,
    sits,
    vote_of,
    voters,
    weight_max,
)
from p2ptrain.swarm.roster import next_roster
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import Verifier, check_signed, statement_bytes
from p2ptrain.wire.limits import ROSTER_MAX
from p2ptrain.wire.messages import BRANCH, CLOSE, ROUND, Block, Certificate, Join, Leave, Signed
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Rules:
    """What every check needs: the swarm's name, its recipe, and whom to ask about signatures."""

    swarm: Digest
    verifier: Verifier
    settings: Settings


def is_finished(context: Context, settings: Settings) -> bool:
    """Whether the rounds are done and the last of them is final: a CLOSE block made it so."""
    rounds_done = context.rounds >= settings.rounds
    return rounds_done and context.kind == CLOSE and context.unfinal == (context.block,)


def check_block(rules: Rules, context: Context, block: Block, blamed: PeerId) -> None:
    """Whether a block may follow this context's; its contributions are not looked at."""
    if block.parent != context.block:
        raise RemoteProtocolError(blamed, "averaging 5.3", "another parent")
    if block.kind == ROUND:
        _check_round(rules, context, block, blamed)
    elif block.kind == CLOSE:
        if context.rounds < rules.settings.rounds or is_finished(context, rules.settings):
            raise RemoteProtocolError(blamed, "averaging 5.8", "not the time to close")
    else:
        _check_branch(context, block, blamed)


def _check_round(rules: Rules, context: Context, block: Block, blamed: PeerId) -> None:
    if context.rounds >= rules.settings.rounds:
        raise RemoteProtocolError(blamed, "averaging 5.8", "the rounds of the recipe are done")
    for entry in block.entries:
        member = context.member(entry.peer)
        if member is None or not sits(context, entry.peer):
            where = "no member" if member is None else "not on the committee"
            raise RemoteProtocolError(blamed, "averaging 5.5", f"{entry.peer} is {where}")
        if not reveal_follows(member, entry.reveal):
            raise RemoteProtocolError(blamed, "averaging 5.5", f"reveal of {entry.peer}")
        if not 1 <= entry.weight <= weight_max(member, rules.settings):
            raise RemoteProtocolError(blamed, "averaging 5.5", f"weight {entry.weight}")
        if entry.norm2 > norm2_max(context, rules.settings):
            raise RemoteProtocolError(blamed, "averaging 5.5", f"norm of {entry.peer}")
    if not set(block.living) <= set(context.seats.called):
        raise RemoteProtocolError(blamed, "averaging 5.9", "an answer of a peer not called")
    for signed in (*block.joins, *block.leaves):
        check_wish(rules, context, signed, blamed)
    if not 1 <= len(next_roster(context, block, rules.settings)) <= ROSTER_MAX:
        raise RemoteProtocolError(blamed, "averaging 5.6", "size of the roster that would follow")


def check_wish(rules: Rules, context: Context, signed: Signed, blamed: PeerId) -> None:
    """Whether a Join or Leave may be in the next block (rule 5.6)."""
    wish = signed.statement
    if not isinstance(wish, Join | Leave):
        raise RemoteProtocolError(blamed, "averaging 5.6", "neither a Join nor a Leave")
    if wish.tip not in context.recent:
        raise RemoteProtocolError(blamed, "averaging 5.6", f"{signed.signer} names an old block")
    inside = context.member(signed.signer) is not None
    if inside == isinstance(wish, Join):
        where = "in" if inside else "outside"
        raise RemoteProtocolError(blamed, "averaging 5.6", f"{signed.signer} is {where} already")
    check_signed(rules.verifier, rules.swarm, signed, blamed)


def _check_branch(context: Context, block: Block, blamed: PeerId) -> None:
    living = set(block.living)
    if not living <= set(committee(context)):
        raise RemoteProtocolError(blamed, "averaging 5.8", "the living are not all members")
    if living.isdisjoint(voters(context)):
        raise RemoteProtocolError(blamed, "averaging 5.8", "no voter among the living")


def verify_certificate(
    rules: Rules, context: Context, certificate: Certificate, sender: PeerId
) -> None:
    """Check a certificate for a child of this context's block; raises RemoteProtocolError."""
    block = certificate.block
    check_block(rules, context, block, sender)
    # A branch may have begun before our block was certified again, in a later view, without it.
    if certificate.view <= context.view and block.kind != BRANCH:
        raise RemoteProtocolError(sender, "averaging 7.4", f"view {certificate.view}")
    if block.kind != ROUND and certificate.state != context.state:
        raise RemoteProtocolError(sender, "averaging 7.4", "only a ROUND block changes the state")
    check_ballots(rules, electorate(context, block), certificate, sender)


def check_ballots(
    rules: Rules,
    electorate: tuple[tuple[PeerId, ...], int],
    certificate: Certificate,
    sender: PeerId,
) -> None:
    """Check that enough of those entitled signed, each once.

    electorate  who is entitled and how many are needed: chain.electorate of the block
    """
    entitled, needed = electorate
    names = [ballot.voter for ballot in certificate.ballots]
    if not set(names) <= set(entitled):
        raise RemoteProtocolError(sender, "averaging 7.3", "a ballot of a peer without a vote")
    if len(names) < needed:
        raise RemoteProtocolError(sender, "averaging 7.1", f"{len(names)} of {needed} ballots")
    data = statement_bytes(rules.swarm, vote_of(certificate))
    for ballot in certificate.ballots:
        if not rules.verifier.verify(ballot.voter, data, ballot.signature):
            raise RemoteProtocolError(sender, "averaging 7.2", f"ballot of {ballot.voter}")
