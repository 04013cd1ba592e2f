"""The examples behind the wire's vectors: one of each message, and each rule of refusal broken."""

from dataclasses import replace
from typing import Any

from p2ptrain.wire.announcing import Heard, Known, tag_of
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.codec import (
    block_digest,
    commit_digest,
    encode,
    encode_part,
)
from p2ptrain.wire.digest import ZERO_DIGEST, Digest, digest
from p2ptrain.wire.envelope import Ed25519Signer, sign_statement, statement_bytes, swarm_digest
from p2ptrain.wire.messages import (
    BRANCH,
    CLOSE,
    ROUND,
    Announced,
    Announcement,
    Ballot,
    Blob,
    Block,
    Certificate,
    Certified,
    Commit,
    Contact,
    Contacts,
    Contradiction,
    Entry,
    GetAnnounced,
    GetBlob,
    GetContribution,
    GetHeaders,
    GetReduced,
    GetState,
    GetTip,
    GetVotes,
    GiveUp,
    Goodbye,
    Have,
    Headers,
    Join,
    Leave,
    Message,
    Norm2,
    NotHeld,
    Piece,
    Proposal,
    Propose,
    ReducedPiece,
    Signed,
    Statement,
    StatePiece,
    Timeout,
    Tip,
    Vote,
)
from p2ptrain.wire.shards import merkle_proof, merkle_root
from p2ptrain.wire.statements import DIALLED

KEYS = [bytes([i]) * 32 for i in range(1, 5)]
SIGNERS = sorted((Ed25519Signer(key) for key in KEYS), key=lambda s: s.peer)
ALICE, BOB, CAROL, DAVE = SIGNERS
SWARM_ID = cid_of(b"a recipe")
SWARM = swarm_digest(SWARM_ID)


def named(name: str) -> Digest:
    """A digest to stand for something."""
    return digest("vector", name.encode("ascii"))


GENESIS = digest("genesis", SWARM, ALICE.peer.encode("ascii"))
JOIN = Join(GENESIS, digest("reveal", named("seed of carol")), 5)
COMMIT = Commit(
    parent=GENESIS,
    base_state=named("state 0"),
    data=named("samples"),
    codec=4,
    weight=320,
    root=merkle_root([b"shard 0", b"shard 1"]),
    norms2=(Norm2(3 << 64), Norm2((1 << 100) + 7)),
    reveal=named("reveal of alice"),
    local_steps=10,
)
BLOCK = Block(
    parent=GENESIS,
    kind=ROUND,
    entries=(
        Entry(ALICE.peer, commit_digest(COMMIT), 320, Norm2(sum(COMMIT.norms2)), COMMIT.reveal, 10),
        Entry(BOB.peer, named("commit of bob"), 64, Norm2(0), named("reveal of bob"), 2),
    ),
    joins=(sign_statement(CAROL, SWARM, JOIN),),
    leaves=(sign_statement(DAVE, SWARM, Leave(GENESIS)),),
    living=(),
)
CLOSING = Block(block_digest(BLOCK), CLOSE, (), (), (), ())
PARTING = Block(block_digest(BLOCK), BRANCH, (), (), (), (ALICE.peer, CAROL.peer))


def certificate(
    view: int, block: Block, reduced: Digest, voters: list[Ed25519Signer]
) -> Certificate:
    """A block with real ballots."""
    state = named(f"state {view}")
    vote = Vote(view, block_digest(block), block.parent, reduced, state)
    ballots = tuple(Ballot(v.peer, v.sign(statement_bytes(SWARM, vote))) for v in voters)
    return Certificate(view, block, reduced, state, ballots)


FIRST = certificate(1, BLOCK, named("reduced"), [ALICE, BOB])
LAST = certificate(2, CLOSING, ZERO_DIGEST, [ALICE, BOB, CAROL])
TIMEOUT = Timeout(2, 1, block_digest(BLOCK), 2, CLOSING)
PROPOSAL = Proposal(3, CLOSING, tuple(sign_statement(s, SWARM, TIMEOUT) for s in (ALICE, BOB)))
VOTE = Vote(1, block_digest(BLOCK), GENESIS, named("reduced"), named("state 1"))
SHARDS = [b"shard 0", b"shard 1"]
ANNOUNCEMENT = Announcement(
    sequence=1_795_478_400_000,
    every_ms=1000,
    rounds=1,
    height=2,
    block=block_digest(CLOSING),
    state=named("state 1"),
    samples=320,
    samples_per_s=41_000,
    uplink_per_s=1_250_000,
    local_steps=10,
    reach=DIALLED,
    agent="p2ptrain/0.1.0",
    addresses=(f"/ip4/192.0.2.1/tcp/4001/p2p/{BOB.peer}",),
)


