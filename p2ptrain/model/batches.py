"""Where a plan's batches come from, and how large they are."""

from dataclasses import dataclass
from typing import Protocol

from p2ptrain.device.opencl import DeviceArray
from p2ptrain.model.layers import Backward
from p2ptrain.model.parameters import Layout
from p2ptrain.model.recorder import Recorder, Value


@dataclass(frozen=True, slots=True)
class Input:
    """The samples on the device.

    x      (samples, values) float32; of text the stream of tokens, (tokens,) uint8
    y      (samples,) int32 labels; of text not looked at
    index  (steps * batch,) int32: which samples the loaded steps take, -1 for none
    """

    x: DeviceArray
    y: DeviceArray
    index: DeviceArray


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a plan does in a step.

    batch         samples
    crop_padding  pixels by which they are shifted at random, at most
    flip          whether half of them are mirrored
    smoothing     share of a label that all classes divide
    """

    batch: int
    crop_padding: int = 0
    flip: bool = False
    smoothing: float = 0.0


class Network(Protocol):
    """What a plan needs of a model: MLP, convnet or GPT."""

    @property
    def layout(self) -> Layout:
        """Names, shapes and places of the tensors."""

    @property
    def inputs(self) -> int:
        """Values of a sample; 0 for text, whose samples are places in a stream."""

    @property
    def classes(self) -> int:
        """Number of logits."""

    @property
    def rows(self) -> int:
        """Predictions made of one sample: 1, or one for each token of a text."""

    @property
    def products(self) -> int:
        """Multiply-adds of the forward pass of one sample."""

    def resized(self, side: int) -> "Network":
        """The same network for pictures of another height. Raises ConfigError if it has none."""

    def record_input(
        self, recorder: Recorder, source: Input, shape: StepShape
    ) -> tuple[Value, Value]:
        """Record the gathering of a batch: what goes in, and the labels (batch * rows,) int32."""

    def record(self, recorder: Recorder, x: Value) -> tuple[Value, Backward]:
        """Record the layers; the logits (batch * rows, classes) and the way back."""
