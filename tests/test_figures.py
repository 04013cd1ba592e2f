"""`python -m simnet figures`: published numbers come out again. The whole of A: the command."""

import json
from pathlib import Path

import pytest

from p2ptrain.train.canvas import PNG_SIGNATURE
from simnet.figures import computed, figures
from simnet.figures_chart import picture
from simnet.figures_clipping import PUBLISHED, table_b
from simnet.figures_graphs import table_c
from simnet.figures_moshpit import table_a
from simnet.figures_scale import table_scale, upload_bytes
from simnet.figures_table import Curve, Figure, Table, text_of


def test_moshpit_averaging_of_512_peers_takes_as_many_rounds_as_published() -> None:
    table = computed(table_a(fast=True))
    assert table.failed == []
    ours = {figure.name: figure.ours for figure in table.figures}
    assert ours["512 peers, grid 32x32, p = 0: PushSum"] == 47.6
    # The same grid with its seats filled in order ends exactly after one round an axis.
    assert ours["512 peers, grid 32x32, p = 0: seated by p2ptrain"] == 2
    assert ours["512 peers, grid 8x8x8, p = 0: seated by p2ptrain"] == 3


def test_clipped_gossip_in_integers_leaves_the_published_errors() -> None:
    table = computed(table_b(fast=True))
    assert table.failed == []
    assert len(table.figures) == 4 * len(PUBLISHED)


def test_graphs_mix_as_fast_as_published() -> None:
    assert computed(table_c(fast=True)).failed == []


def test_rows_leave_the_noise_of_all_contributions_and_a_committee_of_its_own() -> None:
    table = computed(table_scale(sizes=(256,)))
    assert table.failed == []
    ours = {figure.name: figure.ours for figure in table.figures}
    assert ours["256 peers, 1% away: grid 32x8: contributions"] == 253
    assert ours["256 peers, 1% away: committee: contributions"] == 64
    # Where every peer carries its row's mean itself, those who were away leave other states behind.
    assert ours["256 peers, 1% away: Moshpit's grid 32x8: distinct states"] > 1


def test_bytes_uploaded_follow_the_formula_of_averaging() -> None:
    assert upload_bytes(4, 0.5) == 0.5 * 3  # k = M: to everyone else
    assert upload_bytes(32, 0.5) == (3 * 0.5 * 31 + 29) / 32


def test_a_number_out_of_tolerance_fails_and_a_nan_does_too() -> None:
    table = Table("X", "of a test", "")
    table.within("exact", 2.0, 2.0, 0.0)
    table.within("near", 47.6, 47.7, 0.3)
    table.about("about", 1e-9, 3e-9, 2.0)
    table.within("lost", 1.0, float("nan"), 1.0)
    table.figures.append(Figure("shown only", 1.0, 5.0))
    assert [figure.name for figure in table.failed] == ["about", "lost"]
    assert text_of(table).count("OUT OF TOLERANCE") == 2


def test_the_command_prints_numbers_writes_pictures_and_ends_with_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures(["--only", "B", "--json", "--out", str(tmp_path)]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    clipped = next(row for row in table["figures"] if row["published"] == 1504.4)
    assert clipped["ours"] == pytest.approx(1504.41, abs=0.005)
    assert (tmp_path / "B.png").read_bytes().startswith(PNG_SIGNATURE)


def test_an_unknown_table_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        figures(["--only", "A,Z"])
    assert ended.value.code == 2
    assert "no table 'Z'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        figures(["--only", "C", "--out", str(tmp_path / "file")])
    assert ended.value.code == 2
    assert "no pictures in" in capsys.readouterr().err


def test_a_picture_has_a_panel_for_each_kind_of_curve() -> None:
    table = Table("X", "of a test", "", "log10 of something")
    table.curves.append(Curve("p = 0", "grid", ((0, 0.0), (1, -1.5), (2, -15.0))))
    one = picture(table)
    table.curves.append(Curve("p = 1", "grid", ((0, 0.0), (1, -1.5))))
    assert one.startswith(PNG_SIGNATURE)
    assert width(picture(table)) == 2 * width(one)


def width(png: bytes) -> int:
    return int.from_bytes(png[16:20], "big")
