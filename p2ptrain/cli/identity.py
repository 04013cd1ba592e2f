"""`p2ptrain identity`: who this peer is; the key is made at first use."""

import json

import typer

from p2ptrain.cli.options import Home, Json
from p2ptrain.config_local import node_config
from p2ptrain.net.identity import load_or_create


def command(home: Home = None, as_json: Json = False) -> None:
    """Show this peer's id, making its key if it has none."""
    path = node_config(home).identity_path
    peer_id = load_or_create(path).peer_id
    if as_json:
        typer.echo(json.dumps({"peer_id": peer_id, "path": str(path)}))
    else:
        typer.echo(f"{peer_id}\nkey: {path} (whoever has it can sign as this peer; back it up)")
