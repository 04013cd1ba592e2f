"""Fetches a set of checked items from whichever peers hold them: a pure machine.

Theory of operation
===================

What is wanted is a set of requests (GetBlob, GetState, GetReduced), each with a check that tells
the right answer from any other by its hash. A request waits in a queue, is put to one peer at a
time, and leaves the set when an answer passes its check:

  queue --(a peer has a free slot and has not refused it)--> in flight
  in flight --(right answer)--> Got, forgotten
  in flight --(NotHeld, timeout, peer lost)--> queue, and that peer is noted as refusing it

A peer has at most `in_flight_max` requests at a time, so a slow peer holds up little and a fast
one gets more. Peers that have answered come first, peers that let a request time out last: silent
strangers may be many. And once nothing else is left to ask for, what has been due for HEDGE_S is
asked of one more peer, and again: the last pieces wait for the fastest of those who hold them, not
for the slowest who was asked (the end game of Cohen, "Incentives Build Robustness in BitTorrent",
2003). When every peer has refused a request, all refusals are forgotten after
`retry_s`: a donor may have it by then. Nothing is stored here: an item is handed out as soon as
it comes, so the memory is that of the requests. To resume, ask only for what is not yet held.

Wrong bytes raise RemoteProtocolError and change nothing: the shell strikes the peer and calls
lost(), or the request times out; either way another peer is asked.

  catchup 3.1  a state piece whose proof does not lead to the certified state
  catchup 4.1  a reduced shard whose proof does not lead to the certificate's `reduced`
  catchup 5.1  bytes that do not hash to the CID that was asked for
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.effects import Send
from p2ptrain.wire.cid import Cid, cid_of
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.messages import (
    Blob,
    GetBlob,
    GetReduced,
    GetState,
    Message,
    NotHeld,
    ReducedPiece,
    StatePiece,
)
from p2ptrain.wire.peer_id import PeerId
from p2ptrain.wire.shards import merkle_check

Request = GetBlob | GetState | GetReduced
Answer = Blob | StatePiece | ReducedPiece
Check = Callable[[Answer], bool]

IN_FLIGHT_MAX = 4  # requests a peer: 4 MiB of chunks keep a 100 Mbit/s link of 300 ms busy
TIMEOUT_S = 20.0  # 4 MiB at 2 Mbit/s take 17 s
HEDGE_S = 1.0  # a round trip and some work, on most links
COPIES_MAX = 4  # of one request at a time, at the end
RETRY_S = 2.0  # a donor that did not have a piece may have it after the next round

_RULES = {StatePiece: "catchup 3.1", ReducedPiece: "catchup 4.1", Blob: "catchup 5.1"}


@dataclass(frozen=True, slots=True)
class Got:
    """An item came and passed its check; the machine has forgotten it."""

    request: Request
    answer: Answer


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a download stands, for status: items done, items in all, bytes of the done ones."""

    done: int
    total: int
    bytes_done: int


def request_of(answer: Answer) -> Request:
    """The request that an answer belongs to."""
    match answer:
        case Blob():
            return GetBlob(answer.cid)
        case StatePiece():
            return GetState(answer.block, answer.index)
        case ReducedPiece():
            return GetReduced(answer.block, answer.shard)


def blobs_wanted(cids: Iterable[Cid]) -> dict[Request, Check]:
    """What to want in order to get the content of these CIDs."""
    return {GetBlob(cid): _is_blob for cid in cids}


def _is_blob(answer: Answer) -> bool:
    return isinstance(answer, Blob) and cid_of(answer.data) == answer.cid


def pieces_wanted(block: Digest, state: Digest, count: int) -> dict[Request, Check]:
    """What to want in order to get the `count` pieces of a block's certified state."""

    def is_piece(answer: Answer) -> bool:
        return isinstance(answer, StatePiece) and merkle_check(
            state, count, answer.index, answer.data, answer.proof
        )

    return {GetState(block, index): is_piece for index in range(count)}


