"""The averaging machine: happy paths, loss of peers and messages, restarts. protocol/averaging.md.

Each rejection has its test in test_averaging_rules.py.
"""

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from swarm_router import SETTINGS, Router

from p2ptrain.errors import LocalProtocolError
from p2ptrain.swarm.effects import Apply, CommitRecord, Effect, Persist, Send
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.messages import (
    BRANCH,
    CLOSE,
    ROUND,
    Certified,
    Commit,
    GetVotes,
    GiveUp,
    Message,
    Statement,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId


def chains(router: Router) -> list[list[bytes]]:
    return [[a.context.block for a in p.applied] for p in router.peers.values()]


def begin(count: int, rounds: int) -> Router:
    router = Router(count)
    router.rounds_wanted = rounds
    router.start()
    for name in router.names:
        router.contribute(name)
    router.run()
    return router


def test_one_peer_alone_is_done_within_its_contribution() -> None:
    router = Router(1)
    (name,) = router.names
    router.peers[name].works = False
    router.start()
    for done in range(1, 4):
        router.contribute(name)
        assert len(router.peers[name].applied) == done
    assert router.now == 0.0
    assert not [e for e in router.peers[name].log if isinstance(e, Send)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_peers_certify_the_same_blocks_without_waiting(count: int) -> None:
    router = begin(count, 5)
    assert router.now == 0.0
    assert not router.errors
    first, *others = chains(router)
    assert len(first) == 5
    assert all(other == first for other in others)
    for peer in router.peers.values():
        for apply in peer.applied:
            assert len(apply.certificate.block.entries) == count
        # Each block in the view after its parent's makes its parent final.
        assert [a.finals for a in peer.applied] == [(), *((b,) for b in first[:-1])]


def test_votes_and_promises_are_on_disk_before_they_leave() -> None:
    """The router asserts it at every message; here are rounds, failed views and a branch."""
    router = begin(3, 2)
    router.rounds_wanted = 4
    router.peers[router.names[0]].up = False
    for name in router.names[1:]:
        router.contribute(name)
    router.pass_time(30)
    router.peers[router.names[1]].up = False
    router.pass_time(30)
    last = router.peers[router.names[2]]
    assert last.applied[-1].certificate.block.kind == BRANCH
    sent = [e.message for e in last.log if isinstance(e, Send)]
    assert any(isinstance(m, GiveUp) for m in sent)


def test_whoever_assembles_a_certificate_sends_it_to_all_before_applying_it() -> None:
    router = begin(3, 2)
    for apply in router.peers[router.names[0]].applied:
        assemblers = 0
        for name, peer in router.peers.items():
            at = next(i for i, e in enumerate(peer.log) if e == apply or is_same(e, apply))
            told = {
                e.to
                for e in peer.log[:at]
                if isinstance(e, Send) and isinstance(e.message, Certified)
                if block_digest(e.message.certificate.block) == apply.context.block
            }
            assert told in (set(), set(router.names) - {name})
            assemblers += bool(told)
        assert assemblers >= 1


def is_same(effect: Effect, apply: Apply) -> bool:
    return isinstance(effect, Apply) and effect.context.block == apply.context.block


def test_a_dead_member_costs_views_and_then_its_place() -> None:
    router = Router(4)
    router.rounds_wanted = 6
    router.start()
    dead = router.names[2]
    router.peers[dead].up = False
    for name in router.names:
        if name != dead:
            router.contribute(name)
    router.pass_time(60)
    assert not router.errors
    live = [p for n, p in router.peers.items() if n != dead]
    first = live[0].applied
    assert len(first) >= 3
    assert all(dead not in {e.peer for e in a.certificate.block.entries} for a in first)
    assert first[0].context.member(dead) is not None
    assert first[1].context.member(dead) is None
    views = [a.certificate.view for a in first]
    assert all(later - earlier <= 2 for earlier, later in pairwise(views))


def test_a_lost_message_of_any_kind_delays_a_round_but_does_not_stop_it() -> None:
    for lost in range(0, 120, 2):
        router = Router(3)
        router.rounds_wanted = 1
        seen = iter(range(10_000))
        router.spy = lambda *_, seen=seen, lost=lost: next(seen) != lost
        router.start()
        for name in router.names:
            router.contribute(name)
        router.pass_time(25)
        assert not router.errors
        blocks = {tuple(a.context.block for a in p.applied) for p in router.peers.values()}
        assert len(blocks) == 1, lost
        assert len(next(iter(blocks))) == 1, lost


def test_a_survivor_of_two_goes_on_as_a_branch_within_ten_seconds() -> None:
    router = begin(2, 5)
    gone, survivor = router.names
    router.rounds_wanted = 6
    router.peers[gone].up = False
    before = len(router.peers[survivor].applied)
    router.contribute(survivor)
    router.peers[survivor].works = False
    router.pass_time(10.5)
    branch = router.peers[survivor].applied[before]
    assert branch.certificate.block.kind == BRANCH
    assert branch.certificate.block.living == (survivor,)
    assert branch.finals == ()
    router.contribute(survivor)
    assert router.peers[survivor].applied[-1].certificate.block.kind == ROUND
    assert router.peers[survivor].machine.context.branch_depth == 1


def test_two_of_four_branch_together() -> None:
    router = Router(4)
    router.rounds_wanted = 3
    router.start()
    living = router.names[1:3]
    for name in router.names:
        router.peers[name].up = name in living
    for name in living:
        router.contribute(name)
    router.pass_time(20)
    assert not router.errors
    for name in living:
        first, *rest = router.peers[name].applied
        assert first.certificate.block.kind == BRANCH
        assert first.certificate.block.living == tuple(living)
        assert rest


def test_a_peer_that_stood_still_asks_before_it_says_anything() -> None:
    router = begin(3, 5)
    router.rounds_wanted = 6
    sleeper = router.peers[router.names[0]]
    router.contribute(router.names[0])
    sleeper.log.clear()
    router.do(router.names[0], sleeper.machine.expire(router.now + 3600))
    assert {type(e.message) for e in sleeper.log if isinstance(e, Send)} == {GetVotes}
    assert not sleeper.machine.quorum_lost


def test_a_joiner_is_in_the_next_block_and_votes_at_once_if_the_recipe_says_so() -> None:
    router = begin(1, 3)
    (founder,) = router.names
    router.rounds_wanted = 8
    machine = router.peers[founder].machine
    joiner = router.add(router.ring.new_signer(), machine.context, machine.certificate)
    name = joiner.config.me
    router.do(name, joiner.machine.start(router.now))
    router.do(name, joiner.machine.peers(router.now, [founder]))
    router.do(name, joiner.machine.join(router.now))
    router.run()
    router.contribute(founder)
    router.run()
    assert not router.errors
    blocks = chains(router)
    assert blocks[1] == blocks[0][3:]
    assert len(blocks[1]) == 5
    second = joiner.applied[1].certificate
    assert [e.peer for e in second.block.entries] == sorted(router.names)
    assert len(second.ballots) == 2


def test_a_member_that_leaves_is_out_with_the_next_block() -> None:
    router = begin(3, 2)
    router.rounds_wanted = 5
    leaver = router.names[1]
    router.do(leaver, router.peers[leaver].machine.leave(router.now))
    router.run()
    for name in router.names:
        router.contribute(name)
    router.run()
    assert not router.errors
    staying = router.peers[router.names[0]]
    assert [m.peer for m in staying.applied[2].context.roster] == [
        n for n in router.names if n != leaver
    ]
    assert len(staying.applied) == 5
    assert router.peers[leaver].machine.phase == "outside"


def test_the_run_ends_with_an_empty_block_that_makes_the_last_round_final() -> None:
    settings = replace(SETTINGS, rounds=3)
    router = Router(3, settings)
    router.start()
    for name in router.names:
        router.contribute(name)
    router.run()
    assert not router.errors
    for peer in router.peers.values():
        kinds = [a.certificate.block.kind for a in peer.applied]
        assert kinds == [ROUND, ROUND, ROUND, CLOSE]
        assert peer.applied[-1].finals == (peer.applied[-2].context.block,)
        assert peer.machine.finished
        assert not peer.machine.may_contribute


def test_a_restarted_peer_sends_the_same_commit_and_never_votes_twice_in_a_view() -> None:
    router = Router(3)
    router.rounds_wanted = 2
    router.start()
    victim = router.names[0]
    commits: set[tuple[bytes, object]] = set()
    votes: dict[int, Vote] = {}

    def watch(sender: PeerId, to: PeerId, message: Message) -> bool:
        if sender == victim and isinstance(message, Statement):
            statement = message.signed.statement
            if isinstance(statement, Commit):
                commits.add((statement.parent, message.signed))
            if isinstance(statement, Vote):
                assert votes.setdefault(statement.view, statement) == statement
        return True

    router.spy = watch
    for name in router.names:
        router.contribute(name)
    for _ in range(200):
        if router.queue:
            sender, to, message = router.queue.popleft()
            router.do(to, router.peers[to].machine.receive(router.now, sender, message))
        router.restart(victim)
    router.peers[victim].works = True
    router.pass_time(40)
    assert not router.errors
    assert len({parent for parent, _ in commits}) == len(commits)
    assert len({p.machine.context.block for p in router.peers.values()}) == 1
    assert router.peers[victim].machine.context.rounds >= 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_voters_that_all_crash_after_voting_do_not_wait_for_the_deadline_of_that_view(
    count: int,
) -> None:
    router = Router(count)
    router.rounds_wanted = 1
    lossy = True

    def lose_votes(sender: PeerId, to: PeerId, message: Message) -> bool:
        is_vote = isinstance(message, Statement) and isinstance(message.signed.statement, Vote)
        return not (lossy and is_vote)

    router.spy = lose_votes
    router.start()
    if count == 1:
        router.effects_left = 3  # the contribution, the order to reduce, the vote written down
    for name in router.names:
        router.contribute(name)
    router.run()
    assert all(p.record and p.record.promised == 1 for p in router.peers.values())
    assert not any(p.applied for p in router.peers.values())
    lossy, router.effects_left = False, inf
    for name in router.names:
        router.restart(name)
    router.pass_time(0.5)  # the view's own limit is 10 s
    assert not router.errors
    (block,) = {p.applied[0].certificate.block for p in router.peers.values()}
    assert block in [p.record.last_block for p in router.peers.values() if p.record]


def test_what_may_have_been_certified_unseen_is_proposed_again() -> None:
    """Everyone votes in view 1, but no vote arrives; a different set is impossible after that."""
    router = Router(3)
    router.rounds_wanted = 1
    lossy = True

    def lose_votes(sender: PeerId, to: PeerId, message: Message) -> bool:
        is_vote = isinstance(message, Statement) and isinstance(message.signed.statement, Vote)
        return not (lossy and is_vote)

    router.spy = lose_votes
    router.start()
    late = router.names[0]
    for name in router.names[1:]:
        router.contribute(name)
    router.pass_time(3)  # the grace: the set is the other two, and both vote for it
    router.contribute(late)
    voted = {p.record.last_block for p in router.peers.values() if p.record is not None}
    assert len(voted) == 1
    lossy = False
    router.pass_time(30)
    assert not router.errors
    (block,) = {p.applied[0].certificate.block for p in router.peers.values()}
    assert {block} == voted
    assert late not in {e.peer for e in block.entries}


def test_a_set_that_must_be_repeated_but_is_held_by_nobody_ends_in_a_branch() -> None:
    """All voted, no vote arrived; two crash and forget the pieces of the third, which is gone."""
    router = Router(3)
    router.rounds_wanted = 2

    def lose_votes(sender: PeerId, to: PeerId, message: Message) -> bool:
        return not (isinstance(message, Statement) and isinstance(message.signed.statement, Vote))

    router.spy = lose_votes
    router.start()
    for name in router.names:
        router.contribute(name)
    router.run()
    assert len({p.record.last_block for p in router.peers.values() if p.record}) == 1
    gone, *living = router.names
    router.peers[gone].up = False
    for name in living:
        router.restart(name)
    router.spy = lambda *_: True
    router.pass_time(400)
    assert not router.errors
    first = {router.peers[n].applied[0].certificate.block for n in living}
    (block,) = first
    assert block.kind == BRANCH
    assert block.living == tuple(living)
    assert all(router.peers[n].applied[-1].certificate.block.kind == ROUND for n in living)


def test_nothing_is_done_before_start() -> None:
    router = Router(2)
    machine = router.peers[router.names[0]].machine
    assert machine.peers(5.0, router.names) == []
    assert machine.heard(5.0, router.names[1]) == []
    with pytest.raises(LocalProtocolError):
        machine.receive(5.0, router.names[1], GetVotes(router.base.block))
    assert not [e for e in machine.start(9.0) if not isinstance(e, Send)]
    assert not machine.quorum_lost


def test_a_peer_alone_comes_back_from_a_crash_after_any_effect_with_the_same_block() -> None:
    expected = begin(1, 1)
    (name,) = expected.names
    (block,) = {a.certificate.block for a in expected.peers[name].applied}
    effects = len(expected.peers[name].log)
    for crash_after in range(effects):
        router = Router(1)
        router.rounds_wanted = 1
        router.start()
        peer = router.peers[name]
        router.effects_left = crash_after
        router.contribute(name)
        router.effects_left = inf
        router.restart(name)
        router.contribute(name)
        router.pass_time(1)
        if crash_after < effects:
            assert peer.applied[-1].certificate.block == block
        commits = [e.record for e in peer.log if isinstance(e, Persist)]
        assert len({r.signed for r in commits if isinstance(r, CommitRecord)}) == 1
