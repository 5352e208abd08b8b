"""What README and docs promise: links that lead somewhere, commands that parse, numbers that are the recipes'."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from doc_pages import PAGES, ROOT, commands, copy_records, text
from processes import here
from typer.main import get_command

from slabench import runner
from slabench.cli.app import app
from slabench.core.registry import REGISTRIES
from slabench.data.mixing import MIXINGS
from slabench.losses import LOSSES
from slabench.losses.resampling import RESAMPLINGS
from slabench.posthoc.methods import METHODS
from slabench.recipes import SUITES, known_keys, load_recipe, recipe_names
from slabench.sla.objectives import CLASSIFIER_OBJECTIVES
from slabench.suites.classifier.rules import REWEIGHTS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", text(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:benchmarks|docs|scripts|tests|slabench|episodes)/[\w./-]+\.\w+)`", text(page)):
        assert (ROOT / name).exists(), name


@pytest.fixture(scope="module")
def scripts() -> Iterator[Callable[[str], ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def made(scripts: Callable[[str], ModuleType]) -> dict[str, str]:
    """The pages made from the registries, by file name; every backbone is built once for them."""
    pages: dict[str, str] = scripts("reference_pages").pages()
    return pages


def test_there_are_commands_to_check() -> None:
    assert "slabench run fewshot --dataset fc100 --shots 5 --sla" in commands()
    assert len(commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command: str) -> None:
    parse(command)


@cache
def every_command() -> Any:
    """The command with all of its subcommands loaded, which takes longer than to parse."""
    return get_command(app).load_all()


def parse(command: str) -> None:
    words = shlex.split(command)[1:]
    current = every_command()
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


def test_the_readme_fits_a_screen_and_its_badges_are_true() -> None:
    page = text(ROOT / "README.md")
    assert len(page.splitlines()) <= 60
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    versions = [
        c.rpartition(" ")[2] for c in project["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    for name, said in (("license", project["license"]), ("python", " | ".join(versions))):
        badge = text(ROOT / "docs" / "assets" / f"badge-{name}.svg")
        assert f">{said}</text>" in badge
        assert f'aria-label="{name}: {said}"' in badge
        assert f"(docs/assets/badge-{name}.svg)" in page


def test_the_home_page_shows_the_demo_of_the_quick_start() -> None:
    home, quick_start = (text(ROOT / "docs" / name) for name in ("index.md", "quick-start.md"))
    (session,) = re.findall(r"```text\n(.*?)```", home, re.DOTALL)
    assert "slabench demo --results results" in home
    assert f"```text\n{session}```" in quick_start


def test_the_first_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = text(ROOT / "docs" / "api.md").splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("from slabench import load_recipe, run"))
    example = "\n".join(line[4:] for line in lines[start : start + 2])
    # The names and the arguments are what is checked; the trials themselves would take minutes.
    asked: list[object] = []
    monkeypatch.setattr(runner, "run", lambda recipes, seeds: asked.append((len(recipes), seeds)))
    exec(example, {})
    assert asked == [(4, [0])]


@pytest.mark.slow
def test_the_generated_pages_have_every_name_and_commands_that_parse(made: dict[str, str]) -> None:
    for kind, registry in REGISTRIES.items():
        headings = re.findall(r"^## ([\w-]+)$", made[f"{kind}.md"], re.MULTILINE)
        assert headings == [entry.name for entry in registry if entry.built_in], kind
    assert re.findall(r"^## (\S+)$", made["published-recipes.md"], re.MULTILINE) == list(recipe_names())
    for command in ("run", "data import", "longtail make"):
        assert f"\n## slabench {command}\n" in made["commands.md"]
    assert "`--support-profile`" in made["commands.md"]

    shown = {found for page in made.values() for found in re.findall(r"^\| use \| `(slabench .+)`", page, re.MULTILINE)}
    shown |= {
        found.strip() for page in made.values() for found in re.findall(r"^    (slabench .+)$", page, re.MULTILINE)
    }
    whole = [command for command in shown if not re.search(r"[|\[\]{}<>]|\.\.\.|\b[A-Z]{2,}\b|\.py\b", command)]
    assert "slabench run fewshot --head protonet" in whole
    assert "slabench run fewshot/controls --dry-run" in whole
    for command in whole:
        parse(command)


@pytest.mark.slow
def test_the_site_knows_every_page(made: dict[str, str]) -> None:
    listed = set(re.findall(r": ([\w-]+\.md)$", text(ROOT / "mkdocs.yml"), re.MULTILINE))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} | set(made)
    assert not {page.name for page in (ROOT / "docs").glob("*.md")} & set(made)


@pytest.mark.slow
def test_the_figures_are_those_that_are_drawn(scripts: Callable[[str], ModuleType]) -> None:
    figures = scripts("draw_figures")
    committed = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "figures").glob("*.svg")}
    assert sorted(committed) == sorted(figures.FIGURES)
    for name, svg in committed.items():
        drawn = figures.drawn(name)
        assert drawn == figures.drawn(name)
        # Another matplotlib may write other bytes; the letters stay.
        assert re.findall(r">([^<>\n]+)</", drawn.decode()) == re.findall(r">([^<>\n]+)</", svg)
        assert f"figures/{name}.svg" in text(ROOT / "docs" / "mathematics.md")


def test_the_example_of_the_mathematics_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", text(ROOT / "docs" / "mathematics.md"), re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out == "tensor([ 8,  9, 10, 11,  0,  1,  2,  3])\n"


@pytest.fixture
def shorter(tmp_path: Path) -> Path:
    """The suite's own files with few steps and episodes in the demo and in the preset `quick`: minutes of training less."""
    home = tmp_path / "home"
    shutil.copytree(ROOT / "benchmarks" / "recipes", home / "benchmarks" / "recipes")
    (home / "episodes").symlink_to(ROOT / "episodes")
    copy_records(home / "results")
    for name in ("demo", "quick"):
        recipe = home / "benchmarks" / "recipes" / "fewshot" / f"{name}.toml"
        shown = recipe.read_text(encoding="utf-8")
        cut, changes = re.subn(r"^(steps|episodes) = \d+$", r"\1 = 6", shown, flags=re.MULTILINE)
        assert changes == 2
        assert "[protocol]" not in cut
        recipe.write_text(f"{cut}\n[protocol]\nepisodes = 10\n", encoding="utf-8")
    return home


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_conv4")
def test_the_quick_start_works_as_typed(
    tmp_path: Path, glyphs: Path, shorter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = text(ROOT / "docs" / "quick-start.md").partition("\n## Next")[0]
    for name in [name for name in os.environ if name.startswith("SLABENCH_")]:
        monkeypatch.delenv(name)
    settings = {"SLABENCH_DATA": str(glyphs), "SLABENCH_HOME": str(shorter), "SLABENCH_INDEX": "0", "COLUMNS": "80"}
    folder = tmp_path / "empty"
    folder.mkdir()

    def typed(command: str) -> str:
        code, printed = here(*shlex.split(command)[1:], folder=folder, **settings)
        assert code == 0, f"{command}: {printed}"
        return printed

    commands = re.findall(r"^    (slabench .+)$", page, re.MULTILINE)
    assert [command.split()[1] for command in commands] == [
        *("doctor", "list", "list", "show", "demo", "run", "run", "status", "list", "show"),
        *("leaderboard", "compare", "report", "leaderboard", "plot", "report"),
    ]
    printed = ""
    for command in commands:
        if "KEY" in command:
            key = re.findall(r"^[0-9a-f]{12}", printed, re.MULTILINE)[-1]
            command = command.replace("KEY", key[:8])
        printed += typed(command)
    words = " ".join(printed.split())
    # What is shown in columns and has no number in it: headings and names, on any machine.
    shown = [line for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    headings = [
        " ".join(line.split()) for line in shown if re.search(r"\S {2,}\S", line) and not re.search(r"\d", line)
    ]
    assert "objective predictor accuracy difference images seen seconds" in headings
    for heading in headings:
        assert heading in words
    told = [line.strip() for line in shown if line.startswith("  slabench ")]
    assert len(told) == 5
    for command in told:  # but for the key, which is this machine's
        assert " ".join(command.split()[:3] if "show run" in command else command.split()) in words
        if "--dataset fc100" not in command:
            typed(command.replace("5d0cac18bca2", key))
    assert len((folder / "leaderboard.csv").read_text(encoding="utf-8").splitlines()) == 1 + 6
    assert (folder / "bars.png").read_bytes().startswith(b"\x89PNG")
    for name in ("report.html", "shipped.html"):
        assert (folder / name).read_text(encoding="utf-8").startswith("<!doctype html>")
    again = next(command for command in commands if "--head cosine" in command and "--dry-run" not in command)
    assert "(finished before)" in typed(again)
