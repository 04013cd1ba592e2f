"""A hundred announcing machines on virtual time: views converge after churn, whatever is lost."""

import random
from dataclasses import dataclass, field

from p2ptrain.swarm.announcing import Announcer, AnnouncerConfig
from p2ptrain.swarm.effects import Send
from p2ptrain.wire.digest import digest
from p2ptrain.wire.messages import Announcement, Message
from p2ptrain.wire.peer_id import PeerId
from simnet.faults import Network
from simnet.keys import KeyRing
from simnet.world import World

SWARM = digest("swarm", b"some")
UNIX_MS = 1_795_478_400_000
NEIGHBOURS = 8  # of a hundred: nobody is connected to most of the others
LOSSY = Network(delay_mean_s=0.05, loss_ratio=0.1, duplicate_ratio=0.02, ordered=False)
CONVERGED_S = (
    8.0  # 100 peers are asked one at a time, two hops apart, and one message in ten is lost
)
AGE_S_MAX = 12.0


@dataclass
class Peer:
    """One machine, driven as node/drive.py does it."""

    world: World
    keys: KeyRing
    height: int = 0
    running: bool = True
    neighbours: set[PeerId] = field(default_factory=set)

    def __post_init__(self) -> None:
        signer = self.keys.new_signer()
        self.peer: PeerId = signer.peer
        self.name: str = signer.peer
        config = AnnouncerConfig(SWARM, signer, self.keys, self.facts, self.unix_ms)
        self.machine = Announcer(config, self.world.now)
        self.world.add(self)
        self.tick()

    def facts(self) -> Announcement:
        state = digest("state", b"%d" % self.height)
        h = self.height
        return Announcement(0, 1, h, h, state, state, 0, 0, 0, 1, 0, "", ())

    def unix_ms(self) -> int:
        return UNIX_MS + round(1000 * self.world.now)

    def connect(self, neighbours: set[PeerId]) -> None:
        self.neighbours = neighbours
        self.carry_out(self.machine.peers(self.world.now, neighbours))

    def tick(self) -> None:
        if self.running:
            self.carry_out(self.machine.expire(self.world.now))
            self.world.at(self.machine.deadline, self.name, self.tick)

    def carry_out(self, effects: list[Send]) -> None:
        for effect in effects:
            self.world.post(self.peer, effect.to, effect.message)

    def deliver(self, sender: PeerId, message: Message) -> None:
        if self.running:
            self.carry_out(self.machine.receive(self.world.now, sender, message))

    def knows(self, others: set[PeerId]) -> bool:
        """Whether it has news of all others, and takes nobody else for living."""
        now = self.world.now
        fresh = {p for p, s in self.machine.sightings.all() if s.age_s(now) <= AGE_S_MAX}
        return fresh == others - {self.peer}


def join_all(peers: list[Peer], rng: random.Random) -> None:
    """A random graph in which everyone has at least NEIGHBOURS."""
    linked: dict[PeerId, set[PeerId]] = {peer.peer: set() for peer in peers}
    for one in sorted(linked):
        for other in rng.sample(sorted(linked.keys() - {one}), NEIGHBOURS):
            linked[one].add(other)
            linked[other].add(one)
    for peer in peers:
        peer.connect(linked[peer.peer])


def seconds_until_all_know_all(world: World, peers: list[Peer]) -> float:
    living = {peer.peer for peer in peers}
    began = world.now
    while not all(peer.knows(living) for peer in peers):
        assert world.now < began + 60.0, "the views do not converge"
        world.run(lambda: False, world.now + 1.0)
    return world.now - began


def test_views_converge_after_churn_with_a_tenth_of_all_messages_lost() -> None:
    world, rng, keys = World(1, LOSSY), random.Random(1), KeyRing(1)
    peers = [Peer(world, keys) for _ in range(100)]
    join_all(peers, rng)
    assert seconds_until_all_know_all(world, peers) <= CONVERGED_S

    for gone in peers[:20]:
        gone.running = False
    newcomers = [Peer(world, keys, height=1) for _ in range(10)]
    peers = peers[20:] + newcomers
    join_all(peers, rng)
    assert seconds_until_all_know_all(world, peers) <= CONVERGED_S + AGE_S_MAX
    assert all(p.machine.sightings.get(n.peer) for p in peers for n in newcomers if p is not n)
