"""protocol/catchup.md sections 1 to 4: finding the trunk, and bringing the state to its tip."""

from dataclasses import replace

import pytest

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.catchup import CatchUp, CaughtUp, Effect, Switched
from p2ptrain.swarm.certificates import Rules
from p2ptrain.swarm.chain import Context, Member, Settings, advance, genesis, vote_of
from p2ptrain.swarm.effects import Send
from p2ptrain.swarm.history import DENSE_HEIGHTS, History, Link
from p2ptrain.swarm.reveals import Reveals
from p2ptrain.swarm.statesync import (
    REPLAY_ROUNDS_MAX,
    ApplyReduced,
    LoadState,
    Rollback,
    Shapes,
    StateSync,
    SyncEffect,
)
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.envelope import statement_bytes
from p2ptrain.wire.limits import HEADERS_MAX
from p2ptrain.wire.messages import (
    BRANCH,
    ROUND,
    Ballot,
    Block,
    Certificate,
    Entry,
    GetHeaders,
    GetReduced,
    GetState,
    GetTip,
    Headers,
    Message,
    Norm2,
    NotHeld,
    ReducedPiece,
    StatePiece,
    Tip,
)
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_proof, merkle_root
from simnet.arithmetic import PIECES, SHARDS, Hashes, state_digest
from simnet.keys import KeyRing, SimSigner

SWARM = digest("swarm", b"test")
RING = KeyRing(1)
SIGNERS = sorted((RING.new_signer() for _ in range(3)), key=lambda s: s.peer)
ME, DONOR, OTHER = (RING.new_signer().peer for _ in range(3))
HASHES = Hashes()
SETTINGS = Settings(4, HASHES.shard_bytes, 1000, 64, 1 << 70, 0)
RULES = Rules(SWARM, RING, SETTINGS)
REVEALS = {s.peer: Reveals(digest("seed", s.peer.encode()), 100) for s in SIGNERS}


