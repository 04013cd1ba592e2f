"""`p2ptrain tune`: finds out how this device computes the network of a recipe fastest.

Theory of operation. The measuring is done by a process of its own (cli/tune_trial.py), which a
driver may crash or hang; only if it ends well its findings are kept, beside the compiled kernels,
where every later run on this device finds them. Tiles change speed, never bits.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from p2ptrain.cli.isolated import PACKAGE_ROOT
from p2ptrain.cli.options import Home, Json
from p2ptrain.config import Recipe
from p2ptrain.config_local import node_config
from p2ptrain.device.products import Tile
from p2ptrain.device.tiles import read_tiles, tiles_content
from p2ptrain.errors import DeviceError
from p2ptrain.store.atomic import make_folder, write_atomically

PROGRAM = "p2ptrain.cli.tune_trial"
GRACE_S = 60.0  # beyond its limit: to build the kernels, and to end the sweep under way


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe whose network is to be computed.")],
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="How long to measure, building included.")
    ] = 30.0,
    device: Annotated[
        str, typer.Option(help="OpenCL device by name: see p2ptrain devices (default: PoCL's CPU).")
    ] = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads to compute with; 0: all.")] = 0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Measure which tiles this device multiplies fastest with; later runs use them."""
    Recipe.from_file(recipe)  # a mistake in it is said before a process is started
    cache = node_config(home).kernels_path
    make_folder(cache)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    environment = {"POCL_MAX_PTHREAD_COUNT": str(threads)} if threads else {}
    arguments = [str(recipe.absolute()), str(seconds), device, str(cache)]
    found = run_trial(arguments, seconds + GRACE_S, environment, console)
    path = Path(found["path"])
    kept = read_tiles(path, found["width"])
    # What was measured again and is no better than the default goes.
    kept = {name: tile for name, tile in kept.items() if name not in found["measured"]}
    new = {name: Tile(rows, nv, found["width"]) for name, (rows, nv) in found["tiles"].items()}
    write_atomically(path, tiles_content(found["device"], {**kept, **new}))
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(words_for(found))


def run_trial(
    arguments: list[str], timeout_s: float, environment: dict[str, str], console: Console
) -> dict[str, Any]:
    """What the program found. Raises DeviceError if it could not, or died."""
    path = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches us alone
        env={**os.environ, "PYTHONPATH": path, **environment},
        text=True,
    ) as process:
        alarm = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        try:
            found = _last_line(process, console)
        finally:
            alarm.cancel()
            if process.poll() is None and still_runs(process):
                os.killpg(process.pid, signal.SIGKILL)
    if found is None:
        raise DeviceError(
            f"the process that measures ended with {process.returncode}: the driver of the device "
            "crashed or hung.\nNothing was changed; runs go on with the default tiles"
        )
    if found["error"]:
        raise DeviceError(found["error"])
    return found


def still_runs(process: subprocess.Popen[str]) -> bool:
    """Whether the process is still at work a second after its output ended."""
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        return True
    return False


def _last_line(process: subprocess.Popen[str], console: Console) -> dict[str, Any] | None:
    assert process.stdout is not None
    for line in process.stdout:
        told = json.loads(line)
        if "progress" not in told:
            found: dict[str, Any] = told
            return found
        console.print(told["progress"], end="\r" if console.is_terminal else "\n")
    return None


def words_for(found: dict[str, Any]) -> str:
    """The findings for people."""
    lines = [f"device: {found['device']}"]
    lines += [f"refused {reason}" for reason in found["refused"]]
    lines += [f"  {name}: {rows} x {nv} vectors" for name, (rows, nv) in found["tiles"].items()]
    before, after = 1e3 * found["default_s"], 1e3 * found["best_s"]
    lines.append(
        f"{found['tried']} tiles measured {found['sweeps']} times: {len(found['tiles'])} of "
        f"{found['asked']} operations have a faster one; together {before:.2f} ms a step before, "
        f"{after:.2f} ms now"
    )
    lines.append(f"kept in {found['path']}")
    return "\n".join(lines)
