"""Chunks back to arrays; every byte is checked against its CID and the manifest's promises."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.data.manifest import Chunk, Manifest
from p2ptrain.data.records import TEST, TRAIN, Array
from p2ptrain.data.text import samples_in
from p2ptrain.data.tokenisers import Tokens
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


@dataclass(frozen=True, slots=True)
class TextStreams:
    """The tokens of a text, each below the size of its vocabulary.

    train  (n,) uint8
    test   (m,) uint8, held out
    """

    train: Tokens
    test: Tokens


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


def text_streams(manifest: Manifest, fetch: Callable[[Cid], bytes | None]) -> TextStreams:
    """Both splits of a text, as assemble does it.

    Raises:
      ConfigError  it is no text, or what assemble raises
    """
    if manifest.text is None:
        raise _no_text(manifest)
    train, test = (assemble(manifest, split, fetch).x for split in (TRAIN, TEST))
    return TextStreams(train.astype(np.uint8, copy=False), test.astype(np.uint8, copy=False))


def model_inputs(samples: Samples, scale: float) -> NDArray[np.float32]:
    """Records as rows of inputs: (n, values in a record) float32 = float32(value) x float32(scale).

    Stored integers of up to 16 bits are exact in float32 and IEEE multiplication rounds in one
    way, so all peers get the same bits.
    """
    flat = samples.x.reshape(len(samples.x), -1).astype(np.float32)
    return np.multiply(flat, np.float32(scale), out=flat)  # in place: it may be large


def check_fits(manifest: Manifest, layers: Sequence[int]) -> None:
    """Check that a network of these widths can learn this data set to classify.

    Args:
      layers  the first is the number of its inputs, the last that of the classes it tells apart

    Raises:
      ConfigError  says what the network is and what the data set needs
    """
    if manifest.text is not None:
        raise ConfigError(
            f"the data set {manifest.name} is text, which a network that classifies cannot learn.\n"
            'Write [model] for text (p2ptrain init text): kind = "gpt"'
        )
    if manifest.label is None:
        raise ConfigError(
            f"the data set {manifest.name} has no labels, so there is nothing to classify.\n"
            "Seed one with labels: a folder of IDX files, or an .npz with X and y."
        )
    values = math.prod(manifest.record.shape)
    if layers[0] != values or layers[-1] < manifest.label.classes:
        raise ConfigError(
            f"the recipe's network, of {layers[0]} inputs and {layers[-1]} outputs, does not "
            f"fit the data set {manifest.name}: its records have {values} values and "
            f"{manifest.label.classes} classes.\n"
            f"Write in [model] layers = [{values}, ..., {manifest.label.classes}]; for a convnet, "
            f'an input of {values} values in all and "linear {manifest.label.classes}" at its end.'
        )


def check_fits_text(manifest: Manifest, vocabulary: int, context: int) -> None:
    """Check that a language model can learn this data set, and be tested on it.

    Args:
      vocabulary  tokens that the model knows; may be more than the text has
      context     tokens that it sees at once

    Raises:
      ConfigError  names the key of [model], what it is and what the data set needs
    """
    tokeniser = manifest.tokeniser
    if tokeniser is None:
        raise _no_text(manifest)
    if vocabulary < tokeniser.size:
        raise ConfigError(
            f"model.vocabulary = {vocabulary} does not fit the data set {manifest.name}, whose "
            f"tokens are {tokeniser.size} different {tokeniser.kind}.\n"
            f"Write vocabulary = {tokeniser.size}"
        )
    for split in (TRAIN, TEST):
        tokens = manifest.records(split)
        if not samples_in(tokens, context):
            raise ConfigError(
                f"model.context = {context} does not fit the data set {manifest.name}, whose split "
                f"{split!r} has {tokens:,} tokens: a sample takes {context + 1}.\n"
                "Make the context shorter, or seed a longer text."
            )


def _no_text(manifest: Manifest) -> ConfigError:
    return ConfigError(
        f"the data set {manifest.name} is no text that was tokenised.\n"
        "Seed one: p2ptrain seed dataset FILE.txt"
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
    if manifest.tokeniser is not None and x.max() >= manifest.tokeniser.size:
        raise _broken(manifest, chunk, f"token {x.max()} of {manifest.tokeniser.size}")
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
