"""`p2ptrain demo`: four peers on this machine learn to read digits, together, with no server.

Every peer is a process of its own that speaks libp2p over loopback; what is shown comes from their
telemetry. The exit code says whether the story ended well.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from p2ptrain.cli.options import Json
from p2ptrain.config_local import node_config
from p2ptrain.data.shipped import recipe_path
from p2ptrain.node.local_swarm import Event
from p2ptrain.node.rehearsal import NAMES, Outcome, rehearse
from p2ptrain.node.telemetry import number

ACCURACY_MIN = 0.95
STORY_LINES_SHOWN = 8
DRAWN_PER_S = 5


class Board:
    """What is known of each peer, drawn live or told line by line."""

    def __init__(self, console: Console, *, plain: bool) -> None:
        self._console = console
        self._plain = plain
        self._story: list[str] = []
        self._peers: dict[str, dict[str, Event]] = {name: {} for name in NAMES}
        self._status: dict[str, str] = dict.fromkeys(NAMES, "not started")

    def notice(self, name: str, event: Event) -> None:
        """Take one event in."""
        if not name:
            self._story.append(str(event["text"]))
            if self._plain:
                self._console.print(f"* {event['text']}", soft_wrap=True)
            return
        self._peers[name][str(event["event"])] = event
        status = _status_after(event)
        if status is not None:
            self._status[name] = status
        if self._plain and (event["event"] == "round" and number(event["round"]) % 10 == 0):
            self._console.print(f"  {name}: {_round_words(event)}", soft_wrap=True)

    def __rich__(self) -> Group:
        table = Table(title="p2ptrain: digits, four peers, no server")
        for column in ("peer", "status", "round", "loss", "accuracy", "samples/s", "peers", "sent"):
            table.add_column(column, justify="left" if column in ("peer", "status") else "right")
        for name in NAMES:
            table.add_row(name, self._status[name], *_figures(self._peers[name].get("round")))
        story = [Text(f"* {line}") for line in self._story[-STORY_LINES_SHOWN:]]
        return Group(table, *story)


def command(
    model: Annotated[Path, typer.Option("--out", help="Where the trained network goes.")] = Path(
        "p2ptrain-demo.safetensors"
    ),
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live table.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the peers' homes in this (new) folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train digits with four peers on this machine; one joins late, one is killed.

    Exits with 1 if the accuracy is under 0.95 or the survivors' weights are not the same bits.
    """
    console = Console(stderr=as_json, highlight=False)
    plain = plain or as_json or not console.is_terminal
    board = Board(console, plain=plain)
    folder = keep or Path(tempfile.mkdtemp(prefix="p2ptrain-demo-"))
    kernels = node_config().kernels_path

    def play() -> Outcome:
        return trio.run(
            rehearse, recipe_path("digits"), folder, kernels, model.absolute(), board.notice
        )

    try:
        if plain:
            outcome = play()
        else:
            with Live(board, console=console, refresh_per_second=DRAWN_PER_S):
                outcome = play()
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        typer.echo(json.dumps(_tree(outcome)))
    else:
        _print_end(console, outcome)
    sys.exit(0 if is_good(outcome) else 1)


def is_good(outcome: Outcome) -> bool:
    """Whether the demo showed what it promises."""
    return outcome.accuracy >= ACCURACY_MIN and len(outcome.hashes) == 1


def _status_after(event: Event) -> str | None:
    match event["event"]:
        case "started":
            return "looking for peers"
        case "fetching" | "fetched":
            return f"fetching the {event['what']}"
        case "phase":
            return str(event["phase"])
        case "round":
            return "training"
        case "waiting":
            return "waiting"
        case "done":
            return "done"
        case "exit":
            return "killed" if number(event["code"]) < 0 else "done"
        case _:
            return None


def _figures(event: Event | None) -> list[str]:
    if event is None:
        return [""] * 6
    return [
        str(event["round"]),
        f"{event['loss']:.4f}",
        f"{event['accuracy']:.4f}",
        f"{event['samples_s']:,.0f}",
        str(event["members"]),
        _kilobytes(event["bytes_sent"]),
    ]


def _round_words(event: Event) -> str:
    return (
        f"round {event['round']}, loss {event['loss']:.4f}, accuracy {event['accuracy']:.4f}, "
        f"{event['samples_s']:,.0f} samples/s, {event['members']} peers, "
        f"sent {_kilobytes(event['bytes_sent'])}"
    )


def _kilobytes(count: object) -> str:
    return f"{count / 1e3:,.0f} kB" if isinstance(count, int) else "?"


def _print_end(console: Console, outcome: Outcome) -> None:
    table = Table(title=f"after {outcome.seconds:.1f} s")
    columns = ("peer", "rounds", "samples", "sent", "received", "accuracy", "weights SHA-256")
    for column in columns:
        table.add_column(column, justify="left" if column == "peer" else "right", overflow="fold")
    for peer in outcome.peers:
        end = peer.latest.get("done") or peer.latest.get("round", {})
        killed = peer.name == outcome.killed
        table.add_row(
            peer.name,
            str(end.get("rounds", end.get("round", ""))),
            f"{end['samples']:,}" if not killed else "",
            _kilobytes(end.get("bytes_sent")),
            _kilobytes(end.get("bytes_received")),
            f"{number(end['accuracy']):.4f}" if "accuracy" in end else "",
            "killed" if killed else str(end["weights_sha256"]),
        )
    console.print(table)
    same = "the same bits on every survivor" if len(outcome.hashes) == 1 else "DIFFERENT WEIGHTS"
    console.print(f"accuracy {outcome.accuracy:.4f} on the held-out fifth; {same}", soft_wrap=True)
    if not is_good(outcome):
        console.print(f"the demo wants {ACCURACY_MIN} or more, and one hash", style="bold red")
    console.print(f"the network: {outcome.model}", soft_wrap=True)
    console.print(
        "next:  p2ptrain init digits -o recipe.toml     change it as you like\n"
        "       p2ptrain seed dataset digits --once     its data, into your own store\n"
        "       p2ptrain join --swarm recipe.toml       found a swarm, and share its link\n"
        "data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI,"
        " CC BY 4.0",
        soft_wrap=True,
    )


def _tree(outcome: Outcome) -> dict[str, object]:
    return {
        "swarm": outcome.swarm,
        "seconds": round(outcome.seconds, 2),
        "accuracy": outcome.accuracy,
        "equal": len(outcome.hashes) == 1,
        "killed": outcome.killed,
        "model": str(outcome.model),
        "peers": {p.name: p.latest.get("done") or p.latest.get("round") for p in outcome.peers},
    }
