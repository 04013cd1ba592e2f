"""What a node keeps of a run: it comes back as it was, whenever the power went."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_chain import certified, chain_on, genesis_of, shards_of
from swarm_router import SETTINGS

from p2ptrain.node import ledger as ledger_module
from p2ptrain.node.ledger import Ledger
from p2ptrain.store.checkpoint import CheckpointStore
from p2ptrain.store.reduced import ReducedBlock, ReducedStore
from p2ptrain.store.transcript import Transcript
from p2ptrain.swarm import history as history_module
from p2ptrain.swarm.history import History, Link
from p2ptrain.wire.limits import CHECKPOINTS_KEPT
from p2ptrain.wire.messages import CLOSE, Block, GetHeaders, Headers

GENESIS = genesis_of()


@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    with Transcript(folder / "transcript.sqlite") as transcript:
        checkpoints = CheckpointStore(folder / "checkpoints")
        reductions = ReducedStore(folder / "reduced")
        yield Ledger(History(GENESIS), SETTINGS, transcript, checkpoints, reductions)


def state_after(link: Link) -> bytes:
    return b"state after " + link.context.block


def record(ledger: Ledger, link: Link, shards: Sequence[bytes] = ()) -> None:
    """Append a block if need be, and record that it was applied."""
    if ledger.history.height_of(link.context.block) is None:
        ledger.history.append(link)
    height = ledger.history.height_of(link.context.block)
    assert height is not None
    ledger.record(height, state_after(link), tuple(shards))


def comes_back(folder: Path, chain: Sequence[Link], applied: int | None = None) -> tuple[str, ...]:
    """Restart: the chain is as expected, and the state that of a height (default: of the tip).

    Returns the warnings.
    """
    applied = len(chain) if applied is None else applied
    with opened(folder) as ledger:
        restored = ledger.restore()
        assert restored.state == (state_after(chain[applied - 1]) if applied else None)
        assert restored.block == (chain[applied - 1].context if applied else GENESIS).block
        assert ledger.history.after(0) == tuple(chain)
        assert (ledger.recorded, ledger.logged) == (applied, len(chain))
        ledger.transcript.verify()
        return restored.warnings


def test_a_new_ledger_has_nothing_to_restore(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        restored = ledger.restore()
        assert (restored.block, restored.state, restored.forgot) == (GENESIS.block, None, False)
        assert ledger.states() == ()


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    chain = chain_on(GENESIS, 7)
    with opened(tmp_path) as ledger:
        for link in chain:
            record(ledger, link)
    assert comes_back(tmp_path, chain) == ()


def test_several_blocks_recorded_at_once_come_back(tmp_path: Path) -> None:
    """A state that was fetched lies many blocks ahead of the one before."""
    chain = chain_on(GENESIS, 7)
    with opened(tmp_path) as ledger:
        record(ledger, chain[0])
        for link in chain[1:]:
            ledger.history.append(link)
        record(ledger, chain[-1])
    assert comes_back(tmp_path, chain) == ()


def test_a_certificate_comes_back_though_its_state_was_never_there(tmp_path: Path) -> None:
    """A vote for a CLOSE block needs no state: it once could precede its parent's certificate."""
    chain = chain_on(GENESIS, 4)
    with opened(tmp_path) as ledger:
        record(ledger, chain[0])
        for link in chain[1:]:
            ledger.extend((link,))
            ledger.history.append(link)
    comes_back(tmp_path, chain, applied=1)


def test_what_was_reduced_comes_back_and_is_served(tmp_path: Path) -> None:
    (link,) = chain_on(GENESIS, 1)
    kept = ReducedBlock(link.context.block, link.certificate.state, shards_of("0"))
    with opened(tmp_path) as ledger:
        ledger.keep(kept)
    with opened(tmp_path) as ledger:
        assert ledger.restore().reduced == (kept,)
        assert ledger.reduced_of(kept.block) == kept.shards


def test_a_crash_between_checkpoint_and_transcript_loses_nothing(tmp_path: Path) -> None:
    chain = chain_on(GENESIS, 3)
    with opened(tmp_path) as ledger:
        record(ledger, chain[0])
        ledger.history.append(chain[1])
        ledger._save(chain[1], state_after(chain[1]))  # and then the power goes
    comes_back(tmp_path, chain[:2])
    comes_back(tmp_path, chain[:2])
    with opened(tmp_path) as ledger:
        ledger.restore()
        record(ledger, chain[2])
    comes_back(tmp_path, chain)


def test_a_crash_after_the_checkpoint_of_a_state_far_ahead_goes_on_from_the_one_before(
    tmp_path: Path,
) -> None:
    chain = chain_on(GENESIS, 7)
    with opened(tmp_path) as ledger:
        record(ledger, chain[0])
        for link in chain[1:]:
            ledger.history.append(link)
        ledger._save(chain[-1], state_after(chain[-1]))
    comes_back(tmp_path, chain[:1])


