"""`p2ptrain schema`: the JSON Schema of a recipe, for editors and for programs that write recipes.

It is made from the very classes that check a recipe (config.py), so it cannot disagree with them
about keys, types, defaults and bounds. What relates several keys to one another, such as the
number of parameters that the shards can hold, is not in it: `p2ptrain join` checks that.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from p2ptrain.config import Recipe
from p2ptrain.store.atomic import make_folder, write_atomically
from p2ptrain.wire.digest import digest

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ID_HEX = 16  # 64 bits tell apart all schemas that there will be


def command(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write it into a file, not to stdout.")
    ] = None,
) -> None:
    """Print the JSON Schema of a recipe."""
    text = json.dumps(recipe_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    make_folder(out.absolute().parent)
    write_atomically(out, text.encode())
    typer.echo(f"wrote {out}")


def recipe_schema() -> dict[str, Any]:
    """The schema as JSON values; its $id names the content, so releases that agree print one id."""
    content = {**Recipe.model_json_schema(), "title": "p2ptrain recipe"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    name = digest("recipe schema", text.encode()).hex()[:ID_HEX]
    return {"$schema": DIALECT, "$id": f"urn:p2ptrain:recipe:{name}", **content}
