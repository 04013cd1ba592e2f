"""kernels/residual.cl again in numpy, equal bit for bit. Arrays are float32 of any one shape."""

import numpy as np

from p2ptrain.device.reference_math import QUIET, Floats, flush_tiny


def add(a: Floats, b: Floats, relu: bool = False) -> Floats:
    """The sum, flushed, behind a ReLU if asked for; NaN passes."""
    with np.errstate(**QUIET):  # type: ignore[arg-type]
        total = flush_tiny(a + b)
    return np.where(total <= 0, np.float32(0), total) if relu else total
