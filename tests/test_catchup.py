"""protocol/catchup.md section 1: finding the trunk by headers."""

from dataclasses import replace

import pytest
from donor_chain import DONOR, ME, OTHER, RULES, SIGNERS, Chain, chain, founding

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.catchup import CatchUp, CaughtUp, Effect, Elsewhere, Switched
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.history import DENSE_HEIGHTS
from p2ptrain.wire.limits import HEADERS_MAX
from p2ptrain.wire.messages import (
    Ballot,
    GetHeaders,
    GetTip,
    Headers,
)
from p2ptrain.wire.peer_id import PeerId


def search(ours: Chain, donors: dict[PeerId, Chain], *, after: float = 0.0) -> list[Effect]:
    """Let CatchUp talk to donors until it rests; return what it decided."""
    machine = CatchUp(ME, RULES, ours.history)
    decided: list[Effect] = []
    todo = machine.peers(after, donors) + machine.start(after)
    while todo:
        effect = todo.pop(0)
        match effect:
            case Send(to, message):
                todo += machine.receive(after, to, donors[to].answer(message))
            case Switched(height, links):
                decided.append(effect)
                ours.history.switch(height, links)
                todo += machine.expire(after)
            case CaughtUp() | Elsewhere():
                decided.append(effect)
    assert not machine.running
    return decided


# --- the chain ------------------------------------------------------------------------------
def test_alone_nobody_is_ahead() -> None:
    ours = chain(2)
    machine = CatchUp(ME, RULES, ours.history)
    assert machine.start(0.0) == [CaughtUp(ours.history.tip)]


def test_a_joiner_takes_the_whole_chain_page_by_page() -> None:
    donor, ours = chain(2 * HEADERS_MAX + 3), chain(0)
    decided = search(ours, {DONOR: donor})
    assert decided[-1] == CaughtUp(donor.history.tip)
    assert ours.history.tip == donor.history.tip


def test_of_two_tips_the_higher_is_taken() -> None:
    low, high, ours = chain(3), chain(5), chain(1)
    search(ours, {DONOR: low, OTHER: high})
    assert ours.history.height == 5


def test_a_peer_that_is_level_switches_nothing() -> None:
    ours = chain(4)
    assert search(ours, {DONOR: chain(4)}) == [CaughtUp(ours.history.tip)]


def test_the_chain_that_more_of_the_common_roster_signed_is_the_trunk() -> None:
    ours = chain(2)
    trunk = ours.fork()
    ours.branch(SIGNERS[:1])
    ours.grow(9, signers=SIGNERS[:1])
    trunk.branch(SIGNERS[1:])
    trunk.grow(2, signers=SIGNERS[1:])
    decided = search(ours, {DONOR: trunk})
    assert isinstance(decided[0], Switched)
    assert decided[0].height == 2
    assert ours.history.tip == trunk.history.tip


def test_the_trunk_does_not_switch_to_a_branch() -> None:
    ours = chain(2)
    branch = ours.fork()
    ours.branch(SIGNERS[1:])
    branch.branch(SIGNERS[:1])
    branch.grow(9, signers=SIGNERS[:1])
    assert search(ours, {DONOR: branch}) == [CaughtUp(ours.history.tip)]


def test_a_branch_that_left_us_behind_is_not_followed_but_told() -> None:
    """Its first certificate goes to the averaging machine, which stops waiting for its signers."""
    ours = chain(2)
    branch = ours.fork()
    branch.branch(SIGNERS[:1])
    branch.grow(3, signers=SIGNERS[:1])
    machine = CatchUp(SIGNERS[1].peer, RULES, ours.history)
    machine.peers(0.0, (DONOR,))
    machine.start(0.0)
    (ask,) = machine.receive(0.0, DONOR, branch.tip())
    assert isinstance(ask, Send)
    told = machine.receive(0.0, DONOR, branch.answer(ask.message))
    assert told == [Elsewhere(DONOR, branch.history.link(3).certificate)]
    assert machine.expire(machine.deadline) == [CaughtUp(ours.history.tip)]


def test_a_branch_that_took_us_in_is_followed() -> None:
    """Nobody else can go on there without us."""
    ours = chain(2)
    branch = ours.fork()
    branch.branch(SIGNERS[:1])
    branch.grow(1, signers=SIGNERS[:1])
    machine = CatchUp(SIGNERS[0].peer, RULES, ours.history)
    machine.peers(0.0, (DONOR,))
    machine.start(0.0)
    (ask,) = machine.receive(0.0, DONOR, branch.tip())
    assert isinstance(ask, Send)
    (switched,) = machine.receive(0.0, DONOR, branch.answer(ask.message))
    assert isinstance(switched, Switched)


def test_silent_peers_cost_one_timeout_and_no_more() -> None:
    ours = chain(1)
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR, OTHER))
    machine.start(0.0)
    assert machine.receive(0.5, DONOR, ours.tip()) == []
    assert machine.expire(machine.deadline) == [CaughtUp(ours.history.tip)]


