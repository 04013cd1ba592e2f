"""The pacemaker: what a proposer waits for, and what it learns from having waited."""

from math import inf

import pytest

from p2ptrain.swarm.inputs import Timing
from p2ptrain.swarm.views import Views

ROUND_S = 0.3


@pytest.mark.parametrize("delivered_every", [2, 3])
def test_a_member_that_rarely_delivers_does_not_make_the_grace_grow(delivered_every: int) -> None:
    views, now, longest = Views(Timing(), 1, 0, 0.0), 0.0, 0.0
    for number in range(1, 200):
        waited = 0.0 if number % delivered_every == 0 else views.grace
        now += ROUND_S + waited
        views.base(number, now)
        if number > 16:
            longest = max(longest, views.grace)
    assert longest <= 2 * ROUND_S


def test_members_that_take_longer_are_waited_for_once_rounds_have_become_longer() -> None:
    views, now = Views(Timing(), 1, 0, 0.0), 0.0
    for number in range(1, 9):
        now += 5.0
        views.base(number, now)
    assert views.grace == 5.0
    assert views.limit == 20.0
    assert views.deadline == inf
