"""The simulator's checkers: each property is noticed when it is broken."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from donor_chain import DONOR, ME, OTHER, SETTINGS, SIGNERS, Chain, chain

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.chain import vote_of
from p2ptrain.swarm.effects import Proof, Reduce, Term
from p2ptrain.swarm.history import History, Link
from p2ptrain.wire.digest import digest
from p2ptrain.wire.messages import Certified, Join, Piece, Signed, Statement
from simnet.arithmetic import Hashes
from simnet.checkers import Judge, ViolationError
from simnet.faults import CALM, liars_tolerated, quorum_of
from simnet.keys import KeyRing
from simnet.scenarios import run_seed
from simnet.world import World


def judge_of(made: Chain, *, liars: frozenset[str] = frozenset()) -> Judge:
    judge = Judge(frozenset(s.peer for s in SIGNERS if s.peer in liars), SETTINGS)
    judge.genesis(made.history.genesis)
    return judge


def adopt(judge: Judge, made: Chain, *, final: bool = False) -> None:
    for link in made.history.after(0):
        vote = vote_of(link.certificate)
        for ballot in link.certificate.ballots:
            signed = Signed(ballot.voter, ballot.signature, vote)
            judge.sent(ballot.voter, Statement(signed))
        judge.applied(ME, link, (link.context.block,) if final else (), 0.0)


def two_chains() -> tuple[Chain, Chain]:
    ours = chain(1)
    theirs = ours.fork()
    ours.grow(1, b"ours")
    theirs.grow(1, b"theirs")
    return ours, theirs


def test_one_chain_breaks_nothing() -> None:
    made = chain(3)
    judge = judge_of(made)
    adopt(judge, made)
    for link in made.history.after(0):
        judge.sent(ME, Certified(link.certificate))
    assert judge._certified().keys() == {made.history.context(h).block for h in range(3)}
    judge._check_lists(judge._certified())


def test_two_certificates_on_one_parent_break_s1() -> None:
    ours, theirs = two_chains()
    judge = judge_of(ours)
    adopt(judge, ours)
    adopt(judge, theirs)
    with pytest.raises(ViolationError, match="S1"):
        judge.check()


def test_votes_that_nobody_put_together_break_s1_too() -> None:
    ours, theirs = two_chains()
    judge = judge_of(ours)
    adopt(judge, ours)
    vote = vote_of(theirs.history.link(2).certificate)
    for signer in SIGNERS:
        judge.sent(signer.peer, Statement(Signed(signer.peer, bytes(64), vote)))
    with pytest.raises(ViolationError, match="S1"):
        judge.check()


def test_two_final_blocks_apart_break_s2() -> None:
    ours, theirs = two_chains()
    judge = judge_of(ours)
    adopt(judge, ours, final=True)
    adopt(judge, theirs, final=True)
    with pytest.raises(ViolationError, match="S2"):
        judge._check_finals()


def test_final_blocks_on_a_branch_are_apart_by_right() -> None:
    ours = chain(1)
    branch = ours.fork()
    ours.grow(1)
    branch.branch(SIGNERS[:1])
    judge = judge_of(ours)
    adopt(judge, ours, final=True)
    adopt(judge, branch, final=True)
    judge._check_finals()


def test_more_liars_than_the_roster_bears_excuse_s2() -> None:
    ours, theirs = two_chains()
    judge = judge_of(ours, liars=frozenset({SIGNERS[0].peer}))
    adopt(judge, ours, final=True)
    adopt(judge, theirs, final=True)
    judge._check_finals()


def test_other_bits_after_one_block_break_s3() -> None:
    made = chain(1)
    judge = judge_of(made)
    link = made.history.link(1)
    judge.state(ME, link, link.certificate.state)
    with pytest.raises(ViolationError, match="S3"):
        judge.state(DONOR, link, digest("other"))


def test_a_context_that_differs_breaks_s3() -> None:
    made = chain(1)
    judge = judge_of(made)
    adopt(judge, made)
    link = made.history.link(1)
    other = Link(link.certificate, replace(link.context, beacon=digest("other")))
    judge.settings = None  # S6 would speak first
    with pytest.raises(ViolationError, match="S3"):
        judge.applied(OTHER, other, (), 0.0)


def test_a_commit_that_nobody_made_breaks_s4() -> None:
    made = chain(1)
    judge = judge_of(made)
    adopt(judge, made)
    with pytest.raises(ViolationError, match="S4"):
        judge.check()


def test_a_block_adopted_with_too_few_ballots_breaks_s1() -> None:
    made = chain(1)
    judge = judge_of(made)
    link = made.history.link(1)
    thin = replace(link.certificate, ballots=link.certificate.ballots[:1])
    with pytest.raises(ViolationError, match=r"S1: .* with 1 ballots of 2"):
        judge.applied(ME, replace(link, certificate=thin), (), 0.0)


def test_a_block_adopted_with_a_ballot_that_was_never_given_breaks_s1() -> None:
    made = chain(1)
    judge = judge_of(made)
    with pytest.raises(ViolationError, match=r"S1: .* never gave"):
        judge.applied(ME, made.history.link(1), (), 0.0)


def test_a_block_adopted_by_the_word_of_a_liar_breaks_s1() -> None:
    made = chain(0)
    members = made.history.genesis.roster
    four = replace(members[0], peer=OTHER)
    roster = tuple(sorted((*members, four), key=lambda m: m.peer))
    made = Chain(History(replace(made.history.genesis, roster=roster)))
    made.branch(SIGNERS[:1])
    judge = judge_of(made, liars=frozenset({SIGNERS[0].peer}))
    said = {(SIGNERS[0].peer, vote_of(made.history.link(1).certificate))}
    judge.said |= said
    judge.applied(ME, made.history.link(1), (), 0.0)  # an outsider cannot know better
    with pytest.raises(ViolationError, match=r"S1: .* by the word of liars alone"):
        judge.applied(SIGNERS[1].peer, made.history.link(1), (), 0.0)


def test_a_final_block_that_is_dropped_for_a_branch_breaks_s2() -> None:
    trunk = chain(1)
    branch = trunk.fork()
    trunk.grow(1)
    branch.branch(SIGNERS[:1])
    judge = judge_of(trunk)
    adopt(judge, trunk, final=True)
    adopt(judge, branch)
    judge.together(trunk.history.tip.block)
    judge.together(trunk.history.tip.parent)  # behind, and on the same chain
    with pytest.raises(ViolationError, match="S2: final and dropped"):
        judge.together(branch.history.tip.block)


@pytest.mark.parametrize(
    ("field", "wrong"), [("roster", ()), ("beacon", digest("other")), ("limits", ())]
)
def test_what_does_not_follow_from_a_block_breaks_s6(field: str, wrong: Any) -> None:
    made = chain(1)
    judge = judge_of(made)
    link = made.history.link(1)
    judge.said |= {(b.voter, vote_of(link.certificate)) for b in link.certificate.ballots}
    other = replace(link, context=replace(link.context, **{field: wrong}))
    with pytest.raises(ViolationError, match="S6"):
        judge.applied(ME, other, (), 0.0)


def test_work_shown_to_a_peer_that_has_not_committed_breaks_s7() -> None:
    judge = judge_of(chain(0))
    parent = digest("parent")
    piece = Piece(parent, ME, 0, (), b"work")
    with pytest.raises(ViolationError, match="S7"):
        judge.sent(ME, piece, DONOR)
    judge.committers.add((parent, DONOR))
    judge.sent(ME, piece, DONOR)
    judge.proposed_on.add(parent)
    judge.sent(ME, piece, OTHER)


def test_a_sum_that_is_more_than_rounding_from_the_mean_breaks_s4() -> None:
    judge = judge_of(chain(0))
    judge.summed(ME, 0.5)
    with pytest.raises(ViolationError, match="S4"):
        judge.summed(ME, 0.6)


def test_a_reduction_of_another_set_breaks_s4() -> None:
    made = chain(1)
    judge = judge_of(made)
    adopt(judge, made)
    block = made.history.tip
    reduce = Reduce(block.block, block.parent, (Term(ME, 1, ()),), 4)
    with pytest.raises(ViolationError, match="S4"):
        judge.reduced(ME, reduce)


def test_a_strike_or_a_proof_against_the_honest_breaks_s5() -> None:
    judge = judge_of(chain(0))
    with pytest.raises(ViolationError, match="S5"):
        judge.struck(ME, RemoteProtocolError(DONOR, "averaging 2.1", "base state"))
    said = Signed(DONOR, bytes(64), Join(digest("tip"), digest("anchor"), 1))
    with pytest.raises(ViolationError, match="S5"):
        judge.proved(ME, Proof(said, said))


def test_a_peer_that_computes_other_bits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the sums of one device depend on something else than their inputs."""
    coin = random.Random(0)
    honest = Hashes.apply

    def flip(self: Hashes, state: bytes, reduced: Sequence[bytes]) -> bytes:
        made = honest(self, state, reduced)
        return made if coin.random() < 0.9 else bytes(len(made))

    monkeypatch.setattr(Hashes, "apply", flip)
    violations = {run_seed(seed, "join").violation.split(":")[0] for seed in range(4)}
    assert "S3" in violations


