"""`p2ptrain seed dataset`: cut data into chunks, name it, and serve it to others."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from p2ptrain.cli.options import Home, Json, NoMdns
from p2ptrain.config_local import NodeConfig, node_config
from p2ptrain.data.manifest import Manifest
from p2ptrain.data.seeding import UNKNOWN_LICENCE, Seeded, seed_dataset
from p2ptrain.data.seeding import Progress as Report
from p2ptrain.data.shipped import DIGITS, SHAKESPEARE, SHIPPED
from p2ptrain.data.text import TextOptions
from p2ptrain.store.blocks import BlockStore
from p2ptrain.store.lock import home_lock
from p2ptrain.wire.cid import Cid

BAR_AFTER_S = 1.0  # a bar that flashes by tells nobody anything


class Kind(StrEnum):
    """data.tokenisers.TOKENISERS."""

    CHARACTERS = "characters"
    BYTES = "bytes"


def command(
    path: Annotated[
        Path,
        typer.Argument(
            help="An IDX file or a folder of them (.gz or not), .npz, UTF-8 text or a folder of "
            f".txt files; or '{DIGITS}' or '{SHAKESPEARE}', which come with p2ptrain."
        ),
    ],
    name: Annotated[str, typer.Option(help="Its name (default: the file's).")] = "",
    licence: Annotated[
        str, typer.Option("--licence", "--license", help="Its licence, such as CC-BY-4.0.")
    ] = UNKNOWN_LICENCE,
    tokeniser: Annotated[
        Kind | None,
        typer.Option(
            help="How text is cut: characters (256 different ones at the most) or bytes "
            "(default for text: characters)."
        ),
    ] = None,
    test_share: Annotated[
        float | None, typer.Option(help="Part of a text that is held out (default: 0.1).")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Only add it to the store; do not serve it.")
    ] = False,
    listen: Annotated[
        list[str] | None, typer.Option(help="Multiaddr to serve it at; may be repeated.")
    ] = None,
    no_mdns: NoMdns = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add a data set to the store, print its CID, and serve it until stopped."""
    config = node_config(home)
    with home_lock(config.state_path), _bar() as progress:
        blocks = BlockStore(config.blocks_path)
        if str(path) in SHIPPED and not path.exists() and not name:
            seeded = SHIPPED[str(path)](blocks, progress)
        else:
            seeded = seed_dataset(
                path,
                blocks,
                name=name,
                licence=licence,
                text=TextOptions(tokeniser, test_share),
                progress=progress,
            )
    if as_json:
        typer.echo(json.dumps(_tree(seeded)))
    else:
        _print_found(seeded)
    if not once:
        _serve(config, seeded.cid, listen or [], as_json, mdns=not no_mdns)


def _serve(config: NodeConfig, cid: Cid, listen: list[str], as_json: bool, *, mdns: bool) -> None:
    # Here, because it loads libp2p, which --once does without.
    from p2ptrain.cli.join import people
    from p2ptrain.node.seeding import serve_dataset
    from p2ptrain.node.telemetry import Telemetry, json_lines

    telemetry = Telemetry(json_lines if as_json else people())
    serve_dataset(config, cid, listen, telemetry, mdns=mdns)


@contextmanager
def _bar() -> Iterator[Report]:
    """A progress bar on stderr, shown once the work has taken BAR_AFTER_S."""
    columns = (TextColumn("storing chunks"), BarColumn(), TaskProgressColumn())
    began = time.monotonic()
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("storing", visible=False)

        def report(stored: int, total: int) -> None:
            late = time.monotonic() - began > BAR_AFTER_S
            bar.update(task, completed=stored, total=total, visible=late)

        yield report


def _print_found(seeded: Seeded) -> None:
    manifest = seeded.manifest
    table = Table(show_header=False, box=None)
    for key, value in _words(manifest, seeded.bytes_total):
        table.add_row(key, value)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print("In a recipe:")
    console.print(f'[data]\ncid = "{seeded.cid}"', soft_wrap=True)
    if manifest.tokeniser:
        size = manifest.tokeniser.size
        console.print(f'[model]\nkind = "gpt"\nvocabulary = {size}', soft_wrap=True)


def _words(manifest: Manifest, bytes_total: int) -> list[tuple[str, str]]:
    record, label, tokeniser = manifest.record, manifest.label, manifest.tokeniser
    splits = ", ".join(f"{manifest.records(name):,} {name}" for name in manifest.split_names)
    if tokeniser:
        what = [("tokens", splits), ("vocabulary", f"{tokeniser.size} {tokeniser.kind}")]
    else:
        what = [
            ("records", splits),
            ("one record", f"{record.dtype} {list(record.shape) or '(single value)'}"),
            ("labels", f"{label.classes} classes" if label else "none"),
        ]
    return [
        ("data set", manifest.name),
        ("licence", manifest.licence),
        *what,
        ("stored", f"{len(manifest.chunk_cids):,} chunks, {bytes_total:,} bytes"),
        ("CID", manifest.cid),
    ]


def _tree(seeded: Seeded) -> dict[str, object]:
    manifest = seeded.manifest
    return {
        "event": "seeded",  # of the same form as the telemetry that follows while it serves
        "cid": seeded.cid,
        "name": manifest.name,
        "licence": manifest.licence,
        "record": {"dtype": manifest.record.dtype, "shape": list(manifest.record.shape)},
        "classes": manifest.label.classes if manifest.label else None,
        "tokeniser": manifest.tokeniser.kind if manifest.tokeniser else None,
        "vocabulary": manifest.tokeniser.size if manifest.tokeniser else None,
        "splits": {name: manifest.records(name) for name in manifest.split_names},
        "chunks": len(manifest.chunk_cids),
        "bytes": seeded.bytes_total,
    }
