"""The lies that a plan can name, and the kind of peer that tells each."""

from collections.abc import Callable

from simnet.cheats import Deserter, Giant, Grinder, LoneSigner, Overweight, Understater
from simnet.liars import (
    Accuser,
    BadDonor,
    Boaster,
    Denier,
    DoubleCommitter,
    DoubleVoter,
    Forger,
    Liar,
    Mute,
    Spoiler,
    Staller,
    Twin,
    Withholder,
    WrongBase,
    WrongRoot,
)
from simnet.schemer import Schemer

LIES: dict[str, Callable[..., Liar]] = {
    "double vote": DoubleVoter,
    "double commit": DoubleCommitter,
    "wrong base state": WrongBase,
    "wrong reduced root": WrongRoot,
    "withheld pieces": Withholder,
    "spoiled pieces": Spoiler,
    "withheld and listed": Staller,
    "forged signatures": Forger,
    "claimed certificates": Boaster,
    "denied votes": Denier,
    "bad donations": BadDonor,
    "false proofs": Accuser,
    "silence": Mute,
    "twins": Twin,
    "understated norms": Understater,
    "weights beyond the bound": Overweight,
    "chosen reveals": Grinder,
    "giant norms": Giant,
    "certificates signed alone": LoneSigner,
    "branches of its own": Deserter,
    "scheme": Schemer,
}
TWINS = ("twins",)  # lies that take two instances
