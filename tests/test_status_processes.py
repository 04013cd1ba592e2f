"""`p2ptrain status` of real nodes, from their first half second to their last, healthy or not."""

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from test_status import drawn, read
from test_swarm_processes import (
    LISTEN,
    SOON_S,
    Story,
    compute_process_of,
    contributions,
    recipe,
    story,
)

from p2ptrain.config_local import node_config
from p2ptrain.errors import ConfigError
from p2ptrain.node.local_api import SOCKET_NAME, api_line
from p2ptrain.node.local_client import ask
from p2ptrain.node.local_swarm import PeerProcess
from p2ptrain.node.status import Status


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
        assert trio.current_time() - began < 2 * SOON_S
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
