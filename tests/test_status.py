"""`p2ptrain status`: what is in it, in every phase of real nodes, healthy or not."""

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console
from test_peers import IDENTITIES
from test_swarm_processes import (
    LISTEN,
    Story,
    compute_process_of,
    contributions,
    recipe,
    story,
)
from trio.testing import MockClock
from typer.testing import CliRunner

from p2ptrain.cli.main import app
from p2ptrain.cli.status import show
from p2ptrain.config_local import node_config
from p2ptrain.errors import ConfigError
from p2ptrain.node.local_api import SOCKET_NAME, api_line
from p2ptrain.node.local_client import ask
from p2ptrain.node.local_swarm import PeerProcess
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


# --- real nodes ------------------------------------------------------------------------------


async def status_of(peer: PeerProcess) -> Status:
    state = node_config(peer.home).state_path
    return read(await trio.to_thread.run_sync(ask, state, "status"))


async def status_when(peer: PeerProcess, condition: Callable[[Status], object]) -> Status:
    """The first status that has what is looked for; the story's time bounds the search."""
    while True:
        status = await status_of(peer)
        if condition(status):
            return status


async def first_status_of(peer: PeerProcess) -> Status:
    """The first that can be had at all."""
    while True:
        try:
            return await status_of(peer)
        except ConfigError:  # it has not come to its lock yet
            await trio.lowlevel.checkpoint()


