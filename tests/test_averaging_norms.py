"""Rule 2.8: what no local steps end at is refused by everyone, and not even committed to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from averaging_stage import Stage
from hypothesis import given
from hypothesis import strategies as st
from swarm_router import SETTINGS, work

from p2ptrain.swarm.effects import Diverged, Effect, Persist, Send
from p2ptrain.swarm.inputs import Wait
from p2ptrain.swarm.weights import limit2_of_round, norm2_max_of_round
from p2ptrain.wire.limits import ABSURD_NORM2_RATIO, LIMIT_ROUNDS
from p2ptrain.wire.messages import Certified, Norm2

LARGEST = ABSURD_NORM2_RATIO * SETTINGS.norm_max2


@pytest.fixture
def stage() -> Stage:
    return Stage()


def split(total: int) -> tuple[Norm2, Norm2]:
    """Over two shards: the bound is for their sum."""
    return Norm2(total // 2), Norm2(total - total // 2)


def test_a_commit_with_an_absurd_norm_is_refused_and_one_at_the_bound_is_taken(
    stage: Stage,
) -> None:
    a, b = stage.others[:2]
    absurd = stage.statement(a, stage.commit(a, norms2=split(LARGEST + 1)))
    stage.refuses("averaging 2.8", a, absurd)
    stage.refuses("averaging 2.8", b, absurd)  # whoever passes it on
    stage.give(a, stage.statement(a, stage.commit(a, norms2=split(LARGEST))))
    assert stage.machine._exchange.held.first_of(a) is not None


def test_a_proposal_and_a_certificate_with_an_absurd_norm_are_refused(stage: Stage) -> None:
    for norm2, fine in ((LARGEST, True), (LARGEST + 1, False)):
        entry = replace(stage.entry(stage.others[0]), norm2=Norm2(norm2))
        block = stage.block(entries=(entry,))
        propose = stage.propose(stage.turn[1], 1, block)
        certified = Certified(stage.certificate(1, block, *stage.others))
        if fine:
            Stage().give(stage.turn[1], propose)
        else:
            stage.refuses("averaging 5.5", stage.turn[1], propose)
            stage.refuses("averaging 5.5", stage.others[0], certified)


def contribute(stage: Stage, norm2: int) -> list[Effect]:
    made = replace(work(stage.me, stage.base), norms2=split(norm2))
    return stage.machine.contribute(0.0, made)


def test_our_own_absurd_work_is_not_committed_and_the_machine_says_so(stage: Stage) -> None:
    assert contribute(stage, LARGEST + 1) == [Diverged(LARGEST + 1, LARGEST)]
    assert not stage.machine.contributed
    assert not stage.machine.may_contribute  # the same samples would end there again
    assert stage.machine.phase == "diverged"
    (wait,) = stage.machine.waits
    assert isinstance(wait, Wait)
    assert "diverged" in wait.what
    assert contribute(stage, 1) == []


def test_a_peer_whose_work_diverged_still_reduces_and_votes(stage: Stage) -> None:
    contribute(stage, LARGEST + 1)
    a, b, c = stage.others
    for peer in (a, b, c):
        stage.give(peer, stage.statement(peer, stage.commit(peer)))
    effects = stage.give(stage.turn[1], stage.propose(stage.turn[1], 1, stage.block()))
    assert stage.machine.phase == "reducing"
    assert any(isinstance(e, Send) for e in effects)  # asks for the pieces


def test_own_work_at_the_bound_is_committed(stage: Stage) -> None:
    assert any(isinstance(e, Persist) for e in contribute(stage, LARGEST))
    assert stage.machine.contributed


squares = st.integers(0, (1 << 100) - 1)


@given(st.lists(squares, max_size=LIMIT_ROUNDS), st.integers(1, 1 << 100), squares)
def test_what_is_not_clipped_is_never_absurd_where_the_norms_are_honest(
    limits2: list[int], norm_max2: int, norm2: int
) -> None:
    most = norm2_max_of_round(limits2, norm_max2)
    assert most >= norm_max2  # within the recipe's limit nobody is refused
    if norm2 <= limit2_of_round([0], limits2, norm_max2):
        assert norm2 <= most


def test_the_bound_follows_the_certified_limits_once_there_are_eight() -> None:
    assert norm2_max_of_round([5] * 7, 100) == 100 << 20
    assert norm2_max_of_round([5] * 8, 100) == 5 << 20
    assert norm2_max_of_round([1] * 4 + [9] * 4, 100) == 1 << 20
    assert norm2_max_of_round([0] * 8, 100) == 100  # norms that vanished may come back


@given(st.lists(squares, min_size=2, max_size=6), st.integers(1, 1 << 90))
def test_a_minority_of_liars_cannot_move_the_bound_by_its_norms(
    lies: list[int], honest: int
) -> None:
    norms2 = [honest] * (len(lies) + 1) + lies
    limits2: list[int] = [honest] * 8
    for _ in range(2 * LIMIT_ROUNDS):
        limits2.append(limit2_of_round(norms2, limits2[-8:], honest))
    assert norm2_max_of_round(limits2[-8:], honest) == honest * ABSURD_NORM2_RATIO
