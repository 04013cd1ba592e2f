"""The chain of blocks that a peer holds, from the founding block to its newest certificate.

The shell owns one History, appends what Averaging applies, and lets CatchUp and StateSync read
it. A block is found by its digest; the newest digests, ever further apart, are what a peer sends
when it asks another where their chains part.

A run of a hundred thousand rounds does not fit in memory: a link is 3 kB with four members and
50 kB with a full roster. So a shell with a disk gives the History an Archive and calls cool() when
blocks are safe there. Of those beyond the newest few hundred only the digest stays, and a context
every PAGE_LINKS; whoever needs such a link has its page read again. Those are joiners, and peers
that come back from a long branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from p2ptrain.errors import LocalProtocolError
from p2ptrain.swarm.chain import Context
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import HEADERS_MAX
from p2ptrain.wire.messages import Certificate, GetHeaders, Headers, NotHeld

PAGE_LINKS = 256  # read again at once: 14 ms
HOT_LINKS = 512  # at least so many are in memory: all that peers who take part ever ask for
DENSE_HEIGHTS = 10  # forks are short: nearly always the first answer names the very fork


@dataclass(frozen=True, slots=True)
class Link:
    """One certified block and the context after it."""

    certificate: Certificate
    context: Context


class Archive(Protocol):
    """Where links are that have left the memory."""

    def links(self, base: Context, height: int, count: int) -> tuple[Link, ...]:
        """The links of count heights from this one on, the first of which follows from base."""


class History:
    """The blocks of one chain, by height; 0 is the founding block, which has no certificate."""

    def __init__(self, genesis: Context, links: Iterable[Link] = ()) -> None:
        """Begin with the founding block, and with what is already known to follow it."""
        self.genesis = genesis
        self.archive: Archive | None = None
        self._blocks: list[Digest] = []
        self._heights: dict[Digest, int] = {genesis.block: 0}
        self._hot: dict[int, Link] = {}  # all above _cold
        self._cold = 0  # height up to which links are in the archive only; a multiple of PAGE_LINKS
        self._marks: dict[int, Context] = {0: genesis}  # at the ends of the pages there
        self._page: tuple[int, tuple[Link, ...]] = (0, ())  # the one read last, and what it follows
        for link in links:
            self.append(link)

    @property
    def height(self) -> int:
        """Number of blocks after the founding block."""
        return len(self._blocks)

    @property
    def tip(self) -> Context:
        """The context after the newest block."""
        return self.context(self.height)

    @property
    def certificate(self) -> Certificate | None:
        """The newest certificate; None: the founding block is the tip."""
        return self.link(self.height).certificate if self._blocks else None

    def context(self, height: int) -> Context:
        """The context after the block of a height."""
        mark = self._marks.get(height)
        return mark if mark is not None else self.link(height).context

    def block(self, height: int) -> Digest:
        """The block of a height."""
        return self._blocks[height - 1] if height else self.genesis.block

    def link(self, height: int) -> Link:
        """The block of a height, >= 1. Raises StoreError if the archive cannot be read."""
        return self._hot[height] if height > self._cold else self._read(height)

    def after(self, height: int) -> tuple[Link, ...]:
        """The blocks above a height, oldest first."""
        return tuple(self.link(h) for h in range(height + 1, self.height + 1))

    def height_of(self, block: Digest) -> int | None:
        """Where a block stands in this chain, if it does."""
        return self._heights.get(block)

    def append(self, link: Link) -> None:
        """One more block on the tip."""
        if link.certificate.block.parent != self.tip.block:
            raise LocalProtocolError("a block was appended that does not follow from the tip")
        self._blocks.append(link.context.block)
        self._hot[self.height] = link
        self._heights[link.context.block] = self.height

    def switch(self, height: int, links: Iterable[Link]) -> None:
        """Drop the blocks above a height and put others in their place."""
        start = min(self._cold, height // PAGE_LINKS * PAGE_LINKS)
        kept = self._page_after(start)[: height - start] if start < min(height, self._cold) else ()
        for block in self._blocks[height:]:
            self._hot.pop(self._heights.pop(block), None)
        del self._blocks[height:]
        self._cold, self._page = start, (0, ())
        self._marks = {end: mark for end, mark in self._marks.items() if end <= start}
        self._hot.update(enumerate(kept, start + 1))
        for link in links:
            self.append(link)

    def cool(self, height: int) -> None:
        """The blocks up to a height are in the archive: those of long ago may leave the memory."""
        last = min(height, self.height - HOT_LINKS)
        while self.archive is not None and self._cold + PAGE_LINKS <= last:
            first, self._cold = self._cold + 1, self._cold + PAGE_LINKS
            self._marks[self._cold] = self._hot[self._cold].context
            for old in range(first, self._cold + 1):
                del self._hot[old]

    def _read(self, height: int) -> Link:
        start = (height - 1) // PAGE_LINKS * PAGE_LINKS
        return self._page_after(start)[height - start - 1]

    def _page_after(self, start: int) -> tuple[Link, ...]:
        if self._page[0] != start or not self._page[1]:
            assert self.archive is not None
            self._page = start, self.archive.links(self._marks[start], start + 1, PAGE_LINKS)
        return self._page[1]

    def known(self) -> tuple[Digest, ...]:
        """Digests for GetHeaders: the newest ten, then ever further apart, the first one last."""
        return tuple(self.block(height) for height in _sparse_heights(self.height))

    def headers(self, request: GetHeaders) -> Headers | NotHeld:
        """The answer to a GetHeaders: at most HEADERS_MAX certificates."""
        for block in request.known:
            height = self._heights.get(block)
            if height is not None:
                last = min(height + min(request.count, HEADERS_MAX), self.height)
                page = (self.link(h).certificate for h in range(height + 1, last + 1))
                return Headers(block, tuple(page))
        return NotHeld(request)


def _sparse_heights(height: int) -> Iterator[int]:
    """Ten in a row, then steps of 2, 4, 8 ...: below 64 for any chain that fits 2**53 blocks."""
    step, named = 1, 0
    while height > 0:
        yield height
        named += 1
        step = step if named < DENSE_HEIGHTS else 2 * step
        height -= step
    yield 0
