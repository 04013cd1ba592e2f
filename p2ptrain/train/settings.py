"""From the sections of a recipe to what the trainer wants to know."""

from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from p2ptrain.config import Recipe
from p2ptrain.model.networks import network_of
from p2ptrain.train.local import Phase, Presentation
from p2ptrain.train.optimizers import InnerConfig
from p2ptrain.train.outer import OuterConfig
from p2ptrain.train.run_settings import Averaging, RunSettings
from p2ptrain.train.worker_messages import TrainingArrays

# Of the section [inner], what is not the optimiser's: how often it steps, and what it is shown.
NOT_THE_OPTIMIZERS = {
    *("local_steps", "local_steps_min", "local_steps_max", "label_smoothing"),
}


def run_settings(recipe: Recipe) -> RunSettings:
    """All that the compute process must know. Raises ConfigError if the network cannot be."""
    outer, averaging = recipe.outer, recipe.averaging
    return RunSettings(
        network=network_of(recipe),
        inner=inner_config(recipe),
        shown=presentation(recipe),
        outer=OuterConfig(outer.optimizer, outer.learning_rate, outer.momentum),
        averaging=Averaging(
            averaging.shard_values,
            averaging.number,
            averaging.warmup_rounds,
            averaging.aggregation,
        ),
        seed=recipe.seed,
        local_steps=recipe.inner.local_steps,
        phases=tuple(accumulate((phase.rounds for phase in recipe.phases), initial=0)),
    )


def inner_config(recipe: Recipe) -> InnerConfig:
    """The inner optimiser; its schedule spans the whole run."""
    inner = recipe.inner
    total_steps = recipe.rounds * inner.local_steps
    return InnerConfig(**inner.model_dump(exclude=NOT_THE_OPTIMIZERS), total_steps=total_steps)


def presentation(recipe: Recipe) -> Presentation:
    """How samples are shown; phases are counted in steps of the run."""
    phases: list[Phase] = []
    rounds = 0
    for phase in recipe.phases:
        rounds += phase.rounds
        phases.append(Phase(rounds * recipe.inner.local_steps, phase.size))
    data = recipe.data
    smoothing = recipe.inner.label_smoothing
    return Presentation(smoothing, data.crop_padding, data.flip, tuple(phases))


def prepared(recipe: Recipe, arrays: TrainingArrays) -> TrainingArrays:
    """The data as the model takes them: normalised by channel, if the recipe says so."""
    mean, deviation = recipe.data.mean, recipe.data.deviation
    if not mean:
        return arrays
    return replace(
        arrays,
        x=normalised(arrays.x, mean, deviation),
        test_x=normalised(arrays.test_x, mean, deviation),
    )


def normalised(
    x: NDArray[np.float32] | NDArray[np.uint8],
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
) -> NDArray[np.float32]:
    """(x - mean) * (1 / deviation), the channel being the index modulo the number of channels.

    One float32 subtraction and one multiplication by the rounded reciprocal: IEEE 754 says which
    bits come out.

    Args:
      x  (samples, values) float32, values a multiple of the number of channels
    """
    channels = len(mean)
    shift = np.array(mean, np.float32)
    factor = np.float32(1) / np.array(deviation, np.float32)
    pixels = x.reshape(len(x), -1, channels).astype(np.float32, copy=False)
    return ((pixels - shift) * factor).reshape(x.shape)
