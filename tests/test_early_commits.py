"""A commit that overtakes the certificate of its parent, of a peer that this block admits."""

from averaging_stage import Stage
from swarm_router import chain_of

from p2ptrain.swarm.effects import Send
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import digest
from p2ptrain.wire.limits import EARLY_COMMITS_MAX
from p2ptrain.wire.messages import Certified, GetContribution, Join, Statement
from p2ptrain.wire.peer_id import PeerId


def newcomers_commit(stage: Stage, newcomer: PeerId) -> tuple[Statement, Certified]:
    """A newcomer's commit to the block that admits it, and that block's certificate."""
    joining = Join(stage.base.block, chain_of(newcomer).anchor, 1)
    block = stage.block(joins=(stage.sign(newcomer, joining),))
    certificate = stage.certificate(1, block, *stage.others)
    commit = stage.commit(newcomer, parent=block_digest(block), base_state=certificate.state)
    return stage.statement(newcomer, commit), Certified(certificate)


def is_held(stage: Stage, statement: Statement, certified: Certified) -> bool:
    """Whether the machine passes the commit on once it has the certificate."""
    newcomer = statement.signed.signer
    parent = block_digest(certified.certificate.block)
    stage.give(stage.others[0], certified)
    answers = stage.give(stage.others[1], GetContribution(parent, newcomer, ()))
    return Send(stage.others[1], statement) in answers


def test_a_newcomers_commit_that_comes_before_it_is_known_counts_once_it_is() -> None:
    stage = Stage()
    statement, certified = newcomers_commit(stage, stage.stranger())
    stage.give(statement.signed.signer, statement)
    assert is_held(stage, statement, certified)


def test_nobody_else_can_have_it_kept() -> None:
    stage = Stage()
    statement, certified = newcomers_commit(stage, stage.stranger())
    stage.give(stage.others[0], statement)
    assert not is_held(stage, statement, certified)


def test_strangers_get_half_of_the_room_and_members_the_rest() -> None:
    stage = Stage()
    for number in range(EARLY_COMMITS_MAX):
        stranger = stage.stranger()
        commit = stage.commit(stranger, parent=digest("nothing", bytes([number])))
        stage.give(stranger, stage.statement(stranger, commit))
    assert len(stage.machine._early) == EARLY_COMMITS_MAX // 2
    member = stage.others[0]
    commit = stage.commit(member, parent=digest("nothing", b"known"))
    stage.give(member, stage.statement(member, commit))
    assert member in stage.machine._early
