"""Write requirements.lock and requirements-dev.lock from what is installed in this environment.

Run it in an environment in which the newest wanted versions are installed and pass the tests.
The lock names packages and versions only, never the host of an index.
"""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
BUILD = ["hatchling", "editables"]  # to install the checkout itself without build isolation
DEVELOPMENT = ["pytest", "pytest-trio", "hypothesis", "ruff", "mypy"]
HEAD = """\
# Every package that p2ptrain runs with, and the two that install its checkout, pinned.
# Install with --no-deps: libp2p 0.8.1 asks for fastecdsa 2.3.2, which has no Linux wheel and needs
# a compiler; 3.0.1 has wheels and libp2p works with it. Made by `make lock`.
"""
HEAD_DEVELOPMENT = """\
# What the tests and checks need beyond requirements.lock, pinned. Made by `make lock`.
"""


def closure(roots: list[str]) -> set[str]:
    """Names of the roots and of all that they need, extras included."""
    wanted: dict[str, set[str]] = {}
    queue = [Requirement(root) for root in roots]
    while queue:
        requirement = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in wanted and requirement.extras <= wanted[name]:
            continue
        extras = wanted.setdefault(name, set())
        extras |= requirement.extras
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras | {""}):
                queue.append(needed)
    return set(wanted)


def write(path: Path, head: str, names: set[str]) -> None:
    """Write one lock file, sorted by name."""
    pins = (distribution(name) for name in sorted(names))
    lines = (f"{pin.metadata['Name']}=={pin.version}\n" for pin in pins)
    path.write_text(head + "".join(lines))


def main() -> None:
    """Write both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run = closure([*project["dependencies"], *BUILD])
    write(ROOT / "requirements.lock", HEAD, run)
    write(ROOT / "requirements-dev.lock", HEAD_DEVELOPMENT, closure(DEVELOPMENT) - run)


if __name__ == "__main__":
    main()
