"""The local API: a Unix socket in the state folder, at which programs of this user ask the node.

One request is one line of JSON, and so is its answer; protocol/local-api.md has the format.

    {"api": 1, "request": "status"}
    {"api": 1, "status": {...}}            or  {"api": 1, "error": {"code": "...", "text": "..."}}

What can be asked is a table from names to functions, given by who starts the server. The socket's
file has mode 0600 in a folder of mode 0700, so the kernel keeps other users out. It is made while
the home lock is held, which is why one that lies there already belongs to nobody any more.

The node never waits for a client: requests are short lines, answers are made at once, and whoever
does not read, does not ask or asks too fast loses its place or waits. The path of a socket may
have 107 bytes and homes may be deep, so that it is named through /proc/self/fd/<folder> instead.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any

import trio

from p2ptrain.errors import P2PTrainError
from p2ptrain.store.atomic import disk_errors
from p2ptrain.wire.limits import (
    API_CLIENTS_MAX,
    API_IDLE_S,
    API_PACE_S,
    API_REQUEST_BYTES_MAX,
    API_WRITE_TIMEOUT_S,
)

API_VERSION = 1
SOCKET_NAME = "api.sock"

Tree = Mapping[str, Any]  # what JSON calls an object
Answerer = Callable[[Tree], object]


class ApiError(P2PTrainError):
    """A request that cannot be answered. code is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def listen(folder: Path) -> trio.SocketListener:
    """Open the socket in the state folder; the caller holds the home lock. Raises StoreError."""
    with disk_errors(f"open the local API at {folder / SOCKET_NAME}"), short_name(folder) as path:
        Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(path)
            Path(path).chmod(0o600)  # nobody can connect before listen() is called
            listener.listen(API_CLIENTS_MAX)
        except BaseException:
            listener.close()
            raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


async def serve(folder: Path, listener: trio.SocketListener, table: Mapping[str, Answerer]) -> None:
    """Answer requests until cancelled, and take the socket away.

    table  by the name of a request: takes the request, returns what is put into JSON under that
           name, and raises ApiError if it cannot
    """
    api = _LocalApi(table)
    try:
        await trio.serve_listeners(api.serve_client, [listener])
    finally:
        with suppress(OSError):  # the next one to start replaces it anyhow
            (folder / SOCKET_NAME).unlink(missing_ok=True)


class _LocalApi:
    """Answers the lines of each client in their order."""

    def __init__(self, table: Mapping[str, Answerer]) -> None:
        self._table = table
        self._clients = 0
        self._next_turn_at = -inf

    async def serve_client(self, stream: trio.SocketStream) -> None:
        """One client, from its first word to its last."""
        self._clients += 1
        try:
            async with stream:
                await self._converse(stream)
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # it hung up, does not read, or has nothing to ask
        finally:
            self._clients -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        if self._clients > API_CLIENTS_MAX:
            busy = ApiError("busy", f"{API_CLIENTS_MAX} programs are connected: try again later")
            return await _send(stream, _refusal(busy))
        buffer = bytearray()
        while True:
            with trio.fail_after(API_IDLE_S):
                line = await _next_line(stream, buffer)
            if line is None:
                return
            if len(line) > API_REQUEST_BYTES_MAX:
                most = ApiError("too long", f"a request has {API_REQUEST_BYTES_MAX} bytes at most")
                return await _send(stream, _refusal(most))
            await self._turn()
            await _send(stream, self._answer(line))

    async def _turn(self) -> None:
        """Wait for one's turn: whoever asks in a loop must not keep the node from its work."""
        at = max(self._next_turn_at, trio.current_time())
        self._next_turn_at = at + API_PACE_S
        await trio.sleep_until(at)

    def _answer(self, line: bytes) -> bytes:
        try:
            request = _parsed(line)
            name = request["request"]
            answer = api_line({"api": API_VERSION, name: self._answerer(name)(request)})
        except ApiError as error:
            return _refusal(error)
        return answer

    def _answerer(self, name: str) -> Answerer:
        if name not in self._table:
            known = ", ".join(sorted(self._table))
            raise ApiError("unknown request", f"{name[:40]!r} is no request; there is: {known}")
        return self._table[name]


async def _next_line(stream: trio.SocketStream, buffer: bytearray) -> bytes | None:
    """The next line without its end, or what exceeds the bound; None at the end of all."""
    while (end := buffer.find(b"\n")) < 0:
        if len(buffer) > API_REQUEST_BYTES_MAX:
            return bytes(buffer)
        data = await stream.receive_some(API_REQUEST_BYTES_MAX)
        if not data:
            return None
        buffer += data
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line


def _parsed(line: bytes) -> Tree:
    """A request with a name. Raises ApiError."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ApiError("no JSON", "a request is one line of JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("request"), str):
        raise ApiError("no request", 'a request is an object with "api" and "request"')
    if request.get("api") != API_VERSION:
        raise ApiError("other version", f"this node speaks version {API_VERSION} of the local API")
    return request


def _refusal(error: ApiError) -> bytes:
    return api_line({"api": API_VERSION, "error": {"code": error.code, "text": str(error)}})


def api_line(tree: Tree) -> bytes:
    """A request or an answer as it is sent."""
    return json.dumps(tree, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    with trio.fail_after(API_WRITE_TIMEOUT_S):
        await stream.send_all(data)


@contextmanager
def short_name(folder: Path) -> Iterator[str]:
    """The path of the socket in a folder, short however deep the folder lies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)
