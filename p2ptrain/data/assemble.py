"""Chunks back to arrays; every byte is checked against its CID and the manifest's promises."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.data.manifest import Chunk, Manifest
from p2ptrain.data.records import Array
from p2ptrain.errors import ConfigError
from p2ptrain.wire.cid import Cid, cid_of


@dataclass(frozen=True, slots=True)
class Samples:
    """Records of one split, or of some chunks of it.

    x  (n, *record shape), of the stored dtype
    y  (n,) int32, classes counted from 0; None where records have no labels
    """

    x: Array
    y: NDArray[np.int32] | None


def assemble(
    manifest: Manifest,
    split: str,
    fetch: Callable[[Cid], bytes | None],
    *,
    only: Iterable[int] | None = None,
) -> Samples:
    """The records of a split in their order.

    Args:
      fetch  gives a chunk's bytes or None, such as BlockStore.get
      only   indices of the chunks that are wanted, ascending; None for all

    Raises:
      ConfigError  there is no such split, a chunk is not here, or its bytes are not what the
                   manifest promises (its author's mistake: the CID is checked first)
    """
    chunks = manifest.chunks(split)
    if only is not None:
        chunks = tuple(chunks[index] for index in only)
    if not chunks:
        raise ConfigError(f"the data set {manifest.name} has no split {split!r}")
    parts = [_chunk_arrays(manifest, chunk, fetch(chunk.cid)) for chunk in chunks]
    x = np.concatenate([part.x for part in parts])
    labels = [part.y for part in parts if part.y is not None]
    return Samples(x, np.concatenate(labels) if labels else None)


def model_inputs(samples: Samples, scale: float) -> NDArray[np.float32]:
    """Records as rows of inputs: (n, values in a record) float32 = float32(value) x float32(scale).

    Stored integers of up to 16 bits are exact in float32 and IEEE multiplication rounds in one
    way, so all peers get the same bits.
    """
    flat = samples.x.reshape(len(samples.x), -1).astype(np.float32)
    return np.multiply(flat, np.float32(scale), out=flat)  # in place: it may be large


def check_fits(manifest: Manifest, layers: Sequence[int]) -> None:
    """Check that a network of these widths can learn this data set to classify.

    Raises:
      ConfigError  names model.layers, what it is and what the data set needs
    """
    if manifest.label is None:
        raise ConfigError(
            f"the data set {manifest.name} has no labels, so there is nothing to classify.\n"
            "Seed one with labels: a folder of IDX files, or an .npz with X and y."
        )
    values = math.prod(manifest.record.shape)
    if layers[0] != values or layers[-1] < manifest.label.classes:
        raise ConfigError(
            f"model.layers = {list(layers)} does not fit the data set {manifest.name}: its records "
            f"have {values} values and {manifest.label.classes} classes.\n"
            f"Write layers = [{values}, ..., {manifest.label.classes}]"
        )


def _chunk_arrays(manifest: Manifest, chunk: Chunk, content: bytes | None) -> Samples:
    if content is None:
        raise ConfigError(f"chunk {chunk.cid} of the data set {manifest.name} is not here")
    if cid_of(content) != chunk.cid:
        raise ConfigError(f"these are not the bytes of chunk {chunk.cid}")
    if len(content) != chunk.records * manifest.record_bytes:
        raise _broken(manifest, chunk, f"{len(content)} bytes for {chunk.records} records")
    values = chunk.records * math.prod(manifest.record.shape)
    x = np.frombuffer(content, manifest.record.dtype, values)
    x = x.reshape(chunk.records, *manifest.record.shape)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise _broken(manifest, chunk, "a value that is not finite")
    if manifest.label is None:
        return Samples(x, None)
    y = np.frombuffer(content, manifest.label.dtype, chunk.records, x.nbytes)
    if y.max() >= manifest.label.classes:
        raise _broken(manifest, chunk, f"label {y.max()} of {manifest.label.classes} classes")
    return Samples(x, y.astype(np.int32))


def _broken(manifest: Manifest, chunk: Chunk, what: str) -> ConfigError:
    return ConfigError(
        f"the data set {manifest.name} breaks its own manifest: {what} in chunk {chunk.cid}.\n"
        "Whoever made it must seed it again; its CID will change."
    )
