"""What the peers of a swarm have told of their rounds, and what must never be told.

Each round that a peer reports is certified and on its disk. So whatever is killed later:

  R1  nobody reports two different blocks, or two states, of one round; a peer that went over from
      one branch to another may, once it says so ("branch")
  R2  a peer that is started again is not before the last round that it reported
  R3  no two certificates for different blocks on one parent, other than by branching: read from
      the transcripts of all peers when they have ended
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from p2ptrain.node.local_swarm import Event
from p2ptrain.node.telemetry import number
from p2ptrain.store.transcript import Transcript
from p2ptrain.wire.codec import unpack
from p2ptrain.wire.messages import BRANCH, Certificate


@dataclass(frozen=True, slots=True)
class Told:
    """One round as a peer told of it."""

    round: int
    block: str
    state: str
    members: int
    at_s: float


@dataclass
class Record:
    """What was told so far.

    newest     the last round of each peer, also of its earlier processes
    since      the first round that each peer's newest process told of
    resumed    the round that it said to go on from; 0: it had none
    started_s  when it was started, on the caller's clock
    lost       rounds that a restart was behind what its peer had told, summed up
    wrong      what must never happen, in words
    """

    newest: dict[str, Told] = field(default_factory=dict)
    since: dict[str, Told] = field(default_factory=dict)
    resumed: dict[str, int] = field(default_factory=dict)
    started_s: dict[str, float] = field(default_factory=dict)
    lost: int = 0
    branched: bool = False
    wrong: list[str] = field(default_factory=list)
    _blocks: dict[int, dict[str, str]] = field(default_factory=dict)  # by round: block -> state
    _peers_at: dict[int, set[str]] = field(default_factory=dict)

    @property
    def highest(self) -> int:
        """The newest round that anybody has told of."""
        return max((told.round for told in self.newest.values()), default=0)

    def starts(self, name: str, now: float) -> None:
        """A peer is about to be started."""
        self.started_s[name] = now
        self.resumed.pop(name, None)
        self.since.pop(name, None)

    def take(self, name: str, now: float, event: Event) -> None:
        """Take one event of a peer in."""
        if event["event"] == "resumed":
            self._resumed(name, int(number(event["round"])))
        elif event["event"] == "round":
            self._told(name, now, event)

    def is_level(self, names: Iterable[str], after: int) -> bool:
        """Whether all these peers told of one and the same round later than that one."""
        wanted = set(names)
        return any(wanted <= peers for r, peers in self._peers_at.items() if r > after)

    def _resumed(self, name: str, at: int) -> None:
        self.resumed[name] = at
        before = self.newest.get(name)
        if before is not None and at < before.round and not self.branched:
            self.lost += before.round - at
            self.wrong.append(f"R2: {name} told of round {before.round} and resumed after {at}")

    def _told(self, name: str, now: float, event: Event) -> None:
        told = Told(
            int(number(event["round"])),
            str(event["block"]),
            str(event["state"]),
            int(number(event["members"])),
            now,
        )
        self.branched |= event["branch"] is True
        blocks = self._blocks.setdefault(told.round, {})
        if blocks.setdefault(told.block, told.state) != told.state:
            self.wrong.append(f"R1: two states after block {told.block} of round {told.round}")
        if len(blocks) > 1 and not self.branched:
            self.wrong.append(f"R1: {name} has another block of round {told.round} than others")
        self._peers_at.setdefault(told.round, set()).add(name)
        self.newest[name] = told
        self.since.setdefault(name, told)


def conflicts(transcripts: Iterable[Path]) -> list[str]:
    """R3: the certificates of all peers, fitted together; the contradictions in words."""
    children: dict[bytes, dict[bytes, int]] = {}
    for path in transcripts:
        if not path.exists():  # killed before it had anything to write
            continue
        with Transcript(path) as transcript:
            for entry in transcript.iterate():
                if entry.kind == "certificate":
                    block = unpack(Certificate, entry.payload).block
                    children.setdefault(block.parent, {})[entry.block_id] = block.kind
    return [
        f"R3: {len(rivals)} certified blocks on {parent.hex()}"
        for parent, rivals in children.items()
        if len([kind for kind in rivals.values() if kind != BRANCH]) > 1
    ]
