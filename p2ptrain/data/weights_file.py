"""From a .safetensors file to the weights in the store: what founding does with model.init.

Every name, shape, type and value is checked before anything is stored. Whatever is wrong is a
ConfigError that names the tensor, what was expected and what was found.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from p2ptrain.data.safetensors import (
    DTYPE_BYTES,
    StoredTensor,
    read_header,
    read_tensor,
    unusable,
)
from p2ptrain.data.weights import TINY, Tensors, Values, WeightsManifest, differences
from p2ptrain.store.blocks import BlockStore
from p2ptrain.wire.cid import Cid
from p2ptrain.wire.limits import CHUNK_BYTES_MAX

Progress = Callable[[int, int], None]  # blocks stored, blocks in all


def store_weights(
    path: Path,
    tensors: Tensors,
    blocks: BlockStore,
    progress: Progress = lambda stored, total: None,
) -> Cid:
    """Put the weights in a .safetensors file into the store; doing it twice changes nothing.

    Args:
      tensors  what the file must hold: these names with these shapes, and no others

    Returns:
      the CID of their manifest

    Raises:
      ConfigError  the file cannot be read, or does not hold finite weights of this network
      StoreError   the store is full; blocks that were stored are intact
    """
    values = read_weights(path, tensors)
    at_once = CHUNK_BYTES_MAX // values.itemsize
    starts = range(0, len(values), at_once)
    cids: list[Cid] = []
    for start in starts:
        cids.append(blocks.put(values[start : start + at_once].tobytes()))
        progress(len(cids), len(starts))
    manifest = WeightsManifest(tensors=tuple(tensors.items()), blocks=tuple(cids))
    return blocks.put(WeightsManifest.from_canonical(manifest.canonical).canonical)


def read_weights(path: Path, tensors: Tensors) -> Values:
    """The weights in a .safetensors file, (values,) float32 little-endian. Raises ConfigError."""
    source = str(path)
    try:
        if not path.is_file():
            raise unusable(source, "there is no such file", "Correct init in the recipe's [model].")
        with path.open("rb") as file:
            stored = read_header(source, file)
            _check_file(source, stored, tensors)
            values = np.empty(sum(map(math.prod, tensors.values())), "<f4")
            start = 0
            for name in tensors:
                tensor = read_tensor(source, file, stored[name])
                _check_finite(source, name, tensor)
                flushed = np.where(np.abs(tensor) < TINY, np.float32(0), tensor)
                values[start : start + tensor.size] = flushed.ravel()
                start += tensor.size
    except OSError as error:
        raise unusable(source, f"{error.strerror or error}", "Check its permissions.") from None
    return values


def _check_file(source: str, stored: Mapping[str, StoredTensor], tensors: Tensors) -> None:
    """See that a file holds these tensors, in types that can be read."""
    found = differences(tensors, {name: tensor.shape for name, tensor in stored.items()})
    if found:
        raise unusable(
            source,
            f"its tensors are not those of the recipe's network: {found}",
            "Set [model] in the recipe to the network that the file holds, or name a file that "
            "p2ptrain export wrote for this one.",
        )
    for name in tensors:
        if stored[name].dtype not in DTYPE_BYTES:
            raise unusable(
                source,
                f"its tensor {name} is {stored[name].dtype!r} where "
                f"{' or '.join(DTYPE_BYTES)} is expected",
                "Convert the file to F32: other types would have to be rounded.",
            )


def _check_finite(source: str, name: str, tensor: Values) -> None:
    wrong = np.argwhere(~np.isfinite(tensor))
    if len(wrong):
        place = wrong[0].tolist()
        value = float(tensor[tuple(place)])
        raise unusable(
            source,
            f"its tensor {name} holds {value} at {place}, where a finite number is expected",
            "Such a network is broken: take a file from before its training diverged.",
        )
