"""`python -m simnet figures`: published tables of averaging, computed again, number by number.

    A  rounds that averaging takes while peers fail (Moshpit SGD)      simnet/figures_moshpit.py
    B  honest peers pushed apart by liars (ClippedGossip)              simnet/figures_clipping.py
    C  how fast graphs mix (exponential graphs, EquiTopo)              simnet/figures_graphs.py
    scale  committee and grid at 256 to 10,000 peers; nothing published, so only with --only

Each number stands beside the published one, with the tolerance and a verdict. Seeds are fixed, so
two runs print the same. With --out the curves are written as A.png, B.png, C.png.
"""

# ruff: noqa: T201 (what a command says goes to the terminal)

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from math import isinf
from pathlib import Path

from simnet.figures_chart import picture
from simnet.figures_clipping import table_b
from simnet.figures_graphs import table_c
from simnet.figures_moshpit import table_a
from simnet.figures_scale import table_scale
from simnet.figures_table import Table, text_of

TABLES: dict[str, Callable[[], Iterator[str | Table]]] = {
    "A": table_a,
    "B": table_b,
    "C": table_c,
    "scale": table_scale,
}
PUBLISHED = ["A", "B", "C"]


def figures(arguments: Sequence[str]) -> int:
    """The command. Exit status: 0 if every number is within its tolerance, 1 if one is not."""
    parser = argparse.ArgumentParser(
        prog="python -m simnet figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_keys, default=PUBLISHED, metavar="A,B", help="these")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the curves there, as PNG")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    tables = [computed(TABLES[key]()) for key in options.only]
    if options.out:
        try:
            _write(options.out, tables)
        except OSError as error:
            parser.error(f"no pictures in {options.out}: {error}")
    if options.json:
        print(json.dumps([_as_json(table) for table in tables]))
    else:
        print("\n\n".join(text_of(table) for table in tables))
        print(f"\n{_verdict(tables)}")
    return 1 if any(table.failed for table in tables) else 0


def _keys(words: str) -> list[str]:
    keys = words.split(",")
    for key in keys:
        if key not in TABLES:
            raise argparse.ArgumentTypeError(f"no table {key!r}: choose from {', '.join(TABLES)}")
    return keys


def computed(steps: Iterator[str | Table]) -> Table:
    """The table that comes at the end, while a terminal shows what is being computed."""
    for step in steps:
        if sys.stderr.isatty():
            words = step if isinstance(step, str) else ""
            print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)
        if isinstance(step, Table):
            return step
    raise AssertionError("a table is what the steps end with")


def _write(folder: Path, tables: Sequence[Table]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        if table.curves:
            (folder / f"{table.key}.png").write_bytes(picture(table))


def _verdict(tables: Sequence[Table]) -> str:
    checked = sum(figure.tolerance != "-" for table in tables for figure in table.figures)
    failed = [figure.name for table in tables for figure in table.failed]
    if failed:
        return f"{len(failed)} of {checked} numbers are out of tolerance: {'; '.join(failed)}"
    return f"{checked} numbers are within their tolerances"


def _as_json(table: Table) -> dict[str, object]:
    """Bounds that are infinite are null: JSON has no infinity."""
    rows = []
    for figure in table.figures:
        row = asdict(figure) | {"holds": figure.holds}
        rows.append(row | {end: None for end in ("low", "high") if isinf(row[end])})
    return {"table": table.key, "title": table.title, "note": table.note, "figures": rows}
