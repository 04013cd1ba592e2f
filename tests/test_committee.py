"""swarm/committee.py and the roster past 64 members: who sits, who is called, who is out."""

from dataclasses import replace

import pytest

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.admissions import Admissions
from p2ptrain.swarm.certificates import Rules, check_block
from p2ptrain.swarm.chain import (
    Context,
    Settings,
    advance,
    committee,
    electorate,
    genesis,
    proposer,
    sits,
    voters,
)
from p2ptrain.swarm.committee import drawn, missed, seats
from p2ptrain.swarm.inputs import AveragingConfig
from p2ptrain.swarm.roster import Member
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.envelope import sign_statement
from p2ptrain.wire.limits import CALLED_MAX, COMMITTEE_MAX, VOTER_SEATS
from p2ptrain.wire.messages import BRANCH, CLOSE, ROUND, Block, Certificate, Entry, Join, Norm2
from p2ptrain.wire.peer_id import PeerId, peer_id_of
from simnet.keys import KeyRing

SETTINGS = Settings(4, (32,), 1000, 64, 1 << 80, 0)
PEERS = sorted(peer_id_of(digest("peer", b"%d" % i)) for i in range(400))
BEACON = digest("beacon", b"a test")
SOMETHING = digest("something")


class Anyone:
    """A verifier that believes every signature: these tests are about who may sign."""

    checked = 0

    def verify(self, peer: PeerId, data: bytes, signature: bytes) -> bool:
        return True


RULES = Rules(SOMETHING, Anyone(), SETTINGS)


def swarm(count: int, voting: int | None = None) -> Context:
    """The founding block with so many members; so many of them, or all, vote."""
    chosen = PEERS[:count]
    first = genesis(SOMETHING, chosen[0], SOMETHING)
    last = count if voting is None else voting
    members = (Member(p, None, i < last, 0, 0, 1) for i, p in enumerate(chosen))
    return replace(first, roster=tuple(members))


def round_of(context: Context, who: tuple[PeerId, ...], living: tuple[PeerId, ...] = ()) -> Block:
    entries = (Entry(p, SOMETHING, 1, Norm2(1), SOMETHING, 1) for p in sorted(who))
    return Block(context.block, ROUND, tuple(entries), (), (), tuple(sorted(living)))


def after(context: Context, block: Block) -> Context:
    reduced = SOMETHING if block.kind == ROUND else ZERO_DIGEST
    certificate = Certificate(context.view + 1, block, reduced, context.state, ())
    return advance(context, certificate, SETTINGS)


# --- the draw --------------------------------------------------------------------------------
def test_a_roster_of_64_is_its_own_committee_and_nobody_is_called() -> None:
    context = swarm(COMMITTEE_MAX)
    assert committee(context) == voters(context) == tuple(PEERS[:64])
    assert context.seats.called == ()
    assert not context.is_large


def test_a_larger_one_draws_64_and_calls_others() -> None:
    context = swarm(300)
    assert len(committee(context)) == COMMITTEE_MAX
    assert committee(context) == tuple(sorted(committee(context)))
    assert len(context.seats.called) == CALLED_MAX
    assert set(context.seats.called).isdisjoint(committee(context))
    assert electorate(context, round_of(context, committee(context)[:1]))[1] == 43
    assert proposer(context, 5) in voters(context)


def test_another_beacon_draws_another_committee() -> None:
    first, second = swarm(300), replace(swarm(300), beacon=BEACON)
    assert committee(first) != committee(second)
    assert first.seats.called != second.seats.called


def test_everybody_is_drawn_sooner_or_later_and_no_oftener_than_others() -> None:
    counts = dict.fromkeys(PEERS, 0)
    for i in range(200):
        for peer in seats(digest("beacon", b"%d" % i), PEERS, (), ()).committee:
            counts[peer] += 1
    assert sum(counts.values()) == 200 * 64
    assert min(counts.values()) >= 12, "32 on average"
    assert max(counts.values()) <= 56