def test_a_lost_newest_checkpoint_leaves_the_chain_and_an_older_state(tmp_path: Path) -> None:
    chain = chain_on(GENESIS, 5)
    with opened(tmp_path) as ledger:
        for link in chain:
            record(ledger, link)
    newest = max((tmp_path / "checkpoints").glob("*.checkpoint"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    (warning,) = comes_back(tmp_path, chain, applied=4)
    assert "damaged" in warning
    with opened(tmp_path) as ledger:
        ledger.restore()
        record(ledger, chain[4])
    assert "damaged" not in str(comes_back(tmp_path, chain))


def test_a_history_without_any_checkpoint_goes_on_from_the_founding_state(tmp_path: Path) -> None:
    chain = chain_on(GENESIS, 3)
    with opened(tmp_path) as ledger:
        for link in chain:
            record(ledger, link)
    for file in (tmp_path / "checkpoints").glob("*.checkpoint"):
        file.unlink()
    (warning,) = comes_back(tmp_path, chain, applied=0)
    assert "no checkpoint" in warning


def test_checkpoints_of_a_chain_that_is_lost_are_set_aside_and_never_deleted(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as ledger:
        for link in chain_on(GENESIS, 6):
            record(ledger, link)
    (tmp_path / "transcript.sqlite").unlink()
    with opened(tmp_path) as ledger:
        restored = ledger.restore()
        assert (restored.block, restored.state, restored.forgot) == (GENESIS.block, None, True)
    assert len(list((tmp_path / "checkpoints" / "set-aside").iterdir())) == CHECKPOINTS_KEPT


def test_the_mark_of_the_last_final_block_is_mended(tmp_path: Path) -> None:
    """We may die between the certificate that makes a block final and its mark."""
    chain = chain_on(GENESIS, 4)
    with opened(tmp_path) as ledger:
        for link in chain:
            record(ledger, link)
    with opened(tmp_path) as ledger:
        ledger.restore()
        final = ledger.checkpoints.load_final().checkpoint
        assert final is not None
        assert final.block_id == chain[2].context.block


def test_after_a_switch_the_new_branch_comes_back_and_nothing_was_erased(tmp_path: Path) -> None:
    old = chain_on(GENESIS, 5)
    new = chain_on(old[1].context, 3, "new")
    with opened(tmp_path) as ledger:
        for link in old:
            record(ledger, link)
        ledger.switch(2)
        ledger.history.switch(2, new)
        for link in new:
            record(ledger, link)
        assert [entry.kind for entry in ledger.transcript.iterate()] == (
            ["certificate"] * 5 + ["switch"] + ["certificate"] * 3
        )
    comes_back(tmp_path, [*old[:2], *new])


@pytest.mark.parametrize("dropped", [1, 2, 5])
def test_a_crash_after_a_switch_comes_back_on_the_old_branch(tmp_path: Path, dropped: int) -> None:
    """Nothing of the new one was applied: the old chain is whole, and leads to the new one again.

    Where more than one block was dropped the node once could not be started any more.
    """
    old = chain_on(GENESIS, 6)
    height = len(old) - dropped
    new = chain_on(old[height - 1].context, 3, "new")
    with opened(tmp_path) as ledger:
        for link in old:
            record(ledger, link)
        ledger.switch(height)
        ledger.history.switch(height, new)
    comes_back(tmp_path, old)


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_crash_after_the_first_checkpoint_of_the_new_branch_comes_back_on_one_of_the_two(
    tmp_path: Path, ahead: int
) -> None:
    old = chain_on(GENESIS, 6)
    new = chain_on(old[2].context, 3, "new")
    with opened(tmp_path) as ledger:
        for link in old:
            record(ledger, link)
        ledger.switch(3)
        ledger.history.switch(3, new)
        ledger._save(new[ahead - 1], state_after(new[ahead - 1]))
    comes_back(tmp_path, [*old[:3], new[0]] if ahead == 1 else old)


def test_a_roll_back_below_the_fork_and_the_way_up_again_come_back(tmp_path: Path) -> None:
    """The state may go back further than the chain: what is recorded is not recorded again.

    Once the transcript got blocks out of order, and the node could not be started any more.
    """
    old = chain_on(GENESIS, 6)
    new = chain_on(old[3].context, 2, "new")
    with opened(tmp_path) as ledger:
        for link in old:
            record(ledger, link)
        ledger.switch(4)
        ledger.history.switch(4, new)
        for link in [*old[1:4], *new]:  # the state went back to the first block
            record(ledger, link)
    comes_back(tmp_path, [*old[:4], *new])


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=5), st.booleans())
def test_any_switches_come_back(
    tmp_path_factory: pytest.TempPathFactory, switches: list[tuple[int, int]], applied: bool
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    chain = chain_on(GENESIS, 3)
    with opened(folder) as ledger:
        for link in chain:
            record(ledger, link)
        for number, (back, length) in enumerate(switches):
            height = max(1, len(chain) - back)
            new = chain_on(chain[height - 1].context, length, f"switch {number} ")
            ledger.switch(height)
            ledger.history.switch(height, new)
            chain = [*chain[:height], *new]
            for link in new if applied else ():
                record(ledger, link)
        if not applied:  # several changes of mind, and only the last one was carried out
            for link in chain:
                record(ledger, link)
    comes_back(folder, chain)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=5))
