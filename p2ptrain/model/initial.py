"""The parameters that training starts from, where the recipe names no others.

Weights are uniform in [-bound, bound), each tensor with the bound that its layer asks for; scales
of norms start as 1 or 0, shifts and biases as 0. The draws come from Philox, the n-th drawn tensor
having stream n, and so are a function of the seed alone, on any device and in numpy.
"""

from collections.abc import Iterator

import numpy as np

from p2ptrain.device.operations import Operations
from p2ptrain.device.reference import philox_uniform
from p2ptrain.errors import ConfigError
from p2ptrain.model.parameters import Layout, TensorSpec, Vector


def initial_parameters(operations: Operations, layout: Layout, seed: int) -> Vector:
    """The parameters that training starts from, a function of layout and seed alone.

    Args:
      operations  the device that computes them; any gives the same bits
      seed        0 .. 2^64 - 1

    Returns:
      (padded_size,) float32
    """
    if not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed = {seed}: allowed is 0 to 2^64 - 1")
    vector = operations.device.upload(_filled(layout))
    for stream, tensor in _drawn(layout):
        draw = (stream, np.float32(tensor.bound))
        first = layout.offsets[tensor.name]
        operations.philox_uniform(vector, first, tensor.size, seed, draw).enqueue()
    return vector.read()


def initial_parameters_twin(layout: Layout, seed: int) -> Vector:
    """The same bits without a device."""
    vector = _filled(layout)
    for stream, tensor in _drawn(layout):
        first = layout.offsets[tensor.name]
        values = philox_uniform(tensor.size, seed, stream, np.float32(tensor.bound))
        vector[first : first + tensor.size] = values
    return vector


def _drawn(layout: Layout) -> Iterator[tuple[int, TensorSpec]]:
    return enumerate(tensor for tensor in layout.tensors if tensor.bound)


def _filled(layout: Layout) -> Vector:
    vector = np.zeros(layout.padded_size, np.float32)
    for tensor in layout.tensors:
        first = layout.offsets[tensor.name]
        vector[first : first + tensor.size] = np.float32(tensor.fill)
    return vector