def one(statement: Any) -> Signed:
    """Signed by Bob."""
    return sign_statement(BOB, SWARM, statement)


MESSAGES: dict[str, Message] = {
    "contacts": Contacts((Contact(ALICE.peer, ("/ip4/192.0.2.1/tcp/4001",)),)),
    "goodbye": Goodbye("the run is over – thank you"),
    "announced": Announced((Heard(one(ANNOUNCEMENT), 0),)),
    "get announced": GetAnnounced(
        0, 2**63 - 1, (Known(tag_of(BOB.peer), ANNOUNCEMENT.sequence), Known(2**63 - 1, 1))
    ),
    "get all announced": GetAnnounced(0, 2**63 - 1, ()),
    "commit": Statement(one(COMMIT)),
    "have": Statement(one(Have(GENESIS, tuple(sorted([named("a"), named("b")]))))),
    "vote": Statement(one(VOTE)),
    "join": Statement(one(JOIN)),
    "leave": Statement(one(Leave(GENESIS))),
    "propose": Propose(one(PROPOSAL), FIRST),
    "propose on the founding block": Propose(one(Proposal(1, BLOCK, ())), None),
    "give up": GiveUp(one(TIMEOUT), FIRST),
    "give up without ever a vote": GiveUp(one(Timeout(1, 0, GENESIS, 0, None)), None),
    "certified": Certified(FIRST),
    "certified branch": Certified(certificate(5, PARTING, ZERO_DIGEST, [ALICE, CAROL])),
    "piece": Piece(GENESIS, ALICE.peer, 1, merkle_proof(SHARDS, 1), SHARDS[1]),
    "get contribution": GetContribution(GENESIS, ALICE.peer, (0, 1, 4095)),
    "get commit alone": GetContribution(GENESIS, ALICE.peer, ()),
    "get votes": GetVotes(GENESIS),
    "two votes of one view": Contradiction(one(VOTE), one(replace(VOTE, state=named("a lie")))),
    "two commits to one parent": Contradiction(one(COMMIT), one(replace(COMMIT, weight=1))),
    "get tip": GetTip(7),
    "tip": Tip(LAST, 1, (block_digest(CLOSING), block_digest(BLOCK))),
    "tip at the founding block": Tip(None, 0, ()),
    "get headers": GetHeaders((block_digest(BLOCK), GENESIS), 32),
    "headers": Headers(GENESIS, (FIRST, LAST)),
    "no headers": Headers(block_digest(CLOSING), ()),
    "get state": GetState(block_digest(BLOCK), 65_535),
    "state piece": StatePiece(block_digest(BLOCK), 0, (named("sibling"),), bytes(300)),
    "get reduced": GetReduced(block_digest(BLOCK), 128),
    "reduced piece": ReducedPiece(block_digest(BLOCK), 0, (), b"\x00"),
    "get blob": GetBlob(SWARM_ID),
    "blob": Blob(SWARM_ID, b"a recipe"),
    "empty blob": Blob(cid_of(b""), b""),
    "not held": NotHeld(GetBlob(SWARM_ID)),
    "not held contribution": NotHeld(GetContribution(GENESIS, BOB.peer, (256,))),
}