async def command(peer: PeerProcess, *options: str) -> tuple[int, str, str]:
    """`p2ptrain status` as a process: exit code, what it printed, what it complained of."""
    program = [sys.executable, "-m", "p2ptrain.cli.main", "status", "--home", str(peer.home)]
    done = await trio.run_process(
        [*program, *options], check=False, capture_stdout=True, capture_stderr=True
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def is_waiting(status: Status, pattern: str) -> bool:
    return any(re.search(pattern, wait.what) for wait in status.waits)


async def test_a_node_answers_from_its_first_half_second_to_its_last(tmp_path: Path) -> None:
    async with story(tmp_path) as s:
        one = await s.found(recipe(tmp_path, rounds=400), "--wait-for", "1")
        first = await first_status_of(one)
        assert first.addresses == (), "libp2p listens already: a status came too late"
        assert (first.command, first.phase, first.process.pid) == (
            "join",
            "starting",
            one.process.pid,
        )

        opening = await status_when(one, lambda status: is_waiting(status, "the OpenCL device"))
        assert opening.swarm is not None
        assert opening.addresses
        alone = await status_when(one, lambda status: is_waiting(status, "peers to begin with: 0"))
        assert alone.phase == "training"
        assert alone.chain is not None
        assert (alone.chain.round, alone.chain.voter, len(alone.chain.members)) == (0, True, 1)

        two = await s.join("two", await s.link_of(one))
        await s.until(lambda: contributions(two) >= 2)
        await look_at_a_pair(one, two)
        await look_at_a_frozen_compute_process(one)
        await look_at_a_frozen_node(one)
        await annoy(s, one)

        s.swarm.kill("two")
        gone = await status_when(
            one, lambda status: [p for p in status.peers if p.dial and p.dial.last_error]
        )
        (peer,) = gone.peers
        assert not peer.connected
        assert peer.dial is not None
        assert peer.dial.next_try_s is not None
        assert (peer.dial.last_error or "?") in drawn(gone).replace("\n", " ")

        s.swarm.interrupt("one")
        leaving = await status_when(one, lambda status: is_waiting(status, "to be let go"))
        assert leaving.phase == "leaving"
        s.swarm.interrupt("one")
        assert await s.code_of(one) == 130
        code, _, words = await command(one)
        assert code == 3
        assert "no p2ptrain runs in this home" in words


async def look_at_a_pair(one: PeerProcess, two: PeerProcess) -> None:
    """All of a status while two peers train."""
    status = await status_when(one, lambda status: all(p.rtt_s for p in status.peers))
    assert status.chain is not None
    assert status.agreement is not None
    assert status.last_round is not None
    assert status.compute is not None
    assert status.compute.process is not None
    assert status.compute.process.pid == compute_process_of(one)
    assert status.compute.restarts == 0
    assert status.chain.branch_depth == 0
    assert {member.peer for member in status.chain.members} == {
        one.latest["started"]["peer"],
        two.latest["started"]["peer"],
    }
    assert status.agreement.view > status.chain.round
    assert (status.last_round.loss or 0) > 0
    assert (status.rates.rounds_s or 0) > 0
    assert status.rates.sent_bytes_s > 0
    (peer,) = status.peers
    assert peer.peer == two.latest["started"]["peer"]
    assert (peer.connected, peer.in_swarm, peer.member, peer.dial) == (True, True, True, None)
    assert peer.bytes_sent > 0
    assert peer.received_bytes_s > 0
    assert peer.quiet_s is not None
    text = drawn(status)
    assert "trunk" in text
    assert f"...{peer.peer[-12:]}" in text


async def look_at_a_frozen_compute_process(one: PeerProcess) -> None:
    """What hangs is named, with the time that it has left."""
    compute = compute_process_of(one)
    os.kill(compute, signal.SIGSTOP)
    try:
        status = await status_when(
            one, lambda status: any(w.age_s > 0.5 for w in status.waits if "compute" in w.what)
        )
    finally:
        os.kill(compute, signal.SIGCONT)
    (wait,) = [w for w in status.waits if "the compute process: " in w.what and w.age_s > 0.5]
    assert wait.limit_s in (60.0, 600.0)


async def look_at_a_frozen_node(one: PeerProcess) -> None:
    one.process.send_signal(signal.SIGSTOP)
    try:
        began = trio.current_time()
        code, printed, words = await command(one)
        assert trio.current_time() - began < 5
    finally:
        one.process.send_signal(signal.SIGCONT)
    assert (code, printed) == (6, "")
    assert f"the node (process {one.process.pid}) does not answer within 2 s" in words
    code, printed, words = await command(one, "--json")
    assert (code, words) == (0, "")
    assert read(json.loads(printed)).process.pid == one.process.pid


async def annoy(s: Story, one: PeerProcess) -> None:
    """Clients that send rubbish, ask without reading, or just sit there do not stop the rounds."""
    path = str(node_config(one.home).state_path / SOCKET_NAME)
    annoying = [socket.socket(socket.AF_UNIX) for _ in range(12)]
    for number, each in enumerate(annoying):
        each.connect(path)
        each.setblocking(False)
        try:
            each.send(
                (b"\0" * 70_000, api_line({"api": 1, "request": "status"}) * 2000, b"")[number % 3]
            )
        except (BlockingIOError, BrokenPipeError):
            continue
    rounds = contributions(one)
    await s.until(lambda: contributions(one) >= rounds + 3)
    for each in annoying:
        each.close()
    await status_of(one)


async def test_a_killed_node_is_not_taken_for_a_running_one_and_a_seeder_answers_too(
    tmp_path: Path,
) -> None:
    async with story(tmp_path) as s:
        await s.swarm.start(
            s.nursery, "seeder", s.home("seeder"), "digits", *LISTEN, command=("seed", "dataset")
        )
        seeder = s.swarm.peers["seeder"]
        await s.until(lambda: "started" in seeder.latest)
        status = await status_when(seeder, lambda status: status.phase == "serving")
        assert (status.command, status.chain, status.compute) == ("seed dataset", None, None)

        s.swarm.kill("seeder")
        await s.until(lambda: seeder.exit_code is not None)
        assert (node_config(seeder.home).state_path / SOCKET_NAME).exists()
        with pytest.raises(ConfigError, match="no p2ptrain runs in this home"):
            await status_of(seeder)

        await s.swarm.start(
            s.nursery, "seeder", seeder.home, "digits", *LISTEN, command=("seed", "dataset")
        )
        again = s.swarm.peers["seeder"]
        await s.until(lambda: "started" in again.latest)
        assert (await status_of(again)).process.pid == again.process.pid
