"""`p2ptrain sample`: text from a network that was trained on text."""

import json
import unicodedata
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from p2ptrain.cli.options import Home, Json
from p2ptrain.cli.trained import find_trained, tokeniser_of
from p2ptrain.config_local import node_config
from p2ptrain.data.tokenisers import CHARACTERS, Tokeniser, Tokens
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.operations import Operations
from p2ptrain.device.reference_math import Floats
from p2ptrain.model.networks import network_of
from p2ptrain.train.next_token import NextToken, language_model
from p2ptrain.train.sampling import SamplingConfig, sample

FIRST = "\n"


def command(
    network: Annotated[
        str,
        typer.Argument(
            help="Swarm link or id, or an exported .safetensors file (default: the run of this "
            "home that trained last)."
        ),
    ] = "",
    prompt: Annotated[str, typer.Option(help="Text that is to be continued.")] = "",
    tokens: Annotated[
        int, typer.Option("--tokens", "-n", min=1, help="How many characters or bytes to write.")
    ] = 500,
    temperature: Annotated[
        float, typer.Option(help="0: always the most likely; 1: as the network expects it.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the k most likely; 0: from all.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe of a .safetensors file that has none inside.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="OpenCL device by name: see p2ptrain devices (default: PoCL's CPU).")
    ] = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write text with a trained network, the newest of this home or another."""
    config = node_config(home)
    settings = SamplingConfig(temperature, top_k, seed)
    trained = find_trained(network, recipe, config)
    model = language_model(network_of(trained.recipe))
    tokeniser = tokeniser_of(trained, config)
    start = tokeniser.encode(prompt) if prompt else first_token(tokeniser)
    library = KernelLibrary(open_device(device or None, config.kernels_path))
    following = NextToken(Operations(library), model, trained.parameters)

    def known(seen: Tokens) -> Floats:
        return following(seen)[: tokeniser.size]  # a network may know more tokens than the text

    decode = tokeniser.decoder()
    pieces = map(decode, islice(sample(known, start, model.context, settings), tokens))
    if as_json:
        text = "".join(pieces)
        said = {"temperature": temperature, "top_k": top_k, "seed": seed, "tokens": tokens}
        typer.echo(json.dumps({"network": trained.source, "prompt": prompt, "text": text, **said}))
        return
    typer.echo(f"{trained.source}:", err=True)
    typer.echo(shown(prompt), nl=False)
    for piece in pieces:
        typer.echo(shown(piece), nl=False)
    typer.echo()


def first_token(tokeniser: Tokeniser) -> Tokens:
    """What is continued without a prompt: a line's end, as if the text began behind it."""
    if tokeniser.kind == CHARACTERS and FIRST not in tokeniser.characters:
        return np.zeros(1, np.uint8)
    return tokeniser.encode(FIRST)


def shown(text: str) -> str:
    """Text that is safe to print: a vocabulary may come from strangers, with escape characters."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) != "Cc"
        else "" if character == "\r" else "\ufffd"
        for character in text
    )  # fmt: skip