# --- the world ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("members", "quorum", "liars"), [(1, 1, 0), (2, 2, 0), (4, 3, 1), (7, 5, 2)]
)
def test_quorums_are_those_of_the_design(members: int, quorum: int, liars: int) -> None:
    assert (quorum_of(members), liars_tolerated(members)) == (quorum, liars)


def test_a_simulated_signature_holds_for_its_signer_and_data_alone() -> None:
    ring = KeyRing(3)
    signer, other = ring.new_signer(), ring.new_signer()
    signature = signer.sign(b"data")
    assert ring.verify(signer.peer, b"data", signature)
    assert not ring.verify(other.peer, b"data", signature)
    assert not ring.verify(signer.peer, b"other", signature)


class Ear:
    """A node that notes when it is told something."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.peer, self.running = SIGNERS[0].peer, True
        self.heard: list[float] = []

    def deliver(self, sender: object, message: object) -> None:
        self.heard.append(self.world.now)


def test_a_frozen_node_finds_its_messages_when_it_wakes_and_a_cut_off_one_never() -> None:
    world = World(1, CALM)
    ear = Ear(world, "p0")
    world.add(ear)
    certificate = Certified(chain(1).history.link(1).certificate)
    world.frozen_until["p0"] = 5.0
    world.post(DONOR, ear.peer, certificate)
    world.run(lambda: False, 9.0)
    assert ear.heard == [5.0]
    world.cut = frozenset({DONOR})
    world.post(DONOR, ear.peer, certificate)
    world.run(lambda: False, 19.0)
    assert ear.heard == [5.0]


def test_in_an_ordered_network_messages_of_one_peer_do_not_overtake() -> None:
    world = World(1, replace(CALM, delay_mean_s=1.0))
    ear = Ear(world, "p0")
    world.add(ear)
    for _ in range(20):
        world.post(DONOR, ear.peer, Certified(chain(1).history.link(1).certificate))
    world.run(lambda: False, 99.0)
    assert ear.heard == sorted(ear.heard)
    assert len(ear.heard) == 20
