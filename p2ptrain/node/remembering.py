"""The address book beside a running node: read when it starts, written while it runs.

The event loop never waits for the disk: notes go into a queue, and one task writes what has
gathered, in a thread. A book that cannot be opened or written is said once, and the node goes on
without it.
"""

import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time
from typing import TypeVar

import trio

from p2ptrain.errors import StoreError
from p2ptrain.node.addresses import ip_in, place_of
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.store.address_book import AddressBook, Listening, Met, Note, Reached, Remembered
from p2ptrain.wire.limits import NOTES_WAITING_MAX

_T = TypeVar("_T")


@dataclass
class Memory:
    """What a node remembers of peers.

    topics   what this node takes part in or serves, the swarm first; others' topics are not
             written down
    ports    the port that each listen address had last
    """

    topics: Sequence[str]
    telemetry: Telemetry
    ports: dict[str, int] = field(default_factory=dict)
    _book: AddressBook | None = None
    _notes: deque[Note] = field(default_factory=lambda: deque(maxlen=NOTES_WAITING_MAX))
    _using: trio.Lock = field(default_factory=trio.Lock)  # one thread at a time
    _news: trio.Event = field(default_factory=trio.Event)

    def note(self, note: Note) -> None:
        """Write something down, soon; when the disk is slow, the newest notes are kept."""
        if isinstance(note, Met | Reached):
            shared = tuple(topic for topic in self.topics if topic in note.topics)
            note = replace(
                note, topics=shared[:1]
            )  # a member by its swarm, not by its data as well
        if self._book is not None:
            self._notes.append(note)
            self._news.set()

    async def recall(self, topics: Sequence[str]) -> list[Remembered]:
        """The addresses of those who were met in these topics, best first."""
        if self._book is None:
            return []
        return await self._try(lambda book: book.recall(topics)) or []

    def listen_as_before(self, listen: Sequence[str]) -> tuple[str, ...]:
        """Listen addresses, each with the port it had last in place of 0 if that is free now.

        So those who remember this peer find it where it was.
        """
        chosen: list[str] = []
        for each in listen:
            port = self.ports.get(each)
            before = f"{each.removesuffix('0')}{port}" if port and _takes_any_port(each) else each
            taken = any(other.endswith(f"/{port}") for other in chosen)
            chosen.append(each if taken or not _is_free(before) else before)
        return tuple(chosen)

    def note_ports(self, listen: Sequence[str], addresses: Sequence[str]) -> None:
        """Write down which ports were given to listen addresses with port 0.

        addresses  where this peer listens now; those of one listen address share a port
        """
        places = [place_of(address) for address in addresses]
        distinct = list(dict.fromkeys(place.port for place in places if place is not None))
        if len(distinct) == len(listen):  # else two of them share one, and no guess is needed
            for each, port in zip(listen, distinct, strict=True):
                if _takes_any_port(each):
                    self.note(Listening(each, port))

    async def keep_writing(self) -> None:
        """Write what has gathered, for ever."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Write what has gathered."""
        notes = list(self._notes)
        self._notes.clear()
        if notes:
            await self._try(lambda book: book.record(notes))

    async def open(self, path: Path) -> None:
        """Open the book; what does not work is reported."""
        try:
            self._book = await trio.to_thread.run_sync(AddressBook, path, time())
        except StoreError as error:
            self._warn(str(error))
            return
        if self._book.warning:
            self._warn(self._book.warning)
        self.ports = await self._try(lambda book: book.ports()) or {}

    async def close(self) -> None:
        """Write what has gathered, and close the book."""
        await self.flush()
        if self._book is not None:
            await trio.to_thread.run_sync(self._book.close)

    async def _try(self, use: Callable[[AddressBook], _T]) -> _T | None:
        """Use the book in a thread; once that has failed, it is not used any more."""
        book = self._book
        if book is None:
            return None
        try:
            async with self._using:
                return await trio.to_thread.run_sync(use, book)
        except StoreError as error:
            if self._book is not None:
                self._warn(str(error))
            self._book = None
            await trio.to_thread.run_sync(book.close)
            return None

    def _warn(self, text: str) -> None:
        self.telemetry.report("warning", text=text)


def _takes_any_port(listen: str) -> bool:
    return listen.endswith("/tcp/0")


def _is_free(listen: str) -> bool:
    """Whether a multiaddr can be listened on now; False for what is none."""
    try:
        ip, port = ip_in(listen), int(listen.rpartition("/")[2])
    except ValueError:
        return False
    if ip is None:
        return False
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(ip), port))
        except (OSError, OverflowError):
            return False
    return True


@asynccontextmanager
async def open_memory(
    path: Path, topics: Sequence[str], telemetry: Telemetry
) -> AsyncIterator[Memory]:
    """The address book at path while the block runs; keep_writing is for the block to start."""
    memory = Memory(topics, telemetry)
    await memory.open(path)
    try:
        yield memory
    finally:
        with trio.CancelScope(shield=True):  # one small transaction
            await memory.close()
