"""What comes with the program: the digits data set and the recipes that `p2ptrain init` writes."""

from pathlib import Path

from p2ptrain.data.seeding import Progress, Seeded, seed_dataset
from p2ptrain.store.blocks import BlockStore

BUNDLED = Path(__file__).with_name("bundled")
DIGITS = "digits"
DIGITS_PATH = BUNDLED / "digits.npz"
DIGITS_LICENCE = "CC-BY-4.0"  # credited in bundled/CREDITS.md
RECIPES = ("digits", "fashion")


def seed_digits(blocks: BlockStore, progress: Progress = lambda stored, total: None) -> Seeded:
    """Put the digits into the store; the CID is the one in the digits recipe. Raises StoreError."""
    return seed_dataset(DIGITS_PATH, blocks, name=DIGITS, licence=DIGITS_LICENCE, progress=progress)


def recipe_path(name: str) -> Path:
    """The commented recipe of one of RECIPES. Raises KeyError for another name."""
    if name not in RECIPES:
        raise KeyError(name)
    return BUNDLED / "recipes" / f"{name}.toml"
