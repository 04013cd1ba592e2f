"""One averaging machine on a stage: a roster of four, the three others say what the test wants."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
from swarm_router import SETTINGS, SWARM, Peer, Router, chain_of, work

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.chain import proposer
from p2ptrain.swarm.effects import Effect, Send
from p2ptrain.wire.codec import block_digest, commit_digest
from p2ptrain.wire.digest import ZERO_DIGEST, digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.messages import (
    ROUND,
    Ballot,
    Block,
    Certificate,
    Commit,
    Entry,
    Message,
    Norm2,
    Piece,
    Proposal,
    Propose,
    Signed,
    Statement,
    Timeout,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_proofs, merkle_root, root_of_author

FOREIGN = digest("nothing", b"known")


class Stage:
    """The machine under test, and the means to speak as the others."""

    def __init__(self) -> None:
        self.router = Router(4)
        self.router.rounds_wanted = 0
        self.base = self.router.base
        self.voters = self.router.names
        self.turn = [proposer(self.base, view) for view in range(6)]
        self.me = next(p for p in self.voters if p not in (self.turn[1], self.turn[2]))
        self.others = [p for p in self.voters if p != self.me]
        self.peer: Peer = self.router.peers[self.me]
        self.machine = self.peer.machine
        self.machine.start(0.0)

    def sign(self, peer: PeerId, statement: Any) -> Signed:
        return sign_statement(self.router.peers[peer].config.signer, SWARM, statement)

    def give(self, sender: PeerId, message: Message) -> list[Effect]:
        effects = self.machine.receive(0.0, sender, message)
        return effects

    def refuses(self, rule: str, sender: PeerId, message: Message) -> None:
        before = pickle.dumps(self.machine)
        with pytest.raises(RemoteProtocolError) as caught:
            self.machine.receive(0.0, sender, message)
        assert caught.value.rule == rule
        assert pickle.dumps(self.machine) == before

    def ignores(self, sender: PeerId, message: Message) -> None:
        """Nobody is blamed for what may be a race."""
        before = self.machine.context
        effects = self.machine.receive(0.0, sender, message)
        assert all(isinstance(e, Send) for e in effects)
        assert self.machine.context == before

    # --- what honest members would say --------------------------------------------------------
    def commit(self, peer: PeerId, **changes: Any) -> Commit:
        made = work(peer, self.base)
        commit = Commit(
            parent=self.base.block,
            base_state=self.base.state,
            data=made.data,
            codec=SETTINGS.codec,
            weight=made.weight,
            root=root_of_author(peer, merkle_root(made.shards)),
            norms2=made.norms2,
            reveal=chain_of(peer).preimage(chain_of(peer).anchor) or ZERO_DIGEST,
            local_steps=1,
        )
        return replace(commit, **changes)

    def statement(self, peer: PeerId, statement: Any) -> Statement:
        return Statement(self.sign(peer, statement))

    def piece(self, peer: PeerId, shard: int = 0) -> Piece:
        shards = work(peer, self.base).shards
        return Piece(self.base.block, peer, shard, merkle_proofs(shards)[shard], shards[shard])

    def entry(self, peer: PeerId) -> Entry:
        commit = self.commit(peer)
        total = Norm2(sum(commit.norms2))
        return Entry(peer, commit_digest(commit), commit.weight, total, commit.reveal, 1)

    def block(self, *peers: PeerId, **changes: Any) -> Block:
        entries = tuple(self.entry(p) for p in sorted(peers or self.others))
        return replace(Block(self.base.block, ROUND, entries, (), (), ()), **changes)

    def propose(self, peer: PeerId, view: int, block: Block, *timeouts: Signed) -> Propose:
        carried = tuple(sorted(timeouts, key=lambda s: s.signer))
        return Propose(self.sign(peer, Proposal(view, block, carried)), None)

    def timeout(self, peer: PeerId, view: int, vote: tuple[int, Block] | None = None) -> Signed:
        last_view, last_block = vote or (0, None)
        return self.sign(peer, Timeout(view, 0, self.base.block, last_view, last_block))

    def certificate(self, view: int, block: Block, *signers: PeerId, **changes: Any) -> Certificate:
        reduced, state = digest("r"), digest("s")
        if block.kind != ROUND:
            reduced, state = ZERO_DIGEST, self.base.state
        state = changes.pop("state", state)
        vote = Vote(view, block_digest(block), block.parent, reduced, state)
        ballots = tuple(Ballot(p, self.sign(p, vote).signature) for p in sorted(signers))
        return replace(Certificate(view, block, reduced, state, ballots), **changes)

    def stranger(self) -> PeerId:
        signer = self.router.ring.new_signer()
        self.router.add(signer, self.base)
        return signer.peer
