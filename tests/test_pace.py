"""How many local steps peers of different speeds declare. p2ptrain/swarm/pace.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm_router import SETTINGS, founded

from p2ptrain.swarm.chain import Context, Settings, advance, round_steps
from p2ptrain.swarm.pace import COMMUNICATION_SHARE, MISSED_FACTOR, SLOWER, Pace
from p2ptrain.wire.digest import ZERO_DIGEST, digest
from p2ptrain.wire.messages import ROUND, Block, Certificate, Entry, Norm2
from p2ptrain.wire.peer_id import PeerId
from simnet.keys import KeyRing

RING = KeyRing(8)
PEERS = sorted(RING.new_signer().peer for _ in range(12))
STEPS = 20
FIXED = replace(SETTINGS, local_steps=STEPS, local_steps_max=STEPS)


class Group:
    """Peers that train, then average for a while; rounds close when all are done, or without."""

    def __init__(self, step_s: list[float], settings: Settings, averaging_s: float = 0.1) -> None:
        self.step_s = dict(zip(PEERS, step_s, strict=False))
        self.settings, self.averaging_s = settings, averaging_s
        self.paces = {peer: Pace(peer, settings) for peer in self.step_s}
        base = founded(list(self.step_s))
        members = tuple(replace(m, local_steps=settings.local_steps) for m in base.roster)
        self.context: Context = replace(base, roster=members)
        self.now = 0.0
        self.steps: dict[PeerId, int] = {}
        self.trained_s: dict[PeerId, float] = {}

    def round(self, without: tuple[PeerId, ...] = ()) -> None:
        """One round; those named begin and do not end in time."""
        began, context, most = self.now, self.context, self.settings.local_steps_max
        self.steps = {p: pace.steps_now(context, most) for p, pace in self.paces.items()}
        self.trained_s = {p: self.steps[p] * self.step_s[p] for p in self.paces}
        for peer, pace in self.paces.items():
            pace.began(self.steps[peer])
        entries = []
        ended = sorted((p for p in self.paces if p not in without), key=self.trained_s.__getitem__)
        for peer in ended:
            now = began + self.trained_s[peer]
            for pace in self.paces.values():
                pace.committed(peer, now)
            self.paces[peer].trained(self.steps[peer], self.trained_s[peer], now)
            declared = self.paces[peer].declared(context, most)
            entries.append(
                Entry(peer, digest("commit", peer.encode()), 1, Norm2(1), ZERO_DIGEST, declared)
            )
        entries.sort(key=lambda e: e.peer)
        block = Block(context.block, ROUND, tuple(entries), (), (), ())
        self.now = began + max(self.trained_s[p] for p in ended) + self.averaging_s
        certificate = Certificate(context.view + 1, block, ZERO_DIGEST, context.state, ())
        self.context = advance(context, certificate, self.settings)
        for pace in self.paces.values():
            pace.stand(context, block, self.now)

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.round()


def test_a_slow_peer_declares_as_many_steps_as_end_with_the_others() -> None:
    group = Group([0.1, 0.1, 0.1, 0.3], FIXED)
    group.rounds(3)
    assert list(group.steps.values()) == [20, 20, 20, 6]
    assert max(group.trained_s.values()) <= SLOWER * 2.0
    assert "slower than the group" in group.paces[PEERS[3]].why
    assert not group.paces[PEERS[0]].why


@given(st.lists(st.floats(0.01, 0.1), min_size=2, max_size=12))
def test_groups_of_1x_to_10x_lose_no_more_than_what_is_faster_than_the_median(
    step_s: list[float],
) -> None:
    group = Group(step_s, replace(FIXED, local_steps=100, local_steps_max=100), averaging_s=0.0)
    group.rounds(4)
    settled = dict(group.steps)
    group.rounds(2)
    assert group.steps == settled, "nobody follows anybody down"
    median_s = sorted(step_s)[(len(step_s) - 1) // 2]
    slowest_s = max(group.trained_s.values())
    assert slowest_s <= max(SLOWER * 100 * median_s, 100 * median_s + 0.25) + 1e-9
    ideal = sum(1 / max(s, median_s) for s in step_s)  # steps a second, all at work all the time
    assert sum(group.steps.values()) / slowest_s >= 0.55 * ideal


def test_equal_peers_take_all_steps_whatever_a_busy_machine_does_to_one_round() -> None:
    group = Group([0.1] * 4, FIXED)
    group.rounds(2)
    group.step_s[PEERS[1]] = 0.12
    group.rounds(3)
    assert set(group.steps.values()) == {STEPS}


def test_tiny_rounds_are_not_adapted_to_differences_that_nobody_notices() -> None:
    group = Group([0.001, 0.001, 0.01], FIXED)
    group.rounds(4)
    assert set(group.steps.values()) == {STEPS}


def test_the_recipe_says_how_few_steps_a_slow_peer_may_take() -> None:
    group = Group([0.1, 0.1, 0.1, 2.0], replace(FIXED, local_steps_min=5))
    group.rounds(3)
    assert group.steps[PEERS[3]] == 5
    never = Group([0.1, 0.1, 0.1, 2.0], replace(FIXED, local_steps_min=STEPS))
    never.rounds(3)
    assert set(never.steps.values()) == {STEPS}


def test_who_missed_a_round_takes_a_quarter_and_comes_back_when_it_is_counted() -> None:
    group = Group([0.1, 0.1, 0.1, 0.3], FIXED)
    group.round(without=(PEERS[3],))
    assert group.paces[PEERS[3]].steps_now(group.context, STEPS) == STEPS // MISSED_FACTOR
    group.rounds(2)
    assert group.steps[PEERS[3]] == 6


def test_a_peer_that_slows_down_says_so_in_the_next_round() -> None:
    group = Group([0.1] * 4, FIXED)
    group.rounds(5)
    group.step_s[PEERS[2]] = 0.2  # its laptop throttles
    group.rounds(2)
    assert group.steps[PEERS[2]] == 10


@pytest.mark.parametrize(("averaging_s", "wanted"), [(0.0, 2), (0.8, 32), (100.0, 50)])
def test_h_grows_until_averaging_is_a_fifth_of_the_round_or_the_recipe_says_stop(
    averaging_s: float, wanted: int
) -> None:
    settings = replace(FIXED, local_steps=2, local_steps_max=50)
    group = Group([0.1] * 4, settings, averaging_s)
    group.rounds(16)
    steps = round_steps(group.context, settings)
    assert wanted / 1.3 <= steps <= wanted * 1.3
    if steps < settings.local_steps_max:
        train_s = steps * 0.1
        assert averaging_s / (averaging_s + train_s) <= 1.2 * COMMUNICATION_SHARE


def test_h_shrinks_when_the_link_gets_better() -> None:
    settings = replace(FIXED, local_steps=2, local_steps_max=50)
    group = Group([0.1] * 4, settings, averaging_s=1.0)
    group.rounds(16)
    group.averaging_s = 0.05
    group.rounds(16)
    assert round_steps(group.context, settings) <= 4


def test_a_slow_minority_does_not_hold_h_down() -> None:
    settings = replace(FIXED, local_steps=2, local_steps_max=50)
    group = Group([0.1, 0.1, 0.1, 0.1, 0.4], settings, averaging_s=0.8)
    group.rounds(20)
    steps = round_steps(group.context, settings)
    assert steps >= 25
    assert group.steps[PEERS[4]] <= steps / 3


def test_a_users_own_limit_holds_whatever_the_group_does() -> None:
    pace = Pace(PEERS[0], FIXED)
    context = founded(PEERS[:3])
    assert pace.steps_now(replace(context, roster=()), 3) == 3
    assert pace.declared(context, 3) <= 3
