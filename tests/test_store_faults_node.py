"""A whole node, as a process: its disk fills up while it trains, its home is copied or damaged."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2ptrain.data.shipped import recipe_path
from p2ptrain.node.local_swarm import Event, peer_environment, share_kernels
from p2ptrain.store.stamp import Stamp

TIMEOUT_S = 60


@dataclass
class Ran:
    """What a node did: its exit code, its events by kind, what it said on stderr."""

    code: int
    events: list[Event]
    said: str

    def texts(self, kind: str) -> list[str]:
        return [str(event.get("text", "")) for event in self.events if event["event"] == kind]

    def numbers(self, kind: str) -> list[object]:
        return [event["round"] for event in self.events if event["event"] == kind]


def p2ptrain(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "p2ptrain.cli.main", *arguments, "--home", str(home)]


def join(home: Path, rounds: int, notice: Callable[[int, Event], None] | None = None) -> Ran:
    """Train alone; notice is called with the process id and each event."""
    recipe = str(home.parent / "recipe.toml")
    arguments = ("join", "--swarm", recipe, "--rounds", str(rounds), "--threads", "1", "--json")
    command = p2ptrain(home, *arguments, "--listen", "/ip4/127.0.0.1/tcp/0")
    events: list[Event] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=peer_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            events.append(json.loads(line))
            if notice is not None:
                notice(process.pid, events[-1])
        return Ran(process.wait(TIMEOUT_S), events, process.stderr.read())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that has trained for four rounds."""
    home = tmp_path_factory.mktemp("faults") / "home"
    share_kernels(home, tmp_path_factory.getbasetemp() / "shared kernels")
    shutil.copy(recipe_path("digits"), home.parent / "recipe.toml")
    seed = p2ptrain(home, "seed", "dataset", "digits", "--once")
    subprocess.run(seed, check=True, capture_output=True, env=peer_environment())
    assert join(home, 4).code == 0
    return home


def copied(home: Path, name: str) -> Path:
    """A copy that passes for the original."""
    copy = home.parent / name
    shutil.copytree(home, copy, symlinks=True)
    (swarm,) = (copy / "state" / "swarms").iterdir()
    Stamp(swarm).make()
    return copy


def test_a_disk_that_fills_up_stops_the_node_and_once_there_is_room_it_goes_on(
    trained: Path,
) -> None:
    home = copied(trained, "full")

    def fill(process_id: int, event: Event) -> None:
        if event["event"] == "round" and event["round"] == 7:
            resource.prlimit(process_id, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))

    ran = join(home, 1000, fill)
    assert ran.code == 4
    assert "space" in ran.said or "room" in ran.said
    assert "intact" in ran.said
    assert "Traceback" not in ran.said
    again = join(home, 12)
    assert again.code == 0
    # What was certified last may have been applied only now.
    assert int(str(again.numbers("resumed")[0])) >= 7
    assert again.numbers("round")[-1] == 12


def test_a_copied_home_sits_out_before_it_votes(trained: Path) -> None:
    copy = trained.parent / "copy"
    shutil.copytree(trained, copy, symlinks=True)
    asked = subprocess.run(
        p2ptrain(copy, "identity", "--json"), check=True, capture_output=True, text=True
    )
    assert json.loads(asked.stdout)["copied"]

    def stop(process_id: int, event: Event) -> None:
        if event["event"] == "waiting":  # what for comes 2 s after the wait began
            os.kill(process_id, signal.SIGKILL)

    ran = join(copy, 5, stop)
    assert any("sits out" in text for text in ran.texts("warning"))
    assert ran.numbers("round") == []
    assert "what the others have seen of us" in str(ran.events[-1])


def test_a_home_with_several_damaged_files_goes_on_from_what_is_whole(trained: Path) -> None:
    home = copied(trained, "damaged")
    (swarm,) = (home / "state" / "swarms").iterdir()
    newest = max((swarm / "checkpoints").glob("*.checkpoint"))
    for path in (newest, swarm / "checkpoints" / "final"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
    ran = join(home, 6)
    assert ran.code == 0
    assert ran.numbers("resumed") == [4]  # made again from the checkpoint before, and shards
    assert any("damaged" in text for text in ran.texts("warning"))
    assert ran.numbers("round") == [5, 6]
    assert os.listdir(swarm)
