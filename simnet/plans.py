"""What each kind of run draws from its seed: who takes part, and what goes wrong when."""

import random
from dataclasses import replace
from math import inf

from simnet.faults import (
    CALM,
    CRASH,
    FREEZE,
    PARTITION,
    Network,
    Outage,
    Plan,
    draw_blackouts,
    draw_crashes,
    draw_network,
    draw_partition,
    draw_train_s,
    liars_tolerated,
)
from simnet.lies import LIES


def _members(rng: random.Random, members: int, least: int = 1) -> int:
    return members or rng.randint(least, 7)


def draw_crash(rng: random.Random, members: int) -> Plan:
    """No liars: a bad network, crashes, freezes, deaths and short partitions."""
    count = _members(rng, members)
    heal_s = rng.uniform(4.0, 12.0)
    outages = draw_crashes(rng, count, heal_s)
    if rng.random() < 0.3:
        outages += draw_partition(rng, count, heal_s, long=False)
    return Plan(
        members=count,
        joiners=(),
        liars={},
        train_s=draw_train_s(rng, count),
        network=draw_network(rng),
        outages=tuple(outages),
        heal_s=heal_s,
        view_s=rng.choice([1.0, 3.0, 10.0]),
    )


def draw_contest(rng: random.Random, members: int) -> Plan:
    """No liars, but votes that hardly arrive, and contributions that come while views fail.

    Blocks are certified that nobody knows of, while the next proposer has a longer list by now.
    """
    count = members or rng.randint(3, 5)
    targets = rng.choice([("Vote", "Certified"), ("Vote", "Certified"), ("Certified",)])
    return Plan(
        members=count,
        joiners=(),
        liars={},
        train_s=tuple(rng.choice([0.1, 0.1, 1.0, 3.0]) for _ in range(count)),
        network=Network(0.03, 0.02, 0.0, False, targets, rng.choice([0.8, 0.95])),
        outages=tuple(draw_crashes(rng, count, 12.0)),
        heal_s=12.0,
        view_s=1.0,
        grace_s=0.3,
    )


def draw_blackout(rng: random.Random, members: int) -> Plan:
    """No liars; all members are killed at once, again and again, in a run of a few rounds.

    Once more as the last round is certified: votes for the CLOSE block need no state. A late
    contributor, and another set would be averaged if that round were held again.
    """
    count = members or rng.choice([1, 2, 3, 3, 3, 4, 5])
    heal_s = rng.uniform(2.0, 6.0)
    network = replace(draw_network(rng), delay_mean_s=rng.choice([0.002, 0.005, 0.02, 0.1]))
    return Plan(
        members=count,
        joiners=(),
        liars={},
        train_s=tuple(rng.choice([0.05, 0.3, 1.0]) for _ in range(count)),
        network=replace(network, loss_ratio=min(network.loss_ratio, 0.1)),
        outages=tuple(draw_blackouts(rng, count, heal_s)) if rng.random() < 0.5 else (),
        heal_s=heal_s,
        view_s=rng.choice([0.5, 1.0, 3.0]),
        grace_s=rng.choice([0.3, 2.0]),
        last_day={i: rng.randint(2, 40) for i in range(count)},
    )


def draw_restored(rng: random.Random, members: int) -> Plan:
    """No liars; a member comes back with an old copy of its disk, and votes that it forgot.

    All others come back with what they know: who could say what was forgotten if they did not?
    """
    count = members or rng.randint(2, 6)
    heal_s = 14.0
    who = rng.randrange(count)
    copied_at = rng.uniform(0.0, 6.0)
    lost_at = copied_at + rng.choice([0.1, 1.0, 4.0]) * rng.uniform(0.5, 1.5)
    back_at = lost_at + rng.choice([0.0, 0.5, 3.0])
    others = [o for o in draw_crashes(rng, count, heal_s) if o.end_s < inf and who not in o.peers]
    targets = rng.choice([("Vote", "Certified"), ("Certified",), ("Vote",), ()])
    return Plan(
        members=count,
        joiners=(),
        liars={},
        train_s=tuple(rng.choice([0.1, 0.1, 1.0, 3.0]) for _ in range(count)),
        network=Network(0.03, 0.02, 0.0, False, targets, rng.choice([0.5, 0.8, 0.95])),
        outages=(*others, Outage(CRASH, (who,), lost_at, back_at)),
        heal_s=heal_s,
        view_s=1.0,
        grace_s=0.3,
        copied={who: (copied_at, lost_at)},
    )


def draw_pair(rng: random.Random, members: int) -> Plan:
    """Two members, one of which goes away for longer than T_branch, and comes back."""
    del members
    at = rng.uniform(0.5, 4.0)
    end = at + rng.uniform(15.0, 25.0)
    kind = rng.choice([CRASH, FREEZE, PARTITION])
    return Plan(
        members=2,
        joiners=(),
        liars={},
        train_s=draw_train_s(rng, 2, slow=True),
        network=CALM,
        outages=(Outage(kind, (rng.randrange(2),), at, end),),
        heal_s=end,
    )


def draw_split(rng: random.Random, members: int) -> Plan:
    """A partition that lasts longer than T_branch."""
    count = _members(rng, members, least=2)
    heal_s = rng.uniform(20.0, 30.0)
    return Plan(
        members=count,
        joiners=(),
        liars={},
        train_s=draw_train_s(rng, count, slow=True),
        network=replace(draw_network(rng), targets=()),
        outages=tuple(draw_partition(rng, count, heal_s, long=True)),
        heal_s=heal_s,
    )


