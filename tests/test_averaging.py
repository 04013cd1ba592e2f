"""The averaging machine: happy paths, loss of peers and messages, restarts. protocol/averaging.md.

Each rejection has its test in test_averaging_rules.py.
"""

import pytest

from p2ptrain.swarm.effects import Apply, Effect, Persist, Send, VoteRecord
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.messages import Certified, Statement, Vote
from tests.swarm_router import Router


def chains(router: Router) -> list[list[bytes]]:
    return [[a.context.block for a in p.applied] for p in router.peers.values()]


def begin(count: int, rounds: int) -> Router:
    router = Router(count)
    router.rounds_wanted = rounds
    router.start()
    for name in router.names:
        router.contribute(name)
    router.run()
    return router


def test_one_peer_alone_is_done_within_its_contribution() -> None:
    router = Router(1)
    (name,) = router.names
    router.peers[name].works = False
    router.start()
    for done in range(1, 4):
        router.contribute(name)
        assert len(router.peers[name].applied) == done
    assert router.now == 0.0
    assert not [e for e in router.peers[name].log if isinstance(e, Send)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_peers_certify_the_same_blocks_without_waiting(count: int) -> None:
    router = begin(count, 5)
    assert router.now == 0.0
    assert not router.errors
    first, *others = chains(router)
    assert len(first) == 5
    assert all(other == first for other in others)
    for peer in router.peers.values():
        for apply in peer.applied:
            assert len(apply.certificate.block.entries) == count
        # Each block in the view after its parent's makes its parent final.
        assert [a.finals for a in peer.applied] == [(), *((b,) for b in first[:-1])]


def test_a_vote_is_on_disk_before_it_leaves() -> None:
    router = begin(3, 2)
    for peer in router.peers.values():
        promised = 0
        for effect in peer.log:
            if isinstance(effect, Persist) and isinstance(effect.record, VoteRecord):
                promised = effect.record.promised
            if isinstance(effect, Send) and isinstance(effect.message, Statement):
                vote = effect.message.signed.statement
                if isinstance(vote, Vote):
                    assert promised >= vote.view


def test_whoever_assembles_a_certificate_sends_it_to_all_before_applying_it() -> None:
    router = begin(3, 2)
    for apply in router.peers[router.names[0]].applied:
        assemblers = 0
        for name, peer in router.peers.items():
            at = next(i for i, e in enumerate(peer.log) if e == apply or is_same(e, apply))
            told = {
                e.to
                for e in peer.log[:at]
                if isinstance(e, Send) and isinstance(e.message, Certified)
                if block_digest(e.message.certificate.block) == apply.context.block
            }
            assert told in (set(), set(router.names) - {name})
            assemblers += bool(told)
        assert assemblers >= 1


def is_same(effect: Effect, apply: Apply) -> bool:
    return isinstance(effect, Apply) and effect.context.block == apply.context.block
