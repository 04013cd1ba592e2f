"""Which contributions a proposer may list: those of which an honest voter holds all."""

import pytest
from swarm_router import SWARM, Router, work

from p2ptrain.swarm.effects import CommitRecord
from p2ptrain.swarm.exchange import Exchange
from p2ptrain.wire.codec import commit_digest
from p2ptrain.wire.digest import ZERO_DIGEST
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.messages import Commit, Have, Signed
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_root, root_of_author


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
            base.block, base.state, made.data, 8, made.weight,
            root_of_author(name, merkle_root(made.shards)), made.norms2, ZERO_DIGEST, 1,
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
