"""A queue in which nobody waits behind a crowd of somebody else's items.

Items of one source come out in the order in which they went in; sources take turns, one item each.
So who sends much waits for itself, and who sends little waits for one item of every other source:
a vote is not delayed by what a flood has piled up before it. (J. Nagle, "On packet switches with
infinite storage", RFC 970, 1985.)
"""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """Not bounded: who puts asks first whether there is room."""

    def __init__(self) -> None:
        """Begin empty."""
        self._queues: OrderedDict[str, deque[ItemT]] = OrderedDict()  # the next source first

    def __bool__(self) -> bool:
        """Whether an item waits."""
        return bool(self._queues)

    def count(self, source: str) -> int:
        """How many items of a source wait."""
        return len(self._queues.get(source, ()))

    def put(self, source: str, item: ItemT) -> None:
        """Add an item of a source."""
        if source not in self._queues:
            self._queues[source] = deque()
        self._queues[source].append(item)

    def take(self) -> ItemT:
        """The oldest item of the source whose turn it is; there must be one."""
        source, items = self._queues.popitem(last=False)
        item = items.popleft()
        if items:
            self._queues[source] = items  # behind all others
        return item
