"""What a recipe says of the samples and of the local steps."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from p2ptrain.config_section import Section
from p2ptrain.wire.cid import parse_cid
from p2ptrain.wire.limits import (
    BATCH_MAX,
    IMAGE_CHANNELS_MAX,
    IMAGE_SIDE_MAX,
    LOCAL_STEPS_MAX,
    ROUNDS_MAX,
    WARMUP_STEPS_MAX,
)

PerChannel = tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...]


class DataSection(Section):
    """What is learned from, and what is done with a sample before it is."""

    cid: Annotated[str, AfterValidator(parse_cid)] = Field(
        description="the data set's CID, printed by: p2ptrain seed dataset PATH"
    )
    scale: float = Field(
        default=1.0, gt=0, le=1e6, description="each stored value times this is a model input"
    )
    mean: PerChannel = Field(
        default=(),
        max_length=IMAGE_CHANNELS_MAX,
        strict=False,
        description="convnet: taken from each scaled value, one number a channel; [] takes nothing",
    )
    deviation: PerChannel = Field(
        default=(),
        max_length=IMAGE_CHANNELS_MAX,
        strict=False,
        description="convnet: what is left is divided by this, one number a channel",
    )
    crop_padding: int = Field(
        default=0,
        ge=0,
        le=64,
        description="convnet: pixels by which training pictures are shifted at random, at most",
    )
    flip: bool = Field(
        default=False, description="convnet: mirror half of the training pictures, left to right"
    )

    @model_validator(mode="after")
    def _mean_and_deviation_match(self) -> Self:
        if len(self.mean) != len(self.deviation):
            raise ValueError("mean and deviation have one number a channel each, or none")
        if any(value <= 0 for value in self.deviation):
            raise ValueError("deviation: each number is above 0")
        return self


class InnerSection(Section):
    """The optimiser of the local steps."""

    optimizer: Literal["sgd", "adamw"] = Field(description="sgd (with momentum) or adamw")
    learning_rate: float = Field(ge=1e-9, le=100, description="step size of a local step")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd only")
    nesterov: bool = Field(default=False, description="sgd only: look ahead along the momentum")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="adamw only: mean of gradients")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="adamw only: mean of squares")
    epsilon: float = Field(default=1e-8, ge=1e-12, le=1, description="adamw only")
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="adamw: decoupled; sgd: L2; neither on norms and biases",
    )
    clip_norm: float = Field(
        default=0.0, ge=0, le=1e6, description="longest gradient of a step; 0: any length"
    )
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        default="constant",
        description="of the learning rate over the whole run; one-cycle rises, then falls to 0",
    )
    warmup_steps: int = Field(
        default=0,
        ge=0,
        le=WARMUP_STEPS_MAX,
        description="local steps in which the learning rate rises; one-cycle: 0 is 3/10 of all",
    )
    learning_rate_end: float = Field(
        default=0.0, ge=0, le=100, description="cosine, one-cycle: learning rate of the last step"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of a label that all classes divide"
    )
    batch: int = Field(ge=1, le=BATCH_MAX, description="samples in a local step")
    local_steps: int = Field(
        ge=1, le=LOCAL_STEPS_MAX, description="local steps in a round (H); small on fast links"
    )
    local_steps_min: int = Field(
        default=1,
        ge=1,
        le=LOCAL_STEPS_MAX,
        description="the fewest that a slow peer takes to end with the others",
    )
    local_steps_max: int = Field(
        default=0,
        ge=0,
        le=LOCAL_STEPS_MAX,
        description="the most that H grows to on thin links; 0: it stays at local_steps",
    )

    @property
    def steps_max(self) -> int:
        """The most local steps that anyone may take in a round."""
        return self.local_steps_max or self.local_steps

    @model_validator(mode="after")
    def _bounds_hold_the_local_steps(self) -> Self:
        if self.local_steps_min > self.local_steps:
            raise ValueError("local_steps_min is above local_steps")
        if 0 < self.local_steps_max < self.local_steps:
            raise ValueError("local_steps_max is below local_steps; 0 means as many as those")
        return self

    @model_validator(mode="after")
    def _the_rate_falls(self) -> Self:
        if self.learning_rate_end > self.learning_rate:
            raise ValueError("learning_rate_end is above learning_rate")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError("nesterov = true needs optimizer = 'sgd'")
        return self


class Phase(Section):
    """Rounds in which a convnet trains on smaller pictures; after the last phase: full size."""

    rounds: int = Field(ge=1, le=ROUNDS_MAX, description="how many rounds it lasts")
    size: int = Field(
        ge=1, le=IMAGE_SIDE_MAX, description="height of the pictures; it divides the full height"
    )
