"""Text as tokens and back: one byte a token, by one of two tokenisers.

    bytes       a token is a byte of the file; 256 of them, whatever the language
    characters  a token is the place of a character in the vocabulary: the different characters of
                the text, at most 256 of them, in ascending order of their code points

The vocabulary of "characters" stands in the manifest of the data set (protocol/data.md section 2),
so whoever has a network and that manifest can write text with it.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2ptrain.errors import ConfigError
from p2ptrain.wire.limits import VOCABULARY_MAX

Tokens = NDArray[np.uint8]

CHARACTERS, BYTES = "characters", "bytes"
TOKENISERS = (CHARACTERS, BYTES)
_SLICE = 1 << 20  # characters looked up at a time: 4 MiB of code points beside the text


@dataclass(frozen=True, slots=True)
class Tokeniser:
    """How a text became tokens.

    kind        one of TOKENISERS
    characters  the vocabulary of CHARACTERS, strictly ascending, 1 to 256; empty for BYTES
    """

    kind: str
    characters: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no vocabulary. Raises ValueError."""
        if self.kind not in TOKENISERS:
            raise ValueError(f"there is no tokeniser {self.kind!r}")
        if (self.kind == BYTES) != (not self.characters):
            raise ValueError(f"{self.kind} with a vocabulary of {len(self.characters)} characters")
        if len(self.characters) > VOCABULARY_MAX:
            raise ValueError(f"a vocabulary of more than {VOCABULARY_MAX} characters")
        if self.characters != "".join(sorted(set(self.characters))):
            raise ValueError("the vocabulary is not in strictly ascending order")

    @property
    def size(self) -> int:
        """Different tokens: each is below it."""
        return len(self.characters) if self.kind == CHARACTERS else VOCABULARY_MAX

    def encode(self, text: str) -> Tokens:
        """The tokens of a text, (n,) uint8.

        Raises ConfigError if the vocabulary lacks one of its characters.
        """
        if self.kind == BYTES:
            return np.frombuffer(text.encode("utf-8"), np.uint8)
        missing = sorted(set(text) - set(self.characters))
        if missing:
            raise ConfigError(
                f"the character {missing[0]!r} is not in the vocabulary of the data set.\n"
                f"Write with these {self.size}: {self.characters!r}"
            )
        table = np.zeros(ord(self.characters[-1]) + 1, np.uint8)
        table[_code_points(self.characters)] = np.arange(self.size, dtype=np.uint8)
        tokens = np.empty(len(text), np.uint8)
        for start in range(0, len(text), _SLICE):
            part = _code_points(text[start : start + _SLICE])
            tokens[start : start + len(part)] = table[part]
        return tokens

    def decode(self, tokens: Tokens) -> str:
        """The text of tokens that are below size; bytes that are not UTF-8 become U+FFFD."""
        if self.kind == BYTES:
            return tokens.tobytes().decode("utf-8", "replace")
        return "".join(self.characters[token] for token in tokens)

    def decoder(self) -> Callable[[int], str]:
        """What decodes a text token by token, as it comes.

        Of BYTES, a token may give no character yet, or end several.
        """
        if self.kind == CHARACTERS:
            return lambda token: self.characters[token]
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        return lambda token: decode(bytes([token]))


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint32, copy=False)
