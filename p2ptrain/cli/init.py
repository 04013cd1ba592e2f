"""`p2ptrain init`: a commented recipe to start from."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from p2ptrain.data.shipped import DIGITS, SHAKESPEARE, recipe_path
from p2ptrain.errors import ConfigError
from p2ptrain.store.atomic import make_folder, write_atomically


class Template(StrEnum):
    """The recipes that come with p2ptrain, data.shipped.RECIPES, and a shorter name for one."""

    DIGITS = "digits"
    FASHION = "fashion"
    FASHION_CONVNET = "fashion-convnet"
    SHAKESPEARE_CHAR = "shakespeare-char"
    TEXT = "text"


SHORT = {Template.TEXT: Template.SHAKESPEARE_CHAR}
# The data that comes with p2ptrain, too.
SEEDING = {Template.SHAKESPEARE_CHAR: SHAKESPEARE, Template.DIGITS: DIGITS}


def command(
    template: Annotated[Template, typer.Argument(help="Which recipe.")] = Template.DIGITS,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write it.")] = Path(
        "recipe.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented recipe."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder.\nName a file: -o {out / 'recipe.toml'}")
    if out.exists() and not force:
        raise ConfigError(
            f"{out} is there already and is not overwritten.\n"
            "Choose another name (-o OTHER.toml) or overwrite it (--force)."
        )
    make_folder(out.absolute().parent)
    template = SHORT.get(template, template)
    write_atomically(out, recipe_path(template).read_bytes())
    typer.echo(f"wrote {out}")
    if template in SEEDING:
        typer.echo(f"Add its data: p2ptrain seed dataset {SEEDING[template]} --once")
    typer.echo(f"Found a swarm with it: p2ptrain join --swarm {out}")
