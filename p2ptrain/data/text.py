"""Text for language models: files to one stream of tokens, of which the end is held out.

Several files are one text, one behind the other, in the order that they are given. Nothing is
normalised: line ends and a byte order mark stay what they are. The first tokens train and the last
test, so that no passage stands on both sides: of n tokens, floor(n (1000 - t) / 1000) train, where
t is the test share in thousandths. protocol/data.md section 3.

A sample of a text is not stored: sample i of a split is its tokens i to i + context - 1, and what
is to be predicted are the tokens one further (samples_in).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p2ptrain.data.records import TEST, TRAIN, Records, Split, unusable
from p2ptrain.data.tokenisers import BYTES, CHARACTERS, Tokeniser
from p2ptrain.errors import ConfigError
from p2ptrain.wire.limits import VOCABULARY_MAX

TEST_SHARE = 0.1
_THOUSANDTHS = 1000


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How a text is taken.

    tokeniser   one of TOKENISERS; None: CHARACTERS, if the content turns out to be text at all
    test_share  the part that is held out, 0.001 to 0.9, in thousandths; None: TEST_SHARE
    """

    tokeniser: str | None = None
    test_share: float | None = None

    def __post_init__(self) -> None:
        """Refuse a share that leaves too little on one side. Raises ConfigError."""
        if self.test_share is not None and not 0.001 <= self.test_share <= 0.9:
            raise ConfigError(
                f"--test-share {self.test_share}: it is not between 0.001 and 0.9.\n"
                "Hold a tenth out, as most do: --test-share 0.1"
            )

    @property
    def test_thousandths(self) -> int:
        """The share as a whole number, so that every machine divides alike."""
        share = TEST_SHARE if self.test_share is None else self.test_share
        return round(_THOUSANDTHS * share)


BY_DEFAULT = TextOptions()


def text_records(
    source: str, files: Sequence[tuple[str, bytes]], options: TextOptions = BY_DEFAULT
) -> Records:
    """The splits of a text, tokenised.

    Args:
      source  what errors call all of it
      files   names, for errors, and contents

    Raises:
      ConfigError  a file is not UTF-8 (its name and the byte's offset are said), there are more
                   than VOCABULARY_MAX different characters, or fewer tokens than splits
    """
    if options.tokeniser == BYTES:
        tokeniser = Tokeniser(BYTES)
        tokens = np.frombuffer(b"".join(content for _, content in files), np.uint8)
    else:
        text = "".join(_decoded(name, content) for name, content in files)
        characters = "".join(sorted(set(text)))
        if not text:
            raise unusable(source, "it is empty", "Give a file with data.")
        if len(characters) > VOCABULARY_MAX:
            raise unusable(
                source,
                f"it has {len(characters)} different characters, and the tokeniser "
                f"'{CHARACTERS}' takes {VOCABULARY_MAX} at the most",
                f"Take each byte as a token: --tokeniser {BYTES}",
            )
        tokeniser = Tokeniser(CHARACTERS, characters)
        tokens = tokeniser.encode(text)
    trained = len(tokens) * (_THOUSANDTHS - options.test_thousandths) // _THOUSANDTHS
    if not 0 < trained < len(tokens):
        raise unusable(
            source,
            f"{len(tokens)} tokens cannot be divided into one part to train on and one to test",
            "Give a longer text.",
        )
    splits = (Split(TRAIN, tokens[:trained], None), Split(TEST, tokens[trained:], None))
    return Records(splits, 0, divided=True, tokeniser=tokeniser)


def samples_in(tokens: int, context: int) -> int:
    """How many samples a split of so many tokens has; 0 if it is too short for one."""
    return max(0, tokens - context)


def _decoded(name: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise unusable(
            name,
            f"byte {error.start} is not UTF-8, so it is none of IDX, .npz and UTF-8 text",
            f"Convert it to one of these, or take each byte as a token: --tokeniser {BYTES}",
        ) from None
    if "\0" in text:
        raise unusable(
            name,
            "it has zero bytes in it, so it is no text",
            f"Convert it to .npz, or take each byte as a token: --tokeniser {BYTES}",
        )
    return text