def refusals() -> dict[str, tuple[str, bytes]]:
    """Bytes that no reader may accept, each with the rule of encoding.md that they break."""
    tip = encode(GetTip(7))
    vote = encode(MESSAGES["vote"])
    have = encode(MESSAGES["have"])
    blob = encode(GetBlob(SWARM_ID))
    bob = BOB.peer.encode()
    a, b = sorted([named("a"), named("b")])
    return {
        "nothing": ("3.1", b""),
        "a head alone": ("3.1", tip[:1]),
        "cut inside an integer": ("3.1", b"\x92\x30\xcd\x01"),
        "cut inside a digest": ("3.1", encode(GetVotes(GENESIS))[:-1]),
        "cut inside a peer id": ("3.1", vote[: vote.index(bob) + 20]),
        "cut inside a byte string": ("3.1", encode(MESSAGES["blob"])[:-1]),
        "a byte behind the end": ("3.2", tip + b"\x00"),
        "two messages": ("3.2", tip + tip),
        "a negative integer": ("3.3", b"\x92\x30\xff"),
        "a float": ("3.3", b"\x92\x30\xcb" + bytes(8)),
        "a text for an integer": ("3.3", b"\x92\x30\xa17"),
        "nil for an integer": ("3.3", b"\x92\x30\xc0"),
        "a map for a message": ("3.3", b"\x81\x30\x07"),
        "a longer head of the message": ("3.3", b"\xdc\x00\x02\x30\x07"),
        "a digest of 31 bytes": ("3.3", b"\x92\x26\xc4\x1f" + bytes(31)),
        "a digest as text": ("3.3", b"\x92\x26\xd9\x20" + bytes(32)),
        "a peer id as bytes": ("3.3", vote.replace(b"\xd9\x34" + bob, b"\xc4\x34" + bob)),
        "a short signature": ("3.3", vote.replace(b"\xc4\x40", b"\xc4\x3f")),
        "7 in two bytes": ("3.4", b"\x92\x30\xcc\x07"),
        "255 in three bytes": ("3.4", b"\x92\x30\xcd\x00\xff"),
        "65535 in five bytes": ("3.4", b"\x92\x30\xce\x00\x00\xff\xff"),
        "2^32-1 in nine bytes": ("3.4", b"\x92\x30\xcf\x00\x00\x00\x00\xff\xff\xff\xff"),
        "a short text with a long head": ("3.4", b"\x92\x11\xd9\x01a"),
        "a short list with a long head": (
            "3.4",
            have.replace(b"\x92\xc4\x20" + a, b"\xdc\x00\x02\xc4\x20" + a),
        ),
        "short bytes with a long head": (
            "3.4",
            encode(MESSAGES["blob"]).replace(b"\xc4\x08", b"\xc5\x00\x08"),
        ),
        "2^63": ("3.5", b"\x92\x30\xcf\x80" + bytes(7)),
        "a field too many": ("3.6", b"\x93\x30\x07\x07"),
        "a field too few": ("3.6", b"\x91\x30"),
        "a text too long": ("3.7", b"\x92\x11\xda\x02\x01" + b"a" * 513),
        "an array that announces 65535 elements": (
            "3.7",
            b"\x94\x25\xc4\x20" + bytes(32) + b"\xd9\x34" + bob + b"\xdc\xff\xff",
        ),
        "a blob that announces 4 GiB": (
            "3.7",
            encode(MESSAGES["empty blob"])[:-2] + b"\xc6" + b"\xff" * 4,
        ),
        "an unknown code": ("3.8", b"\x92\x7f\x07"),
        "a statement without its envelope": ("3.8", encode_part(Leave(GENESIS))),
        "a vote as a proposal": ("3.8", b"\x93\x21" + vote[2:] + b"\xc0"),
        "an array of nothing": ("3.1", b"\x90"),
        "a peer id of another key type": ("3.9", vote.replace(bob, b"1" * 52)),
        "a peer id with a space": ("3.9", vote.replace(bob, bob[:-1] + b" ")),
        "a peer id outside the alphabet": ("3.9", vote.replace(bob, bob[:-1] + b"0")),
        "a text that is not UTF-8": ("3.10", b"\x92\x11\xa1\xff"),
        "a text with half a surrogate": ("3.10", b"\x92\x11\xa3\xed\xa0\x80"),
        "a list that is not sorted": (
            "3.11",
            have.replace(a, bytes(32)).replace(b, a).replace(bytes(32), b),
        ),
        "a list with one element twice": ("3.11", have.replace(b, a)),
        "a vote in view 0": ("3.11", vote.replace(b"\x96\x04\x01", b"\x96\x04\x00")),
        "a CID in upper case": ("3.11", blob[:3] + blob[3:].upper()),
        "a CID of another kind": ("3.11", blob.replace(b"bafkrei", b"bafybei")),
        "an announcement of more than its agent": (
            "3.7",
            encode(MESSAGES["announced"]).replace(b"\xaep2ptrain/0.1.0", b"\xd9\x21" + b"a" * 33),
        ),
        "a vote where an announcement belongs": (
            "3.8",
            b"\x92\x12\x91\x92" + vote[2:] + b"\x00",
        ),
        "nothing announced": ("3.11", b"\x92\x12\x90"),
        "a tag outside the bounds": ("3.11", b"\x94\x13\x05\x06\x91\x92\x07\x01"),
        "no headers asked for": ("3.11", encode(MESSAGES["get headers"])[:-1] + b"\x00"),
    }
