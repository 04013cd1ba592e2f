"""The curve of a run on disk: taken up after a restart, bounded, whole or not at all."""

import json
from math import isnan
from pathlib import Path

import pytest

from p2ptrain.node.curve_file import POINTS_MAX, CurveFile, read_points
from p2ptrain.node.telemetry import Value


def round_event(number: int, t: float, evaluated: int | None = None) -> dict[str, Value]:
    newest = number if evaluated is None else evaluated
    return {
        "event": "round", "round": number, "t": t, "loss": 1.0, "accuracy": 0.5,
        "evaluated_round": newest,
    }  # fmt: skip


def test_a_point_has_only_figures_that_are_of_its_round(tmp_path: Path) -> None:
    curve = CurveFile(tmp_path, "a run")
    curve.add(round_event(1, 2.0), None)
    curve.add(round_event(2, 3.0, evaluated=1), {"loss": 2.5})
    first, second = curve.points
    assert (first.seconds, first.test_loss, first.accuracy) == (2.0, 1.0, 0.5)
    assert isnan(first.train_loss)
    assert second.train_loss == 2.5
    assert isnan(second.test_loss)


def test_a_restarted_peer_goes_on_with_its_curve(tmp_path: Path) -> None:
    curve = CurveFile(tmp_path, "a run")
    for number in (1, 2, 3):
        curve.add(round_event(number, number), {"loss": 2.0})
    curve.finish(3, 0.25, 0.9)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    again = CurveFile(tmp_path, "a run")
    assert [point.round for point in again.points] == [1, 2, 3]
    assert (again.points[-1].test_loss, again.points[-1].accuracy) == (0.25, 0.9)
    again.add(round_event(3, 0.5), None)  # told once more
    again.add(round_event(4, 1.0), None)
    assert [(point.round, point.seconds) for point in again.points][-1] == (4, 4.0)
    assert len(again.points) == 4


@pytest.mark.parametrize("content", ["", "[", "3", '[{"round": 1}]', '[{"round": "x"}]', "[[]]"])
def test_a_file_that_cannot_be_read_begins_a_new_curve(tmp_path: Path, content: str) -> None:
    (tmp_path / "curve.json").write_text(content)
    assert read_points(tmp_path / "curve.json") == []


def test_the_files_are_due_once_a_minute(tmp_path: Path) -> None:
    curve = CurveFile(tmp_path, "a run")
    due = [curve.add(round_event(t, float(t)), None) for t in range(1, 200)]
    assert [t for t, now in enumerate(due, 1) if now] == [61, 122, 183]


def test_a_long_run_has_no_more_points_than_a_picture_shows(tmp_path: Path) -> None:
    curve = CurveFile(tmp_path, "a run")
    for number in range(1, 3 * POINTS_MAX):
        curve.add(round_event(number, number * 1e-3), None)
    assert POINTS_MAX / 2 <= len(curve.points) <= POINTS_MAX
    curve.write()
    rows = json.loads((tmp_path / "curve.json").read_text())
    assert len(rows) == len(curve.points)
    assert rows[0]["train_loss"] is None
