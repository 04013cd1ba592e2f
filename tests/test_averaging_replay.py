"""Messages of honest peers are no fault however late, often, or in what order they come."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_router import Router

from p2ptrain.wire.messages import Message
from p2ptrain.wire.peer_id import PeerId

Heard = tuple[PeerId, PeerId, Message]


def played(count: int, rounds: int) -> tuple[Router, list[Heard]]:
    """A run with a failed view in it, and every message that was sent."""
    router = Router(count)
    router.rounds_wanted = rounds
    sent: list[Heard] = []

    def keep(sender: PeerId, to: PeerId, message: Message) -> bool:
        sent.append((sender, to, message))
        return len(sent) % 23 != 0

    router.spy = keep
    router.start()
    for name in router.names:
        router.contribute(name)
    router.pass_time(30)
    return router, sent


@given(st.integers(2, 5), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_old_messages_in_any_order_change_nothing_at_the_end(
    count: int, rng: random.Random
) -> None:
    router, sent = played(count, 4)
    tips = {name: peer.machine.context.block for name, peer in router.peers.items()}
    assert len(set(tips.values())) == 1
    rng.shuffle(sent)
    router.queue.extend(sent[:400])
    router.run()
    assert not router.errors
    assert {n: p.machine.context.block for n, p in router.peers.items()} == tips


@given(st.integers(2, 5), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_a_run_heard_in_any_order_brings_a_newcomer_no_fault_and_only_true_blocks(
    count: int, rng: random.Random
) -> None:
    """A member that slept through the run hears all of it shuffled, to whomever it was sent."""
    router, sent = played(count, 4)
    sleeper = Router(count)  # the same keys and founding block: nothing has happened here
    sleeper.rounds_wanted = 0
    sleeper.start()
    name = rng.choice(sleeper.names)
    rng.shuffle(sent)
    for sender, _, message in sent:
        if sender != name:
            sleeper.queue.append((sender, name, message))
    sleeper.cut = {(name, other) for other in sleeper.names}
    sleeper.run()
    assert not sleeper.errors
    true = [a.context.block for a in router.peers[name].applied]
    heard = [a.context.block for a in sleeper.peers[name].applied]
    assert heard == true[: len(heard)]
