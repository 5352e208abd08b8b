"""`slabench list KIND` and `slabench show KIND NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

_LISTS = (
    "datasets",
    "recipes",
    "backbones",
    "heads",
    "objectives",
    "transforms",
    "losses",
    "reweightings",
    "samplers",
    "mixings",
    "episodes",
    "subsets",
    "runs",
)
_SHOWS = ("dataset", "recipe", "run")

_Results = Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")]


def list_(
    kind: Annotated[str, typer.Argument(help=", ".join(_LISTS) + ".")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    results: _Results = None,
) -> None:
    """List what slabench knows under a kind of names."""
    from rich.console import Console

    from slabench import paths
    from slabench.errors import unknown_name

    console = Console(highlight=False)
    if kind == "datasets":
        from slabench.cli.datasets import list_datasets

        list_datasets(console, as_json)
    elif kind == "runs":
        from slabench.cli.runs import list_runs

        list_runs(console, paths.results(results), as_json)
    elif kind in _LISTS:
        _print(console, kind, list(_entries(kind)), as_json)
    else:
        raise unknown_name("list", kind, _LISTS)


def show(
    kind: Annotated[str, typer.Argument(help=", ".join(_SHOWS) + ".")],
    name: Annotated[str, typer.Argument(help="Its name, or the first characters of a run's key.")],
    test_prior: Annotated[
        str | None,
        typer.Option(
            help="Of a classifier's run: accuracy under uniform, forward:50, backward:50 or a CSV class,share."
        ),
    ] = None,
    results: _Results = None,
) -> None:
    """Show one dataset, recipe (resolved) or run."""
    from rich.console import Console

    from slabench import paths
    from slabench.errors import unknown_name

    console = Console(highlight=False)
    if kind == "dataset":
        from slabench.cli.datasets import show_dataset

        show_dataset(console, name)
    elif kind == "run":
        from slabench.cli.runs import show_run

        show_run(console, paths.results(results), name, test_prior)
    elif kind == "recipe":
        import json

        from slabench.recipe import load_recipe

        for recipe in load_recipe(name):
            console.print(f"# {recipe.name}, digest {recipe.digest[:12]}, seeds {list(recipe.seeds)}", markup=False)
            for section, values in recipe.resolved().items():
                if isinstance(values, dict):
                    console.print(f"\\[{section}]")
                    for key, value in values.items():
                        # TOML has no null: a key that is left out is one.
                        line = f"{key} = {json.dumps(value)}" if value is not None else f"# {key}: as evaluated"
                        console.print(line, markup=False, soft_wrap=True)
                else:
                    console.print(f"{section} = {json.dumps(values)}", markup=False)
            console.print()
    else:
        raise unknown_name("thing to show", kind, _SHOWS)


def _entries(kind: str) -> Iterable[tuple[str, str]]:
    if kind in ("backbones", "heads"):
        from slabench import registry

        for entry in registry.BACKBONES if kind == "backbones" else registry.HEADS:
            yield entry.name, entry.summary
    elif kind == "objectives":
        from slabench.sla.classification import CLASSIFIER_OBJECTIVES
        from slabench.sla.objectives import OBJECTIVES

        for name in dict.fromkeys([*OBJECTIVES, *CLASSIFIER_OBJECTIVES]):
            in_episodes, in_classes = OBJECTIVES.get(name), CLASSIFIER_OBJECTIVES.get(name)
            where = "" if in_episodes and in_classes else " (fewshot)" if in_episodes else " (imbalanced, supervised)"
            chosen = in_episodes or in_classes
            assert chosen is not None
            yield name, chosen.summary + where
    elif kind == "transforms":
        from slabench.sla.transforms import TRANSFORM_SETS

        for transforms in TRANSFORM_SETS.values():
            turns = sorted({turn for turn, _ in transforms.views})
            orders = len({order for _, order in transforms.views})
            yield transforms.name, f"M = {transforms.M}: quarter turns {turns}, {orders} channel orders"
    elif kind in ("losses", "reweightings", "samplers", "mixings"):
        yield from _rules(kind).items()
    elif kind == "recipes":
        from slabench.recipe import Recipe, load_recipe, recipe_names

        for name in recipe_names():
            recipes = load_recipe(name)
            first = recipes[0]
            if isinstance(first, Recipe):
                what = f"{first.model.head} on {first.model.backbone}, {first.train.steps:,} steps"
            else:
                t = first.train
                length = f"{t.steps:,} steps" if t.steps else f"{t.epochs} epochs"
                what = f"{first.loss.name} on {first.model.backbone}, {length}"
            yield name, what + (f", {len(recipes)} variants" if len(recipes) > 1 else "")
    elif kind == "subsets":
        from slabench.data.longtail_files import list_files as list_subsets
        from slabench.data.longtail_files import read_manifest as read_subset

        for path in list_subsets():
            subset = read_subset(path)
            yield f"{subset.dataset}/{path.stem}", f"{subset.images:,} images, sha256 {subset.sha256[:12]}"
    else:
        from slabench.episode_files import list_files, read_manifest

        for path in list_files():
            m = read_manifest(path)
            yield f"{m.dataset}/{path.stem}", f"{m.episodes:,} episodes, sha256 {m.sha256[:12]}"


def _rules(kind: str) -> dict[str, str]:
    from slabench.data.mixing import MIXINGS
    from slabench.losses import LOSSES
    from slabench.losses.resampling import RESAMPLINGS
    from slabench.suites.classification_rules import REWEIGHTS

    return {"losses": LOSSES, "reweightings": REWEIGHTS, "samplers": RESAMPLINGS, "mixings": MIXINGS}[kind]


def _print(console: Console, kind: str, entries: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        import json

        console.out(json.dumps([{"name": name, "summary": summary} for name, summary in entries], indent=2))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(kind, no_wrap=True)
    table.add_column("")
    for name, summary in entries:
        table.add_row(name, summary)
    console.print(table)
