"""Which of two chains is the trunk, and when a branch may be joined: pure functions.

When a quorum is lost, the living go on by a BRANCH block that they sign unanimously
(protocol/averaging.md section 9). Afterwards two chains may grow from one common block. The trunk
is the one that more voters of the common block's roster have signed into; then the one with more
certified rounds; then the one with the lower tip. Samples never decide: they can be bought.

Two quorums certify different blocks on one parent only if voters lie. Then no quorum was lost, and
the rule is that of voting: the newest certificate counts, that is the one with the highest view.

One liar can sign a branch of its own at any time. Peers that have nothing after the common block
must not follow it just because it is there. So a branch that does not name us counts only if
those it leaves behind could not make a quorum any more, or if we have lost our quorum ourselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from p2ptrain.swarm.chain import Context, quorum, voters
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import BRANCH, ROUND, Certificate
from p2ptrain.wire.peer_id import PeerId


def signers(common: Context, certificates: Sequence[Certificate]) -> frozenset[PeerId]:
    """The voters of the common block's roster that signed any ballot in these certificates."""
    signed = {b.voter for certificate in certificates for b in certificate.ballots}
    return frozenset(voters(common)) & signed


def may_follow(
    common: Context, certificates: Sequence[Certificate], me: PeerId, quorum_lost: bool
) -> bool:
    """Whether a peer that has nothing after `common` may take this verified chain after it.

    That somebody on it is alive is for the caller to see to: a roster of the dead admits nobody.

    quorum_lost  whether we ourselves have heard no quorum for T_branch
    """
    first = certificates[0].block
    if first.kind != BRANCH or me in first.living or quorum_lost:
        return True
    left_behind = len(voters(common)) - len(signers(common, certificates))
    return left_behind < quorum(len(voters(common)))


def should_switch(
    common: Context,
    ours: Sequence[Certificate],
    theirs: Sequence[Certificate],
    me: PeerId,
) -> bool:
    """Whether to leave our chain for theirs; both are verified and start after `common`.

    A member that has nothing after `common` does not take a branch that left it behind just because
    it was told of it: those in it may be dead. Who hears them may_follow.
    """
    if not theirs:
        return False
    if not ours:
        first = theirs[0].block
        return first.kind != BRANCH or me in first.living or common.member(me) is None
    if ours[0].block.kind != BRANCH and theirs[0].block.kind != BRANCH:
        return _trunk_view(theirs) > _trunk_view(ours)
    return _rank(common, theirs) < _rank(common, ours)


def _trunk_view(certificates: Sequence[Certificate]) -> int:
    """The view of the last certificate before the first BRANCH."""
    trunk = takewhile(lambda c: c.block.kind != BRANCH, certificates)
    return max(certificate.view for certificate in trunk)


def _rank(common: Context, certificates: Sequence[Certificate]) -> tuple[int, int, Digest]:
    """The smaller, the more a chain is the trunk."""
    rounds = sum(c.block.kind == ROUND for c in certificates)
    return -len(signers(common, certificates)), -rounds, block_digest(certificates[-1].block)
