"""A language model on a device, asked for one thing: what comes after these tokens.

The plan is that of an evaluation of one text of context tokens. A text that is shorter is filled
up with token 0 behind its end, which changes nothing before it: attention looks back only.
"""

import numpy as np

from p2ptrain.data.tokenisers import Tokens
from p2ptrain.device.operations import Operations, Samples
from p2ptrain.device.reference_math import Floats
from p2ptrain.errors import ConfigError
from p2ptrain.model.batches import Network, StepShape
from p2ptrain.model.gpt import GptSpec
from p2ptrain.model.graph import Plan, PlanShape
from p2ptrain.model.parameters import Vector, check_vector
from p2ptrain.model.recorder import Weights


class NextToken:
    """The logits of the next token; what sampling.sample calls."""

    def __init__(self, operations: Operations, network: GptSpec, parameters: Vector) -> None:
        """Record the plan.

        Args:
          parameters  (padded_size,) float32
        """
        check_vector(parameters, network.layout.padded_size)
        device = operations.device
        self._network = network
        # The token behind the last, too: an evaluation compares with what really came next.
        self._stream = device.zeros((network.context + 1,), np.uint8)
        self._plan = Plan(
            operations,
            network,
            Weights(device.upload(parameters), None),
            Samples(self._stream, device.zeros((1,), np.int32)),
            PlanShape(StepShape(batch=1), steps_max=1),
        )
        self._plan.load(np.zeros((1, 1), np.int32))

    def __call__(self, tokens: Tokens) -> Floats:
        """The logits (vocabulary,) float32 after (n,) uint8 tokens, 1 <= n <= context."""
        assert 1 <= len(tokens) <= self._network.context
        text = np.zeros(self._network.context + 1, np.uint8)
        text[: len(tokens)] = tokens
        self._stream.write(text)
        self._plan.enqueue(0)
        logits: Floats = self._plan.logits()[len(tokens) - 1]
        return logits


def language_model(network: Network) -> GptSpec:
    """The network, if it is one that continues text. Raises ConfigError."""
    if not isinstance(network, GptSpec):
        raise ConfigError(
            "this network classifies; it writes no text.\n"
            'Sample from a run whose recipe has kind = "gpt" (p2ptrain init text).'
        )
    return network
