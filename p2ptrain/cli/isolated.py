"""Run one of our programs in a process of its own, because what it loads may crash or hang.

OpenCL drivers are the reason: to list the devices of a machine loads the code of every driver
that is installed, and a self-test has it compile. The program answers with one JSON value, which
it writes into a file that it gets as its stdout; all else that it or a driver prints goes to its
stderr. Files, not pipes, since a driver may leave a process of its own behind that keeps a pipe
open. The process leads a session, so that all it started is killed with it, and Ctrl-C reaches us
alone.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from p2ptrain.wire.limits import ANSWER_BYTES_MAX

PACKAGE_ROOT = Path(__file__).parents[2]  # the child runs the very code that this process does
LAST_WORDS_BYTES = 4096  # of stderr: a traceback, or what a driver says before it aborts


@dataclass(frozen=True, slots=True)
class Died:
    """The program gave no answer.

    reason      what became of it, in words
    last_words  the end of what it wrote to stderr
    """

    reason: str
    last_words: str


def ask(
    module: str, arguments: Sequence[str], timeout_s: float, environment: Mapping[str, str]
) -> Any | Died:
    """The JSON value that `python -m module arguments` answers with, or how it ended.

    Args:
      module       its main() takes arguments and writes with `answer`
      timeout_s    after so long it is killed
      environment  laid over this process's own
    """
    path = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return Died(f"it gave no answer within {timeout_s:g} s", _last_words(stderr))
        finally:
            _kill(process)
        return _answer(code, stdout, stderr)


def take_stdout() -> IO[str]:
    """The file that the answer goes to; from now on prints of Python and C go to stderr."""
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return result


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process with all that it started."""
    with suppress(ProcessLookupError):  # it has ended, and left nothing behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answer(code: int, stdout: IO[bytes], stderr: IO[bytes]) -> Any | Died:
    if code != 0:
        return Died(_ending(code), _last_words(stderr))
    stdout.seek(0)
    try:
        return json.loads(stdout.read(ANSWER_BYTES_MAX))
    except ValueError:
        return Died("it ended without an answer", _last_words(stderr))


def _ending(code: int) -> str:
    if code > 0:
        return f"it ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"it was ended by {name}"


def _last_words(stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - LAST_WORDS_BYTES))
    return stderr.read().decode("utf-8", "replace").strip()
