"""The curve of a run beside its checkpoints: curve.png for people, curve.json to go on from.

Both are written every minute and at the end, as a whole or not at all. A run of a million rounds
has no more points than one of a thousand: when there are too many, every second one goes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite, nan
from pathlib import Path

from p2ptrain.node.telemetry import Value, number
from p2ptrain.store.atomic import write_atomically
from p2ptrain.train.curve import Point, chart

POINTS_MAX = 2000  # of a picture of 800 pixels
WRITE_EVERY_S = 60.0
FILE_BYTES_MAX = 1 << 20  # POINTS_MAX points have 300 kB


@dataclass
class CurveFile:
    """The points of a run.

    folder  of the run: where its checkpoints are
    title   what the run is called
    """

    folder: Path
    title: str
    points: list[Point] = field(default_factory=list)
    _began_s: float = 0.0
    _written_s: float = 0.0

    def __post_init__(self) -> None:
        """Take up what an earlier process wrote; what cannot be read is begun anew."""
        self.points = read_points(self.folder / "curve.json")
        self._began_s = self.points[-1].seconds if self.points else 0.0

    def add(self, event: Mapping[str, Value], trained: Mapping[str, Value] | None) -> bool:
        """One more point. True if it is time to write the files.

        Args:
          event    "round" of telemetry
          trained  the newest event "trained"; None if this peer has not trained yet
        """
        count, now = int(number(event["round"])), number(event["t"])
        if self.points and count <= self.points[-1].round:
            return False  # on a branch, or again after a restart
        is_fresh = event["evaluated_round"] == event["round"]
        self.points.append(
            Point(
                count,
                self._began_s + now,
                number(trained["loss"]) if trained else nan,
                number(event["loss"]) if is_fresh else nan,
                number(event["accuracy"]) if is_fresh else nan,
            )
        )
        if len(self.points) > POINTS_MAX:
            self.points = self.points[::2]
        is_due = now - self._written_s > WRITE_EVERY_S
        if is_due:
            self._written_s = now
        return is_due

    def finish(self, rounds: int, loss: float | None, accuracy: float | None) -> None:
        """The figures of the last state, and the files."""
        if self.points and self.points[-1].round <= rounds and loss is not None:
            last = self.points.pop()
            self.points.append(
                Point(last.round, last.seconds, last.train_loss, loss, number(accuracy))
            )
        self.write()

    def write(self) -> None:
        """Write both files; it takes a tenth of a second. Raises StoreError."""
        rows = [
            {key: value if isfinite(value) else None for key, value in asdict(point).items()}
            for point in self.points
        ]
        content = json.dumps(rows).encode()
        write_atomically(self.folder / "curve.json", content, durable=False)
        picture = chart(self.title, self.points)
        write_atomically(self.folder / "curve.png", picture, durable=False)


def read_points(path: Path) -> list[Point]:
    """The points of an earlier process; none where there are none that can be read."""
    names = [entry.name for entry in fields(Point)]
    try:
        with path.open("rb") as file:
            rows = json.loads(file.read(FILE_BYTES_MAX))
        return [
            Point(int(row["round"]), *(_figure(row[name]) for name in names[1:])) for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a picture for people: not worth refusing to train


def _figure(value: object) -> float:
    return nan if value is None else float(str(value))
