"""The multi-layer perceptron: its tensors.

Layer i maps a row x of layers[i] values to x W^T + b of layers[i + 1] values, followed by the
activation except in the last layer, whose outputs are the logits. The tensors are, in the order
of the flat vector and under the names that files of weights use (PyTorch's convention):

    layer<i>.weight  (layers[i + 1], layers[i])
    layer<i>.bias    (layers[i + 1],)
"""

from dataclasses import dataclass
from itertools import pairwise

from p2ptrain.errors import ConfigError
from p2ptrain.model.parameters import Layout, TensorSpec
from p2ptrain.wire.limits import PARAMETERS_MAX

ACTIVATIONS = ("relu", "gelu")
LAYERS_MAX = 64  # weight layers; more is a typing error, and each costs ten launches a step


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the network is.

    layers      widths from the input to the logits, at least two
    activation  "relu" or "gelu", after every layer but the last
    """

    layers: tuple[int, ...] = (64, 256, 10)
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
          ConfigError  with what is allowed
        """
        if not 2 <= len(self.layers) <= LAYERS_MAX + 1 or min(self.layers) < 1:
            raise ConfigError(
                f"layers = {list(self.layers)}: give 2 to {LAYERS_MAX + 1} widths of 1 or more, "
                "from the input to the number of classes"
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f'activation = "{self.activation}": allowed are {", ".join(ACTIVATIONS)}'
            )
        if self.layout.padded_size > PARAMETERS_MAX:
            raise ConfigError(
                f"{self.layout.size} parameters are above the limit of {PARAMETERS_MAX}; "
                "make the layers narrower"
            )

    @property
    def inputs(self) -> int:
        """Values of a sample."""
        return self.layers[0]

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.layers[-1]

    @property
    def layout(self) -> Layout:
        """Names, shapes and places of the tensors."""
        tensors: list[TensorSpec] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(self.layers)):
            tensors.append(TensorSpec(f"layer{i}.weight", (fan_out, fan_in)))
            tensors.append(TensorSpec(f"layer{i}.bias", (fan_out,)))
        return Layout(tuple(tensors))
