"""A peer that lost its chain, and not what it had signed, goes on where it had been."""

from math import inf

from swarm_router import Router

from p2ptrain.wire.messages import Certified


def test_who_lost_its_chain_comes_back_to_its_own_contribution() -> None:
    """It must not commit to that block a second time; alone, it would wait for ever."""
    router = Router(1)
    router.rounds_wanted = 2
    (name,) = router.names
    peer = router.peers[name]
    peer.works = False
    router.start()
    router.contribute(name)
    certificate = peer.applied[-1].certificate
    router.effects_left = 1  # the contribution is written down, and the process dies
    router.contribute(name)
    router.effects_left = inf
    assert peer.own is not None
    peer.log.clear()
    router.restart(name)
    assert peer.machine.context.rounds == 0
    mirror = router.ring.new_signer().peer
    router.do(name, peer.machine.receive(router.now, mirror, Certified(certificate)))
    router.pass_time(20)
    assert peer.machine.context.rounds == 2
    assert not router.errors