def draw_storm(rng: random.Random, members: int) -> Plan:
    """No liars, but one partition after the other, crashes, a joiner, and a middling network."""
    count = _members(rng, members, least=2)
    heal_s, at, outages = 40.0, rng.uniform(0.5, 3.0), draw_crashes(rng, count, 40.0)
    while at < 0.9 * heal_s:
        part = tuple(sorted(rng.sample(range(count), rng.randint(1, count - 1))))
        end = at + rng.choice([1.0, 5.0, 12.0]) * rng.uniform(0.5, 1.5)
        outages.append(Outage(PARTITION, part, at, min(end, heal_s)))
        at = end + rng.choice([0.0, 1.0, 4.0])
    joiners = (rng.uniform(0.0, 20.0),) if rng.random() < 0.5 else ()
    network = draw_network(rng)
    return Plan(
        members=count,
        joiners=joiners,
        liars={},
        train_s=draw_train_s(rng, count + len(joiners), slow=True),
        network=replace(network, loss_ratio=min(network.loss_ratio, 0.1)),
        outages=tuple(outages),
        heal_s=heal_s,
        view_s=rng.choice([1.0, 10.0]),
    )


def draw_join(rng: random.Random, members: int) -> Plan:
    """A founder alone, and peers that join it one after the other, some in a bad network."""
    joiners = tuple(sorted(rng.uniform(0.0, 8.0) for _ in range(max(members - 1, 0) or 3)))
    heal_s = 10.0
    count = 1 + len(joiners)
    network = draw_network(rng) if rng.random() < 0.5 else CALM
    outages = draw_crashes(rng, count, heal_s) if rng.random() < 0.3 else []
    leavers = {rng.randrange(count): rng.uniform(3.0, 9.0)} if rng.random() < 0.3 else {}
    return Plan(
        members=1,
        joiners=joiners,
        liars={},
        train_s=draw_train_s(rng, count),
        network=replace(network, loss_ratio=min(network.loss_ratio, 0.1)),
        outages=tuple(o for o in outages if o.end_s < inf),
        heal_s=heal_s,
        leavers=leavers if count > 2 else {},
    )


def draw_liars(rng: random.Random, members: int) -> Plan:
    """As many liars as the members can bear, each with its own lie, in a middling network.

    An honest member may restart, and peers may join, so the liars are donors of states too.
    """
    count = _members(rng, members, least=4)
    lies = [lie for lie in LIES if lie != "scheme"]
    plan = _with_liars(rng, count, lies, replace(draw_network(rng), targets=()))
    joiners = tuple(sorted(rng.uniform(0.0, 6.0) for _ in range(rng.choice([0, 0, 1, 2]))))
    honest = [i for i in range(count) if i not in plan.liars]
    at = rng.uniform(0.5, 5.0)
    crash = Outage(CRASH, (rng.choice(honest),), at, at + rng.uniform(0.5, 3.0))
    return replace(
        plan,
        joiners=joiners,
        train_s=draw_train_s(rng, count + len(joiners)),
        outages=(crash,) if rng.random() < 0.5 else (),
    )


def draw_scheme(rng: random.Random, members: int) -> Plan:
    """One liar among four who rules the network, and works at two chains (simnet/schemer.py)."""
    count = members or 4
    loss = rng.choice([0.9, 1.0, 1.0])
    network = Network(0.02, 0.0, 0.0, False, ("Vote", "Certified"), loss, liars_hear=True)
    plan = _with_liars(rng, count, ["scheme"], network)
    return replace(plan, train_s=(0.1,) * count, heal_s=15.0, view_s=0.5, grace_s=0.3)


def _with_liars(rng: random.Random, count: int, lies: list[str], network: Network) -> Plan:
    who = rng.sample(range(count), liars_tolerated(count))
    return Plan(
        members=count,
        joiners=(),
        liars={i: rng.choice(lies) for i in who},
        train_s=draw_train_s(rng, count),
        network=replace(network, loss_ratio=min(network.loss_ratio, 0.2)),
        outages=(),
        heal_s=rng.uniform(6.0, 15.0),
        view_s=rng.choice([1.0, 3.0, 10.0]),
    )


def draw_slow(rng: random.Random, members: int) -> Plan:
    """No liars, no loss, but messages take far longer than the first view is meant to last.

    Nobody knows the delay beforehand: views must grow until a proposal and its votes fit into one.
    """
    count = members or rng.randint(2, 4)
    slow = Network(rng.uniform(0.6, 0.9), 0.0, 0.0, True)
    train_s = tuple(rng.uniform(0.1, 1.0) for _ in range(count))
    return Plan(
        members=count,
        joiners=(),
        liars={},
        train_s=train_s,
        network=slow,
        outages=(),
        heal_s=0.1,
        view_s=0.25,
        grace_s=0.3,
        healed=slow,
    )


def draw_quiet(rng: random.Random, members: int) -> Plan:
    """Two to five members in a good network: what is judged is the result."""
    count = members or rng.randint(1, 5)
    train_s = tuple(rng.uniform(0.1, 0.2) for _ in range(count))
    return Plan(count, (), {}, train_s, CALM, (), rng.uniform(0.5, 1.5))
