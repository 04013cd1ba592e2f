"""The curve of a run as a picture: losses on the left, accuracy on the right, over the rounds.

A pure function from points to the bytes of a PNG, 800 x 500. What is not finite is left out, and
the line goes on behind it. Ticks are ones, twos or fives with zeros; the loss axis shows what there
is, the accuracy axis ends at 100% at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from p2ptrain.train.canvas import Canvas, Colour, Place, text_width

SIZE = (800, 500)
INK: Colour = (40, 40, 40)
GRID: Colour = (225, 225, 225)
TRAIN: Colour = (31, 119, 180)
TEST: Colour = (214, 95, 14)
ACCURACY: Colour = (44, 140, 60)
FLOAT32_END = 3.4e38
TICKS = 6  # wanted on an axis
LEGEND_STEP = 22
LEFTS = (66, 466)  # of the two panels
TOP, WIDTH, HEIGHT = 120, 310, 320  # of each
CHUNKS_MAX = 2 * WIDTH  # parts of a long line, of each of which the two ends of its range are drawn


@dataclass(frozen=True, slots=True)
class Point:
    """What is known after a round; NaN where something was not measured.

    round       number of the round
    seconds     since the run began
    train_loss  mean over the local steps
    test_loss   over the held-out samples
    accuracy    share of correct predictions, 0 .. 1
    """

    round: int
    seconds: float
    train_loss: float
    test_loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: (round, value) pairs, all finite, and how they are called and drawn."""

    name: str
    colour: Colour
    values: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """Where a panel's axes lie, and what their ends stand for.

    left, top, width, height  of the area inside the axes, in pixels
    x_ends, y_ends            (lowest, highest) value
    """

    left: int
    top: int
    width: int
    height: int
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]

    def place(self, x: float, y: float) -> Place:
        """The pixel of a pair of values."""
        (x0, x1), (y0, y1) = self.x_ends, self.y_ends
        return (
            self.left + self.width * (x - x0) / (x1 - x0),
            self.top + self.height * (1 - (y - y0) / (y1 - y0)),
        )


def chart(title: str, points: Sequence[Point]) -> bytes:
    """The picture of a run, as the bytes of a PNG file.

    Args:
      title   what the run is called
      points  in the order of their rounds; none is allowed
    """
    canvas = Canvas(*SIZE)
    canvas.text((20, 14), title[: (SIZE[0] - 40) // 12], INK)
    if points:
        last = points[-1]
        rounds = "1 round" if last.round == 1 else f"{last.round} rounds"
        took = f"{rounds} in {duration(last.seconds)}"
        canvas.text((20, 38), took, INK)
    losses = (
        line("train loss", TRAIN, [(p.round, p.train_loss) for p in points]),
        line("test loss", TEST, [(p.round, p.test_loss) for p in points]),
    )
    percent = line("accuracy", ACCURACY, [(p.round, 100 * p.accuracy) for p in points])
    draw_panel(canvas, LEFTS[0], losses)
    draw_panel(canvas, LEFTS[1], (percent,), percent=True)
    return canvas.png()


def line(name: str, colour: Colour, values: Sequence[tuple[float, float]]) -> Line:
    """Those of the values that a float32 holds."""
    return Line(name, colour, tuple((x, y) for x, y in values if abs(y) < FLOAT32_END))


def draw_panel(canvas: Canvas, left: int, lines: Sequence[Line], percent: bool = False) -> None:
    """Axes, ticks, lines and what they are called; an axis of percent ends at 100 at most."""
    most = 100.0 if percent else None
    xs = [x for each in lines for x, _ in each.values]
    ys = [y for each in lines for _, y in each.values]
    x_ticks, y_ticks = ticks(xs, step_least=1.0), ticks(ys or [0.0, most or 1.0], most)
    x_ends = (min(xs), max(xs)) if xs and min(xs) < max(xs) else (x_ticks[0], x_ticks[-1])
    panel = Panel(left, TOP, WIDTH, HEIGHT, x_ends, (y_ticks[0], y_ticks[-1]))
    bottom, right = panel.top + panel.height, panel.left + panel.width
    for value in y_ticks:
        y = round(panel.place(x_ends[0], value)[1])
        canvas.rectangle((panel.left, y), (panel.width, 1), GRID)
        words = f"{value:g}"
        canvas.text((panel.left - 8 - text_width(words), y - 7), words, INK)
    for value in x_ticks:
        if x_ends[0] <= value <= x_ends[1]:
            x = round(panel.place(value, y_ticks[0])[0])
            canvas.rectangle((x, bottom), (1, 6), INK)
            words = f"{value:g}"
            canvas.text((x - text_width(words) // 2, bottom + 10), words, INK)
    canvas.rectangle((panel.left, panel.top), (1, panel.height), INK)
    canvas.rectangle((panel.left, bottom), (panel.width + 1, 1), INK)
    canvas.text((right - text_width("round"), bottom + 34), "round", INK)
    for number, each in enumerate(lines):
        legend(canvas, (panel.left, 70 + LEGEND_STEP * number), each, "%" if percent else "")
        places = [panel.place(x, y) for x, y in thinned(each.values)]
        if places:
            canvas.polyline(places, each.colour)
            canvas.dot(places[-1], each.colour)


def thinned(values: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line that looks the same, of fewer values than the picture has room for.

    Of each of CHUNKS_MAX parts the lowest and the highest value stay, and the very last one.
    """
    size = -(-len(values) // CHUNKS_MAX)
    if size <= 2:
        return list(values)
    kept: list[tuple[float, float]] = []
    for first in range(0, len(values), size):
        chunk = values[first : first + size]
        ends = {min(chunk, key=lambda pair: pair[1]), max(chunk, key=lambda pair: pair[1])}
        kept += sorted(ends)
    return [*kept, values[-1]]


def legend(canvas: Canvas, place: tuple[int, int], each: Line, unit: str) -> None:
    """A line's colour, its name and its last value."""
    x, y = place
    canvas.rectangle((x, y + 5), (18, 4), each.colour)
    words = f"{each.name} {each.values[-1][1]:.4g}{unit}" if each.values else f"{each.name} -"
    canvas.text((x + 26, y), words, INK)


def ticks(
    values: Sequence[float], most: float | None = None, step_least: float = 0.0
) -> list[float]:
    """Round numbers around the values, in ascending order, at least two.

    Args:
      values      finite; none: 0 .. 1
      most        no tick is above it; it is a round number, and no value is above it either
      step_least  from one tick to the next at least this
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= 1e-6 * max(abs(high), abs(low), 1e-30):
        around = 0.1 * abs(low) or 1.0
        low, high = low - around, high + around
    step = max(step_least, round_up_step((high - low) / TICKS))
    # A multiple of a decimal step is not itself decimal: 3 * 0.1.
    marks = [float(f"{k * step:.10g}") for k in range(floor(low / step), ceil(high / step) + 1)]
    return [mark for mark in marks if most is None or mark <= most]


def round_up_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10 .. times a power of ten that is not below least."""
    power = 10.0 ** floor(log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
