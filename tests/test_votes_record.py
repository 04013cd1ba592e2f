"""What a peer promised and sent is on the disk before anybody hears of it."""

from pathlib import Path

import pytest
from node_chain import ME, genesis_of, round_block

from p2ptrain.errors import StoreError
from p2ptrain.node.votes import Votes
from p2ptrain.swarm.effects import CommitRecord, VoteRecord
from p2ptrain.wire.digest import digest
from p2ptrain.wire.messages import Have, Signed

BLOCK = round_block(genesis_of())
COMMIT = CommitRecord(
    Signed(ME, bytes(64), Have(BLOCK.parent, (digest("commit", b"1"),))), (b"one", b"two")
)


def test_a_new_peer_has_promised_nothing(tmp_path: Path) -> None:
    assert Votes(tmp_path).load() == (None, None)


def test_the_newest_record_of_each_kind_comes_back(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    for record in (
        VoteRecord(1, 1, BLOCK),
        COMMIT,
        VoteRecord(3, 1, BLOCK),
        VoteRecord(4, 0, None),
    ):
        votes.save(record)
    assert Votes(tmp_path).load() == (VoteRecord(4, 0, None), COMMIT)


def test_a_damaged_record_is_an_error_rather_than_a_forgotten_promise(tmp_path: Path) -> None:
    Votes(tmp_path).save(VoteRecord(9, 8, BLOCK))
    for file in [path for path in tmp_path.iterdir() if path.is_file()]:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(StoreError):
        Votes(tmp_path).load()
