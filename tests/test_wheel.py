"""The wheel: all that the program reads is inside, and it runs where there is no checkout.

Built and installed offline with what `make setup` installed. The whole story, an empty environment
and the demo, is `make wheel-demo`.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from p2ptrain.config import Recipe
from p2ptrain.data.shipped import RECIPES

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    subprocess.run([*PIP, "wheel", *options, ROOT], check=True, timeout=120)
    (built,) = folder.glob("p2ptrain-*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, to be searched before the checkout."""
    folder = tmp_path_factory.mktemp("site")
    options = ("--no-deps", "--no-index", "--no-compile", "--target", folder)
    subprocess.run([*PIP, "install", *options, wheel], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all, so that kernels are compiled once."""
    return tmp_path_factory.mktemp("home")


def run(site: Path, *arguments: str | Path, code: int = 0) -> str:
    """What a program of the installed wheel prints, started outside the checkout."""
    ran = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    return ran.stdout


def p2ptrain(site: Path, *arguments: str | Path, code: int = 0) -> str:
    return run(site, "-m", "p2ptrain.cli.main", *arguments, code=code)


def test_the_wheel_holds_every_file_of_the_package_and_the_kernels(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder, place in (("p2ptrain", "p2ptrain"), ("kernels", "p2ptrain/_kernels")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{place}/{path.relative_to(ROOT / folder)}" in packed


def test_the_wheel_holds_nothing_else_but_its_papers(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    papers = {top for top in tops if top.endswith(".dist-info")}
    assert tops - papers == {"p2ptrain"}
    (name,) = papers
    assert f"{name}/licenses/LICENSE" in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_is_the_same_for_all_platforms_and_small(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 1 << 20


def test_the_program_that_runs_is_the_wheels(site: Path) -> None:
    places = run(
        site, "-c", "import p2ptrain.device.kernels as k; print(k.__file__, k.source_folder())"
    )
    module, kernels = map(Path, places.split())
    assert module.is_relative_to(site)
    assert kernels == site / "p2ptrain" / "_kernels"


def test_the_linker_is_still_executable(site: Path) -> None:
    assert os.access(site / "p2ptrain" / "device" / "bin" / "ld", os.X_OK)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_are_inside(site: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "recipe.toml"
    p2ptrain(site, "init", name, "-o", out)
    assert Recipe.from_file(out).name


def test_the_digits_are_inside(site: Path, home: Path) -> None:
    text = p2ptrain(site, "seed", "dataset", "digits", "--once", "--home", home)
    assert "1,438 train, 359 test" in text


def test_the_kernels_are_inside_and_give_the_golden_bits(site: Path, home: Path) -> None:
    found = json.loads(p2ptrain(site, "devices", "--json", "--home", home))
    assert any(device["selftest"]["passed"] for device in found["devices"])


def test_a_device_of_other_bits_is_found_out(site: Path, home: Path) -> None:
    """As if the device were wrong: the golden hash of one kernel is another."""
    golden = site / "p2ptrain" / "_kernels" / "golden.json"
    text = golden.read_text("utf-8")
    hashes = json.loads(text)
    try:
        golden.write_text(json.dumps({**hashes, "gemm": "0" * len(hashes["gemm"])}))
        printed = p2ptrain(site, "devices", "--json", "--home", home, code=5)
    finally:
        golden.write_text(text)
    for device in json.loads(printed)["devices"]:
        assert not device["selftest"]["passed"]
        assert not device["selftest"]["died"]
        assert "kernel gemm" in device["selftest"]["reason"]


def test_the_version_is_the_projects(site: Path) -> None:
    assert p2ptrain(site, "--version").startswith("p2ptrain ")
