"""Proofs against liars: found, checked, passed on once, and what follows (averaging 13)."""

from dataclasses import replace
from typing import Any

import pytest
from averaging_stage import FOREIGN, Stage
from swarm_router import SWARM, Router

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.effects import Effect, Proof, Send
from p2ptrain.wire.codec import block_digest, decode, encode
from p2ptrain.wire.digest import digest
from p2ptrain.wire.envelope import Signer, sign_statement
from p2ptrain.wire.messages import (
    Ballot,
    Certificate,
    Certified,
    Contradiction,
    Have,
    Message,
    Signed,
    Statement,
    Vote,
)
from p2ptrain.wire.peer_id import PeerId
from simnet.scenarios import run_seed


@pytest.fixture
def stage() -> Stage:
    return Stage()


def vote(stage: Stage, name: bytes, view: int = 1) -> Vote:
    return Vote(view, digest("b", name), stage.base.block, FOREIGN, FOREIGN)


def two_votes(stage: Stage, liar: PeerId) -> Contradiction:
    return Contradiction(
        stage.sign(liar, vote(stage, b"one")), stage.sign(liar, vote(stage, b"other"))
    )


def two_commits(stage: Stage, liar: PeerId) -> Contradiction:
    first, second = stage.commit(liar), stage.commit(liar, data=FOREIGN)
    return Contradiction(stage.sign(liar, first), stage.sign(liar, second))


def told(effects: list[Effect]) -> dict[PeerId, Message]:
    return {e.to: e.message for e in effects if isinstance(e, Send)}


@pytest.mark.parametrize("lie", [two_votes, two_commits])
def test_who_finds_a_proof_passes_it_to_all_other_members(stage: Stage, lie: Any) -> None:
    a, b, c = stage.others
    proof = lie(stage, a)
    stage.give(b, Statement(proof.first))
    found = stage.give(b, Statement(proof.second))
    assert [e for e in found if isinstance(e, Proof)] == [Proof(proof.first, proof.second)]
    assert {p: m for p, m in told(found).items() if m == proof} == {c: proof}  # b has both


@pytest.mark.parametrize("lie", [two_votes, two_commits])
def test_a_proof_that_is_told_is_passed_on_once(stage: Stage, lie: Any) -> None:
    a, b, c = stage.others
    proof = lie(stage, a)
    effects = stage.give(b, proof)
    assert effects == [Proof(proof.first, proof.second), Send(c, proof)]
    assert stage.give(c, proof) == []
    swapped = Contradiction(proof.second, proof.first)
    assert stage.give(c, swapped) == []


def test_a_ballot_that_excludes_a_vote_is_a_proof(stage: Stage) -> None:
    """Each peer is shown one vote of a liar's two; the certificate shows the other."""
    a, b, c = stage.others
    effects = stage.give(a, stage.statement(a, vote(stage, b"one")))
    assert not any(isinstance(e, Proof) for e in effects)
    block = stage.block()
    entitled = Vote(1, block_digest(block), stage.base.block, FOREIGN, FOREIGN)
    ballots = tuple(Ballot(p, stage.sign(p, entitled).signature) for p in sorted((a, b, c)))
    effects = stage.give(b, Certified(Certificate(1, block, FOREIGN, FOREIGN, ballots)))
    proofs = [e for e in effects if isinstance(e, Proof)]
    assert [p.first.signer for p in proofs] == [a]
    assert stage.machine.context.height == 1  # adopted all the same


# --- false accusations ---------------------------------------------------------------------------
def test_statements_that_may_both_be_honest_convict_their_bringer_of_a_fault(stage: Stage) -> None:
    a, b = stage.others[:2]
    later = Contradiction(
        stage.sign(a, vote(stage, b"one")), stage.sign(a, vote(stage, b"other", 2))
    )
    stage.refuses("averaging 13.1", b, later)
    same = stage.sign(a, vote(stage, b"one"))
    stage.refuses("averaging 13.1", b, Contradiction(same, same))
    elsewhere = stage.commit(a, parent=FOREIGN)
    both = Contradiction(stage.sign(a, stage.commit(a)), stage.sign(a, elsewhere))
    stage.refuses("averaging 13.1", b, both)


