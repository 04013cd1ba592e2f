"""`p2ptrain status`: what is in it, how it is read and drawn. Real nodes: test_status_processes."""

import json
import os
from collections.abc import Mapping
from functools import partial
from itertools import count
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console
from test_peers import IDENTITIES
from trio.testing import MockClock
from typer.testing import CliRunner

from p2ptrain.cli.main import app
from p2ptrain.cli.status import show
from p2ptrain.config_local import node_config
from p2ptrain.errors import ConfigError
from p2ptrain.node.local_api import SOCKET_NAME
from p2ptrain.node.observed import Observed, open_status
from p2ptrain.node.observed_peers import Traffic
from p2ptrain.node.status import STATUS_SCHEMA, Status, parse_status, schema
from p2ptrain.node.telemetry import Telemetry
from p2ptrain.swarm.inputs import Wait

ROOT = Path(__file__).parents[1]
ME = IDENTITIES[0].peer_id
ROUND: dict[str, Any] = {
    "round": 1, "view": 1, "loss": 0.5, "accuracy": 0.9, "evaluated_round": 1, "samples": 160,
    "contributions": 2, "included": True, "seconds": 0.1,
}  # fmt: skip


def telemetry() -> Telemetry:
    return Telemetry(lambda event: None)


def conforms(tree: Any, wanted: Mapping[str, Any], defs: Mapping[str, Any]) -> bool:
    """Whether a tree keeps to a JSON schema, of the few words that ours uses."""
    if "$ref" in wanted:
        return conforms(tree, defs[wanted["$ref"].removeprefix("#/$defs/")], defs)
    if "anyOf" in wanted:
        return any(conforms(tree, each, defs) for each in wanted["anyOf"])
    match wanted["type"]:
        case "object":
            assert set(wanted["properties"]) == set(wanted["required"])
            whole = isinstance(tree, dict) and set(tree) == set(wanted["properties"])
            return whole and all(
                conforms(tree[k], each, defs) for k, each in wanted["properties"].items()
            )
        case "array":
            return isinstance(tree, list) and all(conforms(t, wanted["items"], defs) for t in tree)
        case plain:
            kinds = {"string": str, "integer": int, "boolean": bool, "null": type(None)}
            return isinstance(tree, kinds.get(plain, int | float)) and (
                plain == "boolean" or not isinstance(tree, bool)
            )


def read(tree: object) -> Status:
    """A status as a program reads it: JSON that keeps to the schema."""
    text = json.dumps(tree, allow_nan=False)
    assert conforms(json.loads(text), schema(), schema()["$defs"]), text
    return parse_status(tree)


def drawn(status: Status) -> str:
    """What people see."""
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(status, console)
    console.file.close()
    return console.export_text()


# --- the schema ------------------------------------------------------------------------------


def test_the_schema_is_the_published_one() -> None:
    """It may grow within one number; write it anew with what this test compares."""
    published = json.loads((ROOT / "protocol" / "status.schema.json").read_text("utf-8"))
    assert published == schema()


async def test_a_status_of_a_newer_node_is_read_as_far_as_it_is_known() -> None:
    tree = json.loads(json.dumps(Observed("join", ME, telemetry()).status().tree))
    assert parse_status({**tree, "mood": "good"}).tree.keys() == tree.keys()
    with pytest.raises(ValueError, match="1 fields are not as expected"):
        parse_status({**tree, "uptime_s": "long"})


# --- what is in it ---------------------------------------------------------------------------


async def test_before_there_is_anything_the_status_is_whole_and_says_so() -> None:
    observed = Observed("join", ME, telemetry())
    with observed.telemetry.waiting("libp2p to be loaded"):
        status = read(observed.answer({}))
    assert (status.status_schema, status.phase, status.peer) == (STATUS_SCHEMA, "starting", ME)
    assert [wait.what for wait in status.waits] == ["libp2p to be loaded"]
    assert status.process.pid == os.getpid()
    assert (status.process.rss_bytes or 0) > 1 << 20
    assert (status.process.open_fds or 0) > 2
    assert "libp2p to be loaded" in drawn(status)


