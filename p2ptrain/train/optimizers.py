"""Inner optimisers: their settings, their state and the step that a plan's gradient goes through.

The formulas are in kernels/optim.cl and, in numpy, in p2ptrain/device/reference.py. What the host
adds is AdamW's correction of the bias, 1 / (1 - beta^t): the power is a product of t float64
factors taken in order, the quotient is rounded to float32 once. IEEE 754 defines each of these
operations, so every peer has the same table.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.operations import ADAMW_UNBIAS1, ADAMW_UNBIAS2, Moments, Operations
from p2ptrain.errors import ConfigError
from p2ptrain.model.graph import Weights

OPTIMIZERS = ("sgd", "adamw")
BATCH_MAX = 65_536  # rows of a step; activations of a step must fit the device
EPSILON_MIN = 1e-30  # a smaller one lets AdamW divide by nearly nothing


@dataclass(frozen=True, slots=True)
class InnerConfig:
    """Settings of the local steps, equal on all peers.

    optimizer      "sgd" (with momentum) or "adamw"
    learning_rate  above 0
    momentum       of sgd, 0 <= momentum < 1
    beta1, beta2   of adamw, each 0 <= beta < 1
    epsilon        of adamw
    weight_decay   0 or more, on every parameter; decoupled in adamw
    batch          samples of a step
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    batch: int = 32

    def __post_init__(self) -> None:
        """Refuse values outside their ranges.

        Raises:
          ConfigError  with the key, the value and what is allowed
        """
        allowed = {
            "optimizer": (self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            "learning_rate": (0 < self.learning_rate < 1e3, "above 0 and below 1000"),
            "momentum": (0 <= self.momentum < 1, "0 or more and below 1"),
            "beta1": (0 <= self.beta1 < 1, "0 or more and below 1"),
            "beta2": (0 <= self.beta2 < 1, "0 or more and below 1"),
            "epsilon": (EPSILON_MIN <= self.epsilon < 1, f"{EPSILON_MIN} or more and below 1"),
            "weight_decay": (0 <= self.weight_decay < 1e3, "0 or more and below 1000"),
            "batch": (1 <= self.batch <= BATCH_MAX, f"1 to {BATCH_MAX}"),
        }
        for key, (is_allowed, rule) in allowed.items():
            if not is_allowed:
                raise ConfigError(f"inner {key} = {getattr(self, key)}: allowed is {rule}")


@dataclass(frozen=True, slots=True)
class InnerState:
    """What an inner optimiser remembers between steps.

    step_count  steps taken since the state was new
    first       (padded_size,) float32: momentum, or AdamW's first moment
    second      (padded_size,) float32: AdamW's second moment; (0,) for SGD
    """

    step_count: int
    first: NDArray[np.float32]
    second: NDArray[np.float32]


def inner_state_bytes(state: InnerState) -> bytes:
    """The state as step_count, 8 bytes, then the moments; all little-endian."""
    moments = (vector.astype("<f4", copy=False).tobytes() for vector in (state.first, state.second))
    return state.step_count.to_bytes(8, "little") + b"".join(moments)


def inner_state_from_bytes(content: bytes, like: InnerState) -> InnerState:
    """What inner_state_bytes wrote, of vectors as long as those of another state.

    Raises ValueError for another length, and for what is not finite.
    """
    expected = 8 + like.first.nbytes + like.second.nbytes
    if len(content) != expected:
        raise ValueError(f"an inner state of this recipe has {expected} bytes, not {len(content)}")
    values = np.frombuffer(content, "<f4", offset=8).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("the inner state is not finite")
    first, second = np.split(values, [like.first.size])
    return InnerState(int.from_bytes(content[:8], "little"), first, second)


class InnerOptimizer:
    """Applies the gradient of a plan to its parameters, on the device."""

    def __init__(self, operations: Operations, config: InnerConfig, weights: Weights) -> None:
        if weights.gradient is None:
            raise ValueError("an optimiser needs the weights of a plan with a gradient")
        device = operations.device
        parameters, gradient = weights.parameters, weights.gradient
        self._config = config
        self._is_adamw = config.optimizer == "adamw"
        second_shape = parameters.shape if self._is_adamw else (0,)
        self._moments = Moments(device.zeros(parameters.shape), device.zeros(second_shape))
        self._step_count = 0
        self._powers = (1.0, 1.0)
        if self._is_adamw:
            scalars = adamw_scalars(config, (1.0, 1.0))
            self._launch = operations.adamw(parameters, gradient, self._moments, scalars)
        else:
            scalars = sgd_scalars(config)
            self._launch = operations.sgd(parameters, gradient, self._moments.first, scalars)

    def enqueue(self) -> None:
        """Put one step into the queue."""
        self._step_count += 1
        if self._is_adamw:
            self._powers = next_powers(self._config, self._powers)
            scalars = adamw_scalars(self._config, self._powers)
            self._launch.set_scalar(ADAMW_UNBIAS1, scalars[-2])
            self._launch.set_scalar(ADAMW_UNBIAS2, scalars[-1])
        self._launch.enqueue()

    def state(self) -> InnerState:
        """Wait for the steps in the queue and copy the state."""
        moments = self._moments
        return InnerState(self._step_count, moments.first.read(), moments.second.read())

    def restore(self, state: InnerState) -> None:
        """Take back a state that was copied before."""
        self._moments.first.write(state.first)
        self._moments.second.write(state.second)
        self._step_count = state.step_count
        self._powers = (1.0, 1.0)
        for _ in range(state.step_count):
            self._powers = next_powers(self._config, self._powers)


def sgd_scalars(config: InnerConfig) -> tuple[np.float32, ...]:
    """Rate, momentum and decay for the kernel sgd and its twin."""
    return (
        np.float32(config.learning_rate),
        np.float32(config.momentum),
        np.float32(config.weight_decay),
    )


def next_powers(config: InnerConfig, powers: tuple[float, float]) -> tuple[float, float]:
    """(beta1^t, beta2^t) from those of t - 1, of the betas rounded to float32."""
    return (
        powers[0] * float(np.float32(config.beta1)),
        powers[1] * float(np.float32(config.beta2)),
    )


def adamw_scalars(config: InnerConfig, powers: tuple[float, float]) -> tuple[np.float32, ...]:
    """Rate .. unbias2 for the kernel adamw and its twin.

    Args:
      powers  (beta1^t, beta2^t) at step t; (1, 1) at t = 0, where unbias is not used yet
    """
    beta1, beta2 = np.float32(config.beta1), np.float32(config.beta2)
    unbias1, unbias2 = (np.float32(1 / (1 - power)) if power < 1 else 1 for power in powers)
    return (
        np.float32(config.learning_rate),
        np.float32(config.weight_decay),
        beta1,
        np.float32(1) - beta1,
        beta2,
        np.float32(1) - beta2,
        np.float32(config.epsilon),
        np.float32(unbias1),
        np.float32(unbias2),
    )
