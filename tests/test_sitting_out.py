"""A peer that may have forgotten its votes says nothing that counts until they cannot matter."""

from averaging_stage import Stage
from swarm_router import Router, chain_of

from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.chain import liars_max, quorum
from p2ptrain.swarm.effects import Certain, Effect, KeyElsewhere, Persist, Send
from p2ptrain.swarm.effects import VoteRecord as Votes
from p2ptrain.swarm.sitting import PATIENCE, SittingOut
from p2ptrain.wire.digest import ZERO_DIGEST, digest
from p2ptrain.wire.limits import SIT_OUT_VIEWS_MAX
from p2ptrain.wire.messages import (
    GetVotes,
    GiveUp,
    Propose,
    Statement,
    Timeout,
    Vote,
)

T_BRANCH = 10.0
BLOCK = digest("block", b"unseen")


def says_something(effects: list[Effect]) -> bool:
    """Whether a vote, a Timeout or a proposal of ours is sent."""
    sent = [effect.message for effect in effects if isinstance(effect, Send)]
    votes = [m for m in sent if isinstance(m, Statement) and isinstance(m.signed.statement, Vote)]
    return bool(votes) or any(isinstance(m, GiveUp | Propose) for m in sent)


def in_doubt(members: int = 4, record: Votes | None = None) -> tuple[Averaging, list[Effect]]:
    """A member that began in doubt, and what it does first."""
    router = Router(members)
    config = router.peers[router.names[0]].config
    machine = Averaging(config, router.base, None, chain_of(config.me), record, None)
    machine.doubt()
    return machine, machine.start(0.0)


def until(machine: Averaging, end: float) -> list[Effect]:
    """All that it does by itself up to a time."""
    effects: list[Effect] = []
    while machine.deadline <= end:
        effects += machine.expire(machine.deadline)
    return effects


# --- the machine ----------------------------------------------------------------------------
def test_who_is_certain_does_not_sit_out() -> None:
    stage = Stage()
    assert not stage.machine._sitting.active


def test_it_asks_everyone_and_neither_contributes_nor_gives_up_views() -> None:
    machine, effects = in_doubt()
    assert sum(isinstance(e, Send) and isinstance(e.message, GetVotes) for e in effects) >= 3
    assert machine.phase == "sitting out"
    assert not machine.may_contribute
    assert not says_something(until(machine, (1 + PATIENCE) * T_BRANCH - 1.0))


def test_after_asking_it_promises_not_to_vote_in_the_view_after_the_highest_it_heard() -> None:
    stage = Stage()
    machine, _ = in_doubt()
    other = next(p for p in stage.voters if p != machine.config.me)
    timeout = Timeout(7, 0, machine.context.block, 0, None)
    machine.receive(1.0, other, GiveUp(stage.sign(other, timeout), None))
    assert Persist(Votes(8, 0, None)) in until(machine, T_BRANCH)


def test_a_liar_cannot_drive_the_promise_far_up() -> None:
    stage = Stage()
    machine, _ = in_doubt()
    other = next(p for p in stage.voters if p != machine.config.me)
    timeout = Timeout(1 << 40, 0, machine.context.block, 0, None)
    machine.receive(1.0, other, GiveUp(stage.sign(other, timeout), None))
    assert Persist(Votes(SIT_OUT_VIEWS_MAX + 1, 0, None)) in until(machine, T_BRANCH)


def test_of_two_voters_it_goes_on_once_it_has_asked() -> None:
    machine, _ = in_doubt(2)
    assert Certain() in until(machine, T_BRANCH)


def test_alone_with_old_records_it_goes_on_once_it_has_asked_and_contributes() -> None:
    machine, _ = in_doubt(1, Votes(3, 0, None))
    assert machine.phase == "sitting out"
    assert Certain() in until(machine, T_BRANCH)
    assert machine.may_contribute


def test_a_founder_that_begins_does_not_wait() -> None:
    machine, _ = in_doubt(1)
    assert machine.may_contribute


def test_where_the_others_cannot_go_on_without_it_its_patience_ends() -> None:
    machine, _ = in_doubt(4)
    until(machine, T_BRANCH)
    assert machine.phase == "sitting out"
    assert Certain() in until(machine, (1 + PATIENCE) * T_BRANCH)


# --- one's own key elsewhere ------------------------------------------------------------------
def vote_of(stage: Stage, view: int) -> Statement:
    vote = Vote(view, BLOCK, stage.base.block, ZERO_DIGEST, stage.base.state)
    return Statement(stage.sign(stage.me, vote))


def test_a_vote_of_ours_that_we_never_cast_says_that_the_key_is_in_use_elsewhere() -> None:
    stage = Stage()
    assert KeyElsewhere(5) in stage.give(stage.others[0], vote_of(stage, 5))


def test_a_timeout_of_ours_that_we_never_gave_says_so_too() -> None:
    stage = Stage()
    timeout = stage.sign(stage.me, Timeout(5, 0, stage.base.block, 0, None))
    assert KeyElsewhere(5) in stage.give(stage.others[0], GiveUp(timeout, None))


def test_a_vote_in_our_name_with_a_wrong_signature_says_nothing_about_us() -> None:
    stage = Stage()
    forged = vote_of(stage, 5)
    signed = type(forged.signed)(stage.me, bytes(64), forged.signed.statement)
    stage.refuses("envelope 3.1", stage.others[0], Statement(signed))


def test_what_was_forgotten_is_heard_while_asking_and_is_no_alarm() -> None:
    stage = Stage()
    router = stage.router
    config = router.peers[stage.me].config
    machine = Averaging(config, stage.base, None, chain_of(stage.me), None, None)
    machine.doubt()
    machine.start(0.0)
    assert machine.receive(1.0, stage.others[0], vote_of(stage, 5)) == []
    assert Persist(Votes(6, 0, None)) in until(machine, T_BRANCH)
    # Once more it believes that it forgot something; then it is somebody else.
    assert KeyElsewhere(9) not in machine.receive(11.0, stage.others[0], vote_of(stage, 9))


# --- the rule -------------------------------------------------------------------------------
def test_it_waits_for_a_block_that_was_certified_above_its_promise() -> None:
    sitting = SittingOut()
    sitting.doubt()
    sitting.begin(0.0, T_BRANCH)
    sitting.hear(7)
    assert sitting.promise(T_BRANCH, 5, T_BRANCH) == 8
    assert not sitting.is_over(T_BRANCH, 8, 4)
    assert sitting.is_over(T_BRANCH, 9, 4)


def test_only_where_two_honest_voters_share_any_two_quorums_it_need_not_wait() -> None:
    for voters in range(1, 65):
        sitting = SittingOut()
        sitting.begin(0.0, T_BRANCH)
        sitting.promise(T_BRANCH, 0, T_BRANCH)
        shared = 2 * quorum(voters) - voters - liars_max(voters)
        assert sitting.is_over(T_BRANCH, 0, voters) == (voters == 1 or shared >= 2)


def test_it_contributes_to_nothing_that_it_may_have_contributed_to() -> None:
    sitting = SittingOut()
    sitting.begin(0.0, T_BRANCH)
    sitting.promise(T_BRANCH, 0, T_BRANCH)
    sitting.stand()
    assert sitting.withholds
    sitting.end(view=1)  # it did not wait: a block that is certified again may be known of old
    sitting.stand()
    assert sitting.withholds
    sitting.stand()
    assert not sitting.withholds
