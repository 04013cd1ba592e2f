"""What goes wrong in a run, drawn from its seed: the kinds of faults too, not just their times.

A Plan is drawn before the run begins and says everything that the seed decides about it, so that
a failing seed can be read: who takes part, how bad the network is, who fails when, and when the
network heals. After heal_s there is no loss, and only the dead stay away: that is where liveness
is judged. Safety is judged all the time.
"""

import random
from dataclasses import dataclass, field
from math import inf

CRASH, FREEZE, PARTITION = "crash", "freeze", "partition"

# Messages whose loss hurts most: a run may lose one kind of them far more often than others.
TARGETS = ("Certified", "Vote", "Propose", "GiveUp", "Piece", "Commit", "Have")


@dataclass(frozen=True, slots=True)
class Network:
    """How bad the network is while it is not healed.

    delay_mean_s     mean one-way delay, exponentially distributed on top of a tenth of it
    loss_ratio       fraction of messages lost, 0..1
    duplicate_ratio  fraction of messages delivered twice, 0..1
    ordered          whether messages of one peer to another arrive in the order of sending
    targets          kinds of messages that are lost more often
    target_ratio     fraction of those that is lost, 0..1
    liars_hear       whether no such message to or from a liar is lost, and no partition stops it
    """

    delay_mean_s: float
    loss_ratio: float
    duplicate_ratio: float
    ordered: bool
    targets: tuple[str, ...] = ()
    target_ratio: float = 0.0
    liars_hear: bool = False


CALM = Network(0.02, 0.0, 0.0, True)


@dataclass(frozen=True, slots=True)
class Outage:
    """Something fails for a while.

    kind    CRASH: memory is lost; FREEZE: the process stops and wakes later; PARTITION: `peers`
            and all others cannot reach each other
    peers   indices of the peers it hits
    at_s    when it begins
    end_s   when it ends; inf: never (CRASH only, those peers are dead)
    fuse    effects that are still carried out before a CRASH
    """

    kind: str
    peers: tuple[int, ...]
    at_s: float
    end_s: float
    fuse: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a seed decides about a run.

    members   founding members, 1..7; peers 0..members-1
    joiners   seconds at which further peers start and ask to enter
    liars     index of a peer -> the name of its lie
    train_s   seconds of local training of each peer, joiners too
    network   how bad the network is before heal_s
    outages   what fails
    heal_s    when the network heals
    view_s    deadline of the first view: the shorter, the more views end without a certificate
    grace_s   what the first proposer waits for late contributions
    leavers   index of a peer -> second at which it asks to be let go
    copied    index of a peer -> seconds at which a copy of its disk is made, and put in its place
    last_day  index of a peer -> effects it still carries out once anyone adopts the last round
    healed    the network after heal_s: nothing is lost in it
    """

    members: int
    joiners: tuple[float, ...]
    liars: dict[int, str]
    train_s: tuple[float, ...]
    network: Network
    outages: tuple[Outage, ...]
    heal_s: float
    view_s: float = 10.0
    grace_s: float = 2.0
    leavers: dict[int, float] = field(default_factory=dict)
    copied: dict[int, tuple[float, float]] = field(default_factory=dict)
    last_day: dict[int, int] = field(default_factory=dict)
    healed: Network = CALM

    @property
    def peers(self) -> int:
        """Members and joiners."""
        return self.members + len(self.joiners)

    @property
    def dead(self) -> frozenset[int]:
        """Who never comes back."""
        return frozenset(p for o in self.outages if o.end_s == inf for p in o.peers)


def quorum_of(members: int) -> int:
    """ceil(2M/3), written again here: a checker must not borrow what it checks."""
    return -(-2 * members // 3)


def liars_tolerated(members: int) -> int:
    """floor((M-1)/3)."""
    return (members - 1) // 3


def draw_network(rng: random.Random) -> Network:
    """A network between quiet and very bad."""
    targets = rng.choice([(), (), *((kind,) for kind in TARGETS)])
    return Network(
        delay_mean_s=rng.choice([0.002, 0.02, 0.1, 0.3]),
        loss_ratio=rng.choice([0.0, 0.0, 0.02, 0.1, 0.3]),
        duplicate_ratio=rng.choice([0.0, 0.0, 0.2]),
        ordered=rng.random() < 0.5,
        targets=targets,
        target_ratio=rng.choice([0.3, 0.6, 0.9]),
    )


def draw_train_s(rng: random.Random, peers: int, *, slow: bool = False) -> tuple[float, ...]:
    """Local training of each peer: equal machines, or mixed ones; slow for long runs."""
    base = rng.choice([0.5, 1.0] if slow else [0.05, 0.3, 1.0])
    spread = rng.choice([1.0, 1.0, 3.0, 10.0])
    return tuple(base * rng.uniform(1.0, spread) for _ in range(peers))


def draw_crashes(rng: random.Random, members: int, heal_s: float) -> list[Outage]:
    """Crashes and freezes that end, and deaths of no more members than a quorum can miss."""
    outages: list[Outage] = []
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        kind = rng.choice([CRASH, CRASH, FREEZE])
        at = rng.uniform(0.0, 0.8 * heal_s)
        end = min(heal_s, at + rng.choice([0.1, 1.0, 5.0]) * rng.uniform(0.5, 2.0))
        outages.append(Outage(kind, (rng.randrange(members),), at, end))
    spare = members - quorum_of(members)
    if spare and rng.random() < 0.4:
        dead = tuple(sorted(rng.sample(range(members), rng.randint(1, spare))))
        outages.append(Outage(CRASH, dead, rng.uniform(0.0, 0.8 * heal_s), inf))
    return outages


def draw_blackouts(rng: random.Random, members: int, heal_s: float) -> list[Outage]:
    """All members crash within a moment, each between two effects, and come back; and again."""
    outages: list[Outage] = []
    at = rng.uniform(0.1, 0.4) * heal_s
    while at < 0.9 * heal_s:
        back = at + rng.choice([0.05, 0.3, 1.0]) * rng.uniform(0.5, 1.5)
        for peer in range(members):
            fuse = rng.randint(0, 3 * members)
            begin = at + rng.choice([0.0, 0.01, 0.05]) * rng.random()
            end = min(heal_s, back + rng.uniform(0.0, 0.2))
            outages.append(Outage(CRASH, (peer,), begin, end, fuse))
        at = back + rng.uniform(0.2, 0.5) * heal_s
    return outages


def draw_partition(rng: random.Random, members: int, heal_s: float, long: bool) -> list[Outage]:
    """A cut between two parts of the members: short of T_branch, or well above it."""
    if members < 2:
        return []
    part = tuple(sorted(rng.sample(range(members), rng.randint(1, members - 1))))
    at = rng.uniform(0.0, 0.3 * heal_s)
    length = rng.uniform(15.0, 25.0) if long else rng.uniform(1.0, 8.0)
    return [Outage(PARTITION, part, at, min(heal_s, at + length))]
