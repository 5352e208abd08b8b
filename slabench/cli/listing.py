"""`slabench list KIND` and `slabench show KIND NAME`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slabench.cli import complete, episodes, longtail
from slabench.cli.check import warn_of_problems
from slabench.cli.complete import LISTS, SHOWS, _entries, names_of
from slabench.cli.data import list_datasets, show_dataset
from slabench.cli.streams import Screen
from slabench.core import paths
from slabench.core.errors import UsageError, unknown_name
from slabench.core.files import SHORT
from slabench.core.registry import REGISTRIES
from slabench.core.seeding import fork_for_init

if TYPE_CHECKING:
    from rich.console import Console


_Results = Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")]


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help=", ".join(LISTS) + ". Left out: what can be listed.", autocompletion=complete.kinds),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    results: _Results = None,
) -> None:
    """List what slabench knows under a kind of names."""
    console = Screen()
    if kind is None:
        _print(console, "slabench list", list(LISTS.items()), as_json)
    elif kind == "datasets":
        list_datasets(console, as_json)
    elif kind == "runs":
        from slabench.cli.runs import list_runs

        list_runs(console, paths.results(results), as_json)
    elif kind in LISTS:
        _print(console, kind, list(_entries(kind)), as_json)
    else:
        raise unknown_name("list", kind, LISTS)
    if kind in ("plugins", "datasets", "transforms", "backbones", "heads", "losses"):
        warn_of_problems(None if kind == "plugins" else kind)


def show(
    kind: Annotated[str, typer.Argument(help=", ".join(SHOWS) + ".", autocompletion=complete.shown)],
    name: Annotated[
        str,
        typer.Argument(help="Its name, or the first characters of a run's key.", autocompletion=complete.shown_name),
    ],
    test_prior: Annotated[
        str | None,
        typer.Option(
            help="Of a classifier's run: accuracy under uniform, forward:50, backward:50 or a CSV class,share."
        ),
    ] = None,
    results: _Results = None,
) -> None:
    """Show one thing of any kind that can be listed: a recipe resolved, a run, a head with what it is and where."""
    console = Screen()
    if test_prior is not None and kind in SHOWS and kind != "run":
        raise UsageError(f"--test-prior has no effect in show {kind}", "slabench show run KEY --test-prior uniform")
    if kind == "dataset":
        show_dataset(console, name)
    elif kind == "run":
        from slabench.cli.runs import show_run

        show_run(console, paths.results(results), name, test_prior)
    elif kind in SHOWS:
        show_named(console, kind, name)
    else:
        raise unknown_name("thing to show", kind, SHOWS)


def _print(console: Console, kind: str, entries: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        console.out(json.dumps([{"name": name, "summary": summary} for name, summary in entries], indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    if not entries:
        console.print(f"no {kind}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(kind, no_wrap=True)
    table.add_column("")
    for name, summary in entries:
        table.add_row(name, Text(summary))
    console.print(table)


_REGISTERED = {"backbone": "backbones", "head": "heads", "loss": "losses", "transform": "transforms"}


def show_named(console: Console, kind: str, name: str) -> None:
    """Print one thing that is neither a data set nor a run.

    Raises:
        UsageError: nothing has this name.
    """
    if kind == "recipe":
        _recipe(console, name)
    elif kind == "episodes":
        episodes.show(name)
    elif kind == "subset":
        longtail.show(name)
    elif kind in _REGISTERED:
        _table(console, _registered(_REGISTERED[kind], name))
    else:
        known = names_of(SHOWS[kind])
        if name not in known:
            raise unknown_name(kind, name, known)
        _table(console, [(kind, name), ("what it is", known[name]), ("use", _use(kind, name))])


def _use(kind: str, name: str) -> str:
    return {
        "objective": f"--objective {name}",
        "reweighting": f"slabench run imbalanced --reweight {name}",
        "sampler": f"slabench run imbalanced --sampler {name}",
        "mixing": f"slabench run imbalanced --mix {name}",
        "learner": f"slabench run fewshot --learner {name}; the other suites have one learner",
        "plot": f"slabench plot {name} -o {name}.png",
        "plugin": f"slabench check {name}",
    }[kind]


def _registered(plural: str, name: str) -> list[tuple[str, str]]:
    registry = REGISTRIES[plural]
    entry = registry.entry(name)
    target = registry.get(name)
    facts = [(registry.kind, name), ("what it is", entry.summary), ("from", entry.origin)]
    if isinstance(entry.target, str):
        facts.append(("code", entry.target))
    facts += {"backbones": _backbone, "heads": _head, "losses": _loss, "transforms": _transforms}[plural](name, target)
    return facts


def _head(name: str, head: Any) -> list[tuple[str, str]]:
    learns = getattr(head, "module", None)
    views = "view by view" if head.decomposes else "as one problem of N*M classes"
    return [
        ("in words", _doc(learns or head.logits)),
        ("parameters", "learned" if learns else "none"),
        ("views of SLA", f"scored {views}"),
        ("use", f"slabench run fewshot --head {name}"),
    ]


def _backbone(name: str, make: Any) -> list[tuple[str, str]]:
    import torch

    from slabench.backbones import n_parameters

    facts = [("in words", _doc(make))]
    # Numbers are asked for, not weights: without memory a large network takes a hundredth of a second. What others have
    # written may compute with its weights.
    device = torch.device("meta" if REGISTRIES["backbones"].entry(name).built_in else "cpu")
    for size in (32, 84, 224):
        try:
            with fork_for_init(0, "show"), device:
                made = make(size)
        except UsageError as error:
            facts.append((f"{size} pixels", error.message))
        else:
            facts.append((f"{size} pixels", f"{made.feature_dim:,} features, {n_parameters(made):,} parameters"))
    return [*facts, ("use", f"--backbone {name}")]


def _loss(name: str, function: Any) -> list[tuple[str, str]]:
    from slabench.recipes.classifier import LossPart

    fields = {
        key: field for key, field in LossPart.model_fields.items() if name in (field.description or "").split(":")[0]
    }
    parameters = [f"loss.{key} = {field.default} ({field.description})" for key, field in fields.items()]
    return [
        ("in words", _doc(function)),
        ("parameters", "; ".join(parameters) or "none"),
        ("use", f"slabench run imbalanced --loss {name}"),
    ]


def _transforms(name: str, transforms: Any) -> list[tuple[str, str]]:
    facts = [("M", str(transforms.M))]
    for j, (turns, order) in enumerate(transforms.views):
        turned = f"turned by {90 * turns} degrees, counter-clockwise" if turns else ""
        colours = "" if order == (0, 1, 2) else "channels " + "".join("RGB"[c] for c in order)
        facts.append((f"t_{j}", ", ".join(part for part in (turned, colours) if part) or "the image as it is"))
    for j, function in enumerate(getattr(transforms, "functions", ())):
        facts.append((f"t_{j}", _doc(function) or getattr(function, "__name__", "a function")))
    return [*facts, ("use", f"--transforms {name}")]


def _doc(target: Any) -> str:
    """The first paragraph of a docstring; of a function's or a class's own only."""
    if not callable(target) or not (inspect.isfunction(target) or inspect.isclass(target)):
        return ""
    return " ".join((inspect.getdoc(target) or "").split("\n\n")[0].split())


def _recipe(console: Console, name: str) -> None:
    from slabench.recipes import load_recipe

    for recipe in load_recipe(name):
        console.print(f"# {recipe.name}, digest {recipe.digest[:SHORT]}, seeds {list(recipe.seeds)}", markup=False)
        for section, values in recipe.resolved().items():
            if isinstance(values, dict):
                console.print(f"\\[{section}]")
                for key, value in values.items():
                    # TOML has no null: a key that is left out is one.
                    line = f"{key} = {json.dumps(value)}" if value is not None else f"# {key}: not set"
                    console.print(line, markup=False, soft_wrap=True)
            else:
                console.print(f"{section} = {json.dumps(values)}", markup=False)
        console.print()


def _table(console: Console, facts: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in facts:
        if text:
            table.add_row(heading, text)
    console.print(table, highlight=False, markup=False)
