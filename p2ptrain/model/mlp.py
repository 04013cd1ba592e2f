"""The multi-layer perceptron.

Layer i maps a row x of layers[i] values to x W^T + b of layers[i + 1] values, followed by the
activation except in the last layer, whose outputs are the logits. The tensors are, in the order
of the flat vector and under the names that files of weights use (PyTorch's convention):

    layer<i>.weight  (layers[i + 1], layers[i])
    layer<i>.bias    (layers[i + 1],)
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from p2ptrain.device.dense import Activation
from p2ptrain.device.operations import Batch, Operations, Samples
from p2ptrain.errors import ConfigError
from p2ptrain.model.batches import Input, StepShape
from p2ptrain.model.layers import Backward, Dense, all_products, all_tensors, record_all
from p2ptrain.model.parameters import Layout
from p2ptrain.model.recorder import Recorder, Value
from p2ptrain.wire.limits import PARAMETERS_MAX

ACTIVATIONS = ("relu", "gelu")
LAYERS_MAX = 64  # weight layers; more is a typing error, and each costs ten launches a step


@dataclass(frozen=True)
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
    def rows(self) -> int:
        """Predictions made of one sample."""
        return 1

    @cached_property
    def layout(self) -> Layout:
        """Names, shapes and places of the tensors."""
        return Layout(tuple(all_tensors(self._dense, (self.inputs,))))

    def resized(self, _side: int) -> Self:
        """Refused: only a convnet's input has a height. Raises ConfigError."""
        raise ConfigError("phases: an mlp sees no pictures, which could be smaller")

    @property
    def products(self) -> int:
        """Multiply-adds of the forward pass of one sample."""
        return all_products(self._dense, (self.inputs,))

    @cached_property
    def _dense(self) -> list[tuple[str, Dense]]:
        widths = self.layers[1:]
        activation: Activation = "relu" if self.activation == "relu" else "gelu"
        activations: list[Activation] = [activation] * (len(widths) - 1) + ["none"]
        return [
            (f"layer{i}", Dense(width, activation))
            for i, (width, activation) in enumerate(zip(widths, activations, strict=True))
        ]

    def record_input(
        self, recorder: Recorder, source: Input, shape: StepShape
    ) -> tuple[Value, Value]:
        """Record the gathering of a batch; its rows and their labels."""
        x = recorder.value(shape.batch, self.inputs)
        labels = recorder.value(shape.batch, dtype="int32")
        operations: Operations = recorder.operations
        samples = Samples(source.x, source.y)
        recorder.launch(
            lambda x, y: [operations.gather_rows(samples, source.index, Batch(x, y))], x, labels
        )
        return x, labels

    def record(self, recorder: Recorder, x: Value) -> tuple[Value, Backward]:
        """Record the layers; the logits (batch, classes) and the way back."""
        return record_all(self._dense, recorder, x)
