"""What a peer that copies another's contribution can and cannot do (averaging 2 and 3.2)."""

from dataclasses import replace

from averaging_stage import Stage
from swarm_router import work

from p2ptrain.swarm.effects import CheckPiece, Send
from p2ptrain.wire.messages import Piece
from p2ptrain.wire.shards import EMPTY_ROOT, root_of_author


def test_whose_commit_repeats_anothers_root_cannot_pass_its_shards_off() -> None:
    """A Commit is seen by all voters before the shards go to those who have committed."""
    stage = Stage()
    a, thief = stage.others[:2]
    stage.give(a, stage.statement(a, stage.commit(a)))
    stolen = stage.commit(a, reveal=stage.commit(thief).reveal)
    stage.give(thief, stage.statement(thief, stolen))
    stage.refuses("averaging 3.2", thief, replace(stage.piece(a), contributor=thief))


def test_its_author_still_can() -> None:
    stage = Stage()
    a, thief = stage.others[:2]
    stolen = stage.commit(a, reveal=stage.commit(thief).reveal)
    stage.give(thief, stage.statement(thief, stolen))  # first, even
    stage.give(a, stage.statement(a, stage.commit(a)))
    assert any(isinstance(e, CheckPiece) for e in stage.give(a, stage.piece(a)))


def test_who_has_not_committed_is_sent_no_shards() -> None:
    stage = Stage()
    effects = stage.machine.contribute(0.0, work(stage.me, stage.base))
    sent = [e for e in effects if isinstance(e, Send)]
    assert sent
    assert not any(isinstance(e.message, Piece) for e in sent)


def test_the_same_shards_have_another_root_with_each_author() -> None:
    a, b = Stage().others[:2]
    assert root_of_author(a, EMPTY_ROOT) != root_of_author(b, EMPTY_ROOT)
