"""A founding block with more members than its founder: as if they had joined before it."""

from collections.abc import Mapping
from dataclasses import replace

from p2ptrain.swarm.chain import Context
from p2ptrain.swarm.roster import Member
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.peer_id import PeerId


def with_members(context: Context, anchors: Mapping[PeerId, Digest], steps: int = 1) -> Context:
    """The founding block's context with these members, who all vote.

    anchors  of their hash chains
    steps    local steps that they declare
    """
    members = [Member(peer, anchors[peer], True, 0, 0, steps) for peer in sorted(anchors)]
    return replace(context, roster=tuple(members))
