"""The local API over real sockets: who may ask, what is answered, and clients that behave badly."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2ptrain.errors import ConfigError, StoreError
from p2ptrain.node.local_api import SOCKET_NAME, Answerer, ApiError, api_line, listen, serve
from p2ptrain.node.local_client import NodeSilent, ask
from p2ptrain.store.lock import home_lock, lock_holder
from p2ptrain.wire.limits import (
    API_ANSWER_BYTES_MAX,
    API_CLIENTS_MAX,
    API_IDLE_S,
    API_PACE_S,
    API_REQUEST_BYTES_MAX,
    API_WRITE_TIMEOUT_S,
)

STATUS = api_line({"api": 1, "request": "status"})
IMPATIENT_S = 0.2


def refusing(request: Mapping[str, object]) -> object:
    raise ApiError("not now", "not while the round runs")


TABLE: Mapping[str, Answerer] = {
    "status": lambda request: {"round": 7},
    "echo": lambda request: request["text"],
    "long": lambda request: "x" * (1 << 19),
    "endless": lambda request: "x" * API_ANSWER_BYTES_MAX,
    "refuse": refusing,
}


@asynccontextmanager
async def api(folder: Path) -> AsyncIterator[None]:
    """A server with TABLE in a folder whose lock this process holds."""
    with home_lock(folder):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, folder, listen(folder), TABLE)
            yield
            nursery.cancel_scope.cancel()


async def asked(folder: Path, request: str) -> object:
    return await trio.to_thread.run_sync(ask, folder, request)


async def connect(folder: Path) -> trio.SocketStream:
    return await trio.open_unix_socket(str(folder / SOCKET_NAME))


async def line_of(stream: trio.SocketStream) -> dict[str, dict[str, str]]:
    """The next answer; {} when the server has closed the connection."""
    received = b""
    while not received.endswith(b"\n"):
        data = await stream.receive_some()
        if not data:
            return {}
        received += data
    answer: dict[str, dict[str, str]] = json.loads(received)
    return answer


async def is_closed(stream: trio.SocketStream) -> bool:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    return True


# --- who may ask -----------------------------------------------------------------------------


async def test_the_socket_is_this_users_alone_and_goes_with_the_node(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    async with api(folder):
        path = folder / SOCKET_NAME
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert await asked(folder, "status") == {"round": 7}
    assert not path.exists()


async def test_a_home_may_lie_deeper_than_a_sockets_name_is_long(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*(f"{'folder':x<60}{depth}" for depth in range(8)))
    assert len(os.fsencode(folder)) > 500
    async with api(folder):
        assert await asked(folder, "status") == {"round": 7}
    with pytest.raises(ConfigError, match="no p2ptrain runs in this home"):
        ask(folder, "status")


async def test_what_a_killed_node_left_behind_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET_NAME))
    with pytest.raises(ConfigError, match="no p2ptrain runs in this home"):
        ask(tmp_path, "status")
    async with api(tmp_path):
        assert await asked(tmp_path, "status") == {"round": 7}


def test_a_folder_where_no_socket_can_be_is_the_disks_fault(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).mkdir()
    with pytest.raises(StoreError, match="cannot open the local API"):
        listen(tmp_path)


# --- what is answered ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\xff\xfe\n", "no JSON"),
        (b"\n", "no JSON"),
        (b"[" * 4000 + b"\n", "no JSON"),
        (b"1" * 4090 + b"\n", "no request"),
        (b'["status"]\n', "no request"),
        (b'{"request": ["status"], "api": 1}\n', "no request"),
        (b'{"request": "status"}\n', "other version"),
        (b'{"request": "status", "api": 2}\n', "other version"),
        (b'{"request": "stop\\ud800", "api": 1}\n', "unknown request"),
        (b'{"request": "refuse", "api": 1}\n', "not now"),
    ],
)
async def test_what_is_no_request_is_refused_with_words_and_the_next_one_answered(
    tmp_path: Path, line: bytes, code: str
) -> None:
    async with api(tmp_path), await connect(tmp_path) as stream:
        await stream.send_all(line + STATUS)
        lines = b""
        while lines.count(b"\n") < 2:
            lines += await stream.receive_some()
        refusal, answer = (json.loads(each) for each in lines.splitlines())
        assert refusal["error"]["code"] == code
        assert refusal["error"]["text"]
        assert answer == {"api": 1, "status": {"round": 7}}


async def test_a_request_may_come_in_parts_and_has_arguments(tmp_path: Path) -> None:
    async with api(tmp_path), await connect(tmp_path) as stream:
        line = api_line({"api": 1, "request": "echo", "text": "x\n"})
        for at in range(0, len(line), 10):
            await stream.send_all(line[at : at + 10])
        assert await line_of(stream) == {"api": 1, "echo": "x\n"}


async def test_a_refusal_is_an_error_of_the_client(tmp_path: Path) -> None:
    async with api(tmp_path):
        with pytest.raises(ApiError, match="not while the round runs"):
            await asked(tmp_path, "refuse")
        with pytest.raises(NodeSilent, match="more than 1048576 bytes"):
            await asked(tmp_path, "endless")


# --- clients that behave badly ---------------------------------------------------------------


async def test_a_line_without_an_end_costs_its_place(tmp_path: Path) -> None:
    async with api(tmp_path), await connect(tmp_path) as stream:
        await stream.send_all(b"x" * (API_REQUEST_BYTES_MAX + 1))
        assert (await line_of(stream))["error"]["code"] == "too long"
        assert await is_closed(stream)
        assert await asked(tmp_path, "status") == {"round": 7}


async def test_who_does_not_read_is_dropped_and_holds_up_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with api(tmp_path), await connect(tmp_path) as deaf, await connect(tmp_path) as other:
        await deaf.send_all(api_line({"api": 1, "request": "long"}) * 20)
        await trio.sleep(0.5)
        began = trio.current_time()
        await other.send_all(STATUS)
        assert await line_of(other) == {"api": 1, "status": {"round": 7}}
        assert trio.current_time() - began < 0.1
        await trio.sleep(API_WRITE_TIMEOUT_S + 1)
        received = 0
        with suppress(trio.BrokenResourceError):
            while data := await deaf.receive_some():
                received += len(data)
        assert received < 2 << 19, "it was sent the second answer after it had been dropped"


async def test_whoever_asks_in_a_loop_is_answered_at_a_bounded_pace(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """On one connection or on many: together they have no more than one answer each 30 ms."""
    async with api(tmp_path), await connect(tmp_path) as stream:
        began = trio.current_time()
        await stream.send_all(STATUS * 20)
        lines = 0
        while lines < 20:
            lines += (await stream.receive_some()).count(b"\n")
        for _ in range(20):
            async with await connect(tmp_path) as another:
                await another.send_all(STATUS)
                assert await line_of(another) == {"api": 1, "status": {"round": 7}}
        assert trio.current_time() - began >= 39 * API_PACE_S - 1e-6


async def test_there_is_room_for_some_and_the_idle_make_room(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with api(tmp_path):
        streams = [await connect(tmp_path) for _ in range(API_CLIENTS_MAX)]
        for stream in streams:  # all have their place
            await stream.send_all(STATUS)
            assert await line_of(stream) == {"api": 1, "status": {"round": 7}}
        async with await connect(tmp_path) as late:
            assert (await line_of(late))["error"]["code"] == "busy"
            assert await is_closed(late)
        await trio.sleep(API_IDLE_S + 1)
        async with await connect(tmp_path) as again:
            await again.send_all(STATUS)
            assert await line_of(again) == {"api": 1, "status": {"round": 7}}
        for stream in streams:
            assert await is_closed(stream)
            await stream.aclose()


async def test_who_hangs_up_before_the_answer_harms_nobody(tmp_path: Path) -> None:
    async with api(tmp_path):
        for _ in range(3):
            async with await connect(tmp_path) as stream:
                await stream.send_all(api_line({"api": 1, "request": "long"}))
        assert await asked(tmp_path, "status") == {"round": 7}


# --- when nobody answers ---------------------------------------------------------------------


def test_without_a_node_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="p2ptrain join --swarm"):
            ask(folder, "status")


def test_a_command_without_a_node_is_named_by_its_process(tmp_path: Path) -> None:
    with home_lock(tmp_path), pytest.raises(NodeSilent) as caught:
        ask(tmp_path, "status", IMPATIENT_S)
    assert str(caught.value).startswith(f"process {os.getpid()} uses this home")


def test_a_node_that_does_not_answer_is_named_by_its_process(tmp_path: Path) -> None:
    with home_lock(tmp_path), socket.socket(socket.AF_UNIX) as frozen:
        frozen.bind(str(tmp_path / SOCKET_NAME))
        frozen.listen()
        with pytest.raises(NodeSilent) as caught:
            ask(tmp_path, "status", IMPATIENT_S)
    assert f"(process {os.getpid()}) does not answer within 0.2 s" in str(caught.value)


def test_what_is_no_answer_is_not_taken_for_one(tmp_path: Path) -> None:
    for words in (b"", b"\n", b"[]\n", b"5\n", b"{not JSON\n"):
        with socket.socket(socket.AF_UNIX) as odd:
            odd.bind(str(tmp_path / SOCKET_NAME))
            odd.listen()
            program = f"import socket; s = socket.socket(fileno={odd.fileno()}); c, _ = s.accept()"
            program += f"; c.recv(4096); c.sendall({words!r}); c.close()"
            child = subprocess.Popen([sys.executable, "-c", program], pass_fds=[odd.fileno()])
            with pytest.raises(NodeSilent, match="gave no whole answer"):
                ask(tmp_path, "status")
            assert child.wait() == 0
        (tmp_path / SOCKET_NAME).unlink()


def test_the_locks_holder_is_known_without_taking_the_lock(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    with home_lock(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
    assert lock_holder(tmp_path) is None, "its id is still in the file, but the file is closed"
    (tmp_path / "lock").write_text("no number\n")
    assert lock_holder(tmp_path) is None
