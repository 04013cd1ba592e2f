"""`p2ptrain seed run`: hold a run's recipe, chain and states, and serve them without training."""

from typing import Annotated

import typer

from p2ptrain.cli.join import people
from p2ptrain.cli.options import Home, NoMdns
from p2ptrain.config_local import node_config, parse_link
from p2ptrain.node.telemetry import Telemetry, json_lines


def command(
    run: Annotated[str, typer.Argument(help="The swarm link, or its id.")],
    peer: Annotated[
        list[str] | None, typer.Option(help="Multiaddr of a peer to ask first; repeatable.")
    ] = None,
    listen: Annotated[
        list[str] | None, typer.Option(help="Multiaddr to serve it at; may be repeated.")
    ] = None,
    data: Annotated[bool, typer.Option("--data/--no-data", help="Hold the data set, too.")] = True,
    once: Annotated[
        bool, typer.Option("--once", help="Fetch what there is and end; do not stay and serve.")
    ] = False,
    no_mdns: NoMdns = False,
    home: Home = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each event.")
    ] = False,
) -> None:
    """Follow a run and serve it, without training, so that it outlives its trainers.

    Needs no OpenCL device. Whoever lost its states, or comes when no trainer is left, gets recipe,
    data, chain and weights from here; p2ptrain export works in this home, too.
    """
    # Here, because it loads libp2p, which the other commands do without.
    from p2ptrain.node.mirror import MirrorOptions, mirror_run

    options = MirrorOptions(
        listen=tuple(listen or MirrorOptions().listen),
        peers=tuple(peer or ()),
        data=data,
        once=once,
        mdns=not no_mdns,
    )
    telemetry = Telemetry(json_lines if as_json else people())
    mirror_run(node_config(home), parse_link(run), options, telemetry)
