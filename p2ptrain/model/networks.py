"""From the model section of a recipe to the network."""

from p2ptrain.config import Recipe
from p2ptrain.config_model import ConvNetSection, GptSection, MlpSection, ModelSection
from p2ptrain.errors import ConfigError
from p2ptrain.model.batches import Network
from p2ptrain.model.convnet import ConvNetSpec
from p2ptrain.model.gpt import GptSpec
from p2ptrain.model.mlp import ModelSpec
from p2ptrain.wire.limits import PARAMETERS_MAX, SHARDS_MAX


def network_of(recipe: Recipe) -> Network:
    """The network of a recipe.

    Raises:
      ConfigError  the layers do not fit one another, or there are more parameters than the shards
                   hold
    """
    network = network_of_section(recipe.model)
    count = network.layout.size
    largest = min(PARAMETERS_MAX, SHARDS_MAX * recipe.averaging.shard_values)
    if count > largest:
        raise ConfigError(
            f"the model has {count:,} parameters; {SHARDS_MAX} shards of averaging.shard_values = "
            f"{recipe.averaging.shard_values:,} hold {largest:,}"
        )
    if isinstance(network, ConvNetSpec):
        for phase in recipe.phases:
            network.resized(phase.size)
    return network


def network_of_section(section: ModelSection) -> Network:
    """The network of a model section alone. Raises ConfigError."""
    match section:
        case MlpSection():
            return ModelSpec(section.layers, section.activation)
        case ConvNetSection():
            return ConvNetSpec(section.input, section.parsed)
        case GptSection():
            return GptSpec(
                section.blocks,
                section.heads,
                section.channels,
                section.context,
                section.vocabulary,
                section.dropout,
            )
