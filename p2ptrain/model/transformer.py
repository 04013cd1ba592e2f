"""The parts of a transformer block: norms, attention, and branches around which the input is added.

Activations are (batch * context, channels): every token is a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2ptrain.device.attention import Attention, attention_backward, attention_forward
from p2ptrain.device.layernorm import LayerNorm, layer_norm_backward, layer_norm_forward
from p2ptrain.device.residual import add_forward
from p2ptrain.model.layers import Backward, Dense, Layer, Place, Shape
from p2ptrain.model.parameters import TensorSpec
from p2ptrain.model.recorder import Recorder, Value

NormBackward = Callable[[Value, Value | None], Value]


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Causal attention of every head; rows of queries, keys and values come in."""

    context: int
    heads: int

    def result(self, shape: Shape) -> Shape:
        """A third: queries, keys and values become one row."""
        return (shape[0] // 3,)

    def tensors(self, name: str, shape: Shape) -> list[TensorSpec]:
        """None."""
        return []

    def products(self, shape: Shape) -> int:
        """Of one token: with half of the others on average, twice."""
        return self.context * shape[0] // 3

    def record(self, recorder: Recorder, place: Place, x: Value) -> tuple[Value, Backward]:
        """Record the attention over qkv rows x of (batch * context, 3 * channels)."""
        operations, channels = recorder.operations, x.shape[1] // 3
        batch = x.shape[0] // self.context
        attention = Attention(batch, self.context, self.heads, channels // self.heads)
        y = recorder.value(x.shape[0], channels)
        stats = recorder.value(batch * self.heads * self.context, 2)
        recorder.launch(
            lambda x, y, stats: attention_forward(operations, attention, x, y, stats), x, y, stats
        )

        def backward(d: Value) -> Value | None:
            dx = recorder.value(*x.shape)
            recorder.launch(
                lambda x, y, stats, d, dx: attention_backward(
                    operations, attention, (x, y, stats), d, dx
                ),
                x, y, stats, d, dx,
            )  # fmt: skip
            return dx

        return y, backward


def norm_tensors(name: str, channels: int) -> list[TensorSpec]:
    """Scale and shift of a LayerNorm."""
    return [
        TensorSpec(f"{name}.weight", (channels,), fill=1.0),
        TensorSpec(f"{name}.bias", (channels,)),
    ]


def record_norm(recorder: Recorder, name: str, x: Value) -> tuple[Value, NormBackward]:
    """Record a LayerNorm. Its backward takes a second gradient, which is added to its result."""
    operations, parameters = recorder.operations, recorder.parameters
    scale, shift = (recorder.offsets[f"{name}.{kind}"] for kind in ("weight", "bias"))
    norm = LayerNorm(x.shape[0], x.shape[1], scale, shift)
    y, stats = recorder.value(*x.shape), recorder.value(x.shape[0], 2)
    recorder.launch(
        lambda x, y, stats: layer_norm_forward(operations, norm, x, parameters, y, stats),
        x, y, stats,
    )  # fmt: skip

    def backward(d: Value, add: Value | None) -> Value:
        gradient = recorder.gradient
        assert gradient is not None
        dx = recorder.value(*x.shape)
        added = [] if add is None else [add]
        recorder.launch(
            lambda x, stats, d, dx, *more: layer_norm_backward(
                operations,
                norm,
                (x, parameters, stats),
                d,
                (dx, gradient),
                more[0] if more else None,
            ),
            x, stats, d, dx, *added,
        )  # fmt: skip
        return dx

    return y, backward


def record_branch(
    recorder: Recorder,
    norm: str,
    layers: Sequence[tuple[str, Layer]],
    x: Value,
    stream: int,
) -> tuple[Value, Backward]:
    """Record x + layers(norm(x)); a dense layer at the end adds x itself.

    The last of the layers, a dense one without activation or a dropout, does not overwrite the
    gradient that it is given, which the norm adds once more.
    """
    operations = recorder.operations
    inner, norm_back = record_norm(recorder, norm, x)
    backs: list[Backward] = []
    added = False
    for name, layer in layers:
        place = Place(name, is_first=False, stream=stream)
        if isinstance(layer, Dense) and name == layers[-1][0]:
            inner, back = layer.record_onto(recorder, place, inner, x)
            added = True
        else:
            inner, back = layer.record(recorder, place, inner)
        backs.append(back)
    y = inner
    if not added:  # a dropout is the last
        y = recorder.value(*x.shape)
        recorder.launch(lambda a, b, y: add_forward(operations, a, b, y, False), x, inner, y)

    def backward(d: Value) -> Value | None:
        gradient: Value | None = d
        for back in reversed(backs):
            assert gradient is not None
            gradient = back(gradient)
        assert gradient is not None
        return norm_back(gradient, d)

    return y, backward
