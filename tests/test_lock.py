"""The lock files: complete, but for what nothing imports that p2ptrain can reach.

requirements.lock is installed with --no-deps and leaves out packages that libp2p and its
libraries ask for (.ci/make_lock.py, UNUSED). That holds only as long as no code of the locked
packages imports them, not even late and within a function: here all of that code is searched.
"""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-dev.lock")
# What the packages that are left out, with what only they need, are imported as.
MODULES_LEFT_OUT = {
    "grpc",
    "importlib_metadata",
    "lazy_importer",
    "lru",
    "mypy_extensions",
    "mypy_protobuf",
    "rpcudp",
    "six",
    "umsgpack",
    "zipp",
}
# Files that import one of them, and that nothing imports: what the second test makes sure of.
UNREACHED = {
    "libp2p/host/autonat/pb/autonat_pb2_grpc.py",
    "trio_typing/_tests/test_typecheck.py",
}
IMPORT = re.compile(
    rb"^[ \t]*(?:import|from)[ \t]+(" + "|".join(sorted(MODULES_LEFT_OUT)).encode() + rb")\b",
    re.MULTILINE,
)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    """Canonical name and version of each pin in a lock file."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonical(package): version for package, version in pins}


def left_out() -> set[str]:
    """The packages that the head of requirements.lock names as left out."""
    text = (ROOT / "requirements.lock").read_text("utf-8")
    return set(re.findall(r"^#   ([a-z-]+): ", text, re.MULTILINE))


def sources() -> dict[str, bytes]:
    """Every Python source of the locked packages, by its path in site-packages."""
    found: dict[str, bytes] = {}
    for name in locked("requirements.lock"):
        for path in distribution(name).files or ():
            if path.suffix == ".py":
                found[str(path)] = Path(str(path.locate())).read_bytes()
    return found


def test_what_is_left_out_is_imported_by_nothing_but_dead_files() -> None:
    texts = sources()
    assert len(texts) > 1000
    importing = {path: IMPORT.search(text) for path, text in texts.items() if IMPORT.search(text)}
    assert set(importing) == UNREACHED, importing
    for path in UNREACHED:
        name = Path(path).stem.encode()
        importers = [p for p, text in texts.items() if p != path and name in text]
        assert importers == [], f"{path} is no longer dead"


def test_all_of_p2ptrain_is_imported_without_what_is_left_out() -> None:
    """In a process in which their modules cannot be found, as they are not installed."""
    program = f"""
import sys, pkgutil, importlib
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MODULES_LEFT_OUT!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import p2ptrain
for module in pkgutil.walk_packages(p2ptrain.__path__, "p2ptrain."):
    importlib.import_module(module.name)
assert "libp2p" in sys.modules
"""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, cwd=ROOT, timeout=120
    )


def test_the_lock_holds_all_that_its_packages_need_but_for_what_it_leaves_out() -> None:
    pins, out = locked("requirements.lock"), left_out()
    assert len(out) >= 8
    assert not out & set(pins)
    for name in pins:
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonical(needed.name) in pins.keys() | out, f"{name} needs {text}"


def test_what_the_project_names_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for text in project["dependencies"]:
        needed = Requirement(text)
        assert needed.specifier.contains(locked("requirements.lock")[canonical(needed.name)])


def test_no_package_is_pinned_twice() -> None:
    names = [name for lock in LOCKS for name in locked(lock)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("lock", LOCKS)
def test_the_tests_run_with_the_versions_that_are_locked(lock: str) -> None:
    for name, version in locked(lock).items():
        try:
            assert distribution(name).version == version, f"{name}: run make setup-dev"
        except PackageNotFoundError:
            pytest.fail(f"{name} is locked and not installed: run make setup-dev")
