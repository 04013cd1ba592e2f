"""What a node says about itself: a stream of small events, for people and for programs.

The node reports events; who started it decides what becomes of them. `--json` writes one JSON
object a line to stdout (the demo reads its peers so), otherwise the command line draws them.
Every event has "event", its name, and "t", seconds since the node started; README lists them.

What the node waits for is no event but a state: whoever begins to wait says so for as long as it
lasts, and whoever wants to know looks (node/status.py, and the "waiting" events of long rounds):

    with telemetry.waiting("the recipe", limit_s=60.0):
        await ...
    with telemetry.waits(lambda: averaging.waits):  # what it waits for changes while it waits
        await ...
"""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from time import monotonic

import trio

from p2ptrain.swarm.inputs import Wait

Value = str | int | float | bool | None | list[str]
Sink = Callable[[Mapping[str, Value]], None]
Look = Callable[[], Iterable[Wait]]

RECENT_KEPT = 8  # events of each kind that are remembered: enough for a rate, small enough for all


def json_lines(event: Mapping[str, Value]) -> None:
    """Write an event as one line of JSON, at once."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def number(value: Value | object) -> float:
    """A figure of an event; 0 where there is none."""
    return float(value) if isinstance(value, int | float) else 0.0


@dataclass
class Telemetry:
    """Reports events to one sink, and knows what the node waits for.

    strikes  protocol errors of peers, counted
    recent   the last RECENT_KEPT events of each kind, oldest first
    """

    sink: Sink
    started_s: float = field(default_factory=monotonic)
    strikes: int = 0
    recent: dict[str, deque[Mapping[str, Value]]] = field(default_factory=dict)
    _looks: list[Look] = field(default_factory=list)

    def report(self, event: str, **values: Value) -> None:
        """Tell the sink."""
        line = {"event": event, "t": round(self.age_s, 3), **values}
        self.recent.setdefault(event, deque(maxlen=RECENT_KEPT)).append(line)
        self.sink(line)

    @property
    def age_s(self) -> float:
        """Seconds since the node started; the "t" of an event that were reported now."""
        return monotonic() - self.started_s

    def latest(self, event: str) -> Mapping[str, Value] | None:
        """The newest event of a kind; None if there was none."""
        events = self.recent.get(event)
        return events[-1] if events else None

    @contextmanager
    def waiting(self, what: str, limit_s: float = inf) -> Iterator[None]:
        """Say what is waited for while the block runs.

        what     for people: "the device"
        limit_s  seconds after which the node gives up or does something else; inf: never
        """
        since = trio.current_time()
        with self.waits(lambda: (Wait(what, since, limit_s),)):
            yield

    @contextmanager
    def waits(self, look: Look) -> Iterator[None]:
        """Let look say what is waited for, whenever somebody asks, while the block runs."""
        self._looks.append(look)
        try:
            yield
        finally:
            self._looks.remove(look)

    def waits_now(self) -> list[Wait]:
        """All that the node waits for now, what began first at the top. Times on trio's clock."""
        waits = [wait for look in self._looks for wait in look()]
        return sorted(waits, key=lambda wait: wait.since)
