"""Inner optimisers: their settings, their state and the step that a plan's gradient goes through.

The formulas are in kernels/optim.cl and, in numpy, in p2ptrain/device/reference_optim.py. What the
host adds is the learning rate of the step (schedules.py) and AdamW's correction of the bias,
1 / (1 - beta^t): the power is a product of t float64 factors taken in order, the quotient is
rounded to float32 once. IEEE 754 defines each of these operations, so every peer has the same
table.

The rate goes by the step of the run, which all peers share; the correction goes by the steps that
this peer's moments have seen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.device.operations import Moments, Operations
from p2ptrain.device.optimize import (
    ADAMW_RATE,
    ADAMW_SHRINK,
    ADAMW_SPREAD,
    SGD_RATE,
    Stepped,
    adamw_step,
    clip_by_norm,
    mask_entries,
    sgd_step,
)
from p2ptrain.errors import ConfigError
from p2ptrain.model.recorder import Weights
from p2ptrain.train.schedules import SCHEDULES, Schedule, rate

OPTIMIZERS = ("sgd", "adamw")
BATCH_MAX = 65_536  # rows of a step; activations of a step must fit the device
ONE = np.float32(1)
WARMUP_END = 1 << 40  # of a run that does not say how long it is
EPSILON_MIN = 1e-30  # a smaller one lets AdamW divide by nearly nothing


@dataclass(frozen=True, slots=True)
class InnerConfig:
    """Settings of the local steps, equal on all peers.

    optimizer          "sgd" (with momentum) or "adamw"
    learning_rate      above 0; the highest of a schedule
    momentum           of sgd, 0 <= momentum < 1
    beta1, beta2       of adamw, each 0 <= beta < 1
    epsilon            of adamw
    weight_decay       0 or more, where the mask of decays says so; decoupled in adamw
    batch              samples of a step
    nesterov           of sgd: look ahead along the momentum
    clip_norm          largest norm of a step's gradient; 0: any
    schedule           "constant", "cosine" or "one-cycle" (schedules.py)
    warmup_steps       steps of the run in which the learning rate rises
    learning_rate_end  of cosine and one-cycle: the rate at the end of the run
    total_steps        steps of the run, rounds x local steps; constant does not ask
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    batch: int = 32
    nesterov: bool = False
    clip_norm: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    learning_rate_end: float = 0.0
    total_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their ranges.

        Raises:
          ConfigError  with the key, the value and what is allowed
        """
        warmup_end = max(1, self.total_steps) if self.falls else WARMUP_END
        allowed = {
            "optimizer": (self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            "learning_rate": (0 < self.learning_rate < 1e3, "above 0 and below 1000"),
            "momentum": (0 <= self.momentum < 1, "0 or more and below 1"),
            "beta1": (0 <= self.beta1 < 1, "0 or more and below 1"),
            "beta2": (0 <= self.beta2 < 1, "0 or more and below 1"),
            "epsilon": (EPSILON_MIN <= self.epsilon <= 1, f"{EPSILON_MIN} to 1"),
            "weight_decay": (0 <= self.weight_decay < 1e3, "0 or more and below 1000"),
            "batch": (1 <= self.batch <= BATCH_MAX, f"1 to {BATCH_MAX}"),
            "nesterov": (not self.nesterov or self.optimizer == "sgd", "false, unless with sgd"),
            "clip_norm": (0 <= self.clip_norm < 1e30, "0 or more and below 1e30"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "learning_rate_end": (
                0 <= self.learning_rate_end <= self.learning_rate,
                "0 to the learning rate",
            ),
            "warmup_steps": (
                0 <= self.warmup_steps < warmup_end,
                f"0 or more and below {warmup_end}, the steps of the run",
            ),
            "total_steps": (
                self.total_steps > 0 or not self.falls,
                "rounds x local_steps where the rate falls",
            ),
        }
        for key, (is_allowed, rule) in allowed.items():
            if not is_allowed:
                raise ConfigError(f"inner {key} = {getattr(self, key)}: allowed is {rule}")

    @property
    def falls(self) -> bool:
        """Whether the learning rate falls until the last step of the run."""
        return self.schedule != "constant"

    @property
    def course(self) -> Schedule:
        """The learning rate's schedule."""
        return Schedule(
            self.schedule,
            self.learning_rate,
            self.learning_rate_end,
            self.warmup_steps,
            self.total_steps,
        )


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

    def __init__(
        self,
        operations: Operations,
        config: InnerConfig,
        weights: Weights,
        decay_mask: NDArray[np.uint8],
    ) -> None:
        """Record the launches of a step.

        Args:
          weights     of a plan with a gradient
          decay_mask  (padded_size,) uint8, 1 where weight decay applies: Layout.decay_mask
        """
        assert weights.gradient is not None, "an optimiser needs a gradient"
        device, parameters = operations.device, weights.parameters
        assert decay_mask.shape == parameters.shape, "one entry of the mask for each parameter"
        self._config = config
        self._course = config.course
        self._is_adamw = config.optimizer == "adamw"
        second_shape = parameters.shape if self._is_adamw else (0,)
        self._moments = Moments(device.zeros(parameters.shape), device.zeros(second_shape))
        self._step_count = 0
        self._powers = (1.0, 1.0)
        factor = device.upload(np.ones(1, np.float32))
        decays = device.upload(mask_entries(decay_mask))
        vectors = Stepped(parameters, weights.gradient, decays, factor)
        first_rate = rate(self._course, 0)
        if self._is_adamw:
            scalars = adamw_scalars(config, first_rate, (1.0, 1.0))
            self._step = adamw_step(operations, vectors, self._moments, scalars)
        else:
            scalars = sgd_scalars(config, first_rate)
            self._step = sgd_step(
                operations, vectors, self._moments.first, scalars, config.nesterov
            )
        self._scalars: dict[int, np.float32] = {}
        self._launches = list(self._step)
        if config.clip_norm:
            most = np.float32(config.clip_norm)
            clip = clip_by_norm(operations, weights.gradient, factor, most)
            self._launches = [*clip, *self._step]

    def enqueue(self, step: int) -> None:
        """Put one step into the queue.

        Args:
          step  of the run, counted from 0: round x local steps + local step
        """
        self._step_count += 1
        now = rate(self._course, step)
        if self._is_adamw:
            self._powers = next_powers(self._config, self._powers)
            step_rate, shrink, spread = adamw_varying(self._config, now, self._powers)
            changed = {ADAMW_RATE: step_rate, ADAMW_SHRINK: shrink, ADAMW_SPREAD: spread}
        else:
            changed = {SGD_RATE: now}
        for index, value in changed.items():
            if value != self._scalars.get(index):  # setting one costs as much as a launch
                self._scalars[index] = value
                for launch in self._step:
                    launch.set_scalar(index, value)
        for launch in self._launches:
            launch.enqueue()

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