@pytest.mark.parametrize("forged", ["first", "second"])
def test_a_forged_statement_proves_nothing_but_its_bringers_fault(
    stage: Stage, forged: str
) -> None:
    a, b = stage.others[:2]
    proof = two_votes(stage, a)
    wrong = replace(getattr(proof, forged), signature=bytes(64))
    message: Any = replace(proof, **{forged: wrong})
    with pytest.raises(RemoteProtocolError) as caught:
        stage.give(b, message)
    assert (caught.value.rule, caught.value.peer) == ("envelope 3.1", b)
    assert stage.machine.receive(0.0, b, proof) != []  # nothing was remembered


def test_statements_of_another_swarm_prove_nothing_here(stage: Stage) -> None:
    a, b = stage.others[:2]
    signer: Signer = stage.router.peers[a].config.signer
    other = sign_statement(signer, digest("swarm", b"other"), vote(stage, b"other"))
    first = stage.sign(a, vote(stage, b"one"))
    with pytest.raises(RemoteProtocolError, match=r"envelope 3\.1"):
        stage.give(b, Contradiction(first, other))


def test_a_proof_against_a_stranger_is_ignored(stage: Stage) -> None:
    """Or whoever makes keys would have us keep a proof for each."""
    stranger = stage.router.ring.new_signer()
    one, other = (sign_statement(stranger, SWARM, vote(stage, name)) for name in (b"one", b"other"))
    assert stage.give(stage.others[0], Contradiction(one, other)) == []


@pytest.mark.parametrize("bad", ["two signers", "two kinds", "a have"])
def test_a_contradiction_of_another_form_is_not_read(stage: Stage, bad: str) -> None:
    a, b = stage.others[:2]
    second = {
        "two signers": stage.sign(b, vote(stage, b"other")),
        "two kinds": stage.sign(a, stage.commit(a)),
        "a have": stage.sign(a, Have(FOREIGN, ())),
    }[bad]
    proof = two_votes(stage, a)
    broken = encode(proof).replace(_bytes_of(proof.second), _bytes_of(second))
    with pytest.raises(RemoteProtocolError):
        decode(broken, a)


def _bytes_of(signed: Signed) -> bytes:
    return encode(Statement(signed))[2:]  # behind the head and the code


# --- what follows --------------------------------------------------------------------------------
def test_all_know_a_liar_soon_and_it_is_out_of_the_roster_two_rounds_later() -> None:
    router = Router(4)
    router.rounds_wanted = 4
    router.start()
    liar, *honest = router.names
    stage_of = router.peers[honest[0]]
    votes = [
        sign_statement(
            router.peers[liar].config.signer,
            SWARM,
            Vote(99, digest("b", name), router.base.block, FOREIGN, FOREIGN),
        )
        for name in (b"one", b"other")
    ]
    router.queue.append((honest[1], stage_of.config.me, Contradiction(votes[0], votes[1])))
    router.run()
    for name in router.names:
        router.contribute(name)
    router.pass_time(20.0)
    tip = router.peers[honest[0]].machine.context
    assert tip.rounds >= 2
    assert tip.member(liar) is None  # two rounds without it, by the rule for whoever is absent
    assert all(router.peers[p].machine.context.block == tip.block for p in honest)
    assert router.errors == []
    proved = [[e for e in router.peers[p].log if isinstance(e, Proof)] for p in honest]
    assert [len(proofs) for proofs in proved] == [1, 1, 1]


def test_a_peer_that_connects_is_shown_the_proofs_against_members(stage: Stage) -> None:
    a, b, c = stage.others
    stage.machine.peers(0.0, [b])
    proof = two_votes(stage, a)
    stage.give(b, proof)
    effects = stage.machine.peers(0.0, [b, c])
    assert Send(c, proof) in effects
    assert Send(b, proof) not in effects


def test_a_proof_against_ourselves_is_told_and_not_spread(stage: Stage) -> None:
    """The shell stops: our key is in use elsewhere."""
    proof = two_votes(stage, stage.me)
    assert stage.give(stage.others[0], proof) == [Proof(proof.first, proof.second)]


def test_a_false_accuser_gains_nothing() -> None:
    """Whole swarms: nobody honest is convicted by anyone (S5), whatever is told."""
    for seed in range(7000, 7006):
        assert run_seed(seed, "liars").violation == ""
