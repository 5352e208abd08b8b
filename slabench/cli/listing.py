"""`slabench list KIND` and `slabench show KIND NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli import complete

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

LISTS = {
    "datasets": "what is learned on, and whether it is here",
    "recipes": "published recipes: slabench run NAME",
    "backbones": "images to features",
    "learners": "what is trained: backbone and what sits on it",
    "heads": "few-shot classifiers on features",
    "objectives": "baseline, SLA and its rivals",
    "transforms": "the sets of transformations of SLA",
    "losses": "losses of a classifier",
    "reweightings": "class weights",
    "samplers": "re-sampling of classes",
    "mixings": "mixing of images in pairs",
    "episodes": "frozen test and validation episodes",
    "subsets": "frozen long-tail subsets",
    "plugins": "what is not slabench's own",
    "plots": "figures that slabench plot draws",
    "runs": "records in results/",
}
SHOWS = {
    "dataset": "datasets",
    "recipe": "recipes",
    "run": "runs",
    "backbone": "backbones",
    "learner": "learners",
    "head": "heads",
    "objective": "objectives",
    "transform": "transforms",
    "loss": "losses",
    "reweighting": "reweightings",
    "sampler": "samplers",
    "mixing": "mixings",
    "episodes": "episodes",
    "subset": "subsets",
    "plot": "plots",
    "plugin": "plugins",
}
"""What `show` takes, and the list that it is in."""

LEARNERS = {
    "episodic": "a backbone, a head and one learned scale, trained on episodes (suite fewshot)",
    "classifier": "a backbone and a layer for each output of the objective (suites imbalanced and supervised); in the suite "
    "fewshot pre-trained on the training classes, a head comes to it in the test",
    "maml": "a backbone and a linear layer, both adapted to each episode (suite fewshot; needs learn2learn)",
    "anil": "the same with only the layer adapted (suite fewshot; needs learn2learn)",
}

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
    from rich.console import Console

    from slabench import paths
    from slabench.errors import unknown_name

    console = Console(highlight=False)
    if kind is None:
        _print(console, "slabench list", list(LISTS.items()), as_json)
    elif kind == "datasets":
        from slabench.cli.datasets import list_datasets

        list_datasets(console, as_json)
    elif kind == "runs":
        from slabench.cli.runs import list_runs

        list_runs(console, paths.results(results), as_json)
    elif kind in LISTS:
        _print(console, kind, list(_entries(kind)), as_json)
    else:
        raise unknown_name("list", kind, LISTS)
    if kind in ("plugins", "datasets", "transforms", "backbones", "heads", "losses"):
        from slabench.cli.plugin import warn_of_problems

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
    from rich.console import Console

    from slabench import paths
    from slabench.errors import UsageError, unknown_name

    console = Console(highlight=False)
    if test_prior is not None and kind in SHOWS and kind != "run":
        raise UsageError(f"--test-prior says nothing to a {kind}", "slabench show run KEY --test-prior uniform")
    if kind == "dataset":
        from slabench.cli.datasets import show_dataset

        show_dataset(console, name)
    elif kind == "run":
        from slabench.cli.runs import show_run

        show_run(console, paths.results(results), name, test_prior)
    elif kind in SHOWS:
        from slabench.cli import showing

        showing.show(console, kind, name)
    else:
        raise unknown_name("thing to show", kind, SHOWS)


def names_of(plural: str) -> dict[str, str]:
    """Name to summary of what `slabench list` lists, but for datasets and runs."""
    return dict(_entries(plural))


def _entries(kind: str) -> Iterable[tuple[str, str]]:
    if kind in ("backbones", "heads", "losses", "transforms"):
        from slabench.registry import REGISTRIES

        for entry in REGISTRIES[kind]:
            told = entry.built_in or entry.origin in entry.summary
            yield entry.name, entry.summary if told else f"{entry.summary} ({entry.origin})"
    elif kind == "learners":
        yield from LEARNERS.items()
    elif kind == "plugins":
        from slabench.plugins import installed

        for what, name, origin in installed():
            yield name, f"{what} of {origin}"
    elif kind == "objectives":
        from slabench.sla.classification import CLASSIFIER_OBJECTIVES
        from slabench.sla.objectives import OBJECTIVES

        for name in dict.fromkeys([*OBJECTIVES, *CLASSIFIER_OBJECTIVES]):
            in_episodes, in_classes = OBJECTIVES.get(name), CLASSIFIER_OBJECTIVES.get(name)
            where = "" if in_episodes and in_classes else " (fewshot)" if in_episodes else " (imbalanced, supervised)"
            chosen = in_episodes or in_classes
            assert chosen is not None
            yield name, chosen.summary + where
    elif kind == "plots":
        from slabench.results.plots import KINDS

        for name, plot in KINDS.items():
            yield name, plot.summary
    elif kind in ("reweightings", "samplers", "mixings"):
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
    from slabench.losses.resampling import RESAMPLINGS
    from slabench.suites.classification_rules import REWEIGHTS

    return {"reweightings": REWEIGHTS, "samplers": RESAMPLINGS, "mixings": MIXINGS}[kind]


def _print(console: Console, kind: str, entries: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        import json

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
