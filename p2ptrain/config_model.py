"""The network in a recipe: one section of three kinds.

mlp      fully connected layers, by their widths
convnet  a list of layers, each a line of text (config_layers.py)
gpt      a decoder-only transformer over bytes or characters, by its numbers
"""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from p2ptrain.config_layers import LayerText, parse_layer
from p2ptrain.config_section import Section
from p2ptrain.wire.cid import parse_cid
from p2ptrain.wire.limits import (
    BLOCKS_MAX,
    CONTEXT_MAX,
    HEADS_MAX,
    IMAGE_CHANNELS_MAX,
    IMAGE_SIDE_MAX,
    LAYER_CHARS_MAX,
    LAYER_WIDTH_MAX,
    LAYERS_MAX,
    VOCABULARY_MAX,
)

WEIGHTS_SUFFIX = ".safetensors"

Width = Annotated[int, Field(ge=1, le=LAYER_WIDTH_MAX)]


def _empty_file_or_cid(text: str) -> str:
    if text and not text.endswith(WEIGHTS_SUFFIX):
        try:
            parse_cid(text)
        except ValueError as error:
            raise ValueError(f"neither a {WEIGHTS_SUFFIX} file nor a CID: {error}") from None
    return text


def _layer(text: str) -> str:
    parse_layer(text)
    return text


Init = Annotated[
    str,
    AfterValidator(_empty_file_or_cid),
    Field(
        description="weights to start from: a .safetensors file beside the recipe; founding writes "
        "its CID in. Empty: drawn from seed"
    ),
]
Layer = Annotated[str, Field(max_length=LAYER_CHARS_MAX), AfterValidator(_layer)]


class MlpSection(Section):
    """A multi-layer perceptron."""

    kind: Literal["mlp"] = Field(default="mlp", description="mlp: fully connected layers")
    layers: tuple[Width, ...] = Field(
        min_length=2,
        max_length=LAYERS_MAX,
        strict=False,
        description="widths from the inputs to the classes, such as [64, 256, 10]",
    )
    activation: Literal["relu", "gelu"] = Field(
        default="relu", description="between layers; gelu is its tanh form"
    )
    init: Init = ""

    @property
    def parameter_count(self) -> int:
        """Weights and biases, without padding."""
        return sum((i + 1) * o for i, o in pairwise(self.layers))


class ConvNetSection(Section):
    """A convolutional network."""

    kind: Literal["convnet"] = Field(description="convnet: a list of layers")
    input: tuple[
        Annotated[int, Field(ge=1, le=IMAGE_SIDE_MAX)],
        Annotated[int, Field(ge=1, le=IMAGE_SIDE_MAX)],
        Annotated[int, Field(ge=1, le=IMAGE_CHANNELS_MAX)],
    ] = Field(strict=False, description="height, width and channels of a picture: [28, 28, 1]")
    layers: tuple[Layer, ...] = Field(
        min_length=1,
        max_length=LAYERS_MAX,
        strict=False,
        description="from the picture to the classes, such as ['conv 3x3 32', 'relu', 'linear 10']",
    )
    init: Init = ""

    @property
    def parsed(self) -> tuple[LayerText, ...]:
        """The layers, read."""
        return tuple(map(parse_layer, self.layers))


class GptSection(Section):
    """A decoder-only transformer (GPT-2's order of norms, tied embeddings)."""

    kind: Literal["gpt"] = Field(description="gpt: a transformer that continues text")
    blocks: int = Field(ge=1, le=BLOCKS_MAX, description="transformer blocks")
    heads: int = Field(ge=1, le=HEADS_MAX, description="attention heads; they divide channels")
    channels: int = Field(ge=1, le=LAYER_WIDTH_MAX, description="values of a token in the stream")
    context: int = Field(ge=1, le=CONTEXT_MAX, description="tokens that it sees at once")
    vocabulary: int = Field(
        ge=2, le=VOCABULARY_MAX, description="different tokens; `seed dataset` prints the number"
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of values that training zeros"
    )
    init: Init = ""

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> Self:
        if self.channels % self.heads:
            raise ValueError(
                f"channels = {self.channels} is no multiple of heads = {self.heads}: each head has "
                "an equal part of the channels"
            )
        return self


def _kind_of(value: Any) -> str:
    kind = value.get("kind", "mlp") if isinstance(value, dict) else getattr(value, "kind", "mlp")
    return str(kind)


ModelSection = Annotated[
    Annotated[MlpSection, Tag("mlp")]
    | Annotated[ConvNetSection, Tag("convnet")]
    | Annotated[GptSection, Tag("gpt")],
    Discriminator(_kind_of),
]
