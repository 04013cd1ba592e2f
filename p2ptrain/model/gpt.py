"""A decoder-only transformer that predicts the next token of a text.

Radford et al., Language models are unsupervised multitask learners, 2019 (GPT-2): norms before
attention and before the MLP, GELU, learned positions, and the embedding of the tokens as the last
layer's weights too (Press and Wolf 2017, arXiv:1608.05859). For each token of a batch:

    x = token + position
    x = x + proj(attention(qkv(norm1(x))))      in each block
    x = x + down(gelu(up(norm2(x))))
    logits = norm(x) token^T

Embeddings start uniform with deviation 0.02, the weights of a layer with f inputs in
[-1 / sqrt(f), 1 / sqrt(f)), as PyTorch's linear layers do. GPT-2's 0.02 for all is made for 768
channels: with 128 it cost 0.1 of the loss on Shakespeare after 2,000 steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Self

from p2ptrain.device.embedding import (
    Embedding,
    embedding_backward,
    embedding_forward,
    gather_tokens,
)
from p2ptrain.device.operations import row_major
from p2ptrain.errors import ConfigError
from p2ptrain.model.batches import Input, StepShape
from p2ptrain.model.layers import Backward, Dense, Layer, Place, all_tensors
from p2ptrain.model.parameters import Layout, TensorSpec
from p2ptrain.model.pointwise import DropoutLayer
from p2ptrain.model.recorder import Recorder, Value
from p2ptrain.model.transformer import SelfAttention, norm_tensors, record_branch, record_norm

DEVIATION = 0.02  # of the embeddings at the start
UNIFORM = sqrt(3.0)  # bound of a uniform distribution over its standard deviation
MLP_FACTOR = 4

Branch = tuple[str, list[tuple[str, Layer]]]


@dataclass(frozen=True)
class GptSpec:
    """What the network is.

    context     tokens that it sees at once
    vocabulary  different tokens
    dropout     share of values that training zeros, behind the embedding and each branch
    """

    blocks: int
    heads: int
    channels: int
    context: int
    vocabulary: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse heads that do not divide the channels. Raises ConfigError."""
        if self.channels % self.heads:
            raise ConfigError(
                f"model.channels = {self.channels} is no multiple of heads = {self.heads}"
            )

    @property
    def inputs(self) -> int:
        """A sample is a place in a stream of tokens."""
        return 0

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.vocabulary

    @property
    def rows(self) -> int:
        """Predictions made of one sample: one for each token."""
        return self.context

    @cached_property
    def layout(self) -> Layout:
        """Names, shapes and places of the tensors."""
        channels, bound = self.channels, DEVIATION * UNIFORM
        tensors = [
            TensorSpec("token.weight", (self.vocabulary, channels), bound),
            TensorSpec("position.weight", (self.context, channels), bound),
        ]
        for norm, layers in self._branches:
            tensors += norm_tensors(norm, channels) + all_tensors(layers, (channels,))
        return Layout(tuple(tensors + norm_tensors("norm", channels)))

    def resized(self, _side: int) -> Self:
        """Refused: only a convnet's input has a height. Raises ConfigError."""
        raise ConfigError("phases: a gpt sees no pictures, which could be smaller")

    @property
    def products(self) -> int:
        """Multiply-adds of the forward pass of one sample."""
        channels, tokens = self.channels, self.context
        dense = self.blocks * (4 + 2 * MLP_FACTOR) * channels**2 + self.vocabulary * channels
        attention = self.blocks * tokens * channels  # half of 2 T C: what comes later is not seen
        return tokens * (dense + attention)

    @cached_property
    def _branches(self) -> list[Branch]:
        """Of each block, the norm before a branch and the branch's layers."""
        channels = self.channels
        branches: list[Branch] = []
        for i in range(self.blocks):
            drop = [(f"block{i}.drop", DropoutLayer(self.dropout))] if self.dropout else []
            attention: list[tuple[str, Layer]] = [
                (f"block{i}.qkv", Dense(3 * channels, bound=1 / sqrt(channels))),
                (f"block{i}.attention", SelfAttention(self.context, self.heads)),
                (f"block{i}.proj", Dense(channels, bound=1 / sqrt(channels))),
                *drop,
            ]
            mlp: list[tuple[str, Layer]] = [
                (f"block{i}.up", Dense(MLP_FACTOR * channels, "gelu", 1 / sqrt(channels))),
                (f"block{i}.down", Dense(channels, bound=1 / sqrt(MLP_FACTOR * channels))),
                *drop,
            ]
            branches.append((f"block{i}.norm1", attention))
            branches.append((f"block{i}.norm2", mlp))
        return branches

    def _embedding(self, recorder: Recorder, batch: int) -> Embedding:
        token, position = (recorder.offsets[f"{name}.weight"] for name in ("token", "position"))
        return Embedding(batch, self.context, self.vocabulary, self.channels, token, position)

    def record_input(
        self, recorder: Recorder, source: Input, shape: StepShape
    ) -> tuple[Value, Value]:
        """Record the gathering of a batch of texts; tokens and the tokens that come next."""
        operations, context = recorder.operations, self.context
        tokens = recorder.value(shape.batch * context, dtype="int32")
        targets = recorder.value(shape.batch * context, dtype="int32")
        recorder.launch(
            lambda tokens, targets: gather_tokens(
                operations, source.x, source.index, tokens, targets, context
            ),
            tokens, targets,
        )  # fmt: skip
        return tokens, targets

    def record(self, recorder: Recorder, tokens: Value) -> tuple[Value, Backward]:
        """Record the network; the logits (batch * context, vocabulary) and the way back."""
        operations, parameters = recorder.operations, recorder.parameters
        embedding = self._embedding(recorder, tokens.shape[0] // self.context)
        x = recorder.value(tokens.shape[0], self.channels)
        recorder.launch(
            lambda tokens, x: embedding_forward(operations, embedding, tokens, parameters, x),
            tokens, x,
        )  # fmt: skip
        backs: list[Backward] = []
        if self.dropout:
            place = Place("drop", is_first=False, stream=len(self._branches))
            x, back = DropoutLayer(self.dropout).record(recorder, place, x)
            backs.append(back)
        for stream, (norm, layers) in enumerate(self._branches):
            x, back = record_branch(recorder, norm, layers, x, stream)
            backs.append(back)
        x, norm_back = record_norm(recorder, "norm", x)
        logits, head_back = self._record_head(recorder, x)

        def backward(d: Value) -> Value | None:
            d = norm_back(head_back(d), None)
            for back in reversed(backs):
                below = back(d)
                assert below is not None
                d = below
            gradient = recorder.gradient
            assert gradient is not None
            recorder.launch(
                lambda tokens, d: embedding_backward(
                    operations, embedding, tokens, d, gradient, accumulate_tokens=True
                ),
                tokens, d,
            )  # fmt: skip
            return None

        return logits, backward

    def _record_head(self, recorder: Recorder, x: Value) -> tuple[Value, Callable[[Value], Value]]:
        rows, channels = x.shape
        operations, words = recorder.operations, self.vocabulary
        token = recorder.offsets["token.weight"]
        weight = row_major(recorder.parameters, words, channels, token)
        logits = recorder.value(rows, words)
        recorder.launch(
            lambda x, z: operations.gemm(
                row_major(x, rows, channels), weight.transposed, row_major(z, rows, words)
            ),
            x, logits,
        )  # fmt: skip

        def backward(d: Value) -> Value:
            gradient = recorder.gradient
            assert gradient is not None
            recorder.launch(
                lambda d, x: operations.gemm(
                    row_major(d, rows, words).transposed,
                    row_major(x, rows, channels),
                    row_major(gradient, words, channels, token),
                ),
                d, x,
            )  # fmt: skip
            dx = recorder.value(rows, channels)
            recorder.launch(
                lambda d, dx: operations.gemm(
                    row_major(d, rows, words), weight, row_major(dx, rows, channels)
                ),
                d, dx,
            )  # fmt: skip
            return dx

        return logits, backward
