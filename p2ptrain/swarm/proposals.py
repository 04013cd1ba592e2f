"""When a proposal is legal: the heart of the protocol's safety, as pure functions.

Rules (protocol/averaging.md section 5; the models behind them are described in threats.md):

  - A proposal in the view right after its parent's certificate needs that certificate only.
  - Any other carries a quorum of Timeouts for exactly the view before. Each is a promise not to
    vote in that view or below, and says what its signer held: its newest certificate and its last
    vote. So a block that may have been certified unseen has left a trace in every quorum.
  - Its parent is the newest certificate among them, and its block is the one of the highest-view
    last vote on that parent, if there is one: repeating it can only finish what was begun.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.certificates import Rules, check_block
from p2ptrain.swarm.chain import Context, proposer, quorum, voters
from p2ptrain.wire.envelope import check_signed
from p2ptrain.wire.messages import BRANCH, Block, Proposal, Signed, Timeout
from p2ptrain.wire.peer_id import PeerId


def check_proposal(rules: Rules, context: Context, signed: Signed, sender: PeerId) -> Proposal:
    """Check a signed Proposal for a child of this context's block, and return it.

    The contributions behind its entries are checked when they are held (5.5).
    """
    proposal = signed.statement
    if not isinstance(proposal, Proposal):
        raise RemoteProtocolError(sender, "averaging 5.1", "a Propose without a Proposal")
    check_signed(rules.verifier, rules.swarm, signed, sender)
    if proposal.view <= context.view:
        raise RemoteProtocolError(signed.signer, "averaging 5.3", f"view {proposal.view}")
    block = proposal.block
    check_block(rules, context, block, signed.signer)
    if signed.signer != entitled_proposer(context, proposal):
        raise RemoteProtocolError(signed.signer, "averaging 5.1", "not its turn")
    timeouts = check_timeouts(rules, context, proposal, signed.signer)
    if block.kind != BRANCH:
        allowed = repeatable(context, timeouts)
        if allowed and block not in allowed:
            raise RemoteProtocolError(signed.signer, "averaging 5.4", "another list was begun")
    return proposal


def entitled_proposer(context: Context, proposal: Proposal) -> PeerId:
    """Whose turn it is: the view's proposer; for a branch the first voter among the living."""
    if proposal.block.kind == BRANCH:
        return next(p for p in voters(context) if p in proposal.block.living)
    return proposer(context, proposal.view)


def check_timeouts(
    rules: Rules, context: Context, proposal: Proposal, blamed: PeerId
) -> list[Timeout]:
    """Check the Timeouts that a proposal carries (5.2, 5.3), and return them without signatures."""
    fast = proposal.view == context.view + 1
    branch = proposal.block.kind == BRANCH
    if fast and not branch:
        if proposal.timeouts:
            raise RemoteProtocolError(blamed, "averaging 5.2", "timeouts where none are needed")
        return []
    found = _timeouts_of(rules, context, proposal, blamed)
    given = [s.signer for s in proposal.timeouts]
    if branch:
        missing = (set(voters(context)) & set(proposal.block.living)) - set(given)
        if missing:
            raise RemoteProtocolError(blamed, "averaging 5.2", f"no timeout of {sorted(missing)}")
    elif len(given) < quorum(len(voters(context))):
        raise RemoteProtocolError(blamed, "averaging 5.2", f"{len(given)} timeouts")
    newest = max(t.high_view for t in found)
    named = {t.high_block for t in found if t.high_view == newest}
    if newest != context.view or context.block not in named:
        raise RemoteProtocolError(blamed, "averaging 5.3", "not the newest certificate")
    return found


def _timeouts_of(
    rules: Rules, context: Context, proposal: Proposal, blamed: PeerId
) -> list[Timeout]:
    given = [s.signer for s in proposal.timeouts]
    if sorted(set(given)) != given or not set(given) <= set(voters(context)):
        raise RemoteProtocolError(blamed, "averaging 5.2", "timeouts: not of voters in order")
    found = []
    for signed in proposal.timeouts:
        timeout = signed.statement
        if not isinstance(timeout, Timeout) or timeout.view != proposal.view - 1:
            raise RemoteProtocolError(blamed, "averaging 5.2", "a timeout of another view")
        check_signed(rules.verifier, rules.swarm, signed, blamed)
        found.append(timeout)
    return found


def repeatable(context: Context, timeouts: Sequence[Timeout]) -> list[Block]:
    """The blocks of which one must be proposed again; empty: the proposer is free."""
    votes = [
        (timeout.last_view, timeout.last_block)
        for timeout in timeouts
        if timeout.last_block is not None and timeout.last_block.parent == context.block
    ]
    if not votes:
        return []
    highest = max(view for view, _ in votes)
    return [block for view, block in votes if view == highest]
