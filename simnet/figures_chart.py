"""A table's curves as a picture: one panel beside the other, each with a legend on its right."""

from collections.abc import Sequence

from p2ptrain.train.canvas import Canvas, Colour, text_width
from p2ptrain.train.curve import GRID, INK, Line, Panel, legend, thinned, ticks
from simnet.figures_table import Curve, Table

COLOURS: tuple[Colour, ...] = (
    (31, 119, 180),
    (214, 95, 14),
    (44, 140, 60),
    (150, 60, 170),
    (190, 40, 40),
    (90, 90, 90),
)
TITLE_Y, PANEL_TOP, PANEL_HEIGHT = 14, 90, 300
PANEL_LEFT, PANEL_WIDTH, LEGEND_WIDTH = 80, 380, 420
STEP = PANEL_LEFT + PANEL_WIDTH + LEGEND_WIDTH
LEGEND_STEP = 26


def picture(table: Table) -> bytes:
    """The bytes of a PNG; the table has at least one curve."""
    panels = list(dict.fromkeys(curve.panel for curve in table.curves))
    canvas = Canvas(STEP * len(panels), PANEL_TOP + PANEL_HEIGHT + 50)
    canvas.text((20, TITLE_Y), f"{table.key}: {table.y_name}", INK)
    for number, name in enumerate(panels):
        curves = [curve for curve in table.curves if curve.panel == name]
        _draw(canvas, STEP * number + PANEL_LEFT, name, curves)
    return canvas.png()


def _draw(canvas: Canvas, left: int, name: str, curves: Sequence[Curve]) -> None:
    x_ticks = ticks([x for curve in curves for x, _ in curve.points])
    y_ticks = ticks([y for curve in curves for _, y in curve.points])
    ends = (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1])
    panel = Panel(left, PANEL_TOP, PANEL_WIDTH, PANEL_HEIGHT, *ends)
    canvas.text((left, PANEL_TOP - 36), name, INK)
    _axes(canvas, panel, x_ticks, y_ticks)
    for number, curve in enumerate(curves):
        line = Line(curve.name, COLOURS[number % len(COLOURS)], curve.points)
        canvas.polyline([panel.place(x, y) for x, y in thinned(line.values)], line.colour)
        place = (left + PANEL_WIDTH + 20, PANEL_TOP + LEGEND_STEP * number)
        legend(canvas, place, line, "")


def _axes(canvas: Canvas, panel: Panel, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
    bottom = panel.top + panel.height
    for value in y_ticks:
        y = round(panel.place(panel.x_ends[0], value)[1])
        canvas.rectangle((panel.left, y), (panel.width, 1), GRID)
        words = f"{value:g}"
        canvas.text((panel.left - 8 - text_width(words), y - 7), words, INK)
    for value in x_ticks:
        x = round(panel.place(value, y_ticks[0])[0])
        words = f"{value:g}"
        canvas.text((x - text_width(words) // 2, bottom + 10), words, INK)
    canvas.rectangle((panel.left, panel.top), (1, panel.height), INK)
    canvas.rectangle((panel.left, bottom), (panel.width + 1, 1), INK)