def test_newcomers_cannot_leave_the_committee_without_voters() -> None:
    context = swarm(400, voting=50)
    assert len(voters(context)) >= VOTER_SEATS
    assert len(committee(context)) == COMMITTEE_MAX
    few = swarm(400, voting=1)
    assert voters(few) == (PEERS[0],)


def test_newcomers_get_seats_beside_voters() -> None:
    context = swarm(400, voting=200)
    assert len(set(committee(context)) - set(voters(context))) >= 1


def test_only_who_was_seen_lately_is_drawn() -> None:
    seen = tuple(PEERS[100:220])
    context = replace(swarm(400), seen=(seen,))
    assert set(committee(context)) <= set(seen)
    assert set(context.seats.called).isdisjoint(seen)


def test_if_no_voter_was_seen_all_of_them_count_as_seen() -> None:
    context = replace(swarm(400, voting=30), seen=(tuple(PEERS[100:220]),))
    assert set(voters(context)) == set(PEERS[:30])


def test_the_order_of_the_peers_is_no_matter_to_a_draw() -> None:
    assert drawn("call", BEACON, PEERS, 9) == drawn("call", BEACON, PEERS[::-1], 9)


# --- blocks ----------------------------------------------------------------------------------
def test_only_the_committee_may_be_listed() -> None:
    context = swarm(300)
    outside = next(p for p in PEERS[:300] if not sits(context, p))
    check_block(RULES, context, round_of(context, committee(context)), PEERS[0])
    with pytest.raises(RemoteProtocolError) as caught:
        check_block(RULES, context, round_of(context, (outside,)), PEERS[0])
    assert caught.value.rule == "averaging 5.5"


def test_only_the_called_may_be_listed_as_living() -> None:
    context = swarm(300)
    called, seated = context.seats.called, committee(context)
    check_block(RULES, context, round_of(context, seated, called[:64]), PEERS[0])
    for wrong in (seated[0], PEERS[399]):
        with pytest.raises(RemoteProtocolError) as caught:
            check_block(RULES, context, round_of(context, seated, (wrong,)), PEERS[0])
        assert caught.value.rule == "averaging 5.9"


def test_in_a_small_swarm_nobody_is_called_and_nobody_may_be_listed() -> None:
    context = swarm(5)
    with pytest.raises(RemoteProtocolError) as caught:
        check_block(RULES, context, round_of(context, (PEERS[0],), (PEERS[1],)), PEERS[0])
    assert caught.value.rule == "averaging 5.9"


def test_a_branch_names_none_but_the_committee() -> None:
    context = swarm(300)
    outside = next(p for p in PEERS[:300] if not sits(context, p))
    branch = Block(context.block, BRANCH, (), (), (), (outside,))
    with pytest.raises(RemoteProtocolError) as caught:
        check_block(RULES, context, branch, PEERS[0])
    assert caught.value.rule == "averaging 5.8"


# --- the next roster -------------------------------------------------------------------------
def test_contributors_and_the_living_are_seen_and_drawn_next() -> None:
    context = swarm(300)
    living = context.seats.called[:64]
    child = after(context, round_of(context, committee(context), living))
    assert child.seen == (tuple(sorted({*committee(context), *living})),)
    assert set(committee(child)) <= set(child.seen[0])
    grandchild = after(child, round_of(child, committee(child), child.seats.called[:10]))
    assert len(grandchild.seen) == 2
    third = after(grandchild, round_of(grandchild, committee(grandchild)))
    assert third.seen[0] == grandchild.seen[1], "what is older than two rounds is forgotten"


def test_who_has_no_turn_is_not_missed() -> None:
    context = swarm(400)
    child = after(context, round_of(context, committee(context), context.seats.called[:64]))
    turn = {*committee(context), *context.seats.called}
    assert all(m.absent == 0 for m in child.roster if m.peer not in turn)


