"""A chain of certificates with real signatures, what follows from each, and what is refused."""

from dataclasses import replace
from typing import Any

from examples import ALICE, BOB, CAROL, DAVE, SWARM, SWARM_ID, named
from wire_json import to_json

from p2ptrain.swarm.chain import Context, Settings, advance, finals, genesis, proposer, round_steps
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.weights import factors, limit2_of_round
from p2ptrain.wire.codec import block_digest
from p2ptrain.wire.digest import ZERO_DIGEST
from p2ptrain.wire.envelope import Ed25519Signer, sign_statement, statement_bytes
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
    Vote,
)

SETTINGS = Settings(
    codec=4,
    shard_bytes=(2052,),
    rounds=12,
    weight_max=640,
    norm_max2=100 << 64,
    voter_after=1,
    batch=64,
    local_steps=2,
    local_steps_max=8,
)
SETTINGS_TOLD = (
    *("rounds", "weight_max", "voter_after", "batch", "local_steps", "local_steps_max"),
)
REVEALS = {s.peer: Reveals(named(f"chain of {s.peer}"), 20) for s in (ALICE, BOB, CAROL, DAVE)}
SIGNERS = {s.peer: s for s in (ALICE, BOB, CAROL, DAVE)}


def entry(context: Context, signer: Ed25519Signer, weight: int = 320, norm: int = 3) -> Entry:
    """A contribution with the reveal that follows; who is heavy declares more for the next."""
    steps = 10 if weight > 64 else 5
    member = context.member(signer.peer)
    reveal = REVEALS[signer.peer].preimage(member.anchor if member else None)
    assert reveal is not None
    name = named(f"commit of {signer.peer} to {context.block.hex()}")
    return Entry(signer.peer, name, weight, Norm2(norm * norm << 64), reveal, steps)


def certify(
    context: Context, block: Block, *voters: Ed25519Signer, view: int = 0, **changes: Any
) -> Certificate:
    """A certificate for a child of this context, in the next view unless another is named."""
    is_round = block.kind == ROUND
    fields: dict[str, Any] = {
        "view": view or context.view + 1,
        "reduced": named(f"reduced {context.height}") if is_round else ZERO_DIGEST,
        "state": named(f"state {context.height + 1}") if is_round else context.state,
        **changes,
    }
    vote = Vote(block=block_digest(block), parent=block.parent, **fields)
    data = statement_bytes(SWARM, vote)
    ballots = tuple(Ballot(v.peer, v.sign(data)) for v in voters)
    return Certificate(block=block, ballots=ballots, **fields)


def rounds(context: Context, *entries: Entry, **more: Any) -> Block:
    """A ROUND block."""
    return Block(context.block, ROUND, entries, more.get("joins", ()), more.get("leaves", ()), ())


def join(context: Context, signer: Ed25519Signer) -> Signed:
    """Asks to enter."""
    return sign_statement(signer, SWARM, Join(context.block, REVEALS[signer.peer].anchor, 5))


def story() -> list[tuple[str, Context, Certificate, Context]]:
    """What happens, the context before, the certificate, the context after."""
    told: list[tuple[str, Context, Certificate, Context]] = []
    now = genesis(SWARM, ALICE.peer, named("state 0"))

    def add(what: str, certificate: Certificate) -> None:
        nonlocal now
        after = advance(now, certificate, SETTINGS)
        told.append((what, now, certificate, after))
        now = after

    add("the founder alone", certify(now, rounds(now, entry(now, ALICE)), ALICE))
    block = rounds(now, entry(now, ALICE), joins=(join(now, BOB),))
    add("bob joins", certify(now, block, ALICE))
    block = rounds(now, entry(now, ALICE), entry(now, BOB, 64, 9), joins=(join(now, CAROL),))
    add("bob contributes and becomes a voter, carol joins", certify(now, block, ALICE))
    block = rounds(now, entry(now, ALICE), entry(now, BOB), entry(now, CAROL))
    add(
        "two views later, carol becomes a voter", certify(now, block, ALICE, BOB, view=now.view + 3)
    )
    for norm in (4, 5, 6, 7):
        block = rounds(now, entry(now, ALICE, norm=norm), entry(now, BOB), entry(now, CAROL))
        add(f"a norm of {norm}", certify(now, block, ALICE, BOB, CAROL))
    block = rounds(now, entry(now, ALICE, norm=2), entry(now, BOB))
    add("the ninth round: the limit moves; carol is absent", certify(now, block, ALICE, BOB))
    leave = sign_statement(BOB, SWARM, Leave(now.block))
    block = rounds(now, entry(now, ALICE), entry(now, BOB), leaves=(leave,))
    add("carol is out, bob leaves", certify(now, block, ALICE, BOB))
    add("alone again", certify(now, rounds(now, entry(now, ALICE)), ALICE))
    add("the last round, not final", certify(now, rounds(now, entry(now, ALICE)), ALICE, view=50))
    add("closed", certify(now, Block(now.block, CLOSE, (), (), (), ()), ALICE))
    return told


def context_json(context: Context) -> Any:
    """The parts of a context that averaging.md names."""
    names = ("block", "view", "rounds", "state", "beacon", "unfinal")
    found = {name: to_json(getattr(context, name), tuple[bytes, ...]) for name in names}
    found["limits"] = [str(limit2) for limit2 in context.limits]
    found["roster"] = [next(iter(to_json(member).values())) for member in context.roster]
    found["next_proposers"] = [proposer(context, context.view + i) for i in (1, 2, 3)]
    found["round_steps"] = round_steps(context, SETTINGS)
    return found


