"""Names and paths in docstrings, comments, messages and documents are of things that exist."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from slabench.core.registry import REGISTRIES

ROOT = Path(__file__).parent.parent
TEXTS = [
    *sorted((ROOT / "slabench").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "examples").rglob("*.py")),
    *(path for path in sorted(ROOT.glob("*.md")) if path.name != "CHANGELOG.md"),  # which tells of names that were
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]
# Not a version (slabench.outputs/1), not a file (slabench.toml), not a part of a longer name or address.
NAME = re.compile(r"(?<![\w./-])slabench(?:\.[A-Za-z_]\w*)+\b(?!/\d)")
FILE = re.compile(r"(?<![\w./-])(?:slabench|tests|benchmarks|examples)/[\w/-]*[a-z]\w*\.py\b")  # not NAME.py
GROUPS = {registry.group for registry in REGISTRIES.values()}


def exists(name: str) -> bool:
    """Whether the dotted name is a module, or an attribute of one (of a class in one, ...)."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def mentions(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for path in TEXTS:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for found in pattern.finditer(line):
                yield f"{path.relative_to(ROOT)}:{number}", found.group()


def test_every_dotted_name_resolves() -> None:
    known: dict[str, bool] = {}
    for _, name in mentions(NAME):
        known.setdefault(name, name in GROUPS or exists(name))
    assert [f"{where}: {name}" for where, name in mentions(NAME) if not known[name]] == []


def test_every_file_exists() -> None:
    assert [f"{where}: {file}" for where, file in mentions(FILE) if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(("name", "there"), [("slabench.core.registry.HEADS", True), ("slabench.core.regstry", False)])
def test_the_test_can_tell(name: str, there: bool) -> None:
    assert exists(name) is there
