"""Options that several commands have, so that they are spelled and explained in one way."""

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Keep everything under this folder (default: P2PTRAIN_HOME, else XDG folders).",
        file_okay=False,
    ),
]
NoMdns = Annotated[
    bool,
    typer.Option(
        "--no-mdns",
        envvar="P2PTRAIN_NO_MDNS",
        help="Do not announce this peer on the local network, nor look for others there.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
