"""The tests themselves: what two modules share lies in a helper module, so that every file runs alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import LONGEST_FIRST, PARTLY_FAST

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(HERE.glob("*.py")), ids=lambda path: path.stem)
def test_no_module_imports_a_test_module(path: Path) -> None:
    tests = {other.stem for other in HERE.glob("test_*.py")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found = {name.split(".")[-1] for name in names} & tests
        assert not found, f"line {node.lineno} imports {found}: move what both need to a helper module of tests/"


def test_the_files_that_start_first_exist() -> None:
    assert set(PARTLY_FAST) <= set(LONGEST_FIRST)
    assert [name for name in LONGEST_FIRST if not (HERE / f"{name}.py").is_file()] == []
