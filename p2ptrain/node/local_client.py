"""The other side of the local API: how a command asks the node of its home.

Finding out that nobody answers is most of the work: no node runs here, one is just starting, one is
frozen, or another command uses the home. Each gets its own words (and exit code: cli/main.py).
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2ptrain.errors import ConfigError, P2PTrainError
from p2ptrain.node.local_api import API_VERSION, ApiError, api_line, short_name
from p2ptrain.store.lock import lock_holder
from p2ptrain.wire.limits import API_ANSWER_BYTES_MAX

ASK_TIMEOUT_S = 2.0  # a node answers within milliseconds; a frozen one never does
RETRY_S = 0.02


class NodeSilent(P2PTrainError):
    """A node holds this home and gives no answer, or none that can be understood."""


def ask(folder: Path, request: str, timeout_s: float = ASK_TIMEOUT_S) -> Any:
    """What the node of a state folder answers to a request.

    Raises ConfigError if no node runs there, NodeSilent if it gives no answer within timeout_s,
    ApiError if it refuses.
    """
    until = time.monotonic() + timeout_s
    with _connected(folder, until) as connection:
        try:
            connection.sendall(api_line({"api": API_VERSION, "request": request}))
            answer = _checked(json.loads(_received_line(connection, until)), request)
        except TimeoutError:
            raise NodeSilent(
                f"the node ({_holder(folder)}) does not answer within {timeout_s:g} s: it is "
                "frozen, or this machine is overloaded.\n"
                "Look what it does (ps, top), wait, or stop it (kill)"
            ) from None
        except (OSError, ValueError) as error:
            raise NodeSilent(
                f"the node ({_holder(folder)}) gave no whole answer: {error}.\n"
                "It may have just ended; try again"
            ) from None
    return answer


def _checked(answer: object, request: str) -> Any:
    """The part of an answer that was asked for. Raises ApiError, ValueError."""
    if isinstance(answer, dict):
        if request in answer:
            return answer[request]
        if isinstance(refusal := answer.get("error"), dict):
            raise ApiError(str(refusal.get("code")), f"the node refuses: {refusal.get('text')}")
    raise ValueError("it is no answer to what was asked")


@contextmanager
def _connected(folder: Path, until: float) -> Iterator[socket.socket]:
    """A connection to the node; one that has just started is given time to open its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        while True:
            try:
                with short_name(folder) as path:
                    connection.settimeout(max(until - time.monotonic(), RETRY_S))
                    connection.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                if lock_holder(folder) is None:
                    raise ConfigError(
                        f"no p2ptrain runs in this home ({folder}).\n"
                        "Start one: p2ptrain join --swarm RECIPE.toml|LINK|ID, or name the home "
                        "of the one that runs: --home DIR"
                    ) from None
                if time.monotonic() > until:
                    raise NodeSilent(
                        f"{_holder(folder)} uses this home ({folder}) and answers no requests: "
                        "it is just starting, or a command without a node (seed dataset, while "
                        "it stores).\nTry again when it has got further"
                    ) from None
                time.sleep(RETRY_S)
            except OSError as error:
                raise ConfigError(
                    f"the node of {folder} cannot be asked: {error.strerror}.\n"
                    "Only the user who started it can; name another home with --home DIR"
                ) from error
        yield connection


def _received_line(connection: socket.socket, until: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        connection.settimeout(max(until - time.monotonic(), 1e-3))
        data = connection.recv(1 << 16)
        if not data:
            raise ValueError("it closed the connection")
        received += data
        if len(received) > API_ANSWER_BYTES_MAX:
            raise ValueError(f"its answer has more than {API_ANSWER_BYTES_MAX} bytes")
    return bytes(received)


def _holder(folder: Path) -> str:
    pid = lock_holder(folder)
    return f"process {pid}" if pid is not None else "its process has ended"
