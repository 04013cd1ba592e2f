"""Messages that spread announcements. The normative text is protocol/announcements.md.

An announcement (wire/statements.py) is signed and may be relayed by anyone. What it is worth
depends on when it was made, and clocks of different machines cannot be compared: so whoever passes
one on says how long ago it heard it, by its own clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from p2ptrain.wire.digest import digest
from p2ptrain.wire.fields import AtMost, Only
from p2ptrain.wire.limits import ANNOUNCED_ASKED_MAX, ANNOUNCED_MAX
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.statements import Announcement, Signed, check, rising


@dataclass(frozen=True, slots=True)
class Heard:
    """One peer's announcement, and how old it is.

    signed  by the peer that it is about
    age_ms  since the sender of this message heard it, and what it was told then; 0: it is its own
    """

    signed: Annotated[Signed, Only(("Announcement",))]
    age_ms: int

    def __post_init__(self) -> None:
        check(isinstance(self.signed.statement, Announcement), "no announcement")


@dataclass(frozen=True, slots=True)
class Announced:
    """Announcements: the sender's own, or an answer to GetAnnounced; sorted by signer."""

    heard: Annotated[tuple[Heard, ...], AtMost(ANNOUNCED_MAX)]

    def __post_init__(self) -> None:
        check(bool(self.heard), "nothing is announced")
        check(rising([each.signed.signer for each in self.heard]), "not sorted by signer")


@dataclass(frozen=True, slots=True)
class Known:
    """Whose announcement somebody has.

    tag       names the peer: tag_of
    sequence  of the newest that is known
    """

    tag: int
    sequence: int


@dataclass(frozen=True, slots=True)
class GetAnnounced:
    """Asks for announcements of peers with low <= tag <= high that are newer than those known."""

    low: int
    high: int
    known: Annotated[tuple[Known, ...], AtMost(ANNOUNCED_ASKED_MAX)]

    def __post_init__(self) -> None:
        tags = [each.tag for each in self.known]
        check(rising(tags), "not sorted by tag")
        check(self.low <= self.high, "no tag lies between the bounds")
        inside = not tags or (self.low <= tags[0] and tags[-1] <= self.high)
        check(inside, "a tag outside the bounds")


def tag_of(peer: PeerId) -> int:
    """A peer's short name in requests: 63 bits of a hash, so that nobody can make an equal one."""
    return int.from_bytes(digest("announced", peer.encode())[:8], "big") >> 1
