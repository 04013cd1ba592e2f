"""A small router for tests of the averaging machine: messages by hand, time by hand.

Contributions are opaque bytes here, and a reduction is a hash of the ordered set, as in simnet.
Every promise that leaves must be on disk: that is asserted at each message. Messages wait in one
queue until `run` delivers them; `cut` makes links that lose everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.averaging import Averaging
from p2ptrain.swarm.chain import Context, Settings, genesis
from p2ptrain.swarm.effects import (
    Apply,
    CheckPiece,
    CommitRecord,
    Effect,
    Persist,
    Reduce,
    Send,
    VoteRecord,
)
from p2ptrain.swarm.inputs import AveragingConfig, Contribution
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.roster import Member
from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.messages import (
    Certificate,
    GiveUp,
    Message,
    Norm2,
    Proposal,
    Propose,
    Statement,
    Timeout,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.keys import KeyRing, SimSigner

SWARM = digest("swarm", b"test")
STATE = digest("state", b"0")
SETTINGS = Settings(
    codec=4,
    shard_bytes=(8, 4),
    rounds=1000,
    weight_max=1000,
    norm_max2=1 << 70,
    voter_after=0,
    batch=500,
)
NORM2 = Norm2(3 << 64)


def chain_of(peer: PeerId) -> Reveals:
    return Reveals(digest("test seed", peer.encode()), 300)


def founded(peers: list[PeerId], settings: Settings = SETTINGS) -> Context:
    """A founding block with several members, all of them voters."""
    context = genesis(SWARM, peers[0], STATE)
    del settings
    members = [Member(p, chain_of(p).anchor, True, 0, 0, 1) for p in sorted(peers)]
    return replace(context, roster=tuple(members))


def work(peer: PeerId, context: Context) -> Contribution:
    """What a peer contributes on a block: bytes that depend on both."""
    shards = tuple(
        digest("work", peer.encode(), context.block, bytes([i]))[:size]
        for i, size in enumerate(SETTINGS.shard_bytes)
    )
    return Contribution(digest("data", peer.encode()), 32, shards, (NORM2, NORM2), 1)


def outcome(effect: Reduce) -> tuple[Digest, Digest]:
    terms = [b"%d" % t.factor + b"".join(t.shards) for t in effect.terms]
    root = digest("reduced", *terms)
    return root, digest("state", effect.parent, root)


def promised_by(peer: PeerId, message: Message) -> int:
    """The highest view that a message of this peer promises not to vote in (again)."""
    match message:
        case Statement(signed) | GiveUp(signed, _):
            given = [signed]
        case Propose(signed, _) if isinstance(signed.statement, Proposal):
            given = list(signed.statement.timeouts)
        case _:
            given = []
    own = [s.statement for s in given if s.signer == peer]
    return max((s.view for s in own if isinstance(s, Vote | Timeout)), default=0)


@dataclass
class Peer:
    """One machine, and all that it did."""

    config: AveragingConfig
    machine: Averaging
    log: list[Effect] = field(default_factory=list)
    record: VoteRecord | None = None
    own: CommitRecord | None = None
    up: bool = True
    works: bool = True  # contributes by itself after every block

    @property
    def applied(self) -> list[Apply]:
        return [e for e in self.log if isinstance(e, Apply)]


class Router:
    """Machines of M founding voters, joined by one queue."""

    def __init__(self, count: int, settings: Settings = SETTINGS) -> None:
        self.ring = KeyRing(1)
        self.now = 0.0
        self.settings = settings
        self.queue: deque[tuple[PeerId, PeerId, Message]] = deque()
        self.errors: list[RemoteProtocolError] = []
        self.cut: set[tuple[PeerId, PeerId]] = set()
        self.spy: Callable[[PeerId, PeerId, Message], bool] = lambda *_: True
        signers = [self.ring.new_signer() for _ in range(count)]
        self.base = founded([s.peer for s in signers], settings)
        self.peers: dict[PeerId, Peer] = {}
        self.rounds_wanted: float = inf
        self.effects_left = inf  # a crash is when none is left
        for signer in sorted(signers, key=lambda s: s.peer):
            self.add(signer, self.base)

    @property
    def names(self) -> list[PeerId]:
        return list(self.peers)

    def add(
        self, signer: SimSigner, context: Context, certificate: Certificate | None = None
    ) -> Peer:
        config = AveragingConfig(signer.peer, SWARM, signer, self.ring, self.settings)
        machine = Averaging(config, context, certificate, chain_of(signer.peer), None, None)
        self.peers[signer.peer] = Peer(config, machine)
        return self.peers[signer.peer]

    def start(self) -> None:
        for name, peer in self.peers.items():
            self.do(name, peer.machine.start(self.now))

    def restart(self, name: PeerId) -> None:
        """Begin again from what was written: records, and the newest applied block."""
        peer = self.peers[name]
        last = peer.applied[-1] if peer.applied else None
        context = last.context if last else self.base
        certificate = last.certificate if last else None
        peer.machine = Averaging(
            peer.config, context, certificate, chain_of(name), peer.record, peer.own
        )
        peer.up = True
        self.do(name, peer.machine.start(self.now))

    def contribute(self, name: PeerId) -> None:
        machine = self.peers[name].machine
        if machine.may_contribute and machine.context.rounds < self.rounds_wanted:
            self.do(name, machine.contribute(self.now, work(name, machine.context)))

    def do(self, name: PeerId, effects: list[Effect]) -> None:
        """Carry effects out in their order."""
        peer = self.peers[name]
        for effect in effects:
            if self.effects_left < 1:
                return
            self.effects_left -= 1
            peer.log.append(effect)
            match effect:
                case Send(to, message):
                    assert promised_by(name, message) <= (
                        peer.record.promised if peer.record else 0
                    )
                    if (name, to) not in self.cut and self.spy(name, to, message):
                        self.queue.append((name, to, message))
                case Persist(record):
                    if isinstance(record, VoteRecord):
                        peer.record = record
                    else:
                        peer.own = record
                case CheckPiece(sender, piece):
                    self.do(name, peer.machine.piece_checked(self.now, sender, piece, NORM2))
                case Reduce():
                    root, state = outcome(effect)
                    self.do(name, peer.machine.reduced(self.now, effect.block, root, state))
                case Apply():
                    if peer.works:
                        self.contribute(name)
                case _:
                    pass

    def send(self, sender: PeerId, to: PeerId, message: Message) -> None:
        self.queue.append((sender, to, message))

    def run(self, steps: int = 20_000) -> None:
        """Deliver messages until none waits."""
        for _ in range(steps):
            if not self.queue:
                return
            sender, to, message = self.queue.popleft()
            if to not in self.peers or not self.peers[to].up:
                continue
            try:
                self.do(to, self.peers[to].machine.receive(self.now, sender, message))
            except RemoteProtocolError as error:
                self.errors.append(error)
        raise AssertionError("the messages do not end")

    def pass_time(self, seconds: float, ping: bool = True) -> None:
        """Let time pass: deadlines expire in order, and live peers hear one another."""
        end = self.now + seconds
        while True:
            self.run()
            live = {n: p for n, p in self.peers.items() if p.up}
            due = min((p.machine.deadline for p in live.values()), default=inf)
            step = min(due, end, self.now + 1.0)
            self.now = max(self.now, step)
            for name, peer in live.items():
                for other in live if ping else ():
                    if other != name and (other, name) not in self.cut:
                        self.do(name, peer.machine.heard(self.now, other))
                if peer.machine.deadline <= self.now:
                    self.do(name, peer.machine.expire(self.now))
            if self.now >= end:
                self.run()
                return
