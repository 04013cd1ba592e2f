"""The liar of theory: with the network on its side, it works at two chains that exclude each other.

It needs what the proofs grant an adversary: it hears every honest vote, which the honest hardly
do of one another, and it decides who is cut off (until the network heals). A scheme has four acts:

  1  a block X is certified in view v; only the schemer can put the votes together, and it shows
     the certificate to one honest peer, the keeper, whom it cuts off
  2  the others give views up; in its Timeouts it claims a vote for a list Y of its own, so that
     they must repeat it: Y is certified beside X, and it keeps that to itself
  3  it joins the keeper with some that know of neither, and cuts off the rest: X gets a child
  4  it cuts the keeper off again and shows Y, which is newer, to the others: Y gets a child

Now both X and Y have certified children. That X is not final is due to one rule: its child is not
in the very next view. An act that takes longer than ACT_S is given up, and the next scheme begins.
"""

from __future__ import annotations

from dataclasses import replace

from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import (
    ROUND,
    Ballot,
    Block,
    Certificate,
    Certified,
    GiveUp,
    Have,
    Headers,
    Message,
    Proposal,
    Propose,
    Signed,
    Statement,
    Timeout,
    Tip,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.faults import quorum_of
from simnet.liars import Liar

ACT_S = 5.0  # ten views


class Schemer(Liar):
    """One liar with a plan; the machines run underneath and keep it a member in good standing."""

    def boot(self) -> None:
        """Begin with an empty notebook."""
        self.blocks: dict[Digest, Block] = {}
        self.votes: dict[Vote, dict[PeerId, bytes]] = {}
        self.told: set[int] = set()  # views given up in its own way
        self.act = 1
        self.act_until = 0.0
        self.x: Certificate | None = None
        self.y: Certificate | None = None
        self.parent: Certificate | None = None
        self.list_y: Block | None = None
        self.keeper = self.rest = self.peer
        super().boot()

    # --- what it hears --------------------------------------------------------------------------
    def deliver(self, sender: PeerId, message: Message) -> None:
        """Work at the scheme, then go on as anyone would."""
        match message:
            case Statement(Signed(signer, signature, Vote() as vote)):
                self._echo(signer, signature, vote)
            case Statement(Signed(statement=Have() as have)) if self.act > 1 and self._rules:
                self.send(sender, Statement(self.restate(have)))
            case Propose(Signed(statement=Proposal() as proposal), _):
                self.blocks[block_digest(proposal.block)] = proposal.block
            case GiveUp(Signed(statement=Timeout() as timeout), _):
                self._give_up_too(timeout)
            case _:
                pass
        super().deliver(sender, message)

    def bend(self, to: PeerId, message: Message) -> Message | None:
        """What its machine says of certificates and headers would spoil the scheme."""
        if self.act > 1 and self._rules:
            if to in self.world.cut:
                return None
            if isinstance(message, Headers):
                return replace(message, certificates=())
            if isinstance(message, GiveUp | Certified | Tip):
                return None
        if isinstance(message, Propose) and isinstance(message.signed.statement, Proposal):
            block = message.signed.statement.block
            self.blocks[block_digest(block)] = block
        return message

    @property
    def _rules(self) -> bool:
        """Whether the network is still on its side."""
        return self.world.network.liars_hear

    def _echo(self, signer: PeerId, signature: bytes, vote: Vote) -> None:
        """Sign what another voted for, and see whether that makes a certificate."""
        votes = self.votes.setdefault(vote, {})
        votes[signer] = signature
        if self.peer not in votes and self._rules:
            mine = self.restate(vote)
            votes[self.peer] = mine.signature
            for peer in self._honest():
                if peer not in self.world.cut:
                    self.send(peer, Statement(mine))
        block = self.blocks.get(vote.block)
        entitled = [m.peer for m in self.storage.history.tip.roster if m.voter]
        signed = {peer: votes[peer] for peer in sorted(votes) if peer in entitled}
        if block is not None and len(signed) >= quorum_of(len(entitled)) and self._rules:
            ballots = tuple(Ballot(peer, signature) for peer, signature in signed.items())
            self._go_on(Certificate(vote.view, block, vote.reduced, vote.state, ballots))

    def _honest(self) -> list[PeerId]:
        return [peer for peer in sorted(self.world.nodes) if peer not in self.world.liars]

    # --- the four acts --------------------------------------------------------------------------
    def _go_on(self, made: Certificate) -> None:
        """A certificate that nobody else has: is it the one that this act waits for?"""
        if self.act > 1 and self.world.now > self.act_until:
            self._start_over()
        block = made.block
        if self.act == 1:
            self._first(made)
        elif self.act == 2 and self.list_y == block:
            self.y = made
            self._enter(3, cut=self.rest)
        elif self.act == 3 and self.x and block.parent == block_digest(self.x.block):
            self.send_to([self.keeper], made)
            self._enter(4, cut=self.keeper)
            if self.y:
                self.send_to([p for p in self._honest() if p != self.keeper], self.y)
        elif self.act == 4 and self.y and block.parent == block_digest(self.y.block):
            self.send_to(self._honest(), made)
            self._start_over()

    def _first(self, made: Certificate) -> None:
        entries, honest = made.block.entries, self._honest()
        if made.block.kind != ROUND or len(entries) < 2 or len(honest) < 3:
            self.send_to(honest, made)
            return
        tip = self.storage.history.tip
        if made.block.parent != tip.block:  # its own machine is ahead: the next one will do
            self.send_to(honest, made)
            return
        self.x, self.parent = made, self.storage.history.certificate
        out = self.rng.choice(entries)
        self.list_y = replace(made.block, entries=tuple(e for e in entries if e != out))
        self.keeper, self.rest = self.rng.sample(honest, 2)
        self.send_to([self.keeper], made)
        self._enter(2, cut=self.keeper)

    def _enter(self, act: int, cut: PeerId) -> None:
        self.world.record(f"{self.name} begins act {act} and cuts off {cut[-6:]}")
        self.act, self.act_until = act, self.world.now + ACT_S
        self.world.cut = frozenset((cut,))
        self.told.clear()

    def _start_over(self) -> None:
        self.act = 1
        self.world.cut = frozenset()

    def send_to(self, peers: list[PeerId], certificate: Certificate) -> None:
        """Show a certificate, past its own silence."""
        for peer in peers:
            self.world.post(self.peer, peer, Certified(certificate))

    def _give_up_too(self, heard: Timeout) -> None:
        """Join those who give a view up, with the story that the act needs."""
        if self.act == 1 or heard.view in self.told or not self._rules:
            return
        if self.world.now > self.act_until:
            self._start_over()
            return
        high = {2: self.parent, 3: self.x, 4: self.y}[self.act]
        if high is not None and high.view > heard.view:
            return
        self.told.add(heard.view)
        last = self.list_y if self.act == 2 else None
        story = Timeout(
            view=heard.view,
            high_view=high.view if high else 0,
            high_block=block_digest(high.block) if high else self.storage.history.genesis.block,
            last_view=heard.view if last else 0,
            last_block=last,
        )
        for peer in self._honest():
            if peer not in self.world.cut:
                self.world.post(self.peer, peer, GiveUp(self.restate(story), high))
