"""Stories: what is refused, and what a told story says of its swarm."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2ptrain.compress.codecs import CODECS
from p2ptrain.errors import ConfigError
from simnet.__main__ import main
from simnet.story import FOLDER, find_story, read_story, story_from, task_of
from simnet.story_report import Report, picture_of, report_of, text_of
from simnet.story_run import Run

ROOT = Path(__file__).parents[1]
BUNDLED = sorted(path.stem for path in FOLDER.glob("*.toml"))
HOME = """
name = "home"
seed = 5
rounds = 6

[recipe]
values = 1_000_000
local_steps = 20
batch = 32
rounds = 1000

[[peers]]
count = 4
samples_s = 640
"""


def told(text: str, **changes: object) -> Report:
    """The report of a story."""
    story = story_from(text).model_copy(update=changes)
    run = Run(story, task_of(story.recipe, ROOT))
    run.go()
    return report_of(run)


# --- what is refused --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("count = 4", "count = 65"), "65 peers: one group averages 64 at the most"),
        (("count = 4", "count = 4\nleave_s = 5\njoin_s = 9"), "leave_s is not after join_s"),
        (("count = 4", "count = 4\njoin_s = 1"), "nobody is there at the start"),
        (("count = 4", "cuont = 4"), "did you mean peers.0.count"),
        (("count = 4", "count = 4\nuplink_mbit_s = 0"), "uplink_mbit_s = 0"),
        (("values = 1_000_000\n", ""), "say file, or values and rounds"),
        (("[recipe]", '[recipe]\nfile = "digits"'), "file says the rest already"),
        (("[recipe]", "[recipe]\nmomentum = 0.5"), "plain has no momentum"),
        (("rounds = 6", "rounds = 0"), "rounds = 0"),
        (("seed = 5", "seed = 5 5"), "not valid TOML"),
        (("", '[[liars]]\npeers = [0]\nlie = "nothing"\n'), "lie = 'nothing' is none of"),
        (("", '[[liars]]\npeers = [4]\nlie = "silence"\n'), "there is no peer 4"),
        (("", '[[liars]]\npeers = [1, 1]\nlie = "silence"\n'), "tells one lie only"),
        (("", '[[liars]]\npeers = [0, 1, 2, 3]\nlie = "silence"\n'), "must be honest"),
        (("", '[[faults]]\nkind = "freeze"\npeers = [0]\nat_s = 1\n'), "a freeze needs for_s"),
        (("", '[[faults]]\nkind = "flood"\npeers = [0]\nat_s = 1\n'), "kind = 'flood'"),
        (
            ("", 2 * '[[faults]]\nkind = "partition"\npeers = [0]\nat_s = 1\nfor_s = 2\n'),
            "two partitions at once",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_story_that_cannot_be_told_is_refused_in_words(
    change: tuple[str, str], words: str
) -> None:
    old, new = change
    text = HOME.replace(old, new) if old else HOME + new
    with pytest.raises(ConfigError, match=r"mine\.toml") as refused:
        story_from(text, "mine.toml")
    assert words in str(refused.value)


def test_a_name_that_is_no_story_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="churn, home-20mbit, liars, partition"):
        find_story("holiday")


def test_a_story_that_is_no_text_or_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_story(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text("#" * 70_000)
    with pytest.raises(ConfigError, match="is it a story"):
        read_story(tmp_path / "b.toml")


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_story_can_be_told(name: str) -> None:
    story = read_story(find_story(name))
    assert story.name == name
    assert task_of(story.recipe, FOLDER).rounds > story.rounds


def test_a_recipe_that_is_shipped_says_what_is_averaged() -> None:
    text = HOME[: HOME.index("[recipe]")] + '[recipe]\nfile = "digits"\n[[peers]]\n'
    task = task_of(story_from(text).recipe, ROOT)
    assert (task.name, task.codec) == ("digits", 4)
    assert task.values > 1000


# --- stories that are told --------------------------------------------------------------------
@pytest.fixture(scope="module")
def home() -> Report:
    return told(HOME)


def test_a_quiet_story_says_what_the_links_allow(home: Report) -> None:
    """Training of 1 s, and three contributions of 0.5 MB through 20 Mbit/s."""
    contribution = CODECS[4].shard_bytes(245 * 4096)
    assert home.traffic.floor == 3 * contribution
    upload_s = 3 * contribution / 2.5e6
    assert 0.8 + upload_s < home.round_median_s < 1.2 * (1.2 + upload_s)
    assert (home.rounds, home.views_failed, home.distinct_states, home.behind) == (6, 0, 1, 0)
    assert (home.missed_ratio, home.strikes, home.blocks_dropped) == (0, 0, 0)


def test_bytes_on_the_wire_are_within_a_tenth_of_the_formula(home: Report) -> None:
    traffic = home.traffic
    for told_bytes in (traffic.up_median, traffic.up_max, traffic.down_median, traffic.down_max):
        assert 1.0 <= told_bytes / traffic.floor < 1.1


def test_the_whole_run_is_scaled_from_its_rounds(home: Report) -> None:
    assert home.whole_run_h == pytest.approx(home.virtual_s / 6 * 1000 / 3600)
    assert home.whole_run_up_bytes == pytest.approx(1000 * home.traffic.up_median)


def test_the_loss_falls_over_the_rounds(home: Report) -> None:
    losses = [point.loss for point in home.curve]
    assert len(losses) == 6
    assert losses[-1] < 0.3 < losses[0]
    assert home.curve[-1].accuracy > 0.9


def test_a_story_is_one_trace_and_another_seed_another(home: Report) -> None:
    assert told(HOME) == home
    assert told(HOME, seed=6).trace != home.trace


def test_a_page_says_what_was_simulated_smaller(home: Report) -> None:
    page = text_of(home)
    assert "2,410 parameters learns the digits" in page
    assert "6 of 6 rounds by 4 peers" in page


def test_the_curve_is_a_picture(home: Report) -> None:
    assert picture_of(home).startswith(b"\x89PNG")


def test_all_faults_heal_and_say_how_long_it_took() -> None:
    """Short rounds: a crash, a freeze and a joiner are level again within some of them."""
    faults = """
