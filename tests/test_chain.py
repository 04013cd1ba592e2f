"""What follows from blocks: rosters, beacons, finality, the trunk. protocol/averaging.md."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm_router import SETTINGS, STATE, SWARM, chain_of, founded

from p2ptrain.errors import LocalProtocolError
from p2ptrain.swarm.branches import may_follow, should_switch
from p2ptrain.swarm.chain import (
    Context,
    advance,
    finals,
    genesis,
    liars_max,
    proposer,
    quorum,
    reveal_follows,
    round_steps,
    voters,
    weight_max,
)
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.roster import Member
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import ZERO_DIGEST, digest
from p2ptrain.wire.messages import (
    BRANCH,
    CLOSE,
    ROUND,
    Ballot,
    Block,
    Certificate,
    Entry,
    Join,
    Leave,
    Norm2,
    Signed,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.keys import KeyRing

RING = KeyRing(3)
PEERS = sorted(RING.new_signer().peer for _ in range(20))


def entry(context: Context, peer: PeerId) -> Entry:
    member = context.member(peer)
    assert member is not None
    reveal = chain_of(peer).preimage(member.anchor) or ZERO_DIGEST
    return Entry(peer, digest("commit", peer.encode()), 32, Norm2(1 << 64), reveal, 3)


def step(
    context: Context,
    contributors: list[PeerId],
    joins: tuple[Signed, ...] = (),
    leaves: tuple[Signed, ...] = (),
    view: int = 0,
) -> Certificate:
    entries = tuple(entry(context, p) for p in sorted(contributors))
    block = Block(context.block, ROUND, entries, joins, leaves, ())
    return certified(context, block, view)


def certified(
    context: Context, block: Block, view: int = 0, signers: list[PeerId] | None = None
) -> Certificate:
    names = signers if signers is not None else list(voters(context))
    ballots = tuple(Ballot(p, bytes(64)) for p in sorted(names))
    is_round = block.kind == ROUND
    reduced = digest("r") if is_round else ZERO_DIGEST
    state = digest("s", context.state) if is_round else context.state
    return Certificate(view or context.view + 1, block, reduced, state, ballots)


def join(context: Context, peer: PeerId) -> Signed:
    return Signed(peer, bytes(64), Join(context.block, chain_of(peer).anchor, 3))


def after(context: Context, certificate: Certificate, voter_after: int = 0) -> Context:
    return advance(context, certificate, replace(SETTINGS, voter_after=voter_after))


def names(members: tuple[Member, ...]) -> list[PeerId]:
    return [m.peer for m in members]


@given(st.integers(1, 64))
def test_two_quorums_share_an_honest_voter_and_the_living_suffice(count: int) -> None:
    q, liars = quorum(count), liars_max(count)
    assert 2 * q - count > liars
    assert q <= count - liars
    assert [quorum(m) for m in range(1, 8)] == [1, 2, 2, 3, 4, 4, 5]


def test_the_founders_first_reveal_is_taken_as_it_comes_and_binds_it_from_then_on() -> None:
    founder = PEERS[0]
    context = genesis(SWARM, founder, STATE)
    (member,) = context.roster
    assert member.voter
    assert reveal_follows(member, digest("anything"))
    context = after(context, step(context, [founder]))
    (member,) = context.roster
    assert member.anchor == chain_of(founder).anchor
    assert not reveal_follows(member, digest("anything"))
    assert reveal_follows(member, chain_of(founder).preimage(member.anchor) or ZERO_DIGEST)


def test_the_roster_has_what_each_member_declared_last_and_that_bounds_its_weight() -> None:
    settings = replace(SETTINGS, batch=10, weight_max=50)
    context = founded(PEERS[:3])
    context = after(context, step(context, PEERS[:2], joins=(join(context, PEERS[5]),)))
    steps = {m.peer: m.local_steps for m in context.roster}
    assert steps == {PEERS[0]: 3, PEERS[1]: 3, PEERS[2]: 1, PEERS[5]: 3}
    (absent,) = [m for m in context.roster if m.peer == PEERS[2]]
    assert weight_max(absent, settings) == 10
    assert weight_max(replace(absent, local_steps=5), settings) == 50
    assert weight_max(replace(absent, local_steps=6), settings) == 50, "the recipe's bound"
    (founder,) = genesis(SWARM, PEERS[0], STATE).roster
    assert weight_max(founder, settings) == 50


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 9))
def test_h_is_between_the_bounds_and_no_minority_moves_it_beyond_what_others_declared(
    declared: list[int], least: int
) -> None:
    settings = replace(SETTINGS, local_steps=least, local_steps_max=20)
    (one,) = founded(PEERS[:1]).roster

    def steps_of(values: list[int]) -> int:
        roster = tuple(
            replace(one, peer=p, local_steps=n) for p, n in zip(PEERS, values, strict=False)
        )
        return round_steps(replace(founded(PEERS[:1]), roster=roster), settings)

    assert least <= steps_of(declared) <= 20
    few = (len(declared) - 1) // 2
    others = [max(least, min(20, n)) for n in declared[few:]]
    for lie in (1, 10_000):
        assert min(others) <= steps_of([lie] * few + declared[few:]) <= max(others)


def test_h_of_a_founder_who_has_declared_nothing_is_the_recipes() -> None:
    settings = replace(SETTINGS, local_steps=3, local_steps_max=20)
    assert round_steps(genesis(SWARM, PEERS[0], STATE), settings) == 3


def test_consecutive_views_pass_through_all_voters() -> None:
    context = founded(PEERS[:7])
    for start in range(5):
        turns = {proposer(context, start + i) for i in range(7)}
        assert turns == set(PEERS[:7])


def test_joiners_are_in_with_the_block_and_vote_at_once_a_few_at_a_time() -> None:
    context = founded(PEERS[:2])
    joins = tuple(join(context, p) for p in PEERS[2:6])
    context = after(context, step(context, PEERS[:2], joins))
    assert names(context.roster) == PEERS[:6]
    assert voters(context) == tuple(PEERS[:3])
    context = after(context, step(context, PEERS[:6]))
    assert len(voters(context)) == 4


def test_a_joiner_votes_after_the_contributions_that_the_recipe_asks_for() -> None:
    context = founded(PEERS[:2])
    context = after(context, step(context, PEERS[:2], (join(context, PEERS[2]),)), 3)
    for done in range(3):
        assert voters(context) == tuple(PEERS[:2])
        assert context.roster[2].rounds == done
        context = after(context, step(context, PEERS[:3]), 3)
    assert voters(context) == tuple(PEERS[:3])


def test_an_absence_of_two_rounds_in_a_row_costs_the_place_and_one_does_not() -> None:
    context = founded(PEERS[:3])
    context = after(context, step(context, PEERS[:2]))
    assert context.roster[2].absent == 1
    context = after(context, step(context, PEERS[:3]))
    assert context.roster[2].absent == 0
    for _ in range(2):
        context = after(context, step(context, PEERS[:2]))
    assert names(context.roster) == PEERS[:2]


def test_who_leaves_is_out_even_with_a_contribution_in_the_block() -> None:
    context = founded(PEERS[:3])
    leave = Signed(PEERS[1], bytes(64), Leave(context.block))
    context = after(context, step(context, PEERS[:3], leaves=(leave,)))
    assert names(context.roster) == [PEERS[0], PEERS[2]]


def test_somebody_always_votes() -> None:
    context = founded(PEERS[:1])
    context = after(context, step(context, PEERS[:1], (join(context, PEERS[1]),)), 5)
    assert voters(context) == (PEERS[0],)
    leave = Signed(PEERS[0], bytes(64), Leave(context.block))
    context = after(context, step(context, PEERS[:2], leaves=(leave,)), 5)
    assert voters(context) == (PEERS[1],)


def test_a_block_is_final_with_its_ancestors_when_its_child_comes_in_the_next_view() -> None:
    context = founded(PEERS[:2])
    first = step(context, PEERS[:2])
    one = after(context, first)
    assert finals(context, first) == ()
    late = step(one, PEERS[:2], view=one.view + 2)
    assert finals(one, late) == ()
    two = after(one, late)
    assert two.unfinal == (one.block, two.block)
    third = step(two, PEERS[:2])
    assert finals(two, third) == (one.block, two.block)
    assert after(two, third).unfinal == (after(two, third).block,)


def test_a_branch_keeps_state_and_beacon_moves_and_makes_nothing_final() -> None:
    context = after(founded(PEERS[:4]), step(founded(PEERS[:4]), PEERS[:4]))
    block = Block(context.block, BRANCH, (), (), (), tuple(PEERS[1:3]))
    certificate = certified(context, block, signers=PEERS[1:3])
    branch = after(context, certificate)
    assert finals(context, certificate) == ()
    assert names(branch.roster) == PEERS[1:3]
    assert (branch.state, branch.rounds) == (context.state, context.rounds)
    assert branch.branch_depth == 1
    assert (branch.electors, branch.needed) == (tuple(PEERS[1:3]), 2)


def test_a_close_changes_nothing_but_the_tip() -> None:
    context = after(founded(PEERS[:2]), step(founded(PEERS[:2]), PEERS[:2]))
    closed = after(context, certified(context, Block(context.block, CLOSE, (), (), (), ())))
    assert (closed.roster, closed.state, closed.rounds) == (
        context.roster,
        context.state,
        context.rounds,
    )


def test_the_beacon_depends_on_reveals_and_not_on_views_or_payloads() -> None:
    context = founded(PEERS[:2])
    plain = step(context, PEERS[:2])
    later = replace(plain, view=9)
    entries = tuple(replace(e, commit=digest("other"), weight=1) for e in plain.block.entries)
    other = replace(plain, block=replace(plain.block, entries=entries))
    fewer = step(context, PEERS[:1])
    beacons = [after(context, c).beacon for c in (plain, later, other, fewer)]
    assert beacons[0] == beacons[1] == beacons[2] != beacons[3]


def test_advance_takes_children_only() -> None:
    context = founded(PEERS[:2])
    first = step(context, PEERS[:2])
    with pytest.raises(LocalProtocolError):
        after(after(context, first), first)


# --- branches ------------------------------------------------------------------------------------
def branch(context: Context, living: list[PeerId]) -> Certificate:
    block = Block(context.block, BRANCH, (), (), (), tuple(sorted(living)))
    return certified(context, block, signers=living)


def test_the_trunk_is_what_more_of_the_common_voters_signed_into() -> None:
    common = founded(PEERS[:5])
    few, many = [branch(common, PEERS[:2])], [branch(common, PEERS[2:5])]
    tip = after(common, few[0])
    for _ in range(9):  # rounds do not outweigh voters
        few.append(step(tip, PEERS[:2]))
        tip = after(tip, few[-1])
    assert should_switch(common, few, many, PEERS[0])
    assert not should_switch(common, many, few, PEERS[2])


def test_with_as_many_voters_more_rounds_decide_and_then_the_lower_tip() -> None:
    common = founded(PEERS[:4])
    left, right = [branch(common, PEERS[:2])], [branch(common, PEERS[2:4])]
    lower = min(left, right, key=lambda c: block_digest(c[0].block))
    higher = right if lower is left else left
    assert should_switch(common, higher, lower, PEERS[0])
    assert not should_switch(common, lower, higher, PEERS[0])
    tip = after(common, higher[0])
    higher.append(step(tip, list(voters(tip))))
    assert should_switch(common, lower, higher, PEERS[0])


def test_a_branch_without_us_is_followed_only_if_no_quorum_is_left_behind() -> None:
    common = founded(PEERS[:4])
    one, two = [branch(common, PEERS[:1])], [branch(common, PEERS[:2])]
    assert not may_follow(common, one, PEERS[3], quorum_lost=False)
    assert may_follow(common, one, PEERS[3], quorum_lost=True)
    assert may_follow(common, one, PEERS[0], quorum_lost=False)
    assert may_follow(common, two, PEERS[3], quorum_lost=False)
    assert not should_switch(common, [], two, PEERS[3])  # whether they live is not known there
    assert should_switch(common, [], two, PEERS[0])
    assert should_switch(common, [], two, PEERS[9])
    assert not should_switch(common, [], [], PEERS[3])


# --- reveals -------------------------------------------------------------------------------------
@given(st.integers(1, 700))
def test_every_reveal_is_the_preimage_of_the_one_before_it(length: int) -> None:
    chain = Reveals(digest("seed"), length)
    anchor = chain.anchor
    assert chain.preimage(None) == anchor
    for _ in range(min(length, 5)):
        reveal = chain.preimage(anchor)
        assert reveal is not None
        assert digest("reveal", reveal) == anchor
        anchor = reveal


def test_a_chain_ends_with_its_seed_and_knows_its_points_only() -> None:
    chain = Reveals(digest("seed"), 300)
    anchor, steps = chain.anchor, 0
    while (reveal := chain.preimage(anchor)) is not None:
        anchor, steps = reveal, steps + 1
    assert (anchor, steps) == (digest("seed"), 300)
    assert chain.preimage(digest("other")) is None
    assert chain.preimage(chain.anchor) is not None  # back to an earlier point, after a switch
