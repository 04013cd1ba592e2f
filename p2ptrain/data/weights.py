"""Weights to start a run from, as blocks that peers take from one another.

A recipe whose model.init is not empty names the CID of such a manifest, one document
(wire/document.py), so that the weights are part of what the swarm id is the hash of. Manifest and
blocks are blocks like any other: whoever knows the CID can take them from anyone. The normative
text is protocol/data.md, section 5.

    {format: 1, kind: "weights", tensors: [[name, [size, ...]], ...], blocks: [CID, ...]}

The weights are the tensors' values as float32, little-endian, each tensor row-major, one behind
the other in the order of the manifest, cut into blocks of CHUNK_BYTES_MAX bytes, the last one
shorter. A magnitude below 2**-63 is +0, as everywhere in the engine (kernels/common.cl), so -0
does not occur either: equal weights have equal bytes, and no device has to deal with denormals.

The tensors that a network has come from model/mlp.py; this module takes them as an argument.
From a file to blocks: data/weights_file.py.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from p2ptrain.errors import ConfigError
from p2ptrain.wire.cid import Cid, cid_of, parse_cid
from p2ptrain.wire.document import pack_document, unpack_document
from p2ptrain.wire.limits import (
    CHUNK_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    PARAMETERS_MAX,
    TENSOR_DIMENSIONS_MAX,
    TENSOR_NAME_CHARS_MAX,
    WEIGHT_BLOCKS_MAX,
    WEIGHT_TENSORS_MAX,
)

TINY = np.float32(2.0**-63)  # compress/blocks.py has the reason
SHOWN_MAX = 3  # differences of one kind that an error lists

Tensors = Mapping[str, tuple[int, ...]]  # names and shapes, in the order of the flat vector
Values = NDArray[np.float32]

Size = Annotated[int, Field(ge=1, le=PARAMETERS_MAX)]
Shape = Annotated[tuple[Size, ...], Field(max_length=TENSOR_DIMENSIONS_MAX, strict=False)]
Name = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=TENSOR_NAME_CHARS_MAX)]
CidText = Annotated[str, AfterValidator(parse_cid)]


class WeightsManifest(BaseModel):
    """The description of weights; every block it names has its size implied."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    kind: Literal["weights"] = "weights"
    tensors: tuple[Annotated[tuple[Name, Shape], Field(strict=False)], ...] = Field(
        min_length=1, max_length=WEIGHT_TENSORS_MAX, strict=False
    )
    blocks: tuple[CidText, ...] = Field(min_length=1, max_length=WEIGHT_BLOCKS_MAX, strict=False)

    @property
    def canonical(self) -> bytes:
        """The bytes that the weights' CID names."""
        return pack_document(self.model_dump())

    @property
    def cid(self) -> Cid:
        """The weights' CID: what a recipe's model.init holds."""
        return cid_of(self.canonical)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors by name, in their order."""
        return dict(self.tensors)

    @property
    def bytes_total(self) -> int:
        """Bytes of all values."""
        return 4 * sum(math.prod(shape) for _, shape in self.tensors)

    @property
    def block_cids(self) -> tuple[Cid, ...]:
        """The blocks in their order; equal ones several times."""
        return tuple(map(Cid, self.blocks))

    @classmethod
    def from_canonical(cls, content: bytes) -> "WeightsManifest":
        """Read a manifest. Raises ConfigError unless it is one, in canonical form and in bounds."""
        if len(content) > MANIFEST_BYTES_MAX:
            raise _bad_manifest(f"it is longer than {MANIFEST_BYTES_MAX} bytes")
        try:
            manifest = cls.model_validate(unpack_document(content))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _bad_manifest(f"{where}: {first['msg']}") from None
        except ValueError as error:
            raise _bad_manifest(str(error)) from None
        if manifest.canonical != content:
            raise _bad_manifest("it is not in canonical form")
        if len(manifest.shapes) < len(manifest.tensors):
            raise _bad_manifest("a tensor is named twice")
        if len(manifest.blocks) != -(-manifest.bytes_total // CHUNK_BYTES_MAX):
            raise _bad_manifest(f"{len(manifest.blocks)} blocks cannot hold its tensors exactly")
        return manifest

    def check_fits(self, tensors: Tensors) -> None:
        """Check that these are the weights of a network. Raises ConfigError."""
        found = differences(tensors, self.shapes)
        if not found and list(self.shapes) != list(tensors):
            found = "its tensors are in another order"
        if found:
            raise ConfigError(
                f"the weights {self.cid} are not those of the recipe's network: {found}.\n"
                "The recipe cannot be trained; ask its founder for another."
            )


def differences(expected: Tensors, found: Tensors) -> str:
    """What a person must know to see why tensors do not fit; empty if they do."""
    lacking = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]
    beside = [
        f"{name[:TENSOR_NAME_CHARS_MAX]!r} {list(shape)[:TENSOR_DIMENSIONS_MAX]}"
        for name, shape in found.items()
        if name not in expected
    ]
    other = [
        f"{name} has shape {list(found[name])} where {list(shape)} is expected"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    kinds = (("it lacks", lacking), ("it has besides", beside), ("in it", other))
    return "; ".join(f"{words} {_first(items)}" for words, items in kinds if items)


def _first(items: list[str]) -> str:
    """The first SHOWN_MAX of them, and how many more there are."""
    rest = len(items) - SHOWN_MAX
    return ", ".join(items[:SHOWN_MAX]) + (f" and {rest} more" if rest > 0 else "")


def load_weights(manifest: WeightsManifest, fetch: Callable[[Cid], bytes | None]) -> bytes:
    """The weights that a manifest names, float32 little-endian, every value checked.

    Args:
      fetch  gives a block's bytes or None, such as BlockStore.get

    Raises:
      ConfigError  a block is not here, or breaks what protocol/data.md asks of it (its author's
                   mistake: the CID is checked first)
    """
    parts: list[bytes] = []
    rest = manifest.bytes_total
    for cid in manifest.block_cids:
        content = fetch(cid)
        if content is None:
            raise ConfigError(f"block {cid} of the weights {manifest.cid} is not here")
        if cid_of(content) != cid:
            raise ConfigError(f"these are not the bytes of block {cid}")
        expected = min(rest, CHUNK_BYTES_MAX)
        if len(content) != expected:
            _refuse(manifest, f"block {cid} has {len(content)} bytes instead of {expected}")
        _check_values(manifest, cid, np.frombuffer(content, "<f4"))
        parts.append(content)
        rest -= expected
    return b"".join(parts)


def _check_values(manifest: WeightsManifest, cid: Cid, values: Values) -> None:
    if not np.isfinite(values).all():
        _refuse(manifest, f"block {cid} holds a value that is not finite")
    tiny = np.abs(values) < TINY
    if values.view("<u4")[tiny].any():
        _refuse(manifest, f"block {cid} holds a value below 2^-63 that is not +0")


def _refuse(manifest: WeightsManifest, why: str) -> NoReturn:
    raise ConfigError(
        f"the weights {manifest.cid} break their own manifest: {why}.\n"
        "The recipe cannot be trained; ask its founder for another."
    )


def _bad_manifest(why: str) -> ConfigError:
    return ConfigError(
        f"the recipe's model.init names no manifest of weights: {why}.\n"
        "Name a .safetensors file there, or ask the founder for another recipe."
    )
