"""What a field of a message may hold, beyond its Python type: marks for typing.Annotated.

    entries: Annotated[tuple[Entry, ...], AtMost(COMMITTEE_MAX)]

wire/codec.py reads the marks once, when it compiles a dataclass, and refuses whatever exceeds
them before it builds anything. Type checkers see through them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AtMost:
    """Elements of a tuple, bytes of a byte string, or bytes of a text in UTF-8."""

    count: int


@dataclass(frozen=True, slots=True)
class Each:
    """Bytes of each text inside a tuple of texts, or of each byte string in a tuple of them."""

    count: int


@dataclass(frozen=True, slots=True)
class Exactly:
    """Bytes of a byte string."""

    count: int


@dataclass(frozen=True, slots=True)
class Only:
    """Which statements a Signed, or each Signed of a tuple, may hold.

    It keeps the grammar finite: a Proposal holds Timeouts, never another Proposal.
    """

    statements: tuple[str, ...]  # class names: most are defined further down than their users
