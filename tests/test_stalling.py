"""A voter that lists what only it holds: its own views are lost, and nobody else's."""

import pytest
from swarm_router import Router

from p2ptrain.swarm.chain import proposer
from p2ptrain.wire.messages import GiveUp, Message, Piece
from p2ptrain.wire.peer_id import PeerId

ROUNDS = 6  # in which each voter proposes at least once


class Stalled:
    """Four voters; one never sends its pieces, and names its own contribution in its sets."""

    def __init__(self, first_view: int) -> None:
        self.router = Router(4)
        self.liar = proposer(self.router.base, first_view)
        self.machine = self.router.peers[self.liar].machine
        self.router.spy = self.passes
        self.hasty = False  # the liar's Timeouts come before anyone else's

    def passes(self, sender: PeerId, to: PeerId, message: Message) -> bool:
        if isinstance(message, GiveUp) and self.hasty and sender == self.liar:
            self.router.queue.appendleft((sender, to, message))
            return False
        if sender == self.liar:
            exchange = self.machine._exchange
            if exchange.own is not None:  # as if every other voter had said that it holds it
                for peer in self.router.names:
                    known = exchange.haves.get(peer, frozenset())
                    exchange.haves[peer] = known | {exchange.own.name}
        return not (isinstance(message, Piece) and message.contributor == self.liar)

    def honest_heights(self) -> list[int]:
        peers = self.router.peers.items()
        return [peer.machine.context.height for name, peer in peers if name != self.liar]


@pytest.mark.parametrize("first_view", range(1, 5))
@pytest.mark.parametrize("hasty", [False, True])
def test_a_proposer_that_lists_what_it_withholds_stalls_its_own_views_only(
    first_view: int, hasty: bool
) -> None:
    stalled = Stalled(first_view)
    stalled.hasty = hasty
    router = stalled.router
    router.rounds_wanted = ROUNDS
    router.start()
    for name in router.names:
        router.contribute(name)
    router.pass_time(120.0)
    assert min(stalled.honest_heights()) >= ROUNDS
    assert all(not apply.context.branch_depth for peer in router.peers.values()
               for apply in peer.applied), "no quorum was lost"  # fmt: skip
