"""Rules about the code itself: layers, purity, sizes. The map is ARCHITECTURE.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "p2ptrain").rglob("*.py"))
ALL_CODE = sorted(
    p
    for top in ("p2ptrain", "simnet", "soak", "tests", "benchmarks")
    for p in (ROOT / top).rglob("*.py")
)

FOUNDATION = {"errors", "wire", "config", "store", "device"}
# What a package may import beside itself. Rows from the bottom up; a row never imports its own.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "wire": {"errors"},
    "config": {"errors", "wire"},
    "store": {"errors", "wire"},
    "device": {"errors", "wire"},
    "data": {"errors", "wire", "config", "store"},
    "compress": {"errors", "wire", "config"},
    "model": FOUNDATION,
    "train": FOUNDATION | {"model", "compress", "data"},
    "swarm": FOUNDATION - {"device", "store"} | {"compress"},
    "net": FOUNDATION - {"device"},
    "node": FOUNDATION | {"data", "compress", "model", "train", "swarm", "net"},
    "cli": FOUNDATION | {"data", "compress", "model", "train", "swarm", "net", "node"},
}
PURE = {"errors", "wire", "compress", "swarm"}
IMPURE = {"trio", "libp2p", "pyopencl", "time", "random", "secrets", "socket", "os", "pathlib"}
IMPURE |= {"threading", "asyncio", "subprocess", "multiprocessing", "datetime", "uuid"}
ONLY_IN = {"libp2p": "net", "pyopencl": "device"}
NURSERIES = {"node", "net"}
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
ARGUMENTS_MAX = 7  # six and self
BANNED_NAMES = {"manager", "handler", "utils", "helpers", "common", "base", "misc"}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: a reader sees the layer"
            yield node.module or ""


def layer_of(path: Path) -> str:
    """The package of a module; config.py and its siblings config_*.py are one layer."""
    first = path.relative_to(ROOT / "p2ptrain").with_suffix("").parts[0]
    return first.split("_")[0] if first.startswith("config") else first


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_package_imports_only_from_the_rows_below_it(path: Path) -> None:
    here = layer_of(path)
    if here == "__init__":
        return
    for imported in imports(ast.parse(path.read_text())):
        top, *rest = imported.split(".")
        if top == "p2ptrain":
            assert rest, "import from the module that defines the name, not from p2ptrain"
            target = rest[0].split("_")[0] if rest[0].startswith("config") else rest[0]
            assert target == here or target in MAY_IMPORT[here], f"{here} imports {imported}"
        if here in PURE:
            assert top not in IMPURE, f"{here} is pure and imports {imported}"
        assert ONLY_IN.get(top, here) == here, f"only {ONLY_IN.get(top)} imports {top}"


@pytest.mark.parametrize("path", ALL_CODE, ids=name)
def test_modules_and_functions_stay_small_enough_to_read(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    assert source.count("\n") <= MODULE_LINES_MAX
    assert path.stem not in BANNED_NAMES
    if path.name == "__init__.py":
        assert not source.strip(), "re-exports are how cycles begin"
        return
    assert ast.get_docstring(tree), "every module opens with what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            is_command = "cli" in path.parts and node.name == "command"  # options of the user
            assert is_command or len(arguments) <= ARGUMENTS_MAX, f"{node.name}: use a config"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nurseries_are_opened_by_shells_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "open_nursery":
            assert layer_of(path) in NURSERIES, f"{name(path)} opens a nursery"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_error_is_swallowed(path: Path) -> None:
    """A handler that catches everything must raise again."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            )
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert not broad or raises, f"{name(path)}:{node.lineno} swallows every error"


def top_level_imports(path: Path) -> set[str]:
    """p2ptrain modules imported when this one is, TYPE_CHECKING blocks and functions left out."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {i for i in imports(node) if i.startswith("p2ptrain.")}
    return found


def test_there_are_no_import_cycles() -> None:
    graph = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts): top_level_imports(p) for p in MODULES
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"cycle: {' -> '.join((*trail, module))}"
        if module in done:
            return
        for target in graph.get(module, set()):
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())