class Chain:
    """A history with the states and shards that belong to it: what a donor has."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.states = {history.genesis.block: HASHES.initial()}
        self.shards: dict[Digest, tuple[bytes, ...]] = {}

    def grow(self, count: int, tag: bytes = b"", signers: list[SimSigner] = SIGNERS) -> None:
        for _ in range(count):
            self._round(tag, signers)

    def branch(self, living: list[SimSigner]) -> None:
        peers = tuple(s.peer for s in living)
        self._append(Block(self.history.tip.block, BRANCH, (), (), (), peers), (), living)

    def fork(self) -> "Chain":
        copy = Chain(History(self.history.genesis, self.history.after(0)))
        copy.states, copy.shards = dict(self.states), dict(self.shards)
        return copy

    def _round(self, tag: bytes, signers: list[SimSigner]) -> None:
        tip = self.history.tip
        entries = tuple(
            Entry(s.peer, digest("commit", tag), 1, Norm2(1), _reveal(tip, s.peer)) for s in signers
        )
        shards = tuple(digest("shard", tip.block, tag, bytes([i])) for i in range(SHARDS))
        self._append(Block(tip.block, ROUND, entries, (), (), ()), shards, signers)

    def _append(self, block: Block, shards: tuple[bytes, ...], signers: list[SimSigner]) -> None:
        tip = self.history.tip
        state = self.states[tip.block]
        state = HASHES.apply(state, shards) if shards else state
        root = merkle_root(shards) if shards else ZERO_DIGEST
        bare = Certificate(tip.view + 1, block, root, state_digest(HASHES, state), ())
        data = statement_bytes(SWARM, vote_of(bare))
        ballots = tuple(Ballot(s.peer, s.sign(data)) for s in signers)
        certificate = replace(bare, ballots=ballots)
        context = advance(tip, certificate, SETTINGS)
        self.history.append(Link(certificate, context))
        self.states[context.block], self.shards[context.block] = state, shards

    def tip(self, states: tuple[Digest, ...] = ()) -> Tip:
        return Tip(self.history.certificate, self.history.tip.rounds, states)

    def answer(self, request: Message) -> Message:
        match request:
            case GetTip():
                return self.tip((self.history.tip.block,))
            case GetHeaders():
                return self.history.headers(request)
            case GetState(block, index):
                pieces = HASHES.pieces(self.states[block])
                return StatePiece(block, index, merkle_proof(pieces, index), pieces[index])
            case GetReduced(block, shard) if block in self.shards:
                shards = self.shards[block]
                return ReducedPiece(block, shard, merkle_proof(shards, shard), shards[shard])
            case GetReduced():
                return NotHeld(request)
            case _:
                raise AssertionError(request)


def _reveal(context: Context, peer: PeerId) -> Digest:
    member = context.member(peer)
    assert member is not None
    reveal = REVEALS[peer].preimage(member.anchor)
    assert reveal is not None
    return reveal


def founding() -> Context:
    context = genesis(SWARM, SIGNERS[0].peer, state_digest(HASHES, HASHES.initial()))
    roster = tuple(Member(s.peer, REVEALS[s.peer].anchor, True, 0, 0, 1) for s in SIGNERS)
    return replace(context, roster=roster)


def chain(count: int) -> Chain:
    made = Chain(History(founding()))
    made.grow(count)
    return made


def search(ours: Chain, donors: dict[PeerId, Chain], *, after: float = 0.0) -> list[Effect]:
    """Let CatchUp talk to donors until it rests; return what it decided."""
    machine = CatchUp(ME, RULES, ours.history)
    decided: list[Effect] = []
    todo = machine.peers(after, donors) + machine.start(after)
    while todo:
        effect = todo.pop(0)
        match effect:
            case Send(to, message):
                todo += machine.receive(after, to, donors[to].answer(message))
            case Switched(height, links):
                decided.append(effect)
                ours.history.switch(height, links)
                todo += machine.expire(after)
            case CaughtUp():
                decided.append(effect)
    assert not machine.running
    return decided


# --- the chain ------------------------------------------------------------------------------
def test_alone_nobody_is_ahead() -> None:
    ours = chain(2)
    machine = CatchUp(ME, RULES, ours.history)
    assert machine.start(0.0) == [CaughtUp(ours.history.tip)]


def test_a_joiner_takes_the_whole_chain_page_by_page() -> None:
    donor, ours = chain(2 * HEADERS_MAX + 3), chain(0)
    decided = search(ours, {DONOR: donor})
    assert decided[-1] == CaughtUp(donor.history.tip)
    assert ours.history.tip == donor.history.tip


def test_of_two_tips_the_higher_is_taken() -> None:
    low, high, ours = chain(3), chain(5), chain(1)
    search(ours, {DONOR: low, OTHER: high})
    assert ours.history.height == 5


def test_a_peer_that_is_level_switches_nothing() -> None:
    ours = chain(4)
    assert search(ours, {DONOR: chain(4)}) == [CaughtUp(ours.history.tip)]


def test_the_chain_that_more_of_the_common_roster_signed_is_the_trunk() -> None:
    ours = chain(2)
    trunk = ours.fork()
    ours.branch(SIGNERS[:1])
    ours.grow(9, signers=SIGNERS[:1])
    trunk.branch(SIGNERS[1:])
    trunk.grow(2, signers=SIGNERS[1:])
    decided = search(ours, {DONOR: trunk})
    assert isinstance(decided[0], Switched)
    assert decided[0].height == 2
    assert ours.history.tip == trunk.history.tip


def test_the_trunk_does_not_switch_to_a_branch() -> None:
    ours = chain(2)
    branch = ours.fork()
    ours.branch(SIGNERS[1:])
    branch.branch(SIGNERS[:1])
    branch.grow(9, signers=SIGNERS[:1])
    assert search(ours, {DONOR: branch}) == [CaughtUp(ours.history.tip)]


def test_silent_peers_cost_one_timeout_and_no_more() -> None:
    ours = chain(1)
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR, OTHER))
    machine.start(0.0)
    assert machine.receive(0.5, DONOR, ours.tip()) == []
    assert machine.expire(machine.deadline) == [CaughtUp(ours.history.tip)]


def test_a_peer_that_claims_a_tip_and_serves_nothing_is_passed_over() -> None:
    ours, donor = chain(1), chain(3)
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR, OTHER))
    machine.start(0.0)
    boast = replace(donor.tip(), rounds=10_000)
    machine.receive(0.0, DONOR, boast)
    (ask,) = machine.receive(0.0, OTHER, donor.tip())
    assert isinstance(ask, Send)
    assert ask.to == DONOR
    (again,) = machine.expire(machine.deadline)
    assert isinstance(again, Send)
    assert again.to == OTHER


def test_a_certificate_that_does_not_follow_begins_in_the_middle() -> None:
    ours, donor = chain(1), chain(4)
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR,))
    certificate = donor.history.certificate
    assert certificate is not None
    (ask,) = machine.behind(0.0, DONOR, certificate)
    assert isinstance(ask, Send)
    switched = machine.receive(0.0, DONOR, donor.answer(ask.message))
    assert isinstance(switched[0], Switched)


def test_our_chain_may_grow_while_headers_come() -> None:
    ours, donor = chain(1), chain(4)
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR,))
    (tip,) = machine.start(0.0)
    assert isinstance(tip, Send)
    (ask,) = machine.receive(0.0, DONOR, donor.answer(tip.message))
    assert isinstance(ask, Send)
    answer = donor.answer(ask.message)
    ours.history.append(donor.history.link(2))
    (switched,) = machine.receive(0.0, DONOR, answer)
    assert isinstance(switched, Switched)
    assert switched.height == 2
    assert len(switched.links) == 2


def _asked(ours: Chain, donor: Chain) -> tuple[CatchUp, Headers]:
    machine = CatchUp(ME, RULES, ours.history)
    machine.peers(0.0, (DONOR,))
    machine.start(0.0)
    (ask,) = machine.receive(0.0, DONOR, donor.tip())
    assert isinstance(ask, Send)
    answer = donor.answer(ask.message)
    assert isinstance(answer, Headers)
    return machine, answer


@pytest.mark.parametrize("rule", ["catchup 1.2", "catchup 1.3", "averaging 7.2"])
def test_bad_headers_are_refused_by_rule_and_the_honest_answer_still_counts(rule: str) -> None:
    ours, donor = chain(1), chain(HEADERS_MAX + 2)
    machine, good = _asked(ours, donor)
    certificates = good.certificates
    forged = replace(
        certificates[0], ballots=tuple(Ballot(b.voter, bytes(64)) for b in certificates[0].ballots)
    )
    last = donor.history.link(donor.history.height).certificate
    bad = {
        "catchup 1.2": replace(good, certificates=(*certificates, last)),
        "catchup 1.3": replace(good, certificates=certificates[1:]),
        "averaging 7.2": replace(good, certificates=(forged, *certificates[1:])),
    }[rule]
    with pytest.raises(RemoteProtocolError, match=rule):
        machine.receive(0.0, DONOR, bad)
    (more,) = machine.receive(0.0, DONOR, good)
    assert isinstance(more, Send)
    assert isinstance(more.message, GetHeaders)


def test_headers_after_a_block_that_was_not_asked_for_are_ignored() -> None:
    """They may be the late answer to a request that has timed out."""
    ours, donor = chain(1), chain(9)
    machine, good = _asked(ours, donor)
    late = replace(good, after=donor.history.context(5).block, certificates=good.certificates[4:])
    assert machine.receive(0.0, DONOR, late) == []
    assert isinstance(machine.receive(0.0, DONOR, good)[0], Switched)


def test_at_rest_a_new_peer_is_asked_at_once_and_all_are_asked_now_and_then() -> None:
    ours, donor = chain(1), chain(3)
    machine = CatchUp(ME, RULES, ours.history)
    machine.start(0.0)
    (greet,) = machine.peers(1.0, (DONOR,))
    assert isinstance(greet, Send)
    (ask,) = machine.receive(1.0, DONOR, donor.answer(greet.message))
    assert isinstance(ask, Send)
    assert isinstance(ask.message, GetHeaders)
    machine.receive(1.0, DONOR, Headers(founding().block, ()))
    (again,) = machine.expire(machine.deadline)
    assert isinstance(again, Send)
    assert isinstance(again.message, GetTip)


def test_a_struck_peer_is_not_asked_again() -> None:
    ours, donor = chain(1), chain(3)
    machine, _ = _asked(ours, donor)
    assert machine.struck(0.0, DONOR) == [CaughtUp(ours.history.tip)]


def test_known_blocks_are_dense_at_the_tip_and_end_with_the_founding_one() -> None:
    history = chain(90).history
    known = history.known()
    heights = [history.height_of(block) for block in known]
    assert heights[:DENSE_HEIGHTS] == list(range(90, 90 - DENSE_HEIGHTS, -1))
    assert heights[-1] == 0
    assert len(known) < 20


# --- the state ------------------------------------------------------------------------------
def sync_of(ours: Chain, applied: int = 0) -> StateSync:
    block = ours.history.context(applied).block
    shapes = Shapes(PIECES, SHARDS, timeout_s=10.0)
    return StateSync(ours.history, block, {founding().block, block}, shapes)


def serve(
    machine: StateSync, donors: dict[PeerId, Chain], todo: list[SyncEffect]
) -> list[SyncEffect]:
    """Let StateSync talk to donors until it rests; return what it told the shell to do."""
    done: list[SyncEffect] = []
    while todo:
        effect = todo.pop(0)
        if isinstance(effect, Send):
            answer = donors[effect.to].answer(effect.message)
            todo = machine.receive(0.0, effect.to, answer) + todo
        else:
            done.append(effect)
    return done


def states_after(done: list[SyncEffect], start: bytes) -> dict[Digest, Digest]:
    """Carry out what the machine said, and the digest of every state on the way."""
    state, digests = start, {}
    for effect in done:
        match effect:
            case LoadState(link, pieces):
                state = b"".join(pieces)
            case ApplyReduced(link, shards):
                state = HASHES.apply(state, shards) if shards else state
            case _:
                continue
        digests[link.context.block] = state_digest(HASHES, state)
    return digests


def test_a_short_gap_is_replayed_in_order_to_the_same_bits() -> None:
    donor = chain(6)
    ours = donor.fork()
    machine = sync_of(ours, applied=2)
    machine.peers(0.0, (DONOR, OTHER))
    done = serve(machine, {DONOR: donor, OTHER: donor}, machine.follow(0.0))
    assert [type(e) for e in done] == [ApplyReduced] * 4
    start = donor.states[donor.history.context(2).block]
    for block, state in states_after(done, start).items():
        assert state == state_digest(HASHES, donor.states[block])
    assert machine.level


def test_a_long_gap_pins_the_newest_donated_state_and_replays_the_rest() -> None:
    donor = chain(REPLAY_ROUNDS_MAX + 5)
    ours = donor.fork()
    pinned = donor.history.context(REPLAY_ROUNDS_MAX + 2)
    machine = sync_of(ours)
    machine.peers(0.0, (DONOR, OTHER))
    todo = machine.receive(0.0, DONOR, donor.tip((pinned.block,)))
    done = serve(machine, {DONOR: donor, OTHER: donor}, todo)
    assert [type(e) for e in done] == [LoadState] + [ApplyReduced] * 3
    assert states_after(done, b"")[donor.history.tip.block] == donor.history.tip.state


def test_a_switch_rolls_back_to_the_newest_state_that_the_new_chain_shares() -> None:
    old = chain(3)
    trunk = old.fork()
    old.grow(2, b"old")
    trunk.grow(2, b"new")
    held = {old.history.context(h).block for h in (0, 2, 3, 4, 5)}
    history = History(founding(), old.history.after(0))
    machine = StateSync(history, history.tip.block, held, Shapes(PIECES, SHARDS))
    machine.peers(0.0, (DONOR,))
    history.switch(3, trunk.history.after(3))
    done = serve(machine, {DONOR: trunk}, machine.follow(0.0))
    assert done[0] == Rollback(trunk.history.context(3).block)
    assert [type(e) for e in done[1:]] == [ApplyReduced] * 2


def test_blocks_without_contributions_need_no_shards() -> None:
    donor = chain(1)
    donor.branch(SIGNERS[:2])
    donor.grow(1, signers=SIGNERS[:2])
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR,))
    done = serve(machine, {DONOR: donor}, machine.follow(0.0))
    assert [e.shards == () for e in done if isinstance(e, ApplyReduced)] == [False, True, False]


def test_a_donor_that_dies_half_way_is_replaced() -> None:
    donor = chain(REPLAY_ROUNDS_MAX + 2)
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR, OTHER))
    todo = machine.receive(0.0, DONOR, donor.tip((donor.history.tip.block,)))
    alive = [e for e in todo if isinstance(e, Send) and e.to == OTHER]
    again = machine.lost(1.0, DONOR)
    done = serve(machine, {OTHER: donor}, [*alive, *machine.peers(1.0, (OTHER,)), *again])
    assert isinstance(done[0], LoadState)
    assert machine.level


def test_a_lying_donor_is_named_and_the_piece_comes_from_another() -> None:
    donor = chain(3)
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR,))
    first = next(e for e in machine.follow(0.0) if isinstance(e, Send))
    good = donor.answer(first.message)
    assert isinstance(good, ReducedPiece)
    with pytest.raises(RemoteProtocolError, match=r"catchup 4\.1"):
        machine.receive(0.0, DONOR, replace(good, data=bytes(32)))
    todo = machine.lost(0.0, DONOR) + machine.peers(0.0, (OTHER,))
    assert [type(e) for e in serve(machine, {OTHER: donor}, todo)] == [ApplyReduced] * 3


def test_when_nobody_has_the_shards_any_more_a_state_is_pinned_instead() -> None:
    donor = chain(4)
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR,))
    donor.shards.clear()
    done = serve(machine, {DONOR: donor}, machine.follow(0.0))
    assert [type(e) for e in done] == [LoadState]
    assert machine.level


def test_the_tip_may_move_on_while_the_state_comes() -> None:
    donor = chain(3)
    ours = donor.fork()
    machine = sync_of(ours)
    machine.peers(0.0, (DONOR,))
    todo = machine.follow(0.0)
    donor.grow(2)
    for link in donor.history.after(3):
        ours.history.append(link)
    done = serve(machine, {DONOR: donor}, todo + machine.follow(0.0))
    assert [type(e) for e in done] == [ApplyReduced] * 5


def test_what_the_shell_reduced_itself_is_not_fetched() -> None:
    donor = chain(2)
    machine = sync_of(donor.fork())
    machine.peers(0.0, (DONOR,))
    machine.follow(0.0)
    machine.applied(0.0, donor.history.context(1).block)
    machine.applied(0.0, donor.history.context(2).block)
    assert machine.level
    assert machine.deadline == float("inf")
