"""What comes with the program: two data sets, and the recipes that `p2ptrain init` writes."""

from pathlib import Path

from p2ptrain.data.seeding import Progress, Seeded, seed_dataset
from p2ptrain.data.text import TextOptions
from p2ptrain.data.tokenisers import CHARACTERS
from p2ptrain.store.blocks import BlockStore

BUNDLED = Path(__file__).with_name("bundled")
RECIPE_FOLDER = Path(__file__).parents[1] / "recipes"
DIGITS = "digits"
DIGITS_PATH = BUNDLED / "digits.npz"
DIGITS_LICENCE = "CC-BY-4.0"  # credited in bundled/CREDITS.md
SHAKESPEARE = "tinyshakespeare"
SHAKESPEARE_PATH = BUNDLED / "tinyshakespeare.txt.bz2"
SHAKESPEARE_LICENCE = "public domain"
RECIPES = ("digits", "fashion", "fashion-convnet", "shakespeare-char")


def seed_digits(blocks: BlockStore, progress: Progress = lambda stored, total: None) -> Seeded:
    """Put the digits into the store; the CID is the one in the digits recipe. Raises StoreError."""
    return seed_dataset(DIGITS_PATH, blocks, name=DIGITS, licence=DIGITS_LICENCE, progress=progress)


def seed_shakespeare(blocks: BlockStore, progress: Progress = lambda stored, total: None) -> Seeded:
    """Put the plays into the store; the CID is the one in the text recipe. Raises StoreError."""
    return seed_dataset(
        SHAKESPEARE_PATH,
        blocks,
        name=SHAKESPEARE,
        licence=SHAKESPEARE_LICENCE,
        text=TextOptions(CHARACTERS),
        progress=progress,
    )


# What `p2ptrain seed dataset NAME` finds without a path.
SHIPPED = {DIGITS: seed_digits, SHAKESPEARE: seed_shakespeare}


def recipe_path(name: str) -> Path:
    """The commented recipe of one of RECIPES. Raises KeyError for another name."""
    if name not in RECIPES:
        raise KeyError(name)
    return RECIPE_FOLDER / f"{name}.toml"
