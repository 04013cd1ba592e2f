"""Announcements: the table of what is known, the pace, and how gaps in it are closed."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.announcing import Announcer, AnnouncerConfig
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.sightings import Sightings, Worth, distinct_states
from p2ptrain.wire.announcing import Announced, GetAnnounced, Heard
from p2ptrain.wire.codec import encode, pack
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.limits import (
    ADDRESSES_ANNOUNCED_MAX,
    AGENT_ANNOUNCED_CHARS_MAX,
    ANNOUNCE_EVERY_MS_MAX,
    ANNOUNCE_SKEW_MS_MAX,
    ANNOUNCED_ADDRESS_CHARS_MAX,
    ANNOUNCED_MAX,
    ANNOUNCED_PEERS_MAX,
    ANNOUNCEMENT_BYTES_MAX,
    FRAME_BYTES_MAX,
    LOCAL_STEPS_MAX,
)
from p2ptrain.wire.messages import Announcement, Signed
from simnet.keys import KeyRing, SimSigner

SWARM = digest("swarm", b"some")
UNIX_MS = 1_795_478_400_000
MOST = 2**63 - 1


def state(number: int) -> Digest:
    return digest("state", bytes([number]))


def told(sequence: int = UNIX_MS, height: int = 1, **values: Any) -> Announcement:
    plain = Announcement(
        sequence, 1000, height, height, state(100 + height), state(height), 0, 0, 0, 1, 0, "", ()
    )
    return replace(plain, **values)


def signed(signer: SimSigner, **values: Any) -> Signed:
    return sign_statement(signer, SWARM, told(**values))


class Clock:
    """Seconds of virtual time, and the Unix time of a machine that began at UNIX_MS."""

    def __init__(self) -> None:
        self.now = 0.0

    def unix_ms(self) -> int:
        return UNIX_MS + round(1000 * self.now)


def machine(keys: KeyRing, clock: Clock) -> Announcer:
    config = AnnouncerConfig(SWARM, keys.new_signer(), keys, told, clock.unix_ms)
    return Announcer(config, clock.now)


def announced(*heard: Signed, age_ms: int = 0) -> Announced:
    ordered = sorted(heard, key=lambda each: each.signer)
    return Announced(tuple(Heard(each, age_ms) for each in ordered))


# --- the message -------------------------------------------------------------------------------
def test_the_longest_announcement_keeps_under_its_bound() -> None:
    longest = Announcement(
        MOST, ANNOUNCE_EVERY_MS_MAX, MOST, MOST, state(1), state(2), MOST, MOST, MOST,
        LOCAL_STEPS_MAX, 1, "a" * AGENT_ANNOUNCED_CHARS_MAX,
        ("a" * ANNOUNCED_ADDRESS_CHARS_MAX,) * ADDRESSES_ANNOUNCED_MAX,
    )  # fmt: skip
    keys = KeyRing(1)
    whole = [
        Heard(sign_statement(keys.new_signer(), SWARM, longest), MOST) for _ in range(ANNOUNCED_MAX)
    ]
    assert len(pack(whole[0])) <= ANNOUNCEMENT_BYTES_MAX
    whole.sort(key=lambda each: each.signed.signer)
    assert len(encode(Announced(tuple(whole)))) < FRAME_BYTES_MAX


@pytest.mark.parametrize(
    "values", [{"every_ms": 0}, {"every_ms": 60_001}, {"rounds": 2}, {"local_steps": 10_001},
               {"reach": 2}],
)  # fmt: skip
def test_an_announcement_that_contradicts_itself_cannot_exist(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        told(**values)


# --- the table ---------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=12), st.randoms())
def test_any_order_and_any_repetition_lead_to_the_same_table(
    made: list[tuple[int, int]], random: Any
) -> None:
    keys = KeyRing(1)
    signers = [keys.new_signer() for _ in range(4)]
    all_signed = [signed(signers[who], sequence=UNIX_MS + when) for who, when in made]
    shuffled = all_signed + all_signed[: len(all_signed) // 2]
    random.shuffle(shuffled)
    tables = [Sightings(keys.new_signer().peer) for _ in range(2)]
    for table, order in zip(tables, (all_signed, shuffled), strict=True):
        for each in order:
            if table.worth(each, UNIX_MS) is Worth.NEWS:
                table.learn(each, 0.0)
    views = [{peer: s.signed for peer, s in table.all()} for table in tables]
    assert views[0] == views[1]


def test_a_peer_is_late_by_its_own_word_and_forgotten_a_minute_later() -> None:
    keys = KeyRing(1)
    table, other = Sightings(keys.new_signer().peer), keys.new_signer()
    table.learn(signed(other, every_ms=1000), heard_at=10.0)
    sighting = table.get(other.peer)
    assert sighting is not None
    assert not sighting.is_late(11.75)
    assert sighting.is_late(11.8)
    assert table.forget_gone(71.0) == []
    assert table.forget_gone(71.1) == [other.peer]
    old = signed(other)
    assert table.worth(old, UNIX_MS) is Worth.OLD, "a recording does not wake the dead"


def test_what_is_of_another_day_is_not_taken() -> None:
    keys = KeyRing(1)
    table, other = Sightings(keys.new_signer().peer), keys.new_signer()
    for sequence, worth in {
        UNIX_MS + ANNOUNCE_SKEW_MS_MAX: Worth.NEWS,
        UNIX_MS + ANNOUNCE_SKEW_MS_MAX + 1: Worth.SKEWED,
        UNIX_MS - ANNOUNCE_SKEW_MS_MAX - 1: Worth.SKEWED,
    }.items():
        assert table.worth(signed(other, sequence=sequence), UNIX_MS) is worth


def test_strangers_do_not_push_out_those_that_are_needed() -> None:
    keys = KeyRing(1)
    table, needed = Sightings(keys.new_signer().peer), keys.new_signer()
    table.kept = frozenset({needed.peer})
    table.learn(signed(needed), heard_at=0.0)
    for at in range(ANNOUNCED_PEERS_MAX + 5):
        table.learn(signed(keys.new_signer()), heard_at=1.0 + at)
    assert len(table) == ANNOUNCED_PEERS_MAX
    assert table.get(needed.peer) is not None


def test_states_are_counted_where_they_can_be_compared() -> None:
    keys = KeyRing(1)
    table = Sightings(keys.new_signer().peer)
    same, ahead, other, further = (keys.new_signer() for _ in range(4))
    chain = {height: state(height) for height in range(6)}
    table.learn(signed(same, height=4), 0.0)
    table.learn(signed(ahead, height=9), 0.0)
    assert distinct_states(table.states(chain.get)) == 1
    table.learn(signed(other, height=5, state=state(50)), 0.0)
    assert distinct_states(table.states(chain.get)) == 2
    table.learn(signed(further, height=3, state=state(30)), 0.0)
    groups = table.states(chain.get)
    assert (groups[0].ours, groups[0].peers) == (True, tuple(sorted([table.me, same.peer])))
    assert distinct_states(groups) == 2, "it may be one branch at two heights"
    table.learn(signed(further, height=5, state=state(51), sequence=UNIX_MS + 1), 0.0)
    assert distinct_states(table.states(chain.get)) == 3
    for healed in (other, further):
        table.learn(signed(healed, height=5, sequence=UNIX_MS + 2), 0.0)
    assert distinct_states(table.states(chain.get)) == 1


def test_who_is_ahead_is_compared_by_what_it_announced_before() -> None:
    keys = KeyRing(1)
    table, other = Sightings(keys.new_signer().peer), keys.new_signer()
    chain = {3: state(3)}
    for at, height in enumerate((3, 8, 13)):
        table.learn(signed(other, height=height, sequence=UNIX_MS + at), 0.0)
    assert [g.ours for g in table.states(chain.get) if other.peer in g.peers] == [True]


# --- the machine -------------------------------------------------------------------------------
def test_a_peer_announces_each_second_to_all_and_asks_one_in_turn() -> None:
    keys, clock = KeyRing(1), Clock()
    one = machine(keys, clock)
    others = sorted(keys.new_signer().peer for _ in range(3))
    one.peers(0.0, others)
    sent: list[tuple[float, Send]] = []
    while clock.now < 9.5:
        sent += [(clock.now, each) for each in one.expire(clock.now)]
        clock.now = one.deadline
    own = [(at, each) for at, each in sent if isinstance(each.message, Announced)]
    assert [at for at, _ in own] == [float(second) for second in range(10) for _ in others]
    asked = [each.to for _, each in sent if isinstance(each.message, GetAnnounced)]
    assert len(asked) == 9
    assert {asked.count(peer) for peer in others} == {3}


def test_a_newcomer_is_told_and_asked_at_once() -> None:
    keys, clock = KeyRing(1), Clock()
    one = machine(keys, clock)
    one.expire(0.0)
    newcomer = keys.new_signer().peer
    kinds = [(each.to, type(each.message)) for each in one.peers(0.3, [newcomer])]
    assert kinds == [(newcomer, Announced), (newcomer, GetAnnounced)]
    assert one.peers(0.4, [newcomer]) == []


def test_a_large_swarm_speaks_more_slowly_and_says_so() -> None:
    keys, clock = KeyRing(1), Clock()
    one = machine(keys, clock)
    for _ in range(255):
        one.sightings.learn(signed(keys.new_signer()), 0.0)
    assert one.every_s == 4.0
    one.members(0.0, [one.me, keys.new_signer().peer])
    assert one.every_s == 1.0


def test_what_a_neighbour_knows_is_asked_for_with_its_age() -> None:
    keys, clock = KeyRing(1), Clock()
    one, two = machine(keys, clock), machine(keys, clock)
    far = keys.new_signer()
    two.receive(0.0, far.peer, announced(signed(far)))
    (question,) = one.peers(0.0, [two.me])
    (answer,) = two.receive(3.0, one.me, question.message)
    one.receive(3.0, two.me, answer.message)
    sighting = one.sightings.get(far.peer)
    assert sighting is not None
    assert sighting.age_s(3.0) == 3.0
    assert two.receive(3.5, one.me, one._question()) == [], "nothing is told twice"


def test_an_announcement_that_its_signer_did_not_sign_so_is_refused_and_its_sender_blamed() -> None:
    keys, clock = KeyRing(1), Clock()
    one, liar, victim = machine(keys, clock), keys.new_signer(), keys.new_signer()
    elsewhere = sign_statement(victim, digest("swarm", b"another"), told())
    changed = replace(signed(victim), statement=told(sequence=UNIX_MS + 1))
    for bad in (elsewhere, changed, replace(signed(liar), signer=victim.peer)):
        with pytest.raises(RemoteProtocolError) as caught:
            one.receive(0.0, liar.peer, announced(bad))
        assert (caught.value.peer, caught.value.rule) == (liar.peer, "envelope 3.1")
    assert len(one.sightings) == 0


def test_a_replay_changes_nothing_and_costs_no_check() -> None:
    keys, clock = KeyRing(1), Clock()
    one, other = machine(keys, clock), keys.new_signer()
    old, new = signed(other), signed(other, sequence=UNIX_MS + 1)
    for each in (new, old, replace(new, signature=bytes(64))):
        one.receive(5.0, other.peer, announced(each))
    assert [s.signed for _, s in one.sightings.all()] == [new]


def test_a_peer_whose_clock_is_off_is_named_and_no_liar() -> None:
    keys, clock = KeyRing(1), Clock()
    one, other = machine(keys, clock), keys.new_signer()
    off_ms = 2 * ANNOUNCE_SKEW_MS_MAX
    one.receive(0.0, other.peer, announced(signed(other, sequence=UNIX_MS + off_ms)))
    assert dict(one.skewed) == {other.peer: off_ms}
    one.receive(0.0, other.peer, announced(signed(other)))
    assert not one.skewed, "its clock was set"


def test_after_a_restart_with_a_clock_set_back_the_sequence_still_grows() -> None:
    keys, clock = KeyRing(1), Clock()
    one, other = machine(keys, clock), keys.new_signer()
    before = sign_statement(one.config.signer, SWARM, told(sequence=UNIX_MS + 5000))
    one.receive(0.0, other.peer, announced(before))
    one.peers(0.0, [other.peer])
    (mine, *_) = one.expire(0.0)
    assert isinstance(mine.message, Announced)
    statement = mine.message.heard[0].signed.statement
    assert isinstance(statement, Announcement)
    assert statement.sequence == UNIX_MS + 5001


def test_one_part_of_a_large_table_after_the_other_is_asked_about() -> None:
    keys, clock = KeyRing(1), Clock()
    one, two = machine(keys, clock), machine(keys, clock)
    for _ in range(600):
        one.sightings.learn(signed(keys.new_signer()), 0.0)
        two.sightings.learn(signed(keys.new_signer()), 0.0)
    for _ in range(40):
        for asker, answerer in permutations((one, two)):
            for answer in answerer.receive(0.0, asker.me, asker._question()):
                asker.receive(0.0, answerer.me, answer.message)
    assert len(one.sightings) == len(two.sightings) == ANNOUNCED_PEERS_MAX
