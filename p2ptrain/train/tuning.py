"""Finds the fastest register tile for each product and convolution of a network, on this device.

Theory of operation. The training step is recorded once for each candidate tile, with that tile for
all operations. Each plan takes one step from the same state, and a candidate whose gradient has
other bits is thrown out, so that tuning can never change a result. Then the plans take turns,
launch by launch, each waited for; an operation's time is the least that its launches took
together, since everything that disturbs a measurement makes it longer. An operation gets another
tile than the default only if that is faster by MARGIN.

A driver that crashes takes this process with it, and nothing has been written then.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.operations import Operations, Samples
from p2ptrain.device.products import Tile
from p2ptrain.errors import DeviceError
from p2ptrain.model.batches import Network, StepShape
from p2ptrain.model.graph import Moment, Plan, PlanShape
from p2ptrain.model.initial import initial_parameters
from p2ptrain.model.recorder import Weights

# Rows and vectors by the width of a vector. The sums, a row of B and one value of A must fit the
# vector registers: 32 with AVX-512 (16 values), 16 else. A tile that spills takes twice as long.
NARROW = ((6, 2), (4, 2), (5, 2), (4, 3), (3, 4), (8, 1), (10, 1), (12, 1))
CANDIDATES = {
    16: ((8, 2), (12, 2), (14, 2), (10, 2), (8, 3), (6, 4), (16, 1), (24, 1)),
    8: NARROW,
    4: NARROW,
}
MARGIN = 1.03  # under that it is noise
SWEEPS_MIN = 3

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning has found.

    tiles     of operations for which another tile is faster, by name
    measured  names of the network's operations
    tried     candidate tiles that were measured
    refused   candidates with other bits, or that the device does not build, in words
    sweeps    times that each was measured
    default_s, best_s  seconds of the tuned launches of a step, before and after
    """

    tiles: dict[str, Tile]
    measured: tuple[str, ...]
    tried: int
    refused: tuple[str, ...]
    sweeps: int
    default_s: float
    best_s: float


class _Candidate:
    """A step recorded with one tile."""

    def __init__(self, library: KernelLibrary, tile: Tile, network: Network, batch: int) -> None:
        operations = Operations(library, tile)
        device = operations.device
        size = network.layout.padded_size
        weights = Weights(
            device.upload(initial_parameters(operations, network.layout, 1)), device.zeros((size,))
        )
        self.tile = tile
        shape = PlanShape(StepShape(batch), 1)
        self._plan = Plan(operations, network, weights, _samples(operations, network, batch), shape)
        self._plan.load(np.zeros((1, batch), np.int32), Moment())
        self._plan.enqueue(0)
        assert weights.gradient is not None
        self.gradient = weights.gradient.read()
        self._launches = [launch for launch in self._plan.launches if launch.tuned_as]
        self._finish = device.finish

    def seconds(self) -> dict[str, float]:
        """Time of each operation, its launches together."""
        took: dict[str, float] = {}
        for launch in self._launches:
            self._finish()
            started = time.perf_counter()
            launch.enqueue()
            self._finish()
            name = launch.tuned_as
            took[name] = took.get(name, 0.0) + time.perf_counter() - started
        return took


def tune(
    library: KernelLibrary,
    default: Tile,
    network: Network,
    batch: int,
    limit_s: float,
    progress: Progress = lambda line: None,
) -> Tuned:
    """Measure for limit_s seconds at most, building included.

    Raises:
      DeviceError  the default tile does not work
    """
    ends = time.monotonic() + limit_s
    first = _Candidate(library, default, network, batch)
    candidates, refused = [first], []
    for rows, vectors in CANDIDATES.get(default.width, NARROW):
        tile = Tile(rows, vectors, default.width)
        if tile == default:
            continue
        if time.monotonic() > ends - limit_s / 2:  # the other half is for measuring
            break
        progress(f"building tile {rows} x {tile.columns}")
        try:
            candidate = _Candidate(library, tile, network, batch)
        except DeviceError as error:
            refused.append(f"{rows} x {tile.columns}: {error}")
            continue
        if not np.array_equal(candidate.gradient, first.gradient, equal_nan=True):
            refused.append(f"{rows} x {tile.columns}: it has other bits")
            continue
        candidates.append(candidate)
    best = [dict[str, float]() for _ in candidates]
    sweeps = 0
    while sweeps < SWEEPS_MIN or time.monotonic() < ends:
        for found, candidate in zip(best, candidates, strict=True):
            for name, took in candidate.seconds().items():
                found[name] = min(took, found.get(name, took))
        sweeps += 1
        progress(f"measured {len(candidates)} tiles {sweeps} times")
    return _chosen(candidates, best, tuple(refused), sweeps)


def _chosen(
    candidates: list[_Candidate],
    best: list[dict[str, float]],
    refused: tuple[str, ...],
    sweeps: int,
) -> Tuned:
    default_times = best[0]
    tiles: dict[str, Tile] = {}
    best_s = 0.0
    for name, default_s in default_times.items():
        least, index = min((times[name], index) for index, times in enumerate(best))
        if index and least * MARGIN < default_s:
            tiles[name] = candidates[index].tile
            best_s += least
        else:
            best_s += default_s
    total = sum(default_times.values())
    names = tuple(default_times)
    return Tuned(tiles, names, len(candidates), refused, sweeps, total, best_s)


def _samples(operations: Operations, network: Network, batch: int) -> Samples:
    """Samples of the right form; what is in them does not change the time."""
    device = operations.device
    if not network.inputs:
        text = np.arange(network.rows + 2) % network.classes
        return Samples(device.upload(text.astype(np.uint8)), device.zeros((1,), np.int32))
    x = np.linspace(-1, 1, batch * network.inputs, dtype=np.float32).reshape(batch, -1)
    return Samples(device.upload(x), device.zeros((batch,), np.int32))
