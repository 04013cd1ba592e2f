"""The program behind `p2ptrain tune`: measures tiles on one device, and may die of its driver.

    python -m p2ptrain.cli.tune_trial RECIPE SECONDS DEVICE KERNEL_CACHE

It writes lines of JSON: {"progress": text} while it works, and at the end one Found. It writes no
file: whoever started it keeps what it found, and keeps nothing if it died.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from p2ptrain.cli.isolated import take_stdout
from p2ptrain.config import Recipe
from p2ptrain.device.kernels import KernelLibrary
from p2ptrain.device.opencl import open_device
from p2ptrain.device.products import best_tile
from p2ptrain.device.tiles import tiles_path
from p2ptrain.errors import ConfigError, DeviceError
from p2ptrain.model.networks import network_of
from p2ptrain.train.tuning import tune


@dataclass(frozen=True, slots=True)
class Found:
    """What came out of tuning.

    error    why nothing was measured; empty if it was
    device   its title
    path     of the file that the tiles belong into
    tiles    rows and vectors by the name of the operation
    measured names of all operations that were measured
    asked, tried, sweeps, refused, default_s, best_s   as in train/tuning.Tuned
    """

    error: str = ""
    device: str = ""
    path: str = ""
    width: int = 0
    tiles: dict[str, tuple[int, int]] | None = None
    measured: tuple[str, ...] = ()
    asked: int = 0
    tried: int = 0
    sweeps: int = 0
    refused: tuple[str, ...] = ()
    default_s: float = 0.0
    best_s: float = 0.0


def main(arguments: Sequence[str]) -> None:
    """Tune as the arguments say."""
    recipe_path, seconds, device, cache = arguments
    with take_stdout() as result:

        def tell(line: dict[str, object]) -> None:
            result.write(json.dumps(line) + "\n")
            result.flush()

        try:
            recipe = Recipe.from_file(Path(recipe_path))
            found = measure(recipe, float(seconds), device, Path(cache), tell)
        except (ConfigError, DeviceError) as error:
            found = Found(error=str(error))
        tell(asdict(found))


def measure(
    recipe: Recipe,
    seconds: float,
    device_name: str,
    cache: Path,
    tell: Callable[[dict[str, object]], None],
) -> Found:
    """Tune the network of a recipe on a device. Raises ConfigError, DeviceError."""
    device = open_device(device_name or None, cache)
    library = KernelLibrary(device)
    default = best_tile(library)
    if default is None:
        return Found(
            error=f"{device.info.title} computes with the simple kernels, which have no tiles: "
            "there is nothing to tune"
        )
    network = network_of(recipe)
    tuned = tune(
        library,
        default,
        network,
        recipe.inner.batch,
        seconds,
        lambda line: tell({"progress": line}),
    )
    return Found(
        device=device.info.title,
        path=str(tiles_path(cache, device.info)),
        width=default.width,
        tiles={name: (tile.rows, tile.vectors) for name, tile in tuned.tiles.items()},
        measured=tuned.measured,
        asked=len(tuned.measured),
        tried=tuned.tried,
        sweeps=tuned.sweeps,
        refused=tuned.refused,
        default_s=tuned.default_s,
        best_s=tuned.best_s,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
