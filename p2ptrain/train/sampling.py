"""Text from a language model: one token after the other, each drawn from what the model expects.

A model gives a logit l_j for each token j that may come next. With temperature T the token is drawn
with the probability exp(l_j / T) / sum; a low temperature prefers the likely, and at 0 the largest
logit wins. With top_k only the k largest are drawn from (Fan et al., Hierarchical neural story
generation, 2018, arXiv:1805.04833).

The same network, prompt and settings give the same text on every machine, because nothing here
depends on one: the logits have the same bits everywhere, exp and division are the twins of the
kernels (device/reference_math.py), a weight exp((l_j - max) / T) is rounded down to a multiple of
2^-32, so that sums are sums of integers, and draw i is a digest of the seed and of i.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.data.tokenisers import Tokens
from p2ptrain.device.reference_math import QUIET, Floats, div, exp
from p2ptrain.errors import ConfigError
from p2ptrain.wire.digest import digest

# (n,) tokens, 1 <= n <= context, to the (vocabulary,) logits of the one that follows.
Logits = Callable[[Tokens], Floats]

TEMPERATURE_MIN, TEMPERATURE_MAX = 0.001, 100.0  # of those that are not 0
_WEIGHT_ONE = 2.0**32
_DRAW_BITS = 64


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How tokens are drawn.

    temperature  0: the most likely one; 1: as the model expects it; TEMPERATURE_MIN to _MAX
    top_k        draw from the k most likely; 0: from all
    seed         0 .. 2^64 - 1
    """

    temperature: float = 0.8
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn by. Raises ConfigError."""
        inside = TEMPERATURE_MIN <= self.temperature <= TEMPERATURE_MAX
        if self.temperature != 0 and not inside:
            raise ConfigError(
                f"--temperature {self.temperature}: it is neither 0 nor between {TEMPERATURE_MIN} "
                f"and {TEMPERATURE_MAX:g}.\n"
                "0 takes the most likely token, 1 draws as the network expects: --temperature 0.8"
            )
        if self.top_k < 0:
            raise ConfigError(f"--top-k {self.top_k}: it is below 0.\n0 draws from all tokens")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"--seed {self.seed}: it is not between 0 and 2^64 - 1")


def sample(logits: Logits, prompt: Tokens, context: int, config: SamplingConfig) -> Iterator[int]:
    """The tokens that follow a prompt, without an end.

    Args:
      prompt   (n,) uint8, n >= 1; the model sees the last context tokens of prompt and text
      context  tokens that the model sees at most, >= 1

    Raises:
      ConfigError  the logits are not finite
    """
    assert len(prompt) >= 1, "there is nothing to continue"
    seen = prompt[-context:].astype(np.uint8)
    index = 0
    while True:
        token = draw(logits(seen), config, index)
        yield token
        seen = np.append(seen, np.uint8(token))[-context:]
        index += 1


def draw(logits: Floats, config: SamplingConfig, index: int) -> int:
    """Draw number index of a text: the place of a logit.

    Args:
      logits  (vocabulary,) float32

    Raises:
      ConfigError  a logit is not finite
    """
    if not np.isfinite(logits).all():
        raise ConfigError(
            "the network gives numbers that are not finite: its training has diverged.\n"
            "Train again with a lower learning rate, or sample from an older network."
        )
    # Of equal logits the first counts as the larger.
    ranked = np.argsort(-logits, kind="stable")
    if config.temperature == 0:
        return int(ranked[0])
    chosen = np.sort(ranked[: config.top_k or None])
    cumulative = np.cumsum(weights(logits, config.temperature)[chosen])
    word = digest("sample", config.seed.to_bytes(8, "little"), index.to_bytes(8, "little"))
    threshold = int.from_bytes(word[: _DRAW_BITS // 8], "little") * int(cumulative[-1])
    return int(chosen[np.searchsorted(cumulative, threshold >> _DRAW_BITS, side="right")])


def weights(logits: Floats, temperature: float) -> NDArray[np.int64]:
    """floor(2^32 exp((logit - largest) / temperature)) of each logit: 2^32 for the largest."""
    with np.errstate(**QUIET):  # type: ignore[arg-type]  # the stubs want literals
        below = logits - logits.max()
    relative = exp(div(below, np.full_like(below, temperature)))
    return np.floor(relative.astype(np.float64) * _WEIGHT_ONE).astype(np.int64)
