"""What README and docs promise: links that lead somewhere, commands that parse, numbers that are the recipes'."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from slabench.cli.app import app
from slabench.data.mixing import MIXINGS
from slabench.evaluation.posthoc import METHODS
from slabench.losses import LOSSES
from slabench.losses.resampling import RESAMPLINGS
from slabench.recipe import SUITES, known_keys, load_recipe, recipe_names
from slabench.sla.classification import CLASSIFIER_OBJECTIVES
from slabench.suites.classification_rules import REWEIGHTS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
PAGES += [ROOT / "results" / "README.md"]
# Lines of a code block; what stands behind two blanks explains them. Commands within a sentence may leave arguments out.
_COMMAND = re.compile(r"^(?:    )?(slabench \S+(?: \S+)*)", re.MULTILINE)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", text(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:benchmarks|docs|scripts|tests|slabench|episodes)/[\w./-]+\.\w+)`", text(page)):
        assert (ROOT / name).exists(), name


def code(page: Path) -> str:
    """The lines of a page that are code: between fences, or indented by four blanks."""
    parts = text(page).split("```")
    indented = [line for part in parts[::2] for line in part.splitlines() if line.startswith("    ")]
    return "\n".join([*indented, *parts[1::2]])


def commands() -> list[str]:
    found = {match.strip() for page in PAGES for match in _COMMAND.findall(code(page))}
    # Placeholders and alternatives are prose, not commands.
    return sorted(c for c in found if not re.search(r"[|\[\]<>…]|\.\.\.|\b[A-Z]{2,}\b", c))


def test_there_are_commands_to_check() -> None:
    assert "slabench run fewshot --dataset fc100 --shots 5 --sla" in commands()
    assert len(commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    words = shlex.split(command)[1:]
    current = get_command(app)
    while words and hasattr(current, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in current.commands, f"{command}: no command '{name}'"
        current = current.commands[name]
    if hasattr(current, "commands"):
        return
    with contextlib.suppress(typer.Exit):  # --help
        current.make_context("slabench", words)


def test_recipe_pages_name_real_keys_and_recipes() -> None:
    keys = {key for kind in SUITES.values() for key in known_keys(kind)}
    for page in (text(ROOT / "docs" / name) for name in ("recipes.md", "classifiers.md")):
        for key in re.findall(
            r"[`\s]((?:data|protocol|model|sla|train|select|loss|balance|mix|augment)\.\w+)[`=]", page
        ):
            assert key in keys, key
        for name in re.findall(r"`((?:fewshot|imbalanced|supervised)/[\w-]+)`", page):
            assert name in recipe_names(), name


def test_the_pages_name_what_can_be_typed() -> None:
    page = text(ROOT / "docs" / "classifiers.md")
    for names in (CLASSIFIER_OBJECTIVES, LOSSES, REWEIGHTS, RESAMPLINGS, MIXINGS, METHODS):
        for name in names:
            assert f"`{name}`" in page, name


def test_the_standard_preset_is_the_one_described() -> None:
    page = text(ROOT / "docs" / "recipes.md")
    (standard,) = load_recipe("fewshot/standard")
    assert f"{standard.train.steps:,} steps" in page
    assert f"{standard.train.queries} queries a class" in page


def test_readme_opens_with_the_two_commands() -> None:
    lines = [line.split("#")[0].strip() for line in text(ROOT / "README.md").splitlines() if line.startswith("    ")]
    assert lines[:2] == ["make demo", "make test"]
    makefile = text(ROOT / "Makefile")
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile


def test_the_python_example_of_the_readme_runs() -> None:
    lines = text(ROOT / "README.md").splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("from slabench import load_recipe, run"))
    example = "\n".join(line[4:] for line in lines[start : start + 2])
    # The names and the arguments are what is checked; the trials themselves would take minutes.
    check = "import slabench.runner\nslabench.runner.run = lambda recipes, seeds: print(len(recipes), seeds)\n"
    done = subprocess.run([sys.executable, "-c", check + example], capture_output=True, text=True, check=False)
    assert done.stdout == "4 [0]\n", done.stderr
