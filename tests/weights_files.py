"""A small network's weights as files, and a recipe that begins with them."""

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from p2ptrain.config import Recipe
from p2ptrain.store.export import safetensors_bytes
from p2ptrain.wire.cid import cid_of
from p2ptrain.wire.peer_id import peer_id_of

FOUNDER = peer_id_of(bytes(32))
SHAPES = {
    "layer0.weight": (3, 2),
    "layer0.bias": (3,),
    "layer1.weight": (2, 3),
    "layer1.bias": (2,),
}
COUNT = sum(map(prod, SHAPES.values()))
RECIPE = f"""
name = "again"
rounds = 5
[data]
cid = "{cid_of(b"")}"
[model]
layers = [2, 3, 2]
init = "weights/model.safetensors"
[inner]
optimizer = "sgd"
learning_rate = 0.1
batch = 8
local_steps = 2
"""


def network(values: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The values as named tensors, in the order of SHAPES."""
    tensors, start = {}, 0
    for name, shape in SHAPES.items():
        tensors[name] = values[start : start + prod(shape)].reshape(shape)
        start += prod(shape)
    return tensors


SOME = network(np.linspace(-1, 2, COUNT, dtype=np.float32))


def whole_file(tensors: dict[str, np.ndarray[Any, Any]], **metadata: str) -> bytes:
    """What p2ptrain export writes."""
    header, bodies = safetensors_bytes(tensors, metadata)
    return header + b"".join(bodies)


def file_of(header: Any, body: bytes) -> bytes:
    """A file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(shape: list[Any], begin: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def recipe_in(folder: Path, content: bytes, text: str = RECIPE) -> Recipe:
    """A recipe file and the weights that it names."""
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights" / "model.safetensors").write_bytes(content)
    (folder / "recipe.toml").write_text(text)
    return Recipe.from_file(folder / "recipe.toml")


def with_value(value: float) -> dict[str, np.ndarray[Any, Any]]:
    weight = SOME["layer1.weight"].copy()
    weight[1, 2] = value
    return {**SOME, "layer1.weight": weight}
