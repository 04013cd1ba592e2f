"""Each rule of protocol/averaging.md refuses what breaks it, and then nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from averaging_stage import FOREIGN, Stage
from swarm_router import NORM2, SETTINGS, chain_of, work

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.effects import Behind, CheckPiece, Proof, Send
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.messages import (
    BRANCH,
    CLOSE,
    Block,
    Certified,
    GetContribution,
    GetVotes,
    GiveUp,
    Have,
    Join,
    Leave,
    Message,
    Norm2,
    Piece,
    Proposal,
    Propose,
    Statement,
    Timeout,
    Vote,
)


@pytest.fixture
def stage() -> Stage:
    return Stage()


# --- 1 and 2: membership, commits --------------------------------------------------------------
@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("averaging 2.1", {"base_state": FOREIGN}),
        ("averaging 2.2", {"codec": 8}),
        ("averaging 2.3", {"norms2": (NORM2,)}),
        ("averaging 2.4", {"weight": SETTINGS.weight_max + 1}),
        ("averaging 2.4", {"weight": SETTINGS.batch + 1}),  # one step was declared
        ("averaging 2.5", {"reveal": FOREIGN}),
    ],
)
def test_a_commit_is_refused(stage: Stage, rule: str, changes: dict[str, Any]) -> None:
    a = stage.others[0]
    stage.refuses(rule, a, stage.statement(a, stage.commit(a, **changes)))


@pytest.mark.parametrize("kind", ["commit", "have", "vote", "timeout", "proposal", "join"])
def test_a_signature_that_does_not_hold_is_held_against_its_sender(stage: Stage, kind: str) -> None:
    a, b = stage.others[:2]
    statements: dict[str, Any] = {
        "commit": stage.commit(a),
        "have": Have(stage.base.block, ()),
        "vote": Vote(1, FOREIGN, stage.base.block, FOREIGN, FOREIGN),
        "timeout": Timeout(1, 0, stage.base.block, 0, None),
        "proposal": Proposal(1, stage.block(), ()),
        "join": Join(stage.base.block, FOREIGN, 1),
    }
    signer = stage.stranger() if kind == "join" else a
    signed = replace(stage.sign(signer, statements[kind]), signature=bytes(64))
    message: Message
    match kind:
        case "timeout":
            message = GiveUp(signed, None)
        case "proposal":
            message = Propose(signed, None)
        case _:
            message = Statement(signed)
    with pytest.raises(RemoteProtocolError) as caught:
        stage.machine.receive(0.0, b, message)
    assert caught.value.rule == "envelope 3.1"
    assert caught.value.peer == b


def test_a_statement_of_another_swarm_is_refused(stage: Stage) -> None:
    a = stage.others[0]
    signer = stage.router.peers[a].config.signer
    signed = sign_statement(signer, digest("swarm", b"other"), stage.commit(a))
    stage.refuses("envelope 3.1", a, Statement(signed))


def test_a_second_commit_for_one_parent_proves_its_signer_a_liar(stage: Stage) -> None:
    a, b = stage.others[:2]
    first = stage.statement(a, stage.commit(a))
    second = stage.statement(a, stage.commit(a, data=FOREIGN))
    stage.give(a, first)
    assert stage.give(b, second)[0] == Proof(first.signed, second.signed)
    assert stage.give(b, second) == []


def test_statements_of_peers_outside_are_ignored(stage: Stage) -> None:
    out = stage.stranger()
    for statement in (
        replace(stage.commit(stage.others[0])),
        Have(stage.base.block, ()),
        Vote(1, FOREIGN, stage.base.block, FOREIGN, FOREIGN),
        Leave(stage.base.block),
    ):
        stage.ignores(out, stage.statement(out, statement))
    stage.ignores(out, GiveUp(stage.timeout(out, 1), None))
    stage.ignores(out, stage.piece(stage.others[0]))
    stage.ignores(out, GetContribution(stage.base.block, stage.others[0], ()))


def test_messages_about_an_unknown_block_are_ignored(stage: Stage) -> None:
    a = stage.others[0]
    for message in (
        stage.statement(a, stage.commit(a, parent=FOREIGN)),
        stage.statement(a, Have(FOREIGN, ())),
        stage.statement(a, Vote(9, FOREIGN, FOREIGN, FOREIGN, FOREIGN)),
        stage.statement(stage.stranger(), Join(FOREIGN, FOREIGN, 1)),
        replace(stage.piece(a), parent=FOREIGN),
        GetContribution(FOREIGN, a, ()),
        GetVotes(FOREIGN),
        stage.propose(stage.turn[1], 1, stage.block(parent=FOREIGN)),
    ):
        stage.ignores(a, message)


def test_a_commit_that_came_before_its_parents_certificate_counts_after_it(stage: Stage) -> None:
    block = stage.block()
    certificate = stage.certificate(1, block, *stage.others)
    a = stage.others[0]
    reveal = chain_of(a).preimage(stage.entry(a).reveal)
    early = stage.commit(a, parent=block_digest(block), base_state=certificate.state, reveal=reveal)
    stage.give(a, stage.statement(a, early))
    stage.give(a, Certified(certificate))
    ask = GetContribution(block_digest(block), a, ())
    answers = stage.give(stage.others[1], ask)
    assert Send(stage.others[1], stage.statement(a, early)) in answers


# --- 3: pieces -----------------------------------------------------------------------------------
def test_a_piece_without_its_commit_is_asked_for_again(stage: Stage) -> None:
    a = stage.others[0]
    (effect,) = stage.give(a, stage.piece(a))
    assert effect == Send(a, GetContribution(stage.base.block, a, ()))


def test_a_piece_is_refused(stage: Stage) -> None:
    a = stage.others[0]
    stage.give(a, stage.statement(a, stage.commit(a)))
    stage.refuses("averaging 3.2", a, replace(stage.piece(a), data=bytes(8)))
    stage.refuses("averaging 3.2", a, replace(stage.piece(a), proof=()))
    stage.refuses("averaging 3.5", a, replace(stage.piece(a), data=bytes(9)))
    stage.refuses("averaging 3.5", a, replace(stage.piece(a), shard=2))


def test_a_relayer_may_hold_another_commit_of_a_liar_than_we_do(stage: Stage) -> None:
    a, b = stage.others[:2]
    stage.give(a, stage.statement(a, stage.commit(a)))
    stage.ignores(b, replace(stage.piece(a), proof=(FOREIGN,)))


@pytest.mark.parametrize(("norm2", "rule"), [(None, "averaging 3.3"), (1, "averaging 3.4")])
def test_a_piece_that_is_not_what_was_declared_voids_its_contribution(
    stage: Stage, norm2: Norm2 | None, rule: str
) -> None:
    a, b = stage.others[:2]
    stage.give(a, stage.statement(a, stage.commit(a)))
    (check,) = stage.give(b, stage.piece(a))
    assert isinstance(check, CheckPiece)
    with pytest.raises(RemoteProtocolError) as caught:
        stage.machine.piece_checked(0.0, b, check.piece, norm2)
    assert (caught.value.rule, caught.value.peer) == (rule, a)
    assert stage.give(a, GetVotes(stage.base.block)) == []


def test_no_piece_goes_to_a_member_that_has_not_committed(stage: Stage) -> None:
    a = stage.others[0]
    effects = stage.machine.contribute(0.0, work(stage.me, stage.base))
    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, Piece)]
    ask = GetContribution(stage.base.block, stage.me, (0, 1))
    assert all(isinstance(e, Send) and isinstance(e.message, Statement) for e in stage.give(a, ask))
    given = stage.give(a, stage.statement(a, stage.commit(a)))
    shards = [e.message.shard for e in given if isinstance(e, Send) and e.to == a
              if isinstance(e.message, Piece)]  # fmt: skip
    assert shards == [0, 1]


# --- 5: proposals --------------------------------------------------------------------------------
def test_only_the_views_proposer_proposes(stage: Stage) -> None:
    other = next(p for p in stage.others if p != stage.turn[1])
    stage.refuses("averaging 5.1", other, stage.propose(other, 1, stage.block()))


def test_a_proposal_for_a_later_view_carries_a_quorum_of_timeouts_for_the_view_before(
    stage: Stage,
) -> None:
    turn, block, others = stage.turn[2], stage.block(), stage.others
    enough = [stage.timeout(p, 1) for p in others]
    for timeouts in (
        [],
        enough[:2],
        [*enough[:2], stage.timeout(others[2], 2)],
        [*enough[:2], stage.timeout(stage.stranger(), 1)],
    ):
        stage.refuses("averaging 5.2", turn, stage.propose(turn, 2, block, *timeouts))
    stage.refuses(
        "envelope 3.1",
        turn,
        stage.propose(turn, 2, block, *enough[:2], replace(enough[2], signature=bytes(64))),
    )
    stage.refuses("averaging 5.2", stage.turn[1], stage.propose(stage.turn[1], 1, block, *enough))
    stage.give(turn, stage.propose(turn, 2, block, *enough))
    assert stage.machine.view == 2


def test_a_proposal_builds_on_the_newest_certificate_in_its_timeouts(stage: Stage) -> None:
    turn = stage.turn[3]
    newer = [stage.sign(p, Timeout(2, 1, FOREIGN, 0, None)) for p in stage.others]
    stage.refuses("averaging 5.3", turn, stage.propose(turn, 3, stage.block(), *newer))


def test_a_proposal_repeats_the_list_of_the_highest_vote(stage: Stage) -> None:
    turn, others = stage.turn[3], stage.others
    old, begun = stage.block(*others[:1]), stage.block(*others[:2])
    timeouts = [
        stage.timeout(others[0], 2, (1, old)),
        stage.timeout(others[1], 2, (2, begun)),
        stage.timeout(others[2], 2),
    ]
    for block in (stage.block(), old):
        stage.refuses("averaging 5.4", turn, stage.propose(turn, 3, block, *timeouts))
    stage.give(turn, stage.propose(turn, 3, begun, *timeouts))
    assert stage.machine.view == 3


def changed(stage: Stage, **changes: Any) -> Block:
    entry = replace(stage.entry(stage.others[0]), **changes)
    return stage.block(entries=(entry,))


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        ("averaging 5.5", lambda s: changed(s, reveal=FOREIGN)),
        ("averaging 5.5", lambda s: changed(s, weight=SETTINGS.weight_max + 1)),
        ("averaging 5.5", lambda s: changed(s, weight=SETTINGS.batch + 1)),
        ("averaging 5.5", lambda s: changed(s, peer=s.stranger())),
        ("averaging 5.6", lambda s: s.block(joins=(s.sign(s.me, Join(s.base.block, FOREIGN, 1)),))),
        (
            "averaging 5.6",
            lambda s: s.block(joins=(s.sign(s.stranger(), Join(FOREIGN, FOREIGN, 1)),)),
        ),
        ("averaging 5.6", lambda s: s.block(leaves=(s.sign(s.stranger(), Leave(s.base.block)),))),
        ("averaging 5.6", lambda s: s.block(leaves=(s.sign(s.me, Leave(FOREIGN)),))),
        (
            "averaging 5.6",
            lambda s: s.block(leaves=tuple(s.sign(p, Leave(s.base.block)) for p in s.voters)),
        ),
        ("averaging 5.8", lambda s: Block(s.base.block, CLOSE, (), (), (), ())),
        ("averaging 5.8", lambda s: Block(s.base.block, BRANCH, (), (), (), (s.stranger(),))),
    ],
)
def test_a_block_is_refused(stage: Stage, rule: str, make: Callable[[Stage], Block]) -> None:
    block = make(stage)
    turn = stage.turn[1]
    stage.refuses(rule, turn, stage.propose(turn, 1, block))


def test_a_join_with_a_forged_signature_is_refused_in_a_block(stage: Stage) -> None:
    turn = stage.turn[1]
    joined = stage.sign(stage.stranger(), Join(stage.base.block, FOREIGN, 1))
    forged = replace(joined, signature=bytes(64))
    stage.refuses("envelope 3.1", turn, stage.propose(turn, 1, stage.block(joins=(forged,))))


def test_a_second_proposal_in_one_view_is_refused(stage: Stage) -> None:
    turn = stage.turn[1]
    stage.give(turn, stage.propose(turn, 1, stage.block()))
    stage.refuses("averaging 5.7", turn, stage.propose(turn, 1, stage.block(turn)))


def test_an_entry_that_is_not_what_its_commit_says_gets_no_vote(stage: Stage) -> None:
    a = stage.others[0]
    stage.give(a, stage.statement(a, stage.commit(a)))
    for shard in (0, 1):
        for effect in stage.give(a, stage.piece(a, shard)):
            if isinstance(effect, CheckPiece):
                stage.machine.piece_checked(0.0, a, effect.piece, NORM2)
    turn = stage.turn[1]
    wrong = stage.block(entries=(replace(stage.entry(a), weight=33),))
    effects = stage.give(turn, stage.propose(turn, 1, wrong))
    assert all(isinstance(e, Send) for e in effects)


# --- 6: votes ------------------------------------------------------------------------------------
def test_two_votes_in_one_view_prove_their_signer_a_liar(stage: Stage) -> None:
    a, b = stage.others[:2]
    votes = [Vote(1, digest("b", bytes([i])), stage.base.block, FOREIGN, FOREIGN) for i in (1, 2)]
    first, second = (stage.statement(a, vote) for vote in votes)
    stage.give(a, first)
    assert stage.give(b, second)[0] == Proof(first.signed, second.signed)
    later = replace(votes[1], view=2)
    assert not any(isinstance(e, Proof) for e in stage.give(a, stage.statement(a, later)))


# --- 7: certificates -----------------------------------------------------------------------------
def test_a_certificate_is_refused(stage: Stage) -> None:
    a, b, c = stage.others
    block = stage.block()
    good = stage.certificate(1, block, a, b, c)
    forged = (*good.ballots[:2], replace(good.ballots[2], signature=bytes(64)))
    close = Block(stage.base.block, BRANCH, (), (), (), (a, b))
    for rule, certificate in (
        ("averaging 7.1", stage.certificate(1, block, a, b)),
        ("averaging 7.1", stage.certificate(1, close, a)),
        ("averaging 7.2", replace(good, ballots=forged)),
        ("averaging 7.2", replace(good, view=2)),
        ("averaging 7.3", stage.certificate(1, block, a, b, stage.stranger())),
        ("averaging 7.3", stage.certificate(1, close, a, b, c)),
        ("averaging 7.4", stage.certificate(1, close, a, b, state=FOREIGN)),
    ):
        stage.refuses(rule, a, Certified(certificate))
    stage.give(a, Certified(good))
    assert stage.machine.context.block == block_digest(block)
    stage.refuses("averaging 7.1", a, Certified(stage.certificate(2, block, a, b)))
    stage.refuses(
        "averaging 7.4", a, Certified(stage.certificate(2, block, a, b, c, state=FOREIGN))
    )
    stage.give(a, Certified(stage.certificate(2, block, a, b, c)))
    assert stage.machine.context.view == 2


def test_a_certificate_that_does_not_follow_is_a_reason_to_catch_up(stage: Stage) -> None:
    a, b, c = stage.others
    certificate = stage.certificate(9, stage.block(parent=FOREIGN), a, b, c)
    assert stage.give(a, Certified(certificate)) == [Behind(a, certificate)]


def test_a_branch_of_a_minority_is_not_followed_while_the_others_are_a_quorum(
    stage: Stage,
) -> None:
    a, b = stage.others[:2]
    alone = stage.certificate(2, Block(stage.base.block, BRANCH, (), (), (), (a,)), a)
    stage.ignores(a, Certified(alone))
    two = stage.certificate(
        2, Block(stage.base.block, BRANCH, (), (), (), tuple(sorted((a, b)))), a, b
    )
    stage.give(b, Certified(two))
    assert stage.machine.context.kind == BRANCH
    assert stage.machine.phase == "outside"


# --- 8: timeouts ---------------------------------------------------------------------------------
def test_a_timeout_brings_the_certificate_that_it_names(stage: Stage) -> None:
    a, b, c = stage.others
    certificate = stage.certificate(1, stage.block(), a, b, c)
    named = Timeout(2, 1, block_digest(certificate.block), 0, None)
    stage.refuses("averaging 8.1", a, GiveUp(stage.sign(a, named), None))
    stage.refuses("averaging 8.1", a, GiveUp(stage.timeout(a, 2), certificate))
    false = replace(named, high_block=FOREIGN)
    stage.refuses("averaging 8.1", a, GiveUp(stage.sign(a, false), certificate))
    short = replace(certificate, ballots=certificate.ballots[:2])
    stage.refuses("averaging 7.1", a, GiveUp(stage.sign(a, named), short))
    stage.give(a, GiveUp(stage.sign(a, named), certificate))
    assert stage.machine.context.block == block_digest(certificate.block)


def test_one_voter_far_ahead_does_not_pull_the_others(stage: Stage) -> None:
    a, b = stage.others[:2]
    stage.give(a, GiveUp(stage.timeout(a, 1 << 40), None))
    assert stage.machine.view == 1
    effects = stage.give(b, GiveUp(stage.timeout(b, 3), None))
    given_up = [e.message.signed.statement for e in effects
                if isinstance(e, Send) and isinstance(e.message, GiveUp)]  # fmt: skip
    assert {t.view for t in given_up if isinstance(t, Timeout)} == {3}


def test_a_proposer_that_lacks_our_later_certificate_for_one_block_is_not_blamed(
    stage: Stage,
) -> None:
    a, b, c = stage.others
    block = stage.block()
    stage.give(a, Certified(stage.certificate(1, block, a, b, c)))
    stage.give(a, Certified(stage.certificate(3, block, a, b, c)))
    older = stage.certificate(1, block, a, b, c)
    proposed = stage.propose(b, 4, stage.block(parent=block_digest(block)))
    stage.ignores(b, replace(proposed, certificate=older))
