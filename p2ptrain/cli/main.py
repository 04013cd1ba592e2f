"""The command line: its commands, and the one place where an error becomes words and a number.

Exit codes
==========

  0    done
  1    it ran, but missed its goal (demo: accuracy or equal weights); or a bug, with its traceback
  2    the command was not understood (usage)
  3    something given cannot work: a recipe, a link, a path, a data set (ConfigError);
       status: no node runs in this home
  4    the disk: full, unreadable, damaged (StoreError)
  5    no OpenCL device can do the work (DeviceError)
  6    the network: no peer answered, or none that keeps the protocol; status: the node is silent
  130  interrupted
"""

import sys
from typing import Annotated

import typer
from rich.console import Console

from p2ptrain.cli import (
    demo,
    devices,
    export,
    identity,
    init,
    join,
    sample,
    schema,
    seed,
    seed_run,
    status,
    tune,
)
from p2ptrain.config_version import describe_version
from p2ptrain.errors import (
    ConfigError,
    DeviceError,
    LocalProtocolError,
    P2PTrainError,
    StoreError,
)

EXIT_CODES: tuple[tuple[type[P2PTrainError], int], ...] = (
    (ConfigError, 3),
    (StoreError, 4),
    (DeviceError, 5),
    (P2PTrainError, 6),  # what is left comes from the network
)
EPILOG = (
    "Exit codes: 0 done; 1 missed its goal; 2 usage; 3 something given cannot work; "
    "4 disk; 5 OpenCL device; 6 network; 130 interrupted."
)

app = typer.Typer(
    help="Train neural networks together on ordinary computers, with no server.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(describe_version())
        raise typer.Exit


@app.callback()
def p2ptrain(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train neural networks together on ordinary computers, with no server."""


seeding = typer.Typer(help="Serve content to others.", no_args_is_help=True)
seeding.command("dataset", epilog=EPILOG)(seed.command)
seeding.command("run", epilog=EPILOG)(seed_run.command)
app.add_typer(seeding, name="seed")
app.command("init", epilog=EPILOG)(init.command)
app.command("schema", epilog=EPILOG)(schema.command)
app.command("export", epilog=EPILOG)(export.command)
app.command("sample", epilog=EPILOG)(sample.command)
app.command("identity", epilog=EPILOG)(identity.command)
app.command("join", epilog=EPILOG)(join.command)
app.command("status", epilog=EPILOG)(status.command)
app.command("devices", epilog=EPILOG)(devices.command)
app.command("tune", epilog=EPILOG)(tune.command)
app.command("demo", epilog=EPILOG)(demo.command)


def run() -> None:
    """Run the command line and exit with one of the documented codes."""
    try:
        app()
    except LocalProtocolError:
        raise  # our bug: the traceback is what a report of it needs
    except P2PTrainError as error:
        sys.exit(report(error))
    except BaseExceptionGroup as group:
        first = _first_known(group)
        if first is None:
            raise
        sys.exit(report(first))


def report(error: P2PTrainError) -> int:
    """Say on stderr what happened, why and what to do; return the exit code."""
    happened, _, todo = str(error).partition("\n")
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(happened)
    if todo:
        console.print(todo)
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def _first_known(group: BaseExceptionGroup[BaseException]) -> P2PTrainError | None:
    """Our error inside what nurseries raised, if all that was raised is ours."""
    ours, others = group.split(P2PTrainError)
    if others is not None or ours is None:
        return None
    error: P2PTrainError | BaseExceptionGroup[P2PTrainError] = ours
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return None if isinstance(error, LocalProtocolError) else error


if __name__ == "__main__":
    run()