[[peers]]
samples_s = 1280
join_s = 4
[[faults]]
kind = "crash"
peers = [1]
at_s = 6
for_s = 3
[[faults]]
kind = "freeze"
peers = [2]
at_s = 14
for_s = 4
[[faults]]
kind = "crash"
peers = [3]
at_s = 22
"""
    text = HOME.replace("1_000_000", "40_000").replace("samples_s = 640", "samples_s = 1280")
    report = told(text + faults, rounds=45)
    assert (report.rounds, report.distinct_states, report.behind) == (45, 1, 0)
    assert [fault.what.split()[0] for fault in report.faults] == [
        "peer",
        "crash",
        "freeze",
        "crash",
    ]
    for fault in report.faults:
        assert fault.over
        assert fault.waited_s is not None
        assert fault.healed_s is not None
        assert fault.waited_s < 10, fault
        assert fault.healed_s < 10, fault


def test_a_fault_that_outlasts_the_story_is_told_as_not_over() -> None:
    crash = '[[faults]]\nkind = "crash"\npeers = [1]\nat_s = 2\nfor_s = 1000\n'
    report = told(HOME.replace("1_000_000", "40_000") + crash)
    (fault,) = report.faults
    assert (fault.over, fault.healed_s) == (False, None)
    assert "not over  crash of 1" in text_of(report)


def test_a_partition_heals_and_its_lone_rounds_are_dropped() -> None:
    cut_off = """
[[faults]]
kind = "partition"
peers = [3]
at_s = 3
for_s = 16
"""
    report = told(HOME.replace("1_000_000", "40_000") + cut_off, rounds=20)
    (cut,) = report.faults
    assert cut.healed_s is not None
    assert cut.healed_s < 5
    assert report.blocks_dropped > 1, "a branch of one trained alone"
    assert (report.rounds, report.distinct_states, report.behind) == (20, 1, 0)


def test_liars_are_found_and_the_honest_learn_on() -> None:
    liars = """
[[liars]]
peers = [3]
lie = "spoiled pieces"
"""
    text = HOME.replace("1_000_000", "40_000").replace("samples_s = 640", "samples_s = 2560")
    report = told(text + liars)
    assert report.rounds == 6
    assert report.distinct_states == 1
    assert report.strikes > 0
    assert report.curve[-1].accuracy > 0.85


def test_churn_is_drawn_from_the_seed() -> None:
    churn = "[churn]\npercent_a_round = 20\naway_s = 2\ncrashes_an_hour = 100\n"
    text = HOME.replace("1_000_000", "40_000").replace("samples_s = 640", "samples_s = 2560")
    one, other = told(text + churn), told(text + churn, seed=9)
    assert one.rounds == other.rounds == 6
    assert len(one.faults) > 1
    assert one.faults != other.faults


# --- the command ------------------------------------------------------------------------------
def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simnet", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_tells_the_same_story_in_another_process(tmp_path: Path, home: Report) -> None:
    path = tmp_path / "home.toml"
    path.write_text(HOME)
    run = command(str(path), "--json", "--plot", str(tmp_path / "home.png"))
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == json.loads(json.dumps(home.values))
    assert (tmp_path / "home.png").read_bytes() == picture_of(home)


def test_a_story_whose_time_is_over_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "short.toml"
    path.write_text(HOME.replace("rounds = 6", "rounds = 6\ntime_limit_s = 4"))
    monkeypatch.setattr(sys, "argv", ["simnet", str(path)])
    assert main() == 1
    assert "2 of 6 rounds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("holiday",), "there is no story holiday"),
        (("partition", "--plot", "/nowhere/a.png"), "there is no folder /nowhere"),
    ],
)
def test_the_command_says_what_it_cannot_do(
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["simnet", *arguments])
    assert main() == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_ctrl_c_ends_a_story_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(HOME.replace("rounds = 6", "rounds = 2000"))
    with subprocess.Popen(
        [sys.executable, "-m", "simnet", str(path)], cwd=ROOT, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        shown = process.stderr.read(1)  # the first line of progress
        process.send_signal(signal.SIGINT)
        shown += process.stderr.read()
    assert process.returncode == 130
    assert b"rounds" in shown
    assert b"interrupted" in shown
    assert b"Traceback" not in shown
