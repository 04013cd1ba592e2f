"""A virtual clock, a heap of what will happen, and a network that obeys a plan's faults.

The same seed gives the same run, in any process: events at one time happen in the order in which
they were made, nothing iterates over a set of strings, and every draw comes from one generator.
Nothing here knows the protocol: a node is whatever takes messages and ticks.
"""

import heapq
import random
from collections.abc import Callable
from typing import Protocol

from blake3 import blake3

from p2ptrain.wire.codec import decode, encode
from p2ptrain.wire.messages import Message
from p2ptrain.wire.peer_id import PeerId
from simnet.faults import CALM, Network
from simnet.trace import describe, kind_of

EVENTS_MAX = 400_000  # the longest run of 10,000 seeds took a tenth: more means no end


class Node(Protocol):
    """What the world carries messages to: one running (or crashed) instance of a peer."""

    peer: PeerId
    name: str
    running: bool

    def deliver(self, sender: PeerId, message: Message) -> None:
        """A message has come."""


class World:
    """Nodes, the messages between them, and one virtual clock."""

    def __init__(
        self, seed: int, network: Network, *, encoded: bool = False, keep_log: bool = False
    ) -> None:
        """Args:

        seed      drives every draw of the run
        network   how bad the network is until calm() is called
        encoded   put every message through the wire's codec; else the objects are handed over
        keep_log  keep a line for every event, for people
        """
        self.encoded = encoded
        self.events_max = EVENTS_MAX
        self.liars: frozenset[PeerId] = frozenset()
        self.seed = seed
        self.now = 0.0
        self.rng = random.Random(seed)
        self.nodes: dict[PeerId, list[Node]] = {}
        self.network = network
        self.frozen_until: dict[str, float] = {}
        self.cut: frozenset[PeerId] = frozenset()  # those on the far side of a partition
        self.log: list[str] | None = [] if keep_log else None
        self.events = 0
        self._heap: list[tuple[float, int, str, Callable[[], None]]] = []
        self._made = 0
        self._last_arrival: dict[tuple[PeerId, PeerId], float] = {}
        self._hasher = blake3()

    def add(self, node: Node) -> None:
        """One more instance; two instances of one peer both get its messages."""
        self.nodes.setdefault(node.peer, []).append(node)

    def at(self, time: float, owner: str, action: Callable[[], None]) -> None:
        """Let something happen to a node (by name; "" for the world itself) at a time."""
        self._made += 1
        heapq.heappush(self._heap, (time, self._made, owner, action))

    def calm(self, healed: Network = CALM) -> None:
        """The network heals: no loss, and small delays unless the plan says otherwise."""
        self.network = healed
        self.cut = frozenset()

    def reaches(self, a: PeerId, b: PeerId) -> bool:
        """Whether no partition lies between two peers; liars may bridge one."""
        bridged = self.network.liars_hear and not self.liars.isdisjoint((a, b))
        return bridged or (a in self.cut) == (b in self.cut)

    def answers(self, a: PeerId, b: PeerId) -> bool:
        """Whether b, seen from a, shows signs of life: it runs, and no partition lies between."""
        if a == b or not self.reaches(a, b):
            return False
        nodes = self.nodes.get(b, ())
        return any(n.running and self.frozen_until.get(n.name, 0.0) <= self.now for n in nodes)

    def post(self, sender: PeerId, to: PeerId, message: Message) -> None:
        """Send a message; the network decides if, when and how often it arrives."""
        network, rng = self.network, self.rng
        ratio = network.loss_ratio
        if network.targets and kind_of(message) in network.targets:
            heard = network.liars_hear and not self.liars.isdisjoint((sender, to))
            ratio = ratio if heard else max(ratio, network.target_ratio)
        if not self.reaches(sender, to) or (ratio and rng.random() < ratio):
            return
        if self.encoded:
            message = decode(encode(message), sender)
        copies = 1 + (network.duplicate_ratio > 0 and rng.random() < network.duplicate_ratio)
        for node in self.nodes.get(to, ()):
            for _ in range(copies):
                at = self._arrival(sender, to)
                self.at(at, node.name, lambda n=node: self._deliver(sender, n, message))  # type: ignore[misc]

    def run(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Run until done() after some event (True), or until a time or no more events (False)."""
        while self._heap and self._heap[0][0] <= limit_s:
            time, _, owner, action = heapq.heappop(self._heap)
            thaw = self.frozen_until.get(owner, 0.0)
            if thaw > time:  # a frozen process finds all its messages when it wakes
                self.at(thaw, owner, action)
                continue
            self.now = time
            self.events += 1
            if self.events > self.events_max:
                raise RuntimeError(f"{self.events_max} events and no end in sight")
            action()
            if done():
                return True
        return False

    def record(self, line: str) -> None:
        """Add a line to the trace."""
        line = f"{self.now:.6f} {line}"
        self._hasher.update(line.encode())
        if self.log is not None:
            self.log.append(line)

    def digest(self) -> str:
        """Hash of everything that happened: two runs of one seed must agree."""
        return self._hasher.hexdigest()

    def _deliver(self, sender: PeerId, node: Node, message: Message) -> None:
        self.record(f"{node.name} < {sender[-6:]} {describe(message)}")
        node.deliver(sender, message)

    def _arrival(self, sender: PeerId, to: PeerId) -> float:
        mean = self.network.delay_mean_s
        at = self.now + 0.1 * mean + self.rng.expovariate(1.0 / mean)
        if self.network.ordered:
            at = max(at, self._last_arrival.get((sender, to), 0.0))
            self._last_arrival[sender, to] = at
        return at
