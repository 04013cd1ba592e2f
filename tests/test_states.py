"""The states that the compute process keeps: candidates, going back, forgetting."""

import numpy as np
import pytest

from p2ptrain.train.outer import OuterConfig, initial_state
from p2ptrain.train.states import CANDIDATES_MAX, Local, States, UnknownBlock
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import CODEC_BLOCK

PLAIN = OuterConfig("plain", 1.0, 0.0)
ZEROS = np.zeros(CODEC_BLOCK, np.float32)
ONES = np.ones(CODEC_BLOCK, np.float32)


def block(number: int) -> Digest:
    return digest("test", number.to_bytes(2, "big"))


def chain(length: int) -> States[str]:
    """Blocks 0 to length, each taking 1 from every parameter; ours is in each."""
    states: States[str] = States(PLAIN, block(0), initial_state(PLAIN, ZEROS), Local(ZEROS, "0"))
    for number in range(1, length + 1):
        states.contribute(block(number - 1), Local(ONES * number, str(number)))
        states.average(block(number), block(number - 1), ONES)
        states.apply(block(number), mine_included=True)
    return states


def test_each_block_has_its_own_state_and_local_part() -> None:
    states = chain(3)
    assert [states.find(block(n)).state.parameters[0] for n in range(4)] == [0, -1, -2, -3]
    assert states.base_local.inner == "3"
    states.rollback(block(1))
    assert states.base == block(1)
    assert states.base_local.inner == "1"


def test_another_child_of_one_parent_takes_the_same_contribution() -> None:
    """A certified block may be replaced by another on its parent, our work in it again."""
    states = chain(2)
    states.rollback(block(1))
    states.average(block(9), block(1), ONES * 5)
    states.apply(block(9), mine_included=True)
    assert states.base_local.inner == "2"
    assert states.find(block(9)).state.parameters[0] == -6


def test_a_block_without_our_work_keeps_what_was_before() -> None:
    states = chain(2)
    states.rollback(block(1))
    states.apply(block(2), mine_included=False)
    assert states.base_local.inner == "1"


def test_candidates_may_build_on_candidates() -> None:
    states = chain(1)
    states.average(block(2), block(1), ONES)
    assert states.carry(block(3), block(2)).digest == states.find(block(2)).digest
    states.apply(block(2), mine_included=False)
    states.apply(block(3), mine_included=False)
    assert states.base == block(3)


def test_finality_forgets_all_that_does_not_build_on_the_block() -> None:
    states = chain(3)
    states.average(block(8), block(0), ONES)  # a rival of block 1
    states.carry(block(9), block(8))
    states.carry(block(10), block(3))
    states.finalize(block(2))
    for number in (0, 1, 8, 9):
        with pytest.raises(UnknownBlock):
            states.find(block(number))
    for number in (2, 3, 10):
        states.find(block(number))
    with pytest.raises(UnknownBlock):
        states.rollback(block(1))


def test_applying_the_base_again_changes_nothing() -> None:
    states = chain(2)
    states.apply(block(2), mine_included=False)
    assert states.base_local.inner == "2"


def test_what_does_not_follow_the_base_is_not_applied() -> None:
    states = chain(1)
    states.average(block(8), block(0), ONES)
    for number in (8, 77):
        with pytest.raises(UnknownBlock):
            states.apply(block(number), mine_included=False)
    with pytest.raises(UnknownBlock):
        states.average(block(9), block(77), ONES)
    assert states.base == block(1)


def test_only_so_many_candidates_are_kept() -> None:
    states = chain(1)
    for number in range(100, 100 + 2 * CANDIDATES_MAX):
        states.carry(block(number), block(1))
    with pytest.raises(UnknownBlock):
        states.find(block(100))
    states.find(block(100 + 2 * CANDIDATES_MAX - 1))
    states.find(block(0))