def refusals() -> list[tuple[str, str, int, Certificate]]:
    """Name, rule, number of the story's context that it builds on, certificate."""
    told = story()
    four = told[4][1]  # alice, bob and carol vote
    trio = (ALICE, BOB, CAROL)
    entries = (entry(four, ALICE), entry(four, BOB))
    good = rounds(four, *entries)
    wrong = replace(entries[0], reveal=named("another reveal"))
    outside = replace(entries[0], peer=DAVE.peer)
    elsewhere = replace(good, parent=named("another block"))
    old = sign_statement(DAVE, SWARM, Join(named("an old block"), named("anchor"), 1))
    forged = Signed(DAVE.peer, bytes(64), Join(four.block, named("anchor"), 1))
    stranger = sign_statement(DAVE, SWARM, Leave(four.block))
    closing = Block(four.block, CLOSE, (), (), (), ())
    parting = Block(four.block, BRANCH, (), (), (), (ALICE.peer, BOB.peer))
    strangers = replace(parting, living=(ALICE.peer, DAVE.peer))
    ballots = certify(four, good, *trio).ballots
    tampered = replace(ballots[0], signature=bytes(64))
    heavy = replace(entries[0], weight=641)
    three = told[3][1]  # carol has joined with 5 steps of 64
    hasty = replace(entry(three, CAROL), weight=321)
    long = entry(four, ALICE, norm=10 * 1024 + 1)  # norm_max is 10
    nine = told[9][1]  # the median of the limits is 10 still
    longer = replace(entry(nine, ALICE), norm2=Norm2((100 << 84) + 1))
    return [
        ("another parent", "averaging 5.3", 4, certify(four, elsewhere, *trio)),
        ("a reveal that does not follow", "averaging 5.5", 4,
         certify(four, rounds(four, wrong), *trio)),
        ("an entry of a stranger", "averaging 5.5", 4, certify(four, rounds(four, outside), *trio)),
        ("an entry too heavy", "averaging 5.5", 4, certify(four, rounds(four, heavy), *trio)),
        ("an entry of more steps than were declared", "averaging 5.5", 3,
         certify(three, rounds(three, hasty), ALICE, BOB)),
        ("an absurd norm", "averaging 5.5", 4, certify(four, rounds(four, long), *trio)),
        ("an absurd norm after the eighth round", "averaging 5.5", 9,
         certify(nine, rounds(nine, longer), *trio)),
        ("a join too old", "averaging 5.6", 4,
         certify(four, rounds(four, *entries, joins=(old,)), *trio)),
        ("a join of a member", "averaging 5.6", 4,
         certify(four, rounds(four, *entries, joins=(join(four, BOB),)), *trio)),
        ("a join that nobody signed", "envelope 3.1", 4,
         certify(four, rounds(four, *entries, joins=(forged,)), *trio)),
        ("a leave of a stranger", "averaging 5.6", 4,
         certify(four, rounds(four, *entries, leaves=(stranger,)), *trio)),
        ("closed too early", "averaging 5.8", 4, certify(four, closing, *trio)),
        ("a branch of strangers", "averaging 5.8", 4, certify(four, strangers, ALICE, BOB)),
        ("one ballot of three", "averaging 7.1", 4, certify(four, good, ALICE)),
        ("a branch that one did not sign", "averaging 7.1", 4, certify(four, parting, ALICE)),
        ("a ballot that was tampered with", "averaging 7.2", 4,
         replace(certify(four, good, *trio), ballots=(tampered, *ballots[1:]))),
        ("ballots for another state", "averaging 7.2", 4,
         replace(certify(four, good, *trio), state=named("another state"))),
        ("a ballot of a stranger", "averaging 7.3", 4, certify(four, good, *sorted(
            [ALICE, BOB, DAVE], key=lambda s: s.peer))),
        ("a ballot from outside the branch", "averaging 7.3", 4, certify(four, parting, *trio)),
        ("the view of its parent", "averaging 7.4", 4,
         certify(four, good, *trio, view=four.view)),
        ("a branch that changes the state", "averaging 7.4", 4,
         certify(four, parting, ALICE, BOB, state=named("another state"))),
        ("a round after the last", "averaging 5.8", 12,
         certify(told[12][1], rounds(told[12][1], entry(told[12][1], ALICE)), ALICE)),
    ]  # fmt: skip


def make_chain() -> Any:
    """protocol/vectors/chain.json."""
    told = story()
    settings = {name: getattr(SETTINGS, name) for name in SETTINGS_TOLD}
    weights = []
    for _, before, certificate, after in told:
        entries = certificate.block.entries
        if entries:
            limit2 = limit2_of_round([e.norm2 for e in entries], before.limits, SETTINGS.norm_max2)
            assert limit2 == after.limits[-1]
            weights.append(list(factors(entries, limit2)))
        else:
            weights.append([])
    return {
        "swarm": [{
            "swarm_id": SWARM_ID, "founder": ALICE.peer, "state": named("state 0").hex(),
            "norm_max2": str(SETTINGS.norm_max2), **settings, "genesis": context_json(told[0][1]),
        }],
        "accepted": [
            {
                "name": what,
                "certificate": to_json(certificate),
                "context": context_json(after),
                "finals": [block.hex() for block in finals(before, certificate)],
                "factors": factor,
            }
            for (what, before, certificate, after), factor in zip(told, weights, strict=True)
        ],
        "rejected": [
            {"name": name, "rule": rule, "after": number, "certificate": to_json(certificate)}
            for name, rule, number, certificate in refusals()
        ],
    }  # fmt: skip
