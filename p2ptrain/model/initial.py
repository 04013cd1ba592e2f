"""The parameters that training starts from, where the recipe names no others.

Initial weights are uniform in [-bound, bound) with bound = sqrt(6 / fan_in), biases zero: He et
al., Delving deep into rectifiers, 2015, arXiv:1502.01852. They come from Philox, stream = layer,
and so are a function of the seed alone, on any device.
"""

from itertools import pairwise

import numpy as np

from p2ptrain.device.operations import Operations
from p2ptrain.errors import ConfigError
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.model.parameters import Vector


def initial_parameters(operations: Operations, spec: ModelSpec, seed: int) -> Vector:
    """The parameters that training starts from, a function of spec and seed alone.

    Args:
      operations  the device that computes them; any gives the same bits
      seed        0 .. 2^64 - 1

    Returns:
      (padded_size,) float32
    """
    if not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed = {seed}: allowed is 0 to 2^64 - 1")
    layout = spec.layout
    vector = operations.device.zeros((layout.padded_size,))
    for i, (fan_in, fan_out) in enumerate(pairwise(spec.layers)):
        offset = layout.offsets[f"layer{i}.weight"]
        draw = (i, uniform_bound(fan_in))
        operations.philox_uniform(vector, offset, fan_in * fan_out, seed, draw).enqueue()
    return vector.read()


def uniform_bound(fan_in: int) -> np.float32:
    """The bound sqrt(6 / fan_in): a float64 square root, which IEEE 754 rounds alike everywhere."""
    return np.float32(np.sqrt(np.float64(6) / np.float64(fan_in)))