def test_links_that_left_the_memory_are_read_again_whatever_was_switched(
    tmp_path_factory: pytest.TempPathFactory, switches: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    chain = chain_on(GENESIS, 7)
    with pytest.MonkeyPatch.context() as patch, opened(folder) as ledger:
        patch.setattr(history_module, "PAGE_LINKS", 2)
        patch.setattr(history_module, "HOT_LINKS", 1)
        history = ledger.history
        for link in chain:
            record(ledger, link)
        for number, (back, length) in enumerate(switches):
            height = max(1, len(chain) - back)
            new = chain_on(chain[height - 1].context, length, f"switch {number} ")
            ledger.switch(height)
            history.switch(height, new)
            chain = [*chain[:height], *new]
            assert history.after(0) == tuple(chain)
            assert history.tip == chain[-1].context
            for link in new:
                record(ledger, link)
        assert len(history._hot) < 2 + 1 + 1
        contexts = [history.context(height) for height in range(len(chain) + 1)]
        assert contexts == [GENESIS, *(link.context for link in chain)]
        asked = GetHeaders(history.known()[-1:], 32)
        certificates = tuple(link.certificate for link in chain)
        assert history.headers(asked) == Headers(GENESIS.block, certificates)
        comes_back(folder, chain)
    comes_back(folder, chain)


def test_states_are_offered_only_while_others_can_follow_from_them(tmp_path: Path) -> None:
    chain = chain_on(GENESIS, 6)
    with opened(tmp_path) as ledger:
        for number, link in enumerate(chain[:3]):
            record(ledger, link, shards_of(str(number)))
        assert ledger.states() == tuple(link.context.block for link in reversed(chain[:3]))
        record(ledger, chain[3])  # fetched as a state: nobody can follow to it from before
        assert ledger.states() == (chain[3].context.block,)
        record(ledger, chain[4], shards_of("4"))
        assert ledger.states() == (chain[4].context.block, chain[3].context.block)
        for block in ledger.states():
            assert ledger.state_of(block) is not None


def test_no_more_states_are_offered_than_are_kept(tmp_path: Path) -> None:
    chain = chain_on(GENESIS, 9)
    with opened(tmp_path) as ledger:
        for number, link in enumerate(chain):
            record(ledger, link, shards_of(str(number)))
        assert len(ledger.states()) == CHECKPOINTS_KEPT
        assert all(ledger.state_of(block) for block in ledger.states())
        assert ledger.state_of(chain[0].context.block) is None
        assert len(ledger._saved) == CHECKPOINTS_KEPT


def test_what_a_restart_knows_is_offered(tmp_path: Path) -> None:
    chain = chain_on(GENESIS, 3)
    with opened(tmp_path) as ledger:
        for number, link in enumerate(chain):
            record(ledger, link, shards_of(str(number)))
    with opened(tmp_path) as ledger:
        ledger.restore()
        assert ledger.states() == (chain[-1].context.block,)


@pytest.mark.parametrize(
    ("name", "bound"), [("REDUCED_BYTES_KEPT", 10), ("REDUCED_BLOCKS_KEPT", 2)]
)
def test_reduced_shards_are_bounded_and_the_oldest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bound: int
) -> None:
    monkeypatch.setattr(ledger_module, name, bound)
    chain = chain_on(GENESIS, 6)
    with opened(tmp_path) as ledger:
        for number, link in enumerate(chain):
            record(ledger, link, shards_of(str(number)))
        held = [ledger.reduced_of(link.context.block) for link in chain]
        assert held == [None] * 4 + [shards_of("4"), shards_of("5")]
        ledger.switch(5)
        assert ledger.reduced_of(chain[5].context.block) is None
        assert ledger._reduced_bytes == 4


def test_the_last_round_is_what_export_takes_when_the_state_behind_the_close_was_fetched(
    tmp_path: Path,
) -> None:
    """A mirror that came late had the last final block of the blocks that it had followed."""
    rounds = chain_on(GENESIS, 7)
    close = Block(rounds[-1].context.block, CLOSE, (), (), (), ())
    chain = [*rounds, certified(rounds[-1].context, close)]
    with opened(tmp_path) as ledger:
        for link in chain[:3]:
            record(ledger, link)
        ledger.finalize(chain[1].context.block)
        for link in chain[3:]:
            ledger.history.append(link)
        record(ledger, chain[-1])
        final = ledger.checkpoints.load_final().checkpoint
        assert final is not None
        assert final.block_id == rounds[-1].context.block
        assert final.vector == state_after(chain[-1])
    assert comes_back(tmp_path, chain) == ()


def test_the_final_block_is_what_export_takes(tmp_path: Path) -> None:
    chain = chain_on(GENESIS, 9)
    with opened(tmp_path) as ledger:
        for link in chain[:3]:
            record(ledger, link)
        ledger.finalize(chain[1].context.block)
        for link in chain[3:]:
            record(ledger, link)
        final = ledger.checkpoints.load_final().checkpoint
        assert final is not None
        assert final.vector == state_after(chain[1])