async def test_waits_have_ages_and_limits_and_go_when_they_are_over(
    autojump_clock: MockClock,
) -> None:
    observed = Observed("join", ME, telemetry())
    parts = 0
    began = trio.current_time()
    with observed.telemetry.waits(lambda: [Wait(f"the data set: {parts} of 9", began, inf)]):
        await trio.sleep(2)
        parts = 3
        with observed.telemetry.waiting("the device", limit_s=180.0):
            await trio.sleep(5)
            waits = read(observed.answer({})).waits
            assert [(w.what, w.age_s, w.limit_s) for w in waits] == [
                ("the data set: 3 of 9", 7.0, None),
                ("the device", 5.0, 180.0),
            ]
            text = drawn(observed.status())
            assert "the data set: 3 of 9 (7.0 s)" in text
            assert "the device (5.0 s of 3 min 00 s)" in text
    assert read(observed.answer({})).waits == ()


async def test_a_wait_that_is_broken_off_is_over() -> None:
    observed = Observed("join", ME, telemetry())
    with trio.move_on_after(0), observed.telemetry.waiting("for ever"):
        await trio.sleep_forever()
    assert observed.status().waits == ()


async def test_figures_that_are_not_finite_are_null() -> None:
    observed = Observed("join", ME, telemetry())
    observed.telemetry.report("round", **{**ROUND, "loss": nan, "accuracy": inf})
    last = read(observed.answer({})).last_round
    assert last is not None
    assert (last.round, last.loss, last.accuracy) == (1, None, None)
    assert "not finite" in drawn(observed.status())


async def test_rates_are_of_the_last_rounds_and_sink_when_a_round_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("p2ptrain.node.telemetry.monotonic", lambda: now)
    observed = Observed("join", ME, telemetry())
    assert read(observed.answer({})).rates.rounds_s is None
    for number in range(1, 21):
        now += 0.5
        observed.telemetry.report("round", **{**ROUND, "round": number})
    rates = read(observed.answer({})).rates
    assert (rates.rounds_s, rates.samples_s) == (2.0, 320.0)
    now += 66.5
    rates = read(observed.answer({})).rates
    assert (rates.rounds_s, rates.samples_s) == (0.1, 16.0)


async def test_the_last_things_that_went_wrong_are_told_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2ptrain.node.telemetry.monotonic", partial(next, count(100.0)))
    observed = Observed("join", ME, telemetry())
    observed.telemetry.report("strike", peer=ME, rule="averaging 3.4", detail="norm", strikes=1)
    for number in range(9):
        observed.telemetry.report("warning", text=f"warning {number}")
    observed.telemetry.report("proof", peer=ME, text="signed two things at once")
    notices = read(observed.answer({})).notices
    assert len(notices) == 8
    assert notices[-1].text == f"{ME} signed two things at once"
    assert notices[-2].text == "warning 8"
    assert all(notice.kind == "warning" for notice in notices[:-1])


def test_bytes_a_second_are_those_of_the_last_ten_seconds() -> None:
    traffic = Traffic()
    assert traffic.bytes_s(0.0, ME, (500, 500)) == (0.0, 0.0)
    for second in range(31):
        traffic._samples.append((float(second), {ME: (100 * second, 0)}))
    assert traffic.bytes_s(31.0, ME, (3100, 4000)) == (100.0, 400.0)
    newcomer = IDENTITIES[1].peer_id
    assert traffic.bytes_s(31.0, newcomer, (0, 5000)) == (0.0, 500.0)
    assert traffic.bytes_s(31.0, ME, (7, 7)) == (0.0, 0.7), "its counts have begun anew"


async def test_a_folder_without_sockets_costs_the_status_only(tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []
    config = node_config(tmp_path)
    (config.state_path / SOCKET_NAME).mkdir(parents=True)
    async with open_status(config, "join", ME, Telemetry(events.append)) as observed:
        assert observed.status().phase == "starting"
    (warning,) = events
    assert "`p2ptrain status` cannot be used" in warning["text"]


def test_without_a_node_the_command_ends_with_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--home", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert "no p2ptrain runs in this home" in str(result.exception)
