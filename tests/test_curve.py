"""The picture of a run: a PNG that decodes, with the lines where the points are."""

import math
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2ptrain.train.canvas import PNG_SIGNATURE, WHITE, Canvas, Colour, text_width
from p2ptrain.train.curve import (
    ACCURACY,
    HEIGHT,
    LEFTS,
    SIZE,
    TEST,
    TOP,
    TRAIN,
    WIDTH,
    Point,
    chart,
    duration,
    round_up_step,
    thinned,
    ticks,
)
from p2ptrain.train.glyphs import GLYPHS, glyph

NAN = math.nan
Pixels = NDArray[np.uint8]


def decode(content: bytes) -> Pixels:
    """(height, width, 3) of an unfiltered truecolour PNG, checked on the way."""
    assert content[:8] == PNG_SIGNATURE
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, at + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        chunks.append((kind, body))
        at += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *form = struct.unpack(">IIBBBBB", chunks[0][1])
    assert form == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def is_colour(pixels: Pixels, colour: Colour) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (pixels == np.array(colour, np.uint8)).all(axis=2)
    return found


def panel(pixels: Pixels, number: int) -> Pixels:
    """The area inside the axes of a panel."""
    return pixels[TOP : TOP + HEIGHT, LEFTS[number] + 1 : LEFTS[number] + WIDTH]


def run(rounds: int) -> list[Point]:
    return [Point(r, 2.0 * r, 2 - r / rounds, 2.5 - r / rounds, r / rounds) for r in range(rounds)]


def test_the_lines_are_where_the_points_are() -> None:
    """Losses fall and accuracy rises evenly, so each line is near its panel's diagonal."""
    pixels = decode(chart("a run", run(50)))
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    for colour, number, rises in ((TRAIN, 0, False), (TEST, 0, False), (ACCURACY, 1, True)):
        y, x = np.nonzero(is_colour(panel(pixels, number), colour))
        assert x.min() < 5
        assert x.max() > WIDTH - 10
        middle = [
            y[x == column].mean() for column in range(10, WIDTH - 10, 10) if (x == column).any()
        ]
        assert len(middle) > 20
        assert all((a > b) == rises for a, b in pairwise(middle))
    train, test = (np.nonzero(is_colour(panel(pixels, 0), colour))[0] for colour in (TRAIN, TEST))
    assert train.mean() > test.mean(), "y grows downwards: the lower loss is lower in the picture"


def test_a_level_lies_between_its_ticks() -> None:
    points = [Point(r, r, 3.0 if r else 4.0, NAN, 1.0 if r else 0.0) for r in range(10)]
    pixels = decode(chart("", points))
    y, _ = np.nonzero(is_colour(panel(pixels, 1)[:, 60:-10], ACCURACY))
    assert y.max() <= 2, "100% is at the top"
    y, _ = np.nonzero(is_colour(panel(pixels, 0)[:, 60:-10], TRAIN))
    assert y.min() >= HEIGHT - 3, "3 is the lowest tick of 3 .. 4"
    assert not is_colour(panel(pixels, 0), TEST).any()


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point(1, 0.5, 2.3, NAN, NAN)],
        [Point(1, 0.5, NAN, NAN, NAN), Point(2, 0.6, math.inf, NAN, NAN)],
        [Point(7, 9, 0.0, 0.0, 0.0)] * 3,
        [Point(0, 0, 1e30, 1e-30, 1.0), Point(1, 1, -1e30, 1e-30, 1.0)],
    ],
    ids=["none", "one", "nothing finite", "one round thrice", "huge"],
)
def test_a_run_of_any_shape_has_a_picture(points: list[Point]) -> None:
    pixels = decode(chart("short", points))
    assert not is_colour(pixels, WHITE).all()


@settings(max_examples=10, deadline=None)
@given(
    st.text(max_size=100),
    st.lists(st.tuples(st.floats(), st.floats(), st.floats(0, 1)), max_size=20),
)
def test_no_title_and_no_value_breaks_the_picture(
    title: str, values: list[tuple[float, float, float]]
) -> None:
    chart(title, [Point(r, r, *value) for r, value in enumerate(values)])


def test_a_long_run_is_drawn_by_its_extremes() -> None:
    values = [(float(r), math.sin(r)) for r in range(30_000)]
    values[12_345] = (12_345.0, 7.0)
    few = thinned(values)
    assert len(few) < 4 * WIDTH + 2
    assert (12_345.0, 7.0) in few
    assert few[-1] == values[-1]
    assert few == sorted(few)
    assert thinned(values[:100]) == values[:100]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
def test_ticks_are_few_and_around_the_values(values: list[float]) -> None:
    found = ticks(values)
    assert 2 <= len(found) <= 10
    assert found == sorted(set(found))
    slack = 1e-6 * max(1e-9, *(abs(value) for value in values))
    assert found[0] <= min(values) + slack
    assert found[-1] >= max(values) - slack


def test_ticks_of_percent_end_at_a_hundred_and_those_of_rounds_are_whole() -> None:
    assert ticks([40.0, 99.9], 100.0)[-1] == 100
    assert ticks([100.0], 100.0)[-1] == 100
    assert ticks([1.0, 3.0], step_least=1.0) == [1, 2, 3]


def test_a_step_is_one_two_or_five() -> None:
    assert [round_up_step(x) for x in (0.7, 1, 1.2, 3, 6)] == [1, 1, 2, 5, 10]
    assert round_up_step(0.011) == pytest.approx(0.02)


def test_a_duration_has_the_unit_that_suits_it() -> None:
    assert [duration(s) for s in (5, 119, 150, 9000)] == ["5 s", "119 s", "2.5 min", "2.5 h"]


def test_every_letter_is_five_by_seven_and_different() -> None:
    shapes = {letter: glyph(letter) for letter in GLYPHS}
    assert all(shape.shape == (7, 5) for shape in shapes.values())
    assert len({shape.tobytes() for shape in shapes.values()}) == len(shapes)
    assert np.array_equal(glyph("a"), glyph("A"))
    assert glyph("字").any()


def test_text_is_where_it_is_put_and_hangs_over_no_edge() -> None:
    canvas, colour = Canvas(60, 20), (10, 20, 30)
    canvas.text((4, 3), "8.", colour)
    ink = is_colour(canvas.pixels, colour)
    assert np.array_equal(ink[3:17:2, 4:14:2], glyph("8"))
    assert text_width("8.") == 22
    before = canvas.pixels.copy()
    canvas.text((55, 3), "88", colour)
    canvas.text((3, 10), "8", colour)
    canvas.text((-5, 3), "8", colour)
    assert np.array_equal(canvas.pixels, before)


def test_a_line_covers_the_pixels_it_crosses() -> None:
    canvas, colour = Canvas(40, 30), (0, 0, 0)
    canvas.polyline([(5, 15), (35, 15)], colour, 2)
    dark = np.nonzero(is_colour(canvas.pixels, colour).any(axis=1))[0]
    assert list(dark) == [14, 15]
    canvas.polyline([(-100, -100), (200, 200)], colour)
    canvas.dot((500, 500), colour)
    assert is_colour(canvas.pixels, colour)[20, 20]
