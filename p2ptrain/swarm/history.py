"""The chain of blocks that a peer holds, from the founding block to its newest certificate.

The shell owns one History, appends what Averaging applies, and lets CatchUp and StateSync read
it. A block is found by its digest; the newest digests, ever further apart, are what a peer sends
when it asks another where their chains part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from p2ptrain.errors import LocalProtocolError
from p2ptrain.swarm.chain import Context
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.limits import HEADERS_MAX
from p2ptrain.wire.messages import Certificate, GetHeaders, Headers, NotHeld

DENSE_HEIGHTS = 10  # forks are short: nearly always the first answer names the very fork


@dataclass(frozen=True, slots=True)
class Link:
    """One certified block and the context after it."""

    certificate: Certificate
    context: Context


class History:
    """The blocks of one chain, by height; 0 is the founding block, which has no certificate."""

    def __init__(self, genesis: Context, links: Iterable[Link] = ()) -> None:
        """Begin with the founding block, and with what is already known to follow it."""
        self.genesis = genesis
        self._links: list[Link] = []
        self._heights: dict[Digest, int] = {genesis.block: 0}
        for link in links:
            self.append(link)

    @property
    def height(self) -> int:
        """Number of blocks after the founding block."""
        return len(self._links)

    @property
    def tip(self) -> Context:
        """The context after the newest block."""
        return self.context(self.height)

    @property
    def certificate(self) -> Certificate | None:
        """The newest certificate; None: the founding block is the tip."""
        return self._links[-1].certificate if self._links else None

    def context(self, height: int) -> Context:
        """The context after the block of a height."""
        return self._links[height - 1].context if height else self.genesis

    def link(self, height: int) -> Link:
        """The block of a height, >= 1."""
        return self._links[height - 1]

    def after(self, height: int) -> tuple[Link, ...]:
        """The blocks above a height, oldest first."""
        return tuple(self._links[height:])

    def height_of(self, block: Digest) -> int | None:
        """Where a block stands in this chain, if it does."""
        return self._heights.get(block)

    def append(self, link: Link) -> None:
        """One more block on the tip."""
        if link.certificate.block.parent != self.tip.block:
            raise LocalProtocolError("a block was appended that does not follow from the tip")
        self._links.append(link)
        self._heights[link.context.block] = self.height

    def switch(self, height: int, links: Iterable[Link]) -> None:
        """Drop the blocks above a height and put others in their place."""
        for link in self._links[height:]:
            del self._heights[link.context.block]
        del self._links[height:]
        for link in links:
            self.append(link)

    def known(self) -> tuple[Digest, ...]:
        """Digests for GetHeaders: the newest ten, then ever further apart, the first one last."""
        return tuple(self.context(height).block for height in _sparse_heights(self.height))

    def headers(self, request: GetHeaders) -> Headers | NotHeld:
        """The answer to a GetHeaders: at most HEADERS_MAX certificates."""
        for block in request.known:
            height = self._heights.get(block)
            if height is not None:
                page = self._links[height : height + min(request.count, HEADERS_MAX)]
                return Headers(block, tuple(link.certificate for link in page))
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
