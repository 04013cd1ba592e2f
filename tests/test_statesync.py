"""protocol/catchup.md sections 2 to 4: bringing the applied state to the tip."""

from dataclasses import replace

import pytest
from donor_chain import DONOR, HASHES, OTHER, SIGNERS, Chain, chain, founding

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.history import History
from p2ptrain.swarm.statesync import (
    REPLAY_ROUNDS_MAX,
    ApplyReduced,
    LoadState,
    Rollback,
    Shapes,
    StateSync,
    SyncEffect,
)
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import (
    ReducedPiece,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.arithmetic import PIECES, SHARDS, state_digest


def sync_of(ours: Chain, applied: int = 0) -> StateSync:
    block = ours.history.context(applied).block
    shapes = Shapes(PIECES, SHARDS, timeout_s=10.0)
    return StateSync(ours.history, block, {founding().block, block}, shapes)


def serve(
    machine: StateSync, donors: dict[PeerId, Chain], todo: list[SyncEffect]
) -> list[SyncEffect]:
    """Let StateSync talk to donors until it rests; return what it told the shell to do."""
    done: list[SyncEffect] = []
    while todo:
        effect = todo.pop(0)
        if isinstance(effect, Send):
            answer = donors[effect.to].answer(effect.message)
            todo = machine.receive(0.0, effect.to, answer) + todo
        else:
            done.append(effect)
    return done


def states_after(done: list[SyncEffect], start: bytes) -> dict[Digest, Digest]:
    """Carry out what the machine said, and the digest of every state on the way."""
    state, digests = start, {}
    for effect in done:
        match effect:
            case LoadState(link, pieces):
                state = b"".join(pieces)
            case ApplyReduced(link, shards):
                state = HASHES.apply(state, shards) if shards else state
            case _:
                continue
        digests[link.context.block] = state_digest(HASHES, state)
    return digests


def test_a_short_gap_is_replayed_in_order_to_the_same_bits() -> None:
    donor = chain(6)
    ours = donor.fork()
    machine = sync_of(ours, applied=2)
    machine.peers(0.0, (DONOR, OTHER))
    done = serve(machine, {DONOR: donor, OTHER: donor}, machine.follow(0.0))
    assert [type(e) for e in done] == [ApplyReduced] * 4
    start = donor.states[donor.history.context(2).block]
    for block, state in states_after(done, start).items():
        assert state == state_digest(HASHES, donor.states[block])
    assert machine.level


def test_a_long_gap_pins_the_newest_donated_state_and_replays_the_rest() -> None:
    donor = chain(REPLAY_ROUNDS_MAX + 5)
    ours = donor.fork()
    pinned = donor.history.context(REPLAY_ROUNDS_MAX + 2)
    machine = sync_of(ours)
    machine.peers(0.0, (DONOR, OTHER))
    todo = machine.receive(0.0, DONOR, donor.tip((pinned.block,)))
    done = serve(machine, {DONOR: donor, OTHER: donor}, todo)
    assert [type(e) for e in done] == [LoadState] + [ApplyReduced] * 3
    assert states_after(done, b"")[donor.history.tip.block] == donor.history.tip.state


def test_a_switch_rolls_back_to_the_newest_state_that_the_new_chain_shares() -> None:
    old = chain(3)
    trunk = old.fork()
    old.grow(2, b"old")
    trunk.grow(2, b"new")
    held = {old.history.context(h).block for h in (0, 2, 3, 4, 5)}
    history = History(founding(), old.history.after(0))
    machine = StateSync(history, history.tip.block, held, Shapes(PIECES, SHARDS))
    machine.peers(0.0, (DONOR,))
    history.switch(3, trunk.history.after(3))
    done = serve(machine, {DONOR: trunk}, machine.follow(0.0))
    assert done[0] == Rollback(trunk.history.context(3).block)
    assert [type(e) for e in done[1:]] == [ApplyReduced] * 2


def test_blocks_without_contributions_need_no_shards() -> None:
    donor = chain(1)
    donor.branch(SIGNERS[:2])
    donor.grow(1, signers=SIGNERS[:2])
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR,))
    done = serve(machine, {DONOR: donor}, machine.follow(0.0))
    assert [e.shards == () for e in done if isinstance(e, ApplyReduced)] == [False, True, False]


def test_a_donor_that_dies_half_way_is_replaced() -> None:
    donor = chain(REPLAY_ROUNDS_MAX + 2)
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR, OTHER))
    todo = machine.receive(0.0, DONOR, donor.tip((donor.history.tip.block,)))
    alive = [e for e in todo if isinstance(e, Send) and e.to == OTHER]
    again = machine.lost(1.0, DONOR)
    done = serve(machine, {OTHER: donor}, [*alive, *machine.peers(1.0, (OTHER,)), *again])
    assert isinstance(done[0], LoadState)
    assert machine.level


def test_a_lying_donor_is_named_and_the_piece_comes_from_another() -> None:
    donor = chain(3)
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR,))
    first = next(e for e in machine.follow(0.0) if isinstance(e, Send))
    good = donor.answer(first.message)
    assert isinstance(good, ReducedPiece)
    with pytest.raises(RemoteProtocolError, match=r"catchup 4\.1"):
        machine.receive(0.0, DONOR, replace(good, data=bytes(32)))
    todo = machine.lost(0.0, DONOR) + machine.peers(0.0, (OTHER,))
    assert [type(e) for e in serve(machine, {OTHER: donor}, todo)] == [ApplyReduced] * 3


def test_when_nobody_has_the_shards_any_more_a_state_is_pinned_instead() -> None:
    donor = chain(4)
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR,))
    donor.shards.clear()
    done = serve(machine, {DONOR: donor}, machine.follow(0.0))
    assert [type(e) for e in done] == [LoadState]
    assert machine.level


def test_the_tip_may_move_on_while_the_state_comes() -> None:
    donor = chain(3)
    ours = donor.fork()
    machine = sync_of(ours)
    machine.peers(0.0, (DONOR,))
    todo = machine.follow(0.0)
    donor.grow(2)
    for link in donor.history.after(3):
        ours.history.append(link)
    done = serve(machine, {DONOR: donor}, todo + machine.follow(0.0))
    assert [type(e) for e in done] == [ApplyReduced] * 5


def test_what_the_shell_reduced_itself_is_not_fetched() -> None:
    donor = chain(2)
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR,))
    machine.follow(0.0)
    machine.applied(0.0, donor.history.context(1).block)
    machine.applied(0.0, donor.history.context(2).block)
    assert machine.level
    assert machine.deadline == float("inf")