def sgd_scalars(config: InnerConfig, now: np.float32) -> tuple[np.float32, ...]:
    """Rate, momentum and decay for sgd_step, nesterov_step and their twin.

    Args:
      now  learning rate of the step
    """
    return now, np.float32(config.momentum), np.float32(config.weight_decay)


def next_powers(config: InnerConfig, powers: tuple[float, float]) -> tuple[float, float]:
    """(beta1^t, beta2^t) from those of t - 1, of the betas rounded to float32."""
    return (
        powers[0] * float(np.float32(config.beta1)),
        powers[1] * float(np.float32(config.beta2)),
    )


def adamw_scalars(
    config: InnerConfig, now: np.float32, powers: tuple[float, float]
) -> tuple[np.float32, ...]:
    """Rate .. spread for adamw_step and its twin.

    Args:
      now     learning rate of the step
      powers  (beta1^t, beta2^t) at step t; (1, 1) at t = 0, where unbias is not used yet
    """
    beta1, beta2 = np.float32(config.beta1), np.float32(config.beta2)
    step_rate, shrink, spread = adamw_varying(config, now, powers)
    constants = (beta1, ONE - beta1, beta2, ONE - beta2, np.float32(config.epsilon))
    return step_rate, shrink, *constants, spread


def adamw_varying(
    config: InnerConfig, now: np.float32, powers: tuple[float, float]
) -> tuple[np.float32, np.float32, np.float32]:
    """Rate, shrink and spread, which are other ones at each step.

    With unbias = 1 / (1 - beta^t), the kernel's rate is the learning rate times unbias1 and its
    spread the square root of unbias2, each a float32 operation on float32 values.

    Args:
      now, powers  as of adamw_scalars
    """
    unbias1, unbias2 = (np.float32(1 / (1 - power)) if power < 1 else ONE for power in powers)
    return now * unbias1, now * np.float32(config.weight_decay), np.sqrt(unbias2)
