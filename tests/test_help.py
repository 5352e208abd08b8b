"""What `--help` says: commands in groups with an example each, no types of Python, and nothing imported for it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from processes import here
from typer.main import get_command

from slabench.cli.app import app
from slabench.cli.commands import VERBS

LEAVES = [
    *([name] for name in VERBS if name not in ("data", "episodes", "longtail")),
    *(["data", name] for name in ("get", "import", "import-folder", "verify")),
    *([group, name] for group in ("episodes", "longtail") for name in ("make", "verify", "show")),
]


def told(*words: str, width: int = 80) -> str:
    code, printed = here(*words, "--help", COLUMNS=str(width))
    assert code == 0, printed
    return printed


def panels(printed: str) -> dict[str, list[str]]:
    """The lines of each box, by its title."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in printed.splitlines():
        if line.startswith("╭─"):
            title = line.strip("╭─╮ ")
            found[title] = []
        elif line.startswith("│"):
            found[title].append(line.strip("│ "))
    return found


def test_the_commands_stand_in_groups_each_with_an_example() -> None:
    boxes = panels(told())
    assert list(boxes) == ["Options", "Run", "Look", "Data", "Own methods"]
    listed = [line.split()[0] for title in list(boxes)[1:] for line in boxes[title] if re.match(r"[a-z]+  ", line)]
    assert sorted(listed) == sorted(VERBS)
    for title in list(boxes)[1:]:
        for verb in (verb for verb in VERBS.values() if verb.panel == title):
            assert verb.example in boxes[title], "in one line at 80 columns"


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_an_example_can_be_typed(verb: Any) -> None:
    words = shlex.split(verb.example)[1:]
    assert words[0] == verb.name
    command: Any = get_command(app).load_all()  # type: ignore[attr-defined]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(verb.name, words)


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_a_command_s_own_help_has_an_example_and_no_types(words: list[str]) -> None:
    printed = told(*words)
    assert re.search(rf"^\W*(?:Example: )?slabench {' '.join(words)}\b", printed, re.MULTILINE), printed
    assert not re.search(r"<\w+", printed)
    assert "list[" not in printed


def test_run_begins_with_the_ten_options_that_people_use_first() -> None:
    boxes = panels(told("run"))
    titles = list(boxes)
    assert titles[:2] == ["Arguments", "Used most"]
    options = [re.findall(r"^--([\w-]+)", line) for line in boxes["Used most"]]
    assert [name for found in options for name in found] == [
        *("dataset", "sla", "shots", "head", "ratio", "loss", "backbone", "preset", "seeds", "dry-run")
    ]
    assert "Options" not in titles, "--help alone has no box of its own"


def test_help_imports_no_command_and_no_room_below() -> None:
    """What it imports is what it costs: with every command imported it took half as long again."""
    code = """
import sys
from slabench.cli.app import main
sys.argv = ["slabench", "--help"]
try:
    main()
except SystemExit:
    pass
print(*sorted(name for name in sys.modules if name.partition(".")[0] == "slabench"), file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    known = {"slabench", *(f"slabench.{name}" for name in ("cli", "cli.app", "cli.commands", "cli.streams", "core"))}
    assert set(run.stderr.split()) == known | {f"slabench.core.{name}" for name in ("errors", "torchrun", "versions")}
