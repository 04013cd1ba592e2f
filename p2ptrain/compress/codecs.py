"""The codecs by the number that a recipe and a commit name them with."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2ptrain.compress.blocks import INT4, INT8, Quantised


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


CODECS: Mapping[int, Codec] = {4: INT4, 8: INT8}
REDUCED_CODEC = INT8  # of averages, whatever the contributions' codec is
