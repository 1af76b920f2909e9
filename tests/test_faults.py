"""tests/FAULTS.md, the page of what tests break on purpose, is complete and true."""

import ast
import re
from pathlib import Path

import pytest
from test_media import KINDS

TESTS = Path(__file__).parent
PAGE = (TESTS / "FAULTS.md").read_text(encoding="utf-8")


def functions() -> dict[tuple[str, str], bool]:
    """(file, test) -> whether it is marked chaos."""
    found = {}
    for path in TESTS.glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = {ast.unparse(mark) for mark in node.decorator_list}
                found[path.name, node.name] = "pytest.mark.chaos" in marks
    return found


def named() -> set[tuple[str, str]]:
    """Tests that the page names, as file.py::test or, in the same row, as ::test."""
    found = set()
    for line in PAGE.splitlines():
        file = ""
        for own, test in re.findall(r"`(test_\w+\.py)?::(test_\w+)`", line):
            file = own or file
            found.add((file, test))
    return found


def test_every_test_named_exists():
    assert len(named()) > 80
    assert not named() - functions().keys()


def test_every_fault_that_is_tried_again_and_again_is_on_the_page():
    assert not {test for test, chaos in functions().items() if chaos} - named()


@pytest.mark.parametrize("line", [line for line in PAGE.splitlines() if line.startswith("| ")])
def test_every_row_names_its_test(line):
    cells = line.strip("|").replace(r"\|", "").split("|")
    last = cells[-1]
    assert last.strip() == "test" or re.search(r"`test_\w+\.py|`\[[^`]+\]`", last), line


def test_every_kind_of_file_has_a_row():
    assert set(re.findall(r"`\[([^`]+)\]`", PAGE)) == set(KINDS) - {"whole"}
