"""Named tensors and the one flat float32 vector that holds them.

Everything outside model/ sees the vector alone: it is what is averaged, hashed and stored. Each
tensor lies in it row-major, in the order of the layout, one behind the other. The vector is padded
with zeros to a multiple of CODEC_BLOCK, so that codecs and shards meet whole blocks only; kernels
keep the padding at zero, since a zero parameter with a zero gradient stays zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod

import numpy as np
from numpy.typing import NDArray

from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import CODEC_BLOCK

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor, such as ("layer0.weight", (256, 64)), and what it is at the start.

    bound   it starts uniform in [-bound, bound), drawn from the seed; 0: it starts as fill
    fill    the value of all its elements, where bound is 0
    """

    name: str
    shape: tuple[int, ...]
    bound: float = 0.0
    fill: float = 0.0

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: to matrices and kernels, not to norms and biases."""
        return len(self.shape) > 1

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Where each tensor lies in the flat vector."""

    tensors: tuple[TensorSpec, ...]

    @cached_property
    def size(self) -> int:
        """Number of parameters, without the padding."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def padded_size(self) -> int:
        """Length of the flat vector."""
        return padded_size(self.size)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Index of each tensor's first value."""
        ends = accumulate((tensor.size for tensor in self.tensors), initial=0)
        return {tensor.name: end for tensor, end in zip(self.tensors, ends, strict=False)}

    @cached_property
    def schema_hash(self) -> Digest:
        """Hash of names and shapes: peers of one swarm have the same."""
        parts = []
        for tensor in self.tensors:
            parts.append(tensor.name.encode("utf-8"))
            parts.append(np.array(tensor.shape, "<i8").tobytes())
        return digest("schema", *parts)

    def decay_mask(self) -> NDArray[np.uint8]:
        """(padded_size,) uint8: 1 where weight decay applies."""
        mask = np.zeros(self.padded_size, np.uint8)
        for tensor in self.tensors:
            first = self.offsets[tensor.name]
            mask[first : first + tensor.size] = tensor.decays
        return mask

    def split(self, vector: Vector) -> dict[str, Vector]:
        """The tensors as views of the vector.

        Args:
          vector  (padded_size,) float32
        """
        check_vector(vector, self.padded_size)
        return {
            tensor.name: vector[start : start + tensor.size].reshape(tensor.shape)
            for tensor, start in zip(self.tensors, self.offsets.values(), strict=True)
        }

    def join(self, tensors: Mapping[str, Vector]) -> Vector:
        """The flat vector of the tensors, padded with zeros.

        Args:
          tensors  one float32 array for each name of the layout, with its shape
        """
        if tensors.keys() != self.offsets.keys():
            raise ValueError(f"tensors {sorted(tensors)}, the layout has {sorted(self.offsets)}")
        vector = np.zeros(self.padded_size, np.float32)
        for name, view in self.split(vector).items():
            if tensors[name].shape != view.shape:
                raise ValueError(f"{name} has shape {tensors[name].shape}, not {view.shape}")
            view[...] = tensors[name]
        return vector


def padded_size(size: int) -> int:
    """The least multiple of CODEC_BLOCK that is not below size."""
    return -(-size // CODEC_BLOCK) * CODEC_BLOCK


def check_vector(vector: Vector, size: int) -> None:
    """Raise ValueError unless vector is (size,) float32."""
    if vector.shape != (size,) or vector.dtype != np.float32:
        raise ValueError(f"a vector of {vector.dtype} {vector.shape}, not float32 ({size},)")
