"""Write the trained network as safetensors, with its provenance: what it was compiled from.

The safetensors library writes metadata in an order that changes from run to run (a hash map), so
equal networks would make unequal files. The format is simple, so it is written here with sorted
keys: equal inputs give equal bytes, on every machine, and anyone can compare two exports by hash.

    file = length of header, 8 bytes little-endian | header, JSON padded with spaces to 8 bytes |
           tensors, float32 little-endian, in the order of their names

Source: https://github.com/huggingface/safetensors#format; the library reads it back (tests).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import ConfigError
from p2ptrain.store.atomic import make_folder, write_atomically


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a network came from; all text, because safetensors metadata is.

    swarm_id     CID of the canonical recipe
    recipe       the canonical recipe, in hexadecimal
    round        outer steps behind the weights, decimal
    certificate  digest of the certificate of the block, in hexadecimal
    block        block id, in hexadecimal
    data_cid     CID of the data set
    data_name    its name
    licence      its licence
    init_cid     CID of the weights that the run started from; empty: they were drawn from a seed
    version      the p2ptrain that wrote the file
    arithmetic   the rules of computation, decimal
    tokeniser    how text became tokens: bytes or characters; empty: the data are no text
    vocabulary   the characters by their tokens, of characters alone
    """

    swarm_id: str
    recipe: str
    round: str
    certificate: str
    block: str
    data_cid: str
    data_name: str
    licence: str
    init_cid: str
    version: str
    arithmetic: str
    tokeniser: str = ""
    vocabulary: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """The fields as safetensors metadata; keys begin with "p2ptrain.".

        Those of text are there only where there is text.
        """
        of_text = ("tokeniser", "vocabulary")
        return {
            f"p2ptrain.{key}": value
            for key, value in asdict(self).items()
            if self.tokeniser or key not in of_text
        }


def safetensors_bytes(
    tensors: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str]
) -> tuple[bytes, list[bytes]]:
    """The header (with its length) and the bodies of a file, in its order.

    Args:
      tensors   names to float32 arrays of any shape
      metadata  text to text
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    bodies: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        body = np.ascontiguousarray(tensors[name], "<f4").tobytes()
        end = offset + len(body)
        shape = list(tensors[name].shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        bodies.append(body)
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, bodies


def export_network(
    path: Path, tensors: Mapping[str, NDArray[np.float32]], provenance: Provenance
) -> int:
    """Write a network and its provenance to path and return the file's size in bytes.

    Raises:
      ConfigError  path is a folder
      StoreError   the disk refuses; a file that was there is as it was
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder.\nName a file: --out {path / 'model.safetensors'}")
    header, bodies = safetensors_bytes(tensors, provenance.metadata)
    make_folder(path.absolute().parent)
    write_atomically(path, header, *bodies)
    return len(header) + sum(map(len, bodies))
