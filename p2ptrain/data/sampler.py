"""Which samples a peer trains on: drawn by beacons that nobody can choose, the same for everyone.

The beacon of two rounds ago gives a peer a window of chunks, early enough to fetch them; the
newest beacon draws the batches inside the window, so that nobody knows its samples before the
round in which it trains on them. Anyone can compute both again, which makes an audit possible.

Draws: key i is the i-th 8 bytes, little-endian, of the BLAKE3 output stream over a seed; indices
are sorted by their keys, equal keys by index. That is a permutation, of which batches take the
first elements without replacement; when it is used up the next epoch's permutation follows. Only
these elements are sorted: keys are uniform, so few of them lie below a low limit.

    seed of a window    digest("window", beacon, peer id)
    seed of an epoch    digest("samples", beacon, peer id, epoch as 8 bytes little-endian)
    noise of a round    digest("noise", beacon, peer id), its first 8 bytes little-endian

Pure; the normative text is protocol/data.md, section 4.
"""

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from p2ptrain.wire.digest import Digest, digest
from p2ptrain.wire.limits import WINDOW_CHUNKS
from p2ptrain.wire.peer_id import PeerId

Indices = NDArray[np.int32]

FEW = 32  # keys hoped for besides: of very few, chance might lift all above their limit


def window(beacon: Digest, peer: PeerId, chunk_count: int) -> Indices:
    """The chunks of a split that a peer draws its samples from.

    Args:
      beacon       of the block two rounds back
      chunk_count  chunks of the split, >= 1

    Returns:
      ascending indices of chunks; all of them if there are at most WINDOW_CHUNKS
    """
    if chunk_count <= WINDOW_CHUNKS:
        return np.arange(chunk_count, dtype=np.int32)
    seed = digest("window", beacon, peer.encode("ascii"))
    return np.sort(_permutation(seed, chunk_count, WINDOW_CHUNKS))


def assigned(beacon: Digest, peer: PeerId, record_count: int, steps: int, batch: int) -> Indices:
    """The records of the window that a peer takes in each local step of a round.

    Args:
      beacon        of the newest block
      record_count  records in the window, >= 1
      steps, batch  local steps and samples in each, >= 1

    Returns:
      (steps, batch) int32 in [0, record_count); none twice before all have come once
    """
    wanted = steps * batch
    epochs = [
        _permutation(_epoch_seed(beacon, peer, epoch), record_count, wanted - start)
        for epoch, start in enumerate(range(0, wanted, record_count))
    ]
    return np.concatenate(epochs).reshape(steps, batch)


def noise_of(beacon: Digest, peer: PeerId) -> int:
    """The key of a peer's random draws in a round, such as crops and dropout: 0 .. 2^64 - 1."""
    return int.from_bytes(digest("noise", beacon, peer.encode("ascii"))[:8], "little")


def _epoch_seed(beacon: Digest, peer: PeerId, epoch: int) -> Digest:
    return digest("samples", beacon, peer.encode("ascii"), epoch.to_bytes(8, "little"))


def first_by_key(keys: NDArray[np.uint64], wanted: int) -> Indices:
    """The places of the smallest keys in ascending order of the keys, equal ones by place.

    Fast where the keys are uniform; right whatever they are.

    Returns:
      (min(wanted, len(keys)),) int32
    """
    low = np.arange(len(keys))
    hoped = 2 * wanted + FEW  # about so many of uniform keys are below the limit
    if hoped < len(keys):
        below = np.flatnonzero(keys < (hoped << 64) // len(keys))
        low = below if len(below) >= wanted else low
    order = np.argsort(keys[low], kind="stable")  # low ascends, so equal keys go by place still
    return low[order[:wanted]].astype(np.int32)


def _permutation(seed: Digest, count: int, wanted: int) -> Indices:
    """The first elements of the permutation of range(count), or all if more are wanted."""
    return first_by_key(np.frombuffer(blake3(seed).digest(length=8 * count), "<u8"), wanted)