def test_a_peer_that_claims_a_tip_and_serves_nothing_is_passed_over() -> None:
    ours, donor = chain(1), chain(3)
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR, OTHER))
    machine.start(0.0)
    boast = replace(donor.tip(), rounds=10_000)
    machine.receive(0.0, DONOR, boast)
    (ask,) = machine.receive(0.0, OTHER, donor.tip())
    assert isinstance(ask, Send)
    assert ask.to == DONOR
    (again,) = machine.expire(machine.deadline)
    assert isinstance(again, Send)
    assert again.to == OTHER


def test_a_certificate_that_does_not_follow_begins_in_the_middle() -> None:
    ours, donor = chain(1), chain(4)
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR,))
    certificate = donor.history.certificate
    assert certificate is not None
    (ask,) = machine.behind(0.0, DONOR, certificate)
    assert isinstance(ask, Send)
    switched = machine.receive(0.0, DONOR, donor.answer(ask.message))
    assert isinstance(switched[0], Switched)


def test_our_chain_may_grow_while_headers_come() -> None:
    ours, donor = chain(1), chain(4)
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR,))
    (tip,) = machine.start(0.0)
    assert isinstance(tip, Send)
    (ask,) = machine.receive(0.0, DONOR, donor.answer(tip.message))
    assert isinstance(ask, Send)
    answer = donor.answer(ask.message)
    ours.history.append(donor.history.link(2))
    (switched,) = machine.receive(0.0, DONOR, answer)
    assert isinstance(switched, Switched)
    assert switched.height == 2
    assert len(switched.links) == 2


def _asked(ours: Chain, donor: Chain) -> tuple[CatchUp, Headers]:
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR,))
    machine.start(0.0)
    (ask,) = machine.receive(0.0, DONOR, donor.tip())
    assert isinstance(ask, Send)
    answer = donor.answer(ask.message)
    assert isinstance(answer, Headers)
    return machine, answer


@pytest.mark.parametrize("rule", ["catchup 1.2", "catchup 1.3", "averaging 7.2"])
def test_bad_headers_are_refused_by_rule_and_the_honest_answer_still_counts(rule: str) -> None:
    ours, donor = chain(1), chain(HEADERS_MAX + 2)
    machine, good = _asked(ours, donor)
    certificates = good.certificates
    forged = replace(
        certificates[0], ballots=tuple(Ballot(b.voter, bytes(64)) for b in certificates[0].ballots)
    )
    last = donor.history.link(donor.history.height).certificate
    bad = {
        "catchup 1.2": replace(good, certificates=(*certificates, last)),
        "catchup 1.3": replace(good, certificates=certificates[1:]),
        "averaging 7.2": replace(good, certificates=(forged, *certificates[1:])),
    }[rule]
    with pytest.raises(RemoteProtocolError, match=rule):
        machine.receive(0.0, DONOR, bad)
    (more,) = machine.receive(0.0, DONOR, good)
    assert isinstance(more, Send)
    assert isinstance(more.message, GetHeaders)


def test_headers_after_a_block_that_was_not_asked_for_are_ignored() -> None:
    """They may be the late answer to a request that has timed out."""
    ours, donor = chain(1), chain(9)
    machine, good = _asked(ours, donor)
    late = replace(good, after=donor.history.context(5).block, certificates=good.certificates[4:])
    assert machine.receive(0.0, DONOR, late) == []
    assert isinstance(machine.receive(0.0, DONOR, good)[0], Switched)


def test_at_rest_a_new_peer_is_asked_at_once_and_all_are_asked_now_and_then() -> None:
    ours, donor = chain(1), chain(3)
    machine = CatchUp(ME, RULES, ours.history)
    machine.start(0.0)
    (greet,) = machine.peers(1.0, (DONOR,))
    assert isinstance(greet, Send)
    (ask,) = machine.receive(1.0, DONOR, donor.answer(greet.message))
    assert isinstance(ask, Send)
    assert isinstance(ask.message, GetHeaders)
    machine.receive(1.0, DONOR, Headers(founding().block, ()))
    (again,) = machine.expire(machine.deadline)
    assert isinstance(again, Send)
    assert isinstance(again.message, GetTip)


def test_a_struck_peer_is_not_asked_again() -> None:
    ours, donor = chain(1), chain(3)
    machine, _ = _asked(ours, donor)
    assert machine.struck(0.0, DONOR) == [CaughtUp(ours.history.tip)]


def test_known_blocks_are_dense_at_the_tip_and_end_with_the_founding_one() -> None:
    history = chain(90).history
    known = history.known()
    heights = [history.height_of(block) for block in known]
    assert heights[:DENSE_HEIGHTS] == list(range(90, 90 - DENSE_HEIGHTS, -1))
    assert heights[-1] == 0
    assert len(known) < 20
