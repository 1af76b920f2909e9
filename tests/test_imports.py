"""Imports go one way: down the list in CONTRIBUTING.md, also where a function imports, and never in a circle."""

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"


@cache
def levels() -> dict[str, int]:
    """Room (a package or a module) -> the number of its line in CONTRIBUTING.md, counted from the top."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("Imports go down this list")[2]
    lines = [line for line in text.split("\n- **")[0].splitlines() if line.startswith("      ")]
    rooms = [re.findall(r"(?:^|(?<=\s))(\w+)(?:/|\.py)(?=\s|$)", line) for line in lines]
    return {room: number for number, names in enumerate(rooms) for room in names}


@cache
def modules() -> dict[str, Path]:
    found = {".".join(p.relative_to(SRC).with_suffix("").parts): p for p in SRC.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


@cache
def statements(path: Path) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements of a file, wherever in it, and whether only a type checker reads them."""
    out: list[tuple[ast.Import | ast.ImportFrom, bool]] = []
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text(encoding="utf-8")), False)]
    while todo:
        node, for_types = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            out.append((node, for_types))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for_types = True
        if not isinstance(node, ast.expr):
            todo += ((child, for_types) for child in ast.iter_child_nodes(node))
    return out


def imports(path: Path, known: dict[str, Path], *, for_types: bool = False) -> set[str]:
    """Modules of ours that a file imports; `for_types`: also those that only a type checker imports."""
    out = set[str]()
    for node, only_types in statements(path):
        if only_types and not for_types:
            continue
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        else:
            assert not node.level, f"{path}: relative import"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            out |= {name if name in known else str(node.module) for name in names}
    return out & known.keys()


def room(module: str) -> str:
    package, _, inner = module.partition(".")
    return package if package == "hydra_plugins" else inner.partition(".")[0]


@cache
def graph(*, for_types: bool = False) -> dict[str, set[str]]:
    known = modules()
    return {name: imports(path, known, for_types=for_types) - {name} for name, path in known.items()}


def test_every_room_has_a_line():
    assert {room(m) for m in modules()} - {""} == set(levels())


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module):
    level = levels()
    if module == "vmp":  # the public names
        return
    up = {m for m in graph()[module] if m != "vmp" and level[room(m)] < level[room(module)]}
    assert not up, f"{module} imports {sorted(up)}, which stand above it in CONTRIBUTING.md"


def test_no_circles():
    try:
        TopologicalSorter(graph(for_types=True)).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", sorted(m for m in modules() if room(m) == "kernels"))
def test_kernels_import_only_kernels(module):
    known = modules()
    others = {m for m in imports(known[module], known, for_types=True) if room(m) != "kernels"}
    assert not others, f"{module} imports {sorted(others)}; it takes plain numbers and vmp.kernels.constants"
