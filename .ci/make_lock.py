"""Write the three lock files from what is installed in this environment.

Run it in an environment in which the newest wanted versions are installed and pass the tests.
The locks name packages and versions only, never the host of an index.

  requirements.lock        what p2ptrain runs with, beside a wheel of it
  requirements-build.lock  what installs a checkout without build isolation
  requirements-dev.lock    what the tests and checks need beyond these

UNUSED packages are left out of the first, which is installed with --no-deps. Each is one that
libp2p (or a library of libp2p's) asks for and that no code imports which p2ptrain can reach;
tests/test_lock.py looks through the sources of all installed packages to hold that true.
"""

import re
import tomllib
from collections.abc import Collection
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
BUILD = ["hatchling", "editables"]
DEVELOPMENT = ["pytest", "pytest-trio", "pytest-xdist", "hypothesis", "ruff", "mypy"]
UNUSED = {
    "grpcio": "19 MB; imported by libp2p's stub of an AutoNAT service only, which nothing imports",
    "importlib-metadata": "trio-typing asks for it, and imports it in its own tests only",
    "lru-dict": "libp2p asks for it and imports it nowhere",
    "mypy-extensions": "trio-typing asks for it, and imports it nowhere",
    "mypy-protobuf": "a generator of stubs; libp2p imports it nowhere",
    "rpcudp": "libp2p asks for it and imports it nowhere",
    "six": "py-multihash and py-multibase ask for it and import it nowhere",
    "types-requests": "stubs for mypy; libp2p imports them nowhere",
}
HEAD = """\
# Every package that p2ptrain runs with, pinned. Made by `make lock`.
#
# Install with --no-deps: libp2p 0.8.1 asks for fastecdsa 2.3.2, which has no Linux wheel and needs
# a compiler; 3.0.1 has wheels and libp2p works with it.
#
# Left out, with all that only they need, because nothing that p2ptrain can reach imports them:
"""
HEAD_BUILD = """\
# What installs a checkout without build isolation, pinned. Made by `make lock`.
"""
HEAD_DEVELOPMENT = """\
# What the tests and checks need beyond the other two lock files, pinned. Made by `make lock`.
"""


def closure(roots: list[str], omitted: Collection[str] = ()) -> set[str]:
    """Names of the roots and of all that they need, extras included, but for the omitted ones."""
    wanted: dict[str, set[str]] = {}
    queue = [Requirement(root) for root in roots]
    while queue:
        requirement = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in omitted or (name in wanted and requirement.extras <= wanted[name]):
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
    """Write the three files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run = closure(project["dependencies"], UNUSED)
    build = closure(BUILD) - run
    development = closure(DEVELOPMENT) - run - build
    left_out = "".join(f"#   {name}: {reason}\n" for name, reason in sorted(UNUSED.items()))
    write(ROOT / "requirements.lock", HEAD + left_out, run)
    write(ROOT / "requirements-build.lock", HEAD_BUILD, build)
    write(ROOT / "requirements-dev.lock", HEAD_DEVELOPMENT, development)


if __name__ == "__main__":
    main()
