"""The codec of a round follows from the recipe and the round, and each peer holds others to it."""

from dataclasses import replace

import pytest
from swarm_router import SETTINGS, SWARM, Router, chain_of, work

from p2ptrain.compress.codecs import CODECS, WARMUP_CODEC
from p2ptrain.config import Recipe
from p2ptrain.data.shipped import recipe_path
from p2ptrain.errors import RemoteProtocolError
from p2ptrain.node.run import settings_of
from p2ptrain.swarm.chain import Settings
from p2ptrain.swarm.effects import CheckPiece
from p2ptrain.swarm.exchange import Exchange
from p2ptrain.wire.digest import ZERO_DIGEST
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.limits import WARMUP_CODEC_NUMBER
from p2ptrain.wire.messages import Commit, Piece
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_proofs, merkle_root, root_of_author

DIGITS = recipe_path("digits").read_text()
SHARDS_OF_WARMUP = (b"sixteen bytes...", b"eight...")
WARMING = replace(
    SETTINGS,
    codec=4096 + 128,
    warmup_rounds=2,
    warmup_shard_bytes=tuple(map(len, SHARDS_OF_WARMUP)),
)


class Table:
    """A member of a roster after some rounds, and another that contributes."""

    def __init__(self, rounds: int) -> None:
        router = Router(4)
        self.me, self.other = router.names[:2]
        self.signer = router.peers[self.other].config.signer
        self.base = replace(router.base, rounds=rounds)
        config = replace(router.peers[self.me].config, settings=WARMING)
        self.exchange = Exchange(config, self.base)

    def commits(self, codec: int, shards: tuple[bytes, ...]) -> None:
        made, anchor = work(self.other, self.base), chain_of(self.other).anchor
        commit = Commit(
            self.base.block, self.base.state, made.data, codec, made.weight,
            root_of_author(self.other, merkle_root(shards)), made.norms2,
            chain_of(self.other).preimage(anchor) or ZERO_DIGEST, 1,
        )  # fmt: skip
        self.exchange.commit(self.other, sign_statement(self.signer, SWARM, commit), ())

    def sends(self, shards: tuple[bytes, ...]) -> list[object]:
        piece = Piece(self.base.block, self.other, 0, merkle_proofs(shards)[0], shards[0])
        return list(self.exchange.piece(self.other, piece))


def shards_after(rounds: int, peer: PeerId, table: Table) -> tuple[bytes, ...]:
    return SHARDS_OF_WARMUP if rounds < 2 else work(peer, table.base).shards


@pytest.mark.parametrize(("rounds", "right", "wrong"), [(0, 8, 4224), (1, 8, 4224), (2, 4224, 8)])
def test_a_commit_in_another_codec_than_the_rounds_is_refused(
    rounds: int, right: int, wrong: int
) -> None:
    table = Table(rounds)
    shards = shards_after(rounds, table.other, table)
    with pytest.raises(RemoteProtocolError) as caught:
        table.commits(wrong, shards)
    assert caught.value.rule == "averaging 2.2"
    table.commits(right, shards)
    [check] = table.sends(shards)
    assert isinstance(check, CheckPiece)
    assert check.codec == right == table.exchange.codec


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_piece_as_long_as_in_the_other_codec_is_refused(rounds: int) -> None:
    table = Table(rounds)
    shards = shards_after(2 - rounds, table.other, table)
    table.commits(8 if rounds < 2 else 4224, shards)
    with pytest.raises(RemoteProtocolError) as caught:
        table.sends(shards)
    assert caught.value.rule == "averaging 3.5"


def settings_with(averaging: str) -> Settings:
    recipe = Recipe.from_toml(DIGITS.replace('codec = "int4"', averaging))
    number = recipe.averaging.number
    return settings_of(recipe, tuple(CODECS[number].shard_bytes(n) for n in (4096, 8192)))


def test_the_machine_is_told_of_both_codecs() -> None:
    assert WARMUP_CODEC.number == WARMUP_CODEC_NUMBER
    settings = settings_with('codec = "topk"\ntopk = 64')
    assert (settings.codec_after(7), settings.shard_bytes_after(7)) == (8, (4100, 8200))
    assert (settings.codec_after(8), settings.shard_bytes_after(8)) == (4160, (84, 168))


def test_int4_has_no_warmup_unless_it_is_asked_for() -> None:
    assert settings_with('codec = "int4"').codec_after(0) == 4
    assert settings_with('codec = "int4"\nwarmup_rounds = 1').codec_after(0) == 8