def test_two_missed_turns_in_a_row_and_a_member_is_out() -> None:
    context, missing = swarm(300), set[PeerId]()
    for _ in range(2):
        who = committee(context)[1:]
        missing.add(committee(context)[0])
        context = after(context, round_of(context, who, context.seats.called[:64]))
    absent = {m.peer: m.absent for m in context.roster}
    assert all(absent.get(p) == 1 for p in missing) or len(missing) == 1
    lone = replace(swarm(66), seen=(tuple(PEERS[:66]),))
    (victim, *_) = committee(lone)
    lone = replace(
        lone, roster=tuple(replace(m, absent=int(m.peer == victim)) for m in lone.roster)
    )
    gone = after(lone, round_of(lone, committee(lone)[1:]))
    assert gone.member(victim) is None


def test_an_answer_makes_up_for_a_missed_turn() -> None:
    context = swarm(300)
    context = replace(context, roster=tuple(replace(m, absent=1) for m in context.roster))
    answering = context.seats.called[:64]
    child = after(context, round_of(context, committee(context), answering))
    assert all((m := child.member(p)) is not None and m.absent == 0 for p in answering)


def test_a_full_list_says_nothing_of_those_drawn_after_its_last() -> None:
    called = tuple(PEERS[:CALLED_MAX])
    full = called[1 : 1 + COMMITTEE_MAX]
    assert missed(called, full) == [called[0]]
    assert missed(called, called[:10]) == list(called[10:])
    assert missed((), ()) == []


def test_a_branch_drops_the_silent_of_the_committee_alone() -> None:
    context = swarm(300)
    living = committee(context)[:20]
    child = after(context, Block(context.block, BRANCH, (), (), (), living))
    assert len(child.roster) == 300 - 44
    assert committee(child) != committee(context)
    assert len(committee(child)) == COMMITTEE_MAX


def test_a_close_changes_neither_roster_nor_who_was_seen() -> None:
    context = swarm(300)
    child = after(context, round_of(context, committee(context)))
    closed = after(child, Block(child.block, CLOSE, (), (), (), ()))
    assert (closed.roster, closed.seen) == (child.roster, child.seen)


def test_members_are_found_by_name_in_any_roster() -> None:
    context = swarm(300)
    assert all((m := context.member(p)) is not None and m.peer == p for p in PEERS[:300])
    assert context.member(PEERS[300]) is None
    assert context.member(PeerId("")) is None


def test_one_more_member_than_a_committee_takes_changes_the_rules_and_one_less_back() -> None:
    context = after(swarm(65), round_of(swarm(65), committee(swarm(65))))
    assert context.seen
    assert len(committee(context)) == COMMITTEE_MAX
    smaller = Block(context.block, BRANCH, (), (), (), committee(context)[:30])
    back = after(context, smaller)
    assert back.seen == ()
    assert committee(back) == tuple(m.peer for m in back.roster)


def test_digests_are_what_draws() -> None:
    """The text of the protocol, said again."""
    context = swarm(300)
    ranked = sorted(PEERS[:300], key=lambda p: digest("committee", context.beacon, p.encode()))
    assert committee(context) == tuple(sorted(ranked[:64]))
    rest = sorted(set(PEERS[:300]) - set(ranked[:64]))
    called = sorted(rest, key=lambda p: digest("call", Digest(context.beacon), p.encode()))
    assert context.seats.called == tuple(called[:128])


# --- who is let in ---------------------------------------------------------------------------
@pytest.mark.parametrize(("members", "granted"), [(63, 1), (64, 0), (70, 0)])
def test_proposers_let_nobody_in_beyond_64_members(members: int, granted: int) -> None:
    context, keys = swarm(members), KeyRing(1)
    signers = [keys.new_signer(), keys.new_signer()]
    me = signers[0]
    config = AveragingConfig(me.peer, SOMETHING, me, keys, SETTINGS)
    admissions = Admissions(config, SOMETHING)
    for signer in signers:
        join = Join(context.block, SOMETHING, 1)
        admissions.take(context, signer.peer, sign_statement(signer, SOMETHING, join))
    assert len(admissions.joiners()) == 2
    joins, leaves = admissions.granted(context)
    assert (len(joins), len(leaves)) == (granted, 0)
