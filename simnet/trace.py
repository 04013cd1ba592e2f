"""Short names for messages: what the trace hashes and what people read."""

from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import (
    Certified,
    Commit,
    GetContribution,
    GiveUp,
    Have,
    Headers,
    Message,
    NotHeld,
    Piece,
    Proposal,
    Propose,
    ReducedPiece,
    Signed,
    Statement,
    StatePiece,
    Timeout,
    Vote,
)


def short(digest: Digest) -> str:
    """The first characters of a digest, for people."""
    return digest[:3].hex()


def kind_of(message: Message) -> str:
    """The class of a message; a Statement goes by what it states."""
    if isinstance(message, Statement):
        return type(message.signed.statement).__name__
    return type(message).__name__


def describe(message: Message) -> str:
    """One line. Signatures stand for all that they cover."""
    match message:
        case Statement():
            return _signed(message.signed)
        case Propose() | GiveUp():
            return f"{type(message).__name__} {_signed(message.signed)}"
        case Certified(certificate):
            return f"Certified view={certificate.view} on {short(certificate.block.parent)}"
        case Piece():
            return f"Piece {message.contributor[-6:]}/{message.shard} on {short(message.parent)}"
        case GetContribution():
            return f"GetContribution {message.contributor[-6:]} {message.shards}"
        case Headers():
            return f"Headers {len(message.certificates)} after {short(message.after)}"
        case StatePiece() | ReducedPiece():
            return f"{type(message).__name__} {short(message.block)}"
        case NotHeld():
            return f"NotHeld {type(message.request).__name__}"
        case _:
            return type(message).__name__


def _signed(signed: Signed) -> str:
    return f"{signed.signer[-6:]}:{_stated(signed)} {signed.signature[:4].hex()}"


def _stated(signed: Signed) -> str:
    match signed.statement:
        case Commit() as commit:
            return f"Commit on {short(commit.parent)}"
        case Have() as have:
            return f"Have {len(have.commits)} on {short(have.parent)}"
        case Proposal() as p:
            return f"Proposal view={p.view} {len(p.block.entries)} on {short(p.block.parent)}"
        case Vote() as vote:
            return f"Vote view={vote.view} {short(vote.block)} on {short(vote.parent)}"
        case Timeout() as t:
            return f"Timeout view={t.view} high={t.high_view} last={t.last_view}"
        case statement:
            return type(statement).__name__
