"""Which register tile each product and convolution uses on this device, as tuning has found.

A tile changes speed, never bits. Without tuning every operation uses the device's default tile
(products.best_tile). `p2ptrain tune` measures others for the shapes of a network and keeps what is
faster in a file beside the compiled kernels, one for each device, driver and state of the kernel
sources. The file is text; whatever in it cannot be used is left out, and deleting it is harmless.

    {"device": "...", "tiles": {"gemm 512x784x128 ct": [12, 2], ...}}

A choice is named by the operation and the numbers that decide its speed. Its value is rows and
vectors of the tile; the width of a vector is the device's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from p2ptrain.device.kernels import source_folder
from p2ptrain.device.opencl import DeviceInfo
from p2ptrain.device.products import Tile

ROWS_MAX, VECTORS_MAX = 32, 8  # a tile beyond spills its registers many times over
CHOICES_MAX = 4096  # of all networks ever tuned here
FILE_BYTES_MAX = 1 << 20


@dataclass
class TileChoices:
    """The tile of each operation.

    default  what operations without a choice use; None: the simple versions, always
    chosen   by name
    """

    default: Tile | None
    chosen: Mapping[str, Tile] = field(default_factory=dict)

    def of(self, name: str) -> Tile | None:
        """The tile of the operation with this name."""
        return None if self.default is None else self.chosen.get(name, self.default)


def tiles_path(folder: Path, info: DeviceInfo) -> Path:
    """The file of a device's choices in the folder of compiled kernels."""
    names = (info.title, info.driver_version, str(info.compute_units))
    parts = [name.encode() for name in names]
    parts += [path.read_bytes() for path in sorted(source_folder().glob("*.cl"))]
    name = sha256(b"\0".join(sha256(part).digest() for part in parts)).hexdigest()[:16]
    return folder / f"tiles-{name}.json"


def read_tiles(path: Path, width: int) -> dict[str, Tile]:
    """The choices in a file; none where there is no file, or none that can be read.

    Args:
      width  values of a vector of the device
    """
    try:
        with path.open("rb") as file:
            rows = json.loads(file.read(FILE_BYTES_MAX))["tiles"].items()
        return {
            name: Tile(pair[0], pair[1], width)
            for name, pair in list(rows)[:CHOICES_MAX]
            if _is_tile(pair)
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}  # speed alone depends on it


def tiles_content(title: str, tiles: Mapping[str, Tile]) -> bytes:
    """The bytes of the file."""
    pairs = {name: [tile.rows, tile.vectors] for name, tile in sorted(tiles.items())}
    return (json.dumps({"device": title, "tiles": pairs}, indent=1) + "\n").encode()


def _is_tile(pair: object) -> bool:
    match pair:
        case [int(rows), int(vectors)]:
            return 1 <= rows <= ROWS_MAX and 1 <= vectors <= VECTORS_MAX
        case _:
            return False
