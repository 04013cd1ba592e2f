"""The layers of a convolutional network as a recipe writes them, one text a layer.

    conv 3x3 32           options behind it, in this order: stride 2, padding 0, no-bias
    norm 8                group normalisation; the number is that of the groups
    relu, gelu
    max-pool 2            average-pool 2; option: stride 1 (else the size)
    max-pool to 3         average-pool to 3: as many pixels as leave 3 x 3, whatever comes in
    global-pool           the mean over all pixels
    residual 64           two 3x3 convolutions around which the input is added; options: stride 2,
                          groups 4 (of its normalisations, else 8)
    dropout 0.1
    linear 128

A text has one spelling: options that say the default are left out, so that one network has one
recipe. Whether layers fit one another is seen when the shapes are known (model/convnet.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

from p2ptrain.wire.limits import KERNEL_MAX, LAYER_WIDTH_MAX, STRIDE_MAX

GROUPS_DEFAULT = 8


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of kernel x kernel pixels; padding None: as much as keeps the size."""

    kernel: int
    channels: int
    stride: int = 1
    padding: int | None = None
    bias: bool = True

    @property
    def pixels_added(self) -> int:
        """Zeros on each side of the input."""
        return self.kernel // 2 if self.padding is None else self.padding

    def __str__(self) -> str:
        text = f"conv {self.kernel}x{self.kernel} {self.channels}"
        text += f" stride {self.stride}" if self.stride != 1 else ""
        text += f" padding {self.padding}" if self.padding is not None else ""
        return text + ("" if self.bias else " no-bias")


@dataclass(frozen=True, slots=True)
class Norm:
    """Group normalisation."""

    groups: int

    def __str__(self) -> str:
        return f"norm {self.groups}"


@dataclass(frozen=True, slots=True)
class Activation:
    """relu or gelu."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Pool:
    """The maximum or the mean of size x size pixels."""

    kind: str
    size: int
    stride: int

    def __str__(self) -> str:
        return f"{self.kind}-pool {self.size}" + (
            f" stride {self.stride}" if self.stride != self.size else ""
        )


@dataclass(frozen=True, slots=True)
class PoolTo:
    """The maxima or means of windows such that side x side of them are left."""

    kind: str
    side: int

    def __str__(self) -> str:
        return f"{self.kind}-pool to {self.side}"


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """The mean over all pixels."""

    def __str__(self) -> str:
        return "global-pool"


@dataclass(frozen=True, slots=True)
class Residual:
    """norm(conv(relu(norm(conv(x))))) + x, then relu; a 1x1 convolution where shapes differ."""

    channels: int
    stride: int = 1
    groups: int = GROUPS_DEFAULT

    def __str__(self) -> str:
        text = f"residual {self.channels}"
        text += f" stride {self.stride}" if self.stride != 1 else ""
        return text + (f" groups {self.groups}" if self.groups != GROUPS_DEFAULT else "")


@dataclass(frozen=True, slots=True)
class Dropout:
    """Zeros a share of the values in training, and scales the others up."""

    rate: float

    def __str__(self) -> str:
        return f"dropout {self.rate:g}"


@dataclass(frozen=True, slots=True)
class Linear:
    """A fully connected layer."""

    width: int

    def __str__(self) -> str:
        return f"linear {self.width}"


LayerText = Conv | Norm | Activation | Pool | PoolTo | GlobalPool | Residual | Dropout | Linear


class _Words:
    """The words of a layer's text, taken from the left."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def number(self, what: str, most: int, least: int = 1) -> int:
        """The next word, a number in range. Raises ValueError."""
        word = self._words.pop(0) if self._words else ""
        if not word.isdecimal() or not least <= int(word) <= most:
            raise ValueError(f"{what} is a number from {least} to {most}, not {word!r}")
        return int(word)

    def square(self) -> int:
        """The next word, such as 3x3. Raises ValueError."""
        word = self._words.pop(0) if self._words else ""
        height, _, width = word.partition("x")
        if height != width or not height.isdecimal() or not 1 <= int(height) <= KERNEL_MAX:
            raise ValueError(f"a kernel is 1x1 to {KERNEL_MAX}x{KERNEL_MAX}, not {word!r}")
        return int(height)

    def share(self) -> float:
        """The next word, a number above 0 and below 1. Raises ValueError."""
        word = self._words.pop(0) if self._words else ""
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not 0 < value < 1:
            raise ValueError(f"a rate is above 0 and below 1, not {word!r}")
        return value

    def has(self, option: str) -> bool:
        """Whether the next word is this option; it is taken then."""
        if self._words[:1] != [option]:
            return False
        self._words.pop(0)
        return True

    def end(self) -> None:
        """Raise ValueError if words are left."""
        if self._words:
            raise ValueError(f"{' '.join(self._words)!r} means nothing here")


def _conv(words: _Words) -> Conv:
    kernel, channels = words.square(), words.number("channels", LAYER_WIDTH_MAX)
    stride = words.number("stride", STRIDE_MAX) if words.has("stride") else 1
    padding = words.number("padding", KERNEL_MAX, 0) if words.has("padding") else None
    return Conv(kernel, channels, stride, padding, not words.has("no-bias"))


def _pool(kind: str) -> Callable[[_Words], Pool | PoolTo]:
    def read(words: _Words) -> Pool | PoolTo:
        if words.has("to"):
            return PoolTo(kind, words.number("pixels left", KERNEL_MAX))
        size = words.number("size", KERNEL_MAX)
        stride = words.number("stride", STRIDE_MAX) if words.has("stride") else size
        return Pool(kind, size, stride)

    return read


def _residual(words: _Words) -> Residual:
    channels = words.number("channels", LAYER_WIDTH_MAX)
    stride = words.number("stride", STRIDE_MAX) if words.has("stride") else 1
    most = LAYER_WIDTH_MAX
    groups = words.number("groups", most) if words.has("groups") else GROUPS_DEFAULT
    return Residual(channels, stride, groups)


_READERS: dict[str, Callable[[_Words], LayerText]] = {
    "conv": _conv,
    "norm": lambda words: Norm(words.number("groups", LAYER_WIDTH_MAX)),
    "relu": lambda _: Activation("relu"),
    "gelu": lambda _: Activation("gelu"),
    "max-pool": _pool("max"),
    "average-pool": _pool("average"),
    "global-pool": lambda _: GlobalPool(),
    "residual": _residual,
    "dropout": lambda words: Dropout(words.share()),
    "linear": lambda words: Linear(words.number("width", LAYER_WIDTH_MAX)),
}


def parse_layer(text: str) -> LayerText:
    """One layer. Raises ValueError with what is wrong and what is allowed."""
    kind, *rest = text.split()[:16] or [""]
    if kind not in _READERS:
        raise ValueError(f"{text!r} is no layer; there are {', '.join(_READERS)}")
    words = _Words(rest)
    try:
        layer = _READERS[kind](words)
        words.end()
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if str(layer) != text:
        raise ValueError(f"{text!r}: write it as {str(layer)!r}")
    return layer
