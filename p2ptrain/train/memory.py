"""The samples in memory that the node and its compute process share (a memfd).

They are laid out one behind the other: x, y, test_x, test_y, with nothing between them.
"""

import mmap
import os
from collections.abc import Callable

import numpy as np

from p2ptrain.errors import StoreError
from p2ptrain.train.local import TrainingData
from p2ptrain.train.worker_messages import TrainingArrays


def map_arrays(data_fd: int, shapes: tuple[int, int, int]) -> TrainingData:
    """The arrays in the memfd, as the node laid them out; nothing is copied."""
    n, t, d = shapes
    content = mmap.mmap(data_fd, 0, prot=mmap.PROT_READ)
    if not d:
        tokens = np.frombuffer(content, np.uint8, n + t)
        no_labels = np.empty(0, np.int32)
        return TrainingData(tokens[:n], no_labels, tokens[n:], no_labels)
    ends = np.cumsum([4 * n * d, 4 * n, 4 * t * d, 4 * t])
    return TrainingData(
        x=np.frombuffer(content, "<f4", n * d).reshape(n, d),
        y=np.frombuffer(content, "<i4", n, ends[0]),
        test_x=np.frombuffer(content, "<f4", t * d, ends[1]).reshape(t, d),
        test_y=np.frombuffer(content, "<i4", t, ends[2]),
    )


def write_arrays(data_fd: int, read: Callable[[], TrainingArrays]) -> tuple[int, int, int]:
    """Lay x, y, test_x, test_y one after another into the memfd; returns (N, T, d).

    Of a text, whose tokens are bytes without labels, d is 0.
    """
    arrays = read()
    n, t = len(arrays.x), len(arrays.test_x)
    d = arrays.x.shape[1] if arrays.x.ndim == 2 else 0
    assert arrays.test_x.shape == ((t, d) if d else (t,)), "test samples are like the others"
    assert (len(arrays.y), len(arrays.test_y)) == ((n, t) if d else (0, 0)), "one label a sample"
    values = "<f4" if d else "u1"
    dtypes = (
        (arrays.x, values),
        (arrays.y, "<i4"),
        (arrays.test_x, values),
        (arrays.test_y, "<i4"),
    )
    try:
        with os.fdopen(os.dup(data_fd), "wb") as file:
            for array, dtype in dtypes:
                file.write(np.ascontiguousarray(array, dtype).data)
    except OSError as error:
        raise StoreError(
            f"the training data find no room in memory ({error.strerror}).\n"
            "Close other programs, or raise the limit of this process (ulimit -f)"
        ) from error
    return n, t, d
