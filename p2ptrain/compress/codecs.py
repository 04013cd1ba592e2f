"""The codecs by the number that a commit names them with.

int8, int4 and int2 are 8, 4 and 2; topk with k values of a block is CODEC_BLOCK + k.
"""

from collections.abc import Mapping
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import (
    INT4,
    INT8,
    BlockCodec,
    Quantised,
    pack_parts,
    unpack_parts,
)
from p2ptrain.compress.gaps import gaps_of
from p2ptrain.compress.levels import HIGH, quantise_int2, quantise_largest
from p2ptrain.wire.limits import CODEC_BLOCK, TOPK_KEPT

TOPK_DECAY = 0.95
TOPK_RESET_ROUNDS = 16


class Codec(Protocol):
    """How the values of a contribution become bytes, and back.

    Bytes that are no shard raise MalformedShard; values that are not finite raise NotFinite.
    """

    def shard_bytes(self, values: int) -> int:
        """Length of a shard of this many values."""

    def encode(self, values: NDArray[np.float32]) -> bytes:
        """The shard of some values, (n,) float32, n a multiple of CODEC_BLOCK."""

    def decode(self, shard: bytes) -> NDArray[np.float32]:
        """The values of a shard, (n,) float32."""

    def quantised(self, shard: bytes) -> Quantised:
        """The blocks of a shard: what is summed."""

    def squared_norm(self, shard: bytes) -> int:
        """Squared norm of a shard's values, in units of 2**-64."""


def _int2() -> BlockCodec:
    return BlockCodec(
        2,
        1,
        CODEC_BLOCK // 4,
        quantise_int2,
        partial(pack_parts, bits=2),
        partial(unpack_parts, bits=2),
    )


def _topk(kept: int) -> BlockCodec:
    gaps = gaps_of(kept)
    return BlockCodec(
        CODEC_BLOCK + kept,
        HIGH,
        gaps.block_bytes,
        partial(quantise_largest, kept=kept),
        gaps.pack,
        gaps.unpack,
        kept,
        TOPK_DECAY,
        TOPK_RESET_ROUNDS,
    )


INT2 = _int2()
TOPK = {kept: _topk(kept) for kept in TOPK_KEPT}
CODECS: Mapping[int, BlockCodec] = {c.number: c for c in (INT2, INT4, INT8, *TOPK.values())}
REDUCED_CODEC = INT8  # of averages, whatever the contributions' codec is
WARMUP_CODEC = INT8  # of the first rounds, where the recipe asks for it
