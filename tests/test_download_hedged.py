"""Fetching among peers that never answer: strangers may be many, and cost seconds, not minutes."""

from collections import Counter

import pytest

from p2ptrain.swarm.download import COPIES_MAX, HEDGE_S, Download, Got, blobs_wanted
from p2ptrain.swarm.effects import Send
from p2ptrain.wire.cid import cid_of, parse_cid
from p2ptrain.wire.digest import digest
from p2ptrain.wire.messages import Blob, GetBlob, NotHeld
from p2ptrain.wire.peer_id import PeerId, peer_id_of

CONTENT = {cid_of(data): data for data in (bytes([n]) * 9 for n in range(10))}


def peers(count: int) -> list[PeerId]:
    return sorted(peer_id_of(digest("peer", bytes([n]))) for n in range(count))


class Fetch:
    """A download from some peers that answer at once and some that never do."""

    def __init__(self, silent: list[PeerId], good: list[PeerId]) -> None:
        self.good = good
        self.now = 0.0
        self.asked: Counter[PeerId] = Counter()
        self.got = 0
        self.machine = Download()
        self.carry_out([*self.machine.peers(0.0, [*silent, *good])])
        self.carry_out([*self.machine.want(0.0, blobs_wanted(CONTENT))])

    def carry_out(self, effects: list[Send | Got]) -> None:
        for effect in effects:
            if isinstance(effect, Got):
                self.got += 1
                continue
            assert isinstance(effect.message, GetBlob)
            self.asked[effect.to] += 1
            if effect.to in self.good:
                blob = Blob(effect.message.cid, CONTENT[parse_cid(effect.message.cid)])
                self.carry_out([*self.machine.receive(self.now, effect.to, blob)])

    def run(self, until: float) -> None:
        while not self.machine.finished and self.machine.deadline <= until:
            assert self.machine.deadline >= self.now
            self.now = self.machine.deadline
            self.carry_out([*self.machine.expire(self.now)])


@pytest.mark.parametrize("good_one", range(8))
def test_one_that_answers_is_found_among_seven_that_do_not(good_one: int) -> None:
    everyone = peers(8)
    good = [everyone[good_one]]
    fetch = Fetch([p for p in everyone if p not in good], good)
    fetch.run(until=3 * COPIES_MAX * HEDGE_S)
    assert fetch.machine.finished
    assert fetch.got == len(CONTENT)


def test_with_half_of_the_peers_silent_the_rest_is_asked_within_a_second_or_two() -> None:
    everyone = peers(8)
    fetch = Fetch(everyone[:4], everyone[4:])
    fetch.run(until=2 * HEDGE_S)
    assert fetch.machine.finished


def test_who_has_answered_is_preferred_to_who_has_not() -> None:
    everyone = peers(8)
    fetch = Fetch(everyone[:4], everyone[4:])
    fetch.run(until=2 * HEDGE_S)
    before = +fetch.asked
    more = {cid_of(data): data for data in (bytes([n]) * 5 for n in range(10))}
    CONTENT.update(more)
    fetch.carry_out([*fetch.machine.want(fetch.now, blobs_wanted(more))])
    assert fetch.machine.finished
    assert all(fetch.asked[peer] == before[peer] for peer in everyone[:4])


def test_nothing_is_asked_twice_while_there_is_something_else_to_ask_for() -> None:
    silent = peers(2)
    fetch = Fetch(silent, [])  # ten items, eight places
    fetch.run(until=5 * HEDGE_S)
    assert fetch.asked.total() == 8


def test_what_those_who_answer_do_not_have_is_given_up_without_waiting_for_the_silent() -> None:
    everyone = peers(4)
    machine, request = Download(), GetBlob(cid_of(b"gone"))
    machine.peers(0.0, everyone)
    sends = machine.want(0.0, blobs_wanted([cid_of(b"gone")]))
    now = 0.0
    while not machine.dry and now < COPIES_MAX * HEDGE_S:
        for send in sends:
            if send.to == everyone[2]:
                machine.receive(now, send.to, NotHeld(request))
        now = machine.deadline
        sends = machine.expire(now)
    assert machine.dry == 1
