"""Launchers of kernels/embedding.cl: tokens of a batch, and their vectors forward and backward."""

from dataclasses import dataclass

import numpy as np

from p2ptrain.device.kernels import LOCAL_SIZE, Argument, Launch, ceil_to
from p2ptrain.device.opencl import DeviceArray
from p2ptrain.device.operations import Operations

ROWS = 16  # of one task of embedding_forward_blocked
GATHER_SLOT = 6  # the argument of gather_tokens that says which step's indices to take


@dataclass(frozen=True, slots=True)
class Embedding:
    """Shape of the embedding and where its parameters are.

    batch            samples of a step
    context          positions of each
    vocabulary       tokens, 0 .. vocabulary - 1
    channels         values of a vector
    token_offset     index of the tokens' vectors (vocabulary, channels) in the flat parameters
    position_offset  the same of the positions' vectors (context, channels)
    """

    batch: int
    context: int
    vocabulary: int
    channels: int
    token_offset: int
    position_offset: int

    @property
    def rows(self) -> int:
        """Tokens of a step."""
        return self.batch * self.context


def gather_tokens(
    operations: Operations,
    stream: DeviceArray,
    index: DeviceArray,
    tokens: DeviceArray,
    targets: DeviceArray,
    context: int,
) -> list[Launch]:
    """Tokens and next tokens of a step; varying slot, the step that is taken from index.

    Args:
      stream   (n,) uint8
      index    (steps * batch,) int32: where each sample begins, at most n - context - 1; under 0
               for a sample that is missing, whose tokens are 0 and whose targets are -1
      tokens   (batch * context,) int32, written
      targets  (batch * context,) int32, written: the byte behind each token
    """
    batch = tokens.size // context
    numbers = (np.int32(batch), np.int32(context), np.int32(0))
    arguments = (stream, index, tokens, targets, *numbers)
    size = (ceil_to(context, LOCAL_SIZE), batch)
    varying = {"slot": GATHER_SLOT}
    kernel = "embedding.gather_tokens"
    launch = operations.library.launch
    return [launch(kernel, size, (LOCAL_SIZE, 1), arguments, varying=varying)]


def embedding_forward(
    operations: Operations,
    shape: Embedding,
    tokens: DeviceArray,
    parameters: DeviceArray,
    y: DeviceArray,
) -> list[Launch]:
    """Row r of y = vector of tokens[r] + vector of the position r mod context.

    Args:
      tokens  (batch * context,) int32
      y       (batch * context, channels), written
    """
    sizes = (shape.context, shape.vocabulary, shape.channels)
    numbers = tuple(map(np.int32, (*sizes, shape.token_offset, shape.position_offset)))
    arrays = (tokens, parameters, y)
    arguments: tuple[Argument, ...] = (*arrays, *numbers)
    if operations.tile is not None:
        arguments = (*arrays, np.int32(shape.rows), *numbers)
        tasks, kernel = (-(-shape.rows // ROWS),), "embedding.embedding_forward_blocked"
        return [operations.library.launch(kernel, tasks, (1,), arguments)]
    return [_by_channel(operations, shape, "embedding_forward", shape.rows, arguments)]


def embedding_backward(
    operations: Operations,
    shape: Embedding,
    tokens: DeviceArray,
    d: DeviceArray,
    gradient: DeviceArray,
    accumulate_tokens: bool,
) -> list[Launch]:
    """Gradient by the vectors of tokens and of positions.

    Args:
      tokens             (batch * context,) int32
      d                  (batch * context, channels) gradient by y
      gradient           the flat gradient, written at the offsets of the parameters
      accumulate_tokens  add to the gradient by the tokens' vectors, which a head that shares them
                         wrote before; else it is set
    """
    return [
        *_token_gradient(operations, shape, (tokens, d, gradient), accumulate_tokens),
        _position_gradient(operations, shape, d, gradient),
    ]


def _token_gradient(
    operations: Operations,
    shape: Embedding,
    arrays: tuple[DeviceArray, DeviceArray, DeviceArray],
    accumulate: bool,
) -> list[Launch]:
    tokens, d, gradient = arrays
    rows, vocabulary = np.int32(shape.rows), np.int32(shape.vocabulary)
    place = (np.int32(shape.channels), np.int32(shape.token_offset), np.int32(accumulate))
    if operations.tile is None:
        arguments = (tokens, d, gradient, rows, *place)
        return [_by_channel(operations, shape, "token_gradient", shape.vocabulary, arguments)]
    starts = operations.device.empty((shape.vocabulary + 1,), np.int32)
    order = operations.device.empty((shape.rows,), np.int32)
    launch = operations.library.launch
    sort = (tokens, starts, order, rows, vocabulary)
    sums = (starts, order, d, gradient, *place)
    return [
        launch("embedding.sort_tokens", (1,), (1,), sort),
        launch("embedding.token_gradient_sorted", (shape.vocabulary,), (1,), sums),
    ]


def _position_gradient(
    operations: Operations, shape: Embedding, d: DeviceArray, gradient: DeviceArray
) -> Launch:
    numbers = (shape.batch, shape.context, shape.channels, shape.position_offset)
    arguments: tuple[Argument, ...] = (d, gradient, *map(np.int32, numbers))
    if operations.tile is None:
        return _by_channel(operations, shape, "position_gradient", shape.context, arguments)
    kernel = "embedding.position_gradient_blocked"
    return operations.library.launch(kernel, (shape.context,), (1,), arguments)


def _by_channel(
    operations: Operations,
    shape: Embedding,
    kernel: str,
    rows: int,
    arguments: tuple[Argument, ...],
) -> Launch:
    size = (ceil_to(shape.channels, LOCAL_SIZE), rows)
    return operations.library.launch(f"embedding.{kernel}", size, (LOCAL_SIZE, 1), arguments)
