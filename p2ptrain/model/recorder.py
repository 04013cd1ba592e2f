"""Records the launches of a step and plans its buffers.

Theory of operation. A layer does not allocate. It asks for a `Value`, a buffer to be, and hands
over a function that makes launches once it is given the arrays of the values that it reads and
writes. When all is recorded, each value lives from the first launch that names it to the last.
Values whose lives do not overlap share memory: they are given slots in the order of their births,
each the free slot that fits best. Then the arrays exist, the launches are made, and nothing is
allocated any more.

What no launch writes first, such as the parameters, enters as a value that already has its array.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from p2ptrain.device.kernels import Launch
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations

Make = Callable[..., Sequence[Launch]]


@dataclass(frozen=True, slots=True)
class Weights:
    """The flat vectors of the network, each (padded_size,) float32.

    gradient is None in a plan that only evaluates.
    """

    parameters: DeviceArray
    gradient: DeviceArray | None


class Value:
    """An array of a step: planned, or already there."""

    __slots__ = ("array", "dtype", "shape")

    def __init__(
        self, shape: tuple[int, ...], dtype: DTypeLike, array: DeviceArray | None = None
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.array = array

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(slots=True)
class _Slot:
    nbytes: int
    free_after: int  # index of the last launch of the value that holds it


class Recorder:
    """The launches of one step, as they are recorded."""

    def __init__(
        self, operations: Operations, weights: Weights, offsets: Mapping[str, int]
    ) -> None:
        """Begin empty.

        Args:
          offsets  index of each tensor's first value in the flat vectors
        """
        self.operations = operations
        self.parameters = weights.parameters
        self.gradient = weights.gradient
        self.offsets = offsets
        self.planned_bytes = 0  # of all slots, once finished
        self._made: list[tuple[Make, tuple[Value, ...]]] = []

    @property
    def trains(self) -> bool:
        """Whether there will be a backward pass."""
        return self.gradient is not None

    def value(self, *shape: int, dtype: DTypeLike = np.float32) -> Value:
        """A new value, whose content is what a launch writes."""
        return Value(shape, dtype)

    def keep(self, value: Value, array: DeviceArray) -> None:
        """Have a value that is not planned yet in an array that lives on."""
        assert value.array is None, "the value has an array"
        value.array = array

    def launch(self, make: Make, *values: Value) -> None:
        """Record launches.

        Args:
          make    gets the arrays of the values, in their order
          values  all that the launches read or write
        """
        self._made.append((make, values))

    def finish(self) -> list[Launch]:
        """Plan the buffers and make the launches, in the order in which they were recorded."""
        self._give_arrays()
        launches: list[Launch] = []
        for make, values in self._made:
            launches += make(*(value.array for value in values))
        return launches

    def _give_arrays(self) -> None:
        born: dict[Value, int] = {}
        dies: dict[Value, int] = {}
        for index, (_, values) in enumerate(self._made):
            for value in values:
                if value.array is None:
                    born.setdefault(value, index)
                    dies[value] = index
        slots: list[_Slot] = []
        chosen: dict[Value, _Slot] = {}
        for value in born:  # in the order of their births
            chosen[value] = slot = _fitting(slots, value.nbytes, born[value])
            slot.nbytes = max(slot.nbytes, value.nbytes)
            slot.free_after = dies[value]
        device = self.operations.device
        memory = {id(slot): device.empty((max(1, slot.nbytes),), np.uint8) for slot in slots}
        self.planned_bytes = sum(slot.nbytes for slot in slots)
        for value, slot in chosen.items():
            value.array = memory[id(slot)].viewed_as(value.shape, value.dtype)


def _fitting(slots: list[_Slot], nbytes: int, at: int) -> _Slot:
    """The smallest free slot that is large enough, else the largest free one, else a new one."""
    free = [slot for slot in slots if slot.free_after < at]
    large = [slot for slot in free if slot.nbytes >= nbytes]
    if large:
        return min(large, key=lambda slot: slot.nbytes)
    if free:
        return max(free, key=lambda slot: slot.nbytes)
    slots.append(_Slot(nbytes, at))
    return slots[-1]