def shards_wanted(block: Digest, reduced: Digest, count: int) -> dict[Request, Check]:
    """What to want in order to get the `count` reduced shards of a certified block."""

    def is_shard(answer: Answer) -> bool:
        return isinstance(answer, ReducedPiece) and merkle_check(
            reduced, count, answer.shard, answer.data, answer.proof
        )

    return {GetReduced(block, shard): is_shard for shard in range(count)}


class Download:
    """One set of items. Drive it: want, peers, then receive and expire until finished."""

    def __init__(self, *, in_flight_max: int = IN_FLIGHT_MAX, timeout_s: float = TIMEOUT_S) -> None:
        """Args:

        in_flight_max  requests put to one peer at a time, >= 1
        timeout_s      seconds after which a request is put to another peer
        """
        self._in_flight_max = in_flight_max
        self._timeout_s = timeout_s
        self._wanted: dict[Request, Check] = {}
        self._queue: deque[Request] = deque()
        self._in_flight: dict[PeerId, dict[Request, float]] = {}
        self._refused: dict[Request, set[PeerId]] = {}
        self._asked_at: dict[Request, float] = {}  # when it was last put to anyone
        self._misses: dict[PeerId, int] = {}  # timeouts since the last answer; -1: none yet
        self._retry_at = inf
        self.dry = 0  # how often something was refused by everyone who answers
        self._done = 0
        self._total = 0
        self._bytes_done = 0

    @property
    def finished(self) -> bool:
        """Nothing is wanted any more."""
        return not self._wanted

    @property
    def progress(self) -> Progress:
        """Where it stands."""
        return Progress(self._done, self._total, self._bytes_done)

    @property
    def deadline(self) -> float:
        """When expire must be called next, seconds on the caller's clock; inf: never."""
        timeouts = (at for requests in self._in_flight.values() for at in requests.values())
        others = not self._queue and len(self._in_flight) > 1
        hedge_at = min(self._asked_at.values(), default=inf) + HEDGE_S if others else inf
        return min(self._retry_at, hedge_at, min(timeouts, default=inf))

    def want(self, now: float, items: Mapping[Request, Check]) -> list[Send]:
        """Add items to the set; those already in it stay as they are."""
        for request, check in items.items():
            if request not in self._wanted:
                self._wanted[request] = check
                self._queue.append(request)
                self._total += 1
        return self._assign(now)

    def forget(self, request: Request) -> None:
        """One item is not wanted any more; its answer will be ignored."""
        if self._wanted.pop(request, None) is not None:
            self._settle(request)
            self._total -= 1

    def clear(self) -> None:
        """Nothing is wanted any more."""
        for request in list(self._wanted):
            self.forget(request)

    def peers(self, now: float, peers: Iterable[PeerId]) -> list[Send]:
        """These, and no others, may be asked from now on."""
        wished = sorted(peers)
        for gone in [peer for peer in self._in_flight if peer not in wished]:
            self._drop(gone)
        for peer in wished:
            self._in_flight.setdefault(peer, {})
        return self._assign(now)

    def lost(self, now: float, peer: PeerId) -> list[Send]:
        """A peer is gone or was struck: what it owes is asked of others."""
        self._drop(peer)
        return self._assign(now)

    def receive(self, now: float, sender: PeerId, message: Message) -> list[Send | Got]:
        """Take one message; those that answer nothing wanted are ignored.

        Raises RemoteProtocolError (catchup 3.1, 4.1, 5.1), and then nothing has changed.
        """
        match message:
            case NotHeld():
                self._refuse(sender, message.request)
                return [*self._assign(now)]
            case Blob() | StatePiece() | ReducedPiece():
                return self._take(now, sender, message)
            case _:
                return []

    def expire(self, now: float) -> list[Send]:
        """The deadline has come: ask others for what is late, or everyone once more."""
        for peer in sorted(self._in_flight):
            late = [request for request, at in self._in_flight[peer].items() if at <= now]
            for request in late:
                self._misses[peer] = self._misses.get(peer, 0) + 1
                self._refuse(peer, request)
        if self._retry_at <= now:
            self._retry_at = inf
            self._refused.clear()
        return [*self._assign(now), *self._hedge(now)]

    def _take(self, now: float, sender: PeerId, answer: Answer) -> list[Send | Got]:
        request = request_of(answer)
        check = self._wanted.get(request)
        if check is None:  # an answer that came twice, or after another peer's
            return []
        if not check(answer):
            raise RemoteProtocolError(sender, _RULES[type(answer)], f"wrong bytes for {request}")
        del self._wanted[request]
        self._settle(request)
        self._misses[sender] = -1
        self._done += 1
        self._bytes_done += len(answer.data)
        return [Got(request, answer), *self._assign(now)]

    def _settle(self, request: Request) -> None:
        """Take a request out of everything that could ask for it again."""
        self._refused.pop(request, None)
        self._asked_at.pop(request, None)
        for requests in self._in_flight.values():
            requests.pop(request, None)
        if request in self._queue:  # it came late, after its request had timed out
            self._queue.remove(request)

    def _refuse(self, peer: PeerId, request: object) -> None:
        """Back to the queue with it, if this peer was asked for it."""
        requests = self._in_flight.get(peer, {})
        if not isinstance(request, Request) or requests.pop(request, None) is None:
            return
        self._refused.setdefault(request, set()).add(peer)
        self._ask_again(request)

    def _drop(self, peer: PeerId) -> None:
        self._misses.pop(peer, None)
        for request in self._in_flight.pop(peer, {}):
            self._ask_again(request)

    def _ask_again(self, request: Request) -> None:
        """Queue a request, unless another copy of it is on its way."""
        if not self._holders(request):
            self._asked_at.pop(request, None)
            self._queue.append(request)

    def _holders(self, request: Request) -> list[PeerId]:
        return [peer for peer, requests in self._in_flight.items() if request in requests]

    def _rank(self, peer: PeerId) -> tuple[int, int, PeerId]:
        """Who is asked first: who has answered, then who has less to do."""
        return self._misses.get(peer, 0), len(self._in_flight[peer]), peer

    def _ask(self, now: float, peer: PeerId, request: Request) -> Send:
        self._in_flight[peer][request] = now + self._timeout_s
        self._asked_at[request] = now
        return Send(peer, request)

    def _hedge(self, now: float) -> list[Send]:
        """Ask one more peer for each request that is long due, once the queue is empty."""
        sends: list[Send] = []
        due = [r for r, at in self._asked_at.items() if at + HEDGE_S <= now]
        for request in [] if self._queue else due:
            holders, refused = self._holders(request), self._refused.get(request, set())
            self._asked_at[request] = now  # look again later, whether or not there is anyone
            free = [
                peer
                for peer, requests in self._in_flight.items()
                if len(requests) < self._in_flight_max and peer not in (*holders, *refused)
            ]
            if free and len(holders) < COPIES_MAX:
                sends.append(self._ask(now, min(free, key=self._rank), request))
            elif refused and all(self._misses.get(peer, 0) >= 0 for peer in holders):
                self.dry += 1  # those who answer at all do not have it
        return sends

    def _assign(self, now: float) -> list[Send]:
        """Put queued requests to the peers with the fewest in flight, one each in turn."""
        sends: list[Send] = []
        idle = set(self._in_flight)
        while self._queue and idle:
            peer = min(idle, key=self._rank)
            requests = self._in_flight[peer]
            request = None if len(requests) >= self._in_flight_max else self._next_for(peer)
            if request is None:
                idle.remove(peer)
                continue
            self._queue.remove(request)
            sends.append(self._ask(now, peer, request))
        spare = any(len(r) < self._in_flight_max for r in self._in_flight.values())
        if self._queue and spare and self._retry_at == inf:  # every idle peer has refused it
            self._retry_at = now + RETRY_S
            self.dry += 1
        if not self._queue:
            self._retry_at = inf
        return sends

    def _next_for(self, peer: PeerId) -> Request | None:
        for request in self._queue:
            if peer not in self._refused.get(request, ()):
                return request
        return None
