"""Which contributions a proposer may list, and when and of whom what is missing is asked for."""

import pytest
from swarm_router import SWARM, Router, work

from p2ptrain.swarm.contributions import entry_of
from p2ptrain.swarm.effects import CommitRecord, Effect, Send
from p2ptrain.swarm.exchange import Exchange, Forbearance
from p2ptrain.wire.codec import commit_digest
from p2ptrain.wire.digest import ZERO_DIGEST
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.messages import ROUND, Block, Commit, GetContribution, Have, Piece, Signed
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_proofs, merkle_root


class Table:
    """A voter of a roster, and what the others tell it."""

    def __init__(self, voters: int) -> None:
        self.router = Router(voters)
        self.me, self.liar, *self.others = self.router.names
        self.exchange = Exchange(self.router.peers[self.me].config, self.router.base)
        self.commits = {name: self.commit(name) for name in (self.me, self.liar)}
        own = work(self.me, self.router.base)
        self.exchange.offer(CommitRecord(self.commits[self.me], own.shards))
        commit = self.commits[self.liar].statement
        assert isinstance(commit, Commit)
        self.exchange.held.take_commit(self.commits[self.liar], commit, ())

    def commit(self, name: PeerId) -> Signed:
        base, peer = self.router.base, self.router.peers[name]
        made = work(name, base)
        commit = Commit(
            base.block, base.state, made.data, 8, made.weight, merkle_root(made.shards),
            made.norms2, ZERO_DIGEST, 1,
        )  # fmt: skip
        return sign_statement(peer.config.signer, SWARM, commit)

    def vouch(self, *names: PeerId) -> None:
        """Say in these voters' names that they hold what the liar withholds."""
        commit = self.commits[self.liar].statement
        assert isinstance(commit, Commit)
        have = Have(self.router.base.block, (commit_digest(commit),))
        for name in names:
            self.exchange.have(name, have)

    @property
    def listed(self) -> set[str]:
        return {held.signed.signer for held in self.exchange.listable()}


@pytest.mark.parametrize(("voters", "accomplices"), [(4, 0), (7, 1), (10, 2)])
def test_what_only_liars_claim_to_hold_is_not_listed(voters: int, accomplices: int) -> None:
    table = Table(voters)
    table.vouch(*table.others[:accomplices])
    assert table.liar not in table.listed
    table.vouch(table.others[accomplices])
    assert table.liar in table.listed


# --- what is missing ----------------------------------------------------------------------------
def asked(effects: list[Effect]) -> list[PeerId]:
    """Whom these effects ask for a contribution."""
    return [e.to for e in effects if isinstance(e, Send) and isinstance(e.message, GetContribution)]


def at(now: float) -> Forbearance:
    return Forbearance(now, quiet_s=5.0, most_s=60.0)


def test_asking_for_what_a_proposal_lists_has_turns_of_its_own() -> None:
    table = Table(4)
    held = table.exchange.held.first_of(table.liar)
    assert held is not None
    block = Block(table.router.base.block, ROUND, (entry_of(held),), (), (), ())
    proposer, other = table.others[:2]
    assert asked(table.exchange.fetch_partial(at(0.0), ())) == [table.liar]
    order = [asked(table.exchange.fetch(block, proposer, at(float(i))))[0] for i in range(3)]
    assert order == [proposer, table.liar, other]
    assert asked(table.exchange.fetch_partial(at(9.0), {held.name})) == [], "that is fetched"


def test_what_keeps_coming_is_not_asked_for_until_it_is_quiet_or_too_slow() -> None:
    table = Table(4)
    exchange, held = table.exchange, table.exchange.held.first_of(table.liar)
    assert held is not None
    shards = work(table.liar, table.router.base).shards
    proofs = merkle_proofs(shards)
    piece = Piece(table.router.base.block, table.liar, 0, proofs[0], shards[0])
    assert exchange.piece(1.0, table.others[0], piece) != []
    assert asked(exchange.fetch_partial(at(5.9), ())) == []
    assert asked(exchange.fetch_partial(at(6.0), ())) == [table.liar], "quiet for 5 s"
    assert exchange.piece(7.0, table.liar, piece) == [], "held already: that is no progress"
    assert asked(exchange.fetch_partial(at(7.1), ())) == table.others[:1]
    held.moved_at = 65.8
    assert asked(exchange.fetch_partial(at(65.85), ())) == []
    assert len(asked(exchange.fetch_partial(at(65.9), ()))) == 1, "60 s after it was due"
