"""Figures beside the published ones: what was expected, what came out, and whether it may differ.

A table is a list of figures and, for its picture, some lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a table.

    name       what it is
    published  as printed elsewhere; None: nobody printed one
    ours       as measured now
    low, high  between which ours must lie, both included
    """

    name: str
    published: float | None
    ours: float
    low: float = -inf
    high: float = inf

    @property
    def holds(self) -> bool:
        """Whether ours is within the tolerance; a NaN is not."""
        return self.low <= self.ours <= self.high

    @property
    def tolerance(self) -> str:
        """The tolerance, in words."""
        if self.low == -inf:
            return "-" if self.high == inf else f"{self.high:.6g} at most"
        if self.high - self.low <= 1e-9 * abs(self.high):
            return "exact"
        return f"{self.low:.6g} .. {self.high:.6g}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a picture: (x, y) pairs, in the panel it belongs to."""

    panel: str
    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(slots=True)
class Table:
    """What one published table has become here.

    key      letter or word by which the command names it
    title    what it shows, and where it was published
    note     how much of it is p2ptrain's own code
    y_name   what the picture's curves show
    """

    key: str
    title: str
    note: str
    y_name: str = ""
    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def within(self, name: str, published: float, ours: float, by: float) -> None:
        """A figure that may differ by so much, and by the rounding of the last binary digit."""
        spare = 1e-12 * max(abs(published), by)
        low, high = (published, published) if by == 0 else (published - by, published + by)
        self.figures.append(Figure(name, published, ours, low - spare, high + spare))

    def about(self, name: str, published: float, ours: float, factor: float) -> None:
        """A figure that may differ by a factor, up or down."""
        self.figures.append(Figure(name, published, ours, published / factor, published * factor))

    def note_figure(self, name: str, ours: float, low: float = -inf, high: float = inf) -> None:
        """A figure that nobody published."""
        self.figures.append(Figure(name, None, ours, low, high))

    @property
    def failed(self) -> list[Figure]:
        """The figures out of tolerance."""
        return [figure for figure in self.figures if not figure.holds]


def text_of(table: Table) -> str:
    """The table for a terminal."""
    rows = [("", "published", "ours", "tolerance", "")]
    for f in table.figures:
        published = "-" if f.published is None else f"{f.published:.6g}"
        verdict = "" if f.tolerance == "-" else "ok" if f.holds else "OUT OF TOLERANCE"
        rows.append((f.name, published, f"{f.ours:.6g}", f.tolerance, verdict))
    return "\n".join([f"{table.key}: {table.title}", table.note, *_aligned(rows)])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest[:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([f"  {name:<{widths[0]}}", *cells, rest[-1]]).rstrip())
    return lines
