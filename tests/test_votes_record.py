"""What a peer promised and sent is on the disk before anybody hears of it."""

import shutil
from pathlib import Path

import pytest
from node_chain import ME, genesis_of, round_block

from p2ptrain.node.votes import Remembered, Votes, swarms_in_doubt
from p2ptrain.store.stamp import Stamp
from p2ptrain.swarm.effects import CommitRecord, VoteRecord
from p2ptrain.wire.digest import digest
from p2ptrain.wire.messages import Have, Signed

BLOCK = round_block(genesis_of())
COMMIT = CommitRecord(
    Signed(ME, bytes(64), Have(BLOCK.parent, (digest("commit", b"1"),))), (b"one", b"two")
)


def test_a_new_peer_has_promised_nothing(tmp_path: Path) -> None:
    found = Votes(tmp_path).load()
    assert (found.votes, found.commit, found.warnings) == (None, None, ())
    assert found.doubtful  # its folder may have been lost: the chain knows whether it is a member


def test_the_newest_record_of_each_kind_comes_back(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    votes.be_certain()
    for record in (
        VoteRecord(1, 1, BLOCK),
        COMMIT,
        VoteRecord(3, 1, BLOCK),
        VoteRecord(4, 0, None),
    ):
        votes.save(record)
    assert Votes(tmp_path).load() == Remembered(VoteRecord(4, 0, None), COMMIT, False, ())


@pytest.mark.parametrize("name", ["votes", "contribution"])
def test_a_damaged_record_is_set_aside_and_what_it_held_counts_as_forgotten(
    tmp_path: Path, name: str
) -> None:
    votes = Votes(tmp_path)
    votes.be_certain()
    votes.save(VoteRecord(9, 8, BLOCK))
    votes.save(COMMIT)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    found = Votes(tmp_path).load()
    assert found.doubtful
    assert "sits out" in found.warnings[0]
    assert (found.votes is None, found.commit is None) == (name == "votes", name != "votes")
    assert (tmp_path / "set-aside" / f"{name}.0").read_bytes() == content
    assert Votes(tmp_path).load().doubtful  # and it stays forgotten until the peer is certain


def test_the_copy_of_a_folder_is_in_doubt_and_the_original_is_not(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    votes = Votes(home)
    votes.be_certain()
    votes.save(VoteRecord(9, 8, BLOCK))
    shutil.copytree(home, copy)
    assert not Votes(home).load().doubtful
    found = Votes(copy).load()
    assert (found.votes, found.doubtful) == (VoteRecord(9, 8, BLOCK), True)
    assert "copied or restored" in found.warnings[0]
    Votes(copy).be_certain()
    assert not Votes(copy).load().doubtful


def test_a_home_that_is_moved_is_no_copy(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "home")
    votes.be_certain()
    votes.save(VoteRecord(9, 8, BLOCK))
    (tmp_path / "home").rename(tmp_path / "moved")
    assert not Votes(tmp_path / "moved").load().doubtful


def test_another_machine_finds_a_stamp_that_does_not_hold(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.write_text("one machine")
    there.write_text("another")
    Stamp(tmp_path, machine_ids=(here,)).make()
    assert Stamp(tmp_path, machine_ids=(here,)).holds()
    assert not Stamp(tmp_path, machine_ids=(there,)).holds()
    assert not Stamp(tmp_path, machine_ids=(tmp_path / "none",)).holds()


@pytest.mark.parametrize("size", [0, 1, 20, 60])
def test_a_torn_stamp_does_not_hold(tmp_path: Path, size: int) -> None:
    stamp = Stamp(tmp_path)
    stamp.make()
    with (tmp_path / "stamp").open("r+b") as file:
        file.truncate(size)
    assert not stamp.holds()


def test_swarms_whose_records_look_copied_are_named(tmp_path: Path) -> None:
    for name in ("good", "bad", "new"):
        votes = Votes(tmp_path / "swarms" / name)
        if name != "new":
            votes.save(VoteRecord(1, 1, BLOCK))
        if name == "good":
            votes.be_certain()
    assert swarms_in_doubt(tmp_path) == ("bad",)
    assert swarms_in_doubt(tmp_path / "nowhere") == ()
