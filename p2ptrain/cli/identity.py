"""`p2ptrain identity`: who this peer is; the key is made at first use."""

import json

import typer

from p2ptrain.cli.options import Home, Json
from p2ptrain.config_local import node_config
from p2ptrain.net.identity import load_or_create
from p2ptrain.node.votes import swarms_in_doubt

EXPLANATION = """\
key: {path}
It was made here and is this peer: whoever has the file can sign as this peer, and there is no
other copy unless you make one. Back it up; to stop being this peer, remove it.

Never run two copies of this home at once. Both would vote with one key, each without knowing of
the other: the others take that for lying, and a node that notices it stops. To train on another
machine too, let it make a key of its own there."""
COPIED = """\
This home looks copied or restored from a backup, in {count} of its swarms: {names}
If the original still runs, stop one of the two for good. Else go on: `p2ptrain join` first sits
out, for about 10 s, until nothing that the copy may have forgotten can matter."""


def command(home: Home = None, as_json: Json = False) -> None:
    """Show this peer's id and what its key means; makes the key if there is none."""
    config = node_config(home)
    path = config.identity_path
    peer_id = load_or_create(path).peer_id
    doubted = swarms_in_doubt(config.state_path)
    if as_json:
        values = {"peer_id": peer_id, "path": str(path), "copied": bool(doubted)}
        typer.echo(json.dumps({**values, "swarms_in_doubt": doubted}))
        return
    typer.echo(f"{peer_id}\n{EXPLANATION.format(path=path)}")
    if doubted:
        typer.echo("\n" + COPIED.format(count=len(doubted), names=", ".join(doubted)))
