"""What a node says about itself: a stream of small events, for people and for programs.

The node reports events; who started it decides what becomes of them. `--json` writes one JSON
object a line to stdout (the demo reads its peers so), otherwise the command line draws them.
Every event has "event", its name, and "t", seconds since the node started; README lists them.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

Value = str | int | float | bool | None | list[str]
Sink = Callable[[Mapping[str, Value]], None]


def json_lines(event: Mapping[str, Value]) -> None:
    """Write an event as one line of JSON, at once."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def number(value: Value | object) -> float:
    """A figure of an event; 0 where there is none."""
    return float(value) if isinstance(value, int | float) else 0.0


@dataclass
class Telemetry:
    """Reports events to one sink; strikes counts the protocol errors of peers."""

    sink: Sink
    started_s: float = field(default_factory=monotonic)
    strikes: int = 0

    def report(self, event: str, **values: Value) -> None:
        """Tell the sink."""
        self.sink({"event": event, "t": round(monotonic() - self.started_s, 3), **values})
