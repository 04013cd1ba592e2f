"""`p2ptrain join`: found a swarm from a recipe file, or take part in one by its link or id."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console

from p2ptrain.cli.options import Home, NoMdns
from p2ptrain.config import Recipe
from p2ptrain.config_local import SwarmLink, node_config, parse_link
from p2ptrain.errors import ConfigError
from p2ptrain.node.signals import StopNow
from p2ptrain.node.telemetry import Sink, Telemetry, Value, json_lines, number

INTERRUPTED = 130


def command(
    swarm: Annotated[
        str, typer.Option("--swarm", help="A recipe file (founds the swarm), a link, or an id.")
    ],
    listen: Annotated[
        list[str] | None,
        typer.Option(help="Multiaddr to listen at, such as /ip4/0.0.0.0/tcp/4001; repeatable."),
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Multiaddr of a peer to ask first; repeatable.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Leave after contributing to so many rounds.")
    ] = None,
    wait_for: Annotated[
        int, typer.Option(min=0, help="A founder waits for so many peers before round 1.")
    ] = 0,
    local_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Local steps in a round, for a slow machine (default: all)."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="OpenCL device by name: see p2ptrain devices (default: PoCL's CPU).")
    ] = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads to compute with; 0: all.")] = 0,
    no_mdns: NoMdns = False,
    home: Home = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each event.")
    ] = False,
) -> None:
    """Train with others. Ctrl-C finishes the round and leaves; a second one stops at once."""
    # Here, because it loads libp2p, which the other commands do without.
    from p2ptrain.node.node import JoinOptions, join

    options = JoinOptions(
        listen=tuple(listen or JoinOptions().listen),
        peers=tuple(peer or ()),
        rounds_max=rounds,
        first_peers=wait_for,
        local_steps=local_steps,
        device=device,
        threads=threads,
        mdns=not no_mdns,
    )
    target = read_target(swarm)
    telemetry = Telemetry(json_lines if as_json else people())

    try:
        trio.run(join, node_config(home), target, options, telemetry)
    except* (StopNow, KeyboardInterrupt):  # the latter before the node listens to signals
        raise typer.Exit(INTERRUPTED) from None


def read_target(text: str) -> Recipe | SwarmLink:
    """What --swarm names. Raises ConfigError."""
    path = Path(text)
    if text.endswith(".toml") or path.is_file():
        return Recipe.from_file(path)
    try:
        return parse_link(text)
    except ConfigError as error:
        raise ConfigError(
            f"--swarm {text[:80]!r} is no recipe file, link or swarm id.\n{error}\n"
            "Write a recipe with: p2ptrain init digits"
        ) from None


def people() -> Sink:
    """A sink that prints a line for what a person wants to know."""
    console = Console(highlight=False, markup=False, soft_wrap=True)

    def show(event: Mapping[str, Value]) -> None:
        line = words_for(event)
        if line:
            console.print(line)

    return show


def words_for(event: Mapping[str, Value]) -> str | None:
    """One line about an event, or None for what only programs want."""
    match event["event"]:
        case "started":
            return f"peer {event['peer']}"
        case "swarm":
            return (
                f"swarm {event['swarm']} ({event['name']}, {event['rounds']} rounds)\n"
                f"others join with:  p2ptrain join --swarm '{event['link']}'"
            )
        case "phase":
            return f"{event['phase']} ..."
        case "device":
            return f"device: {event['name']}"
        case "fetching":
            return (
                f"fetching the {event['what']}: {event['done']} of {event['total']} "
                f"from {event['peers']} peers"
            )
        case "storing":
            return f"storing the {event['what']}: {event['done']} of {event['total']} blocks"
        case "mirrored":
            return (
                f"holds round {event['round']} of {event['rounds']}"
                f"{', the last' if event['finished'] else ''}; {event['peers']} peers connected, "
                f"sent {_megabytes(event['bytes_sent'])}"
            )
        case "resumed":
            return f"resumed after round {event['round']}"
        case "connected" | "disconnected" | "goodbye" as what:
            return f"{what}: {event['peer']} {event.get('reason', '')}"
        case "refused" | "unreachable" as what:
            return f"{what}: {event['address']}: {event['reason']}"
        case "waiting":
            waits = event["waits"]
            return "waiting: " + "; ".join(waits if isinstance(waits, list) else [])
        case "warning" | "strike" | "proof" as what:
            details = event.get("text") or f"{event.get('rule')}: {event.get('detail')}"
            return f"{what}: {event.get('peer', '')} {details}"
        case "silent":
            return f"silent: {event['peer']} is not waited for until it speaks again"
        case "heard":
            return f"heard again: {event['peer']}"
        case "states":
            return f"{event['text']}"
        case "round":
            return _round_line(event)
        case "energy":
            return f"energy, reckoned: {event['text']}"
        case "curve":
            return f"curve: {event['path']}"
        case "done":
            return (
                f"done: {event['rounds']} rounds, {event['contributed']} with our work in them, "
                f"{event['samples']:,} samples; accuracy {number(event['accuracy']):.4f}\n"
                f"weights SHA-256 {event['weights_sha256']}\n"
                f"export them:  p2ptrain export --swarm {event['swarm']} --out model.safetensors"
            )
        case _:
            return None


def _round_line(event: Mapping[str, Value]) -> str:
    branch = "  BRANCH" if event["branch"] else ""
    mine = "" if event["included"] else "  (without us)"
    newest = event["evaluated_round"]
    when = "" if newest == event["round"] else f" (of round {newest})"
    return (
        f"round {event['round']:>4}  loss {event['loss']:.4f}  "
        f"accuracy {event['accuracy']:.4f}{when}  "
        f"{event['samples_s']:,.0f} samples/s  {event['contributions']} of {event['members']} "
        f"contributed  sent {_megabytes(event['bytes_sent'])}  "
        f"received {_megabytes(event['bytes_received'])}{mine}{branch}"
    )


def _megabytes(count: Value) -> str:
    return f"{count / 1e6:.2f} MB" if isinstance(count, int) else "?"
