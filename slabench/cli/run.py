"""`slabench run fewshot ...` and `slabench run RECIPE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slabench.cli import complete
from slabench.cli.common import numbers, public_argv

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.recipes import AnyRecipe

PRESETS = ("quick", "standard", "paper")
PROTOCOLS = ("ldam", "sla")
_FLAGS = {
    "protocol.ways": "--ways",
    "protocol.shots": "--shots",
    "protocol.queries": "--queries",
    "protocol.episodes": "--episodes",
    "model.head": "--head",
    "model.learner": "--learner",
    "protocol.support_profile": "--support-profile",
    "protocol.query_profile": "--query-profile",
    "data.ratio": "--ratio",
    "data.profile": "--profile",
    "data.class_order": "--class-order",
    "data.seed": "--data-seed",
    "data.per_class": "--per-class",
    "loss.name": "--loss",
    "balance.reweight": "--reweight",
    "balance.sampler": "--sampler",
    "mix.name": "--mix",
    "augment.policy": "--policy",
    "augment.cutout": "--cutout",
    "train.epochs": "--epochs",
}
"""What is typed for the keys that not every suite has."""
_WHAT, _HOW, _WHERE = "What to run", "How long and how", "Where, and what to look at first"
_FEWSHOT, _CLASSIFIER = "Few-shot episodes", "Imbalanced and supervised"


def run(
    target: Annotated[
        str,
        typer.Argument(
            help="`fewshot`, `imbalanced`, `supervised`, the name of a recipe, or a TOML file.",
            metavar="SUITE|RECIPE",
            autocompletion=complete.suites_and_recipes,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(help="See: slabench list datasets.", autocompletion=complete.datasets, rich_help_panel=_WHAT),
    ] = None,
    sla: Annotated[
        bool | None,
        typer.Option("--sla/--no-sla", help="Train with joint labels: --objective sla.", rich_help_panel=_WHAT),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="baseline, da, sla; rotated-classes (fewshot); mt, sla+sd (others).",
            autocompletion=complete.objectives,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    transforms: Annotated[
        str | None,
        typer.Option(
            help="rotation, rotation2, color-perm, ...", autocompletion=complete.transforms, rich_help_panel=_WHAT
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="See: slabench list backbones.", autocompletion=complete.backbones, rich_help_panel=_WHAT),
    ] = None,
    ways: Annotated[int | None, typer.Option(help="Classes of an episode.", rich_help_panel=_FEWSHOT)] = None,
    shots: Annotated[int | None, typer.Option(help="Support images of a class.", rich_help_panel=_FEWSHOT)] = None,
    queries: Annotated[
        int | None, typer.Option(help="Query images of a class in the test.", rich_help_panel=_FEWSHOT)
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="Test episodes.", rich_help_panel=_FEWSHOT)] = None,
    head: Annotated[
        str | None,
        typer.Option(help="See: slabench list heads.", autocompletion=complete.heads, rich_help_panel=_FEWSHOT),
    ] = None,
    learner: Annotated[
        str | None,
        typer.Option(help="episodic, classifier (pre-trained on the classes), maml or anil.", rich_help_panel=_FEWSHOT),
    ] = None,
    support_profile: Annotated[
        str | None,
        typer.Option(help="Unequal shots in the test: linear:9, step:9, exp:9, dirichlet:2.", rich_help_panel=_FEWSHOT),
    ] = None,
    query_profile: Annotated[
        str | None, typer.Option(help="Unequal queries in the test: dirichlet:2, ...", rich_help_panel=_FEWSHOT)
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Largest over smallest class, at least 1.", rich_help_panel=_CLASSIFIER)
    ] = None,
    profile: Annotated[str | None, typer.Option(help="exp or step.", rich_help_panel=_CLASSIFIER)] = None,
    counts: Annotated[
        Path | None, typer.Option(help="Own counts: a CSV with the columns class,count.", rich_help_panel=_CLASSIFIER)
    ] = None,
    class_order: Annotated[
        str | None,
        typer.Option(help="Most frequent class first: label, reversed or random:SEED.", rich_help_panel=_CLASSIFIER),
    ] = None,
    data_seed: Annotated[
        int | None, typer.Option(help="Of the draw of training images.", rich_help_panel=_CLASSIFIER)
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(help="Limited data: training images a class.", rich_help_panel=_CLASSIFIER)
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="See: slabench list losses.", autocompletion=complete.losses, rich_help_panel=_CLASSIFIER),
    ] = None,
    reweight: Annotated[
        str | None, typer.Option(help="none, inverse, sqrt-inverse, effective, drw.", rich_help_panel=_CLASSIFIER)
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="none, sqrt, class-balanced, progressive, deferred.", rich_help_panel=_CLASSIFIER),
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="none, mixup, cutmix, remix, cmo.", rich_help_panel=_CLASSIFIER)
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="none, autoaugment, randaugment.", rich_help_panel=_CLASSIFIER)
    ] = None,
    cutout: Annotated[
        int | None, typer.Option(help="Side of the square, in pixels.", rich_help_panel=_CLASSIFIER)
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="ldam or sla: the training of a paper, in full.", rich_help_panel=_CLASSIFIER)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs over the training images.", rich_help_panel=_CLASSIFIER)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="quick (never ranked), standard (the default) or paper.", rich_help_panel=_HOW)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates.", rich_help_panel=_HOW)] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.", rich_help_panel=_HOW)] = None,
    select: Annotated[str | None, typer.Option(help="last or best-val.", rich_help_panel=_HOW)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe key: --set train.lr=0.01", rich_help_panel=_HOW)
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", "--seed", help="Trials to run: 0 or 0,1,2", rich_help_panel=_HOW)
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help="auto: skip finished trials, go on with interrupted ones; never: start those again; force: run all again.",
            rich_help_panel=_HOW,
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.", rich_help_panel=_WHERE)] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1, rich_help_panel=_WHERE)] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of records. Default: results/ here.", rich_help_panel=_WHERE)
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show recipe, trials, images and time; run nothing.", rich_help_panel=_WHERE),
    ] = False,
) -> None:
    """Train and score what a recipe says, on frozen episodes and subsets; finished trials are never run twice.

    \b
    slabench run fewshot --dataset fc100 --shots 5 --sla
    slabench run imbalanced --ratio 100 --loss ldam --reweight drw --sla
    slabench run supervised --dataset cifar100 --objective sla+sd
    slabench run fewshot --dataset glyphs --preset quick --sla
    slabench run fewshot/controls --dataset fc100 --seeds 0,1,2 --dry-run
    """
    from rich.console import Console

    overrides: dict[str, Any] = {
        "data.dataset": dataset,
        "data.ratio": ratio,
        "data.profile": profile,
        "data.class_order": class_order,
        "data.seed": data_seed,
        "data.per_class": per_class,
        "loss.name": loss,
        "balance.reweight": reweight,
        "balance.sampler": sampler,
        "mix.name": mix,
        "augment.policy": policy,
        "augment.cutout": cutout,
        "train.epochs": epochs,
        "protocol.ways": ways,
        "protocol.shots": shots,
        "protocol.queries": queries,
        "protocol.episodes": episodes,
        "sla.objective": _objective(sla, objective),
        "sla.transforms": transforms,
        "model.backbone": backbone,
        "model.head": head,
        "model.learner": learner,
        "protocol.support_profile": support_profile,
        "protocol.query_profile": query_profile,
        "train.steps": steps,
        "train.precision": precision,
        "select.rule": select.replace("-", "_") if select else None,
    }
    if counts is not None:
        base = _recipes(target, preset, protocol, overrides, settings or [])[0]
        overrides |= _own_counts(counts, base, {"--ratio": ratio, "--profile": profile, "--class-order": class_order})
    recipes = _recipes(target, preset, protocol, overrides, settings or [])
    chosen = numbers(seeds, "--seeds", least=0)
    if dry_run:
        from slabench.cli.dryrun import show

        show(Console(highlight=False), recipes, chosen, results, device, threads)
        return
    code = execute(Console(highlight=False), recipes, chosen, results, device=device, threads=threads, resume=resume)
    if code:
        raise typer.Exit(code)


def execute(
    console: Console,
    recipes: list[AnyRecipe],
    seeds: list[int] | None,
    results: Path | None,
    *,
    device: str = "auto",
    threads: int | None = None,
    resume: str = "auto",
) -> int:
    """Run, show progress, and return the exit code: 0, or 1 when a trial failed or another process holds it."""
    from slabench.core import paths
    from slabench.progress import ConsoleListener
    from slabench.runner import run as run_trials

    listener = ConsoleListener(console)
    try:
        outcomes = run_trials(
            recipes,
            seeds,
            results=results,
            device=device,
            threads=threads,
            resume=resume,
            listener=listener,
            argv=public_argv(sys.argv[1:]),
        )
    finally:
        listener.close()
    bad = [outcome for outcome in outcomes if outcome.state in ("failed", "busy")]
    done = len(outcomes) - len(bad)
    where = paths.results(results)
    console.print(f"{done} of {len(outcomes)} trials are done; records in {where}", soft_wrap=True, markup=False)
    return 1 if bad else 0


def _objective(sla: bool | None, objective: str | None) -> str | None:
    from slabench.core.errors import UsageError

    if sla is not None and objective is not None and (objective == "sla") != sla:
        raise UsageError(
            f"--objective {objective} and --{'sla' if sla else 'no-sla'} contradict each other", "give one of the two"
        )
    if sla is None:
        return objective
    return objective or ("sla" if sla else "baseline")


def _recipes(
    target: str, preset: str | None, protocol: str | None, overrides: dict[str, Any], settings: list[str]
) -> list[AnyRecipe]:
    from slabench.core.errors import UsageError, unknown_name
    from slabench.recipes import SUITES, load_recipe, parse_assignment, recipe_names

    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    for text in settings:
        key, value = parse_assignment(text)
        if overrides.get(key) is not None and overrides[key] != value:
            raise UsageError(f"--set {text} contradicts a flag that says {overrides[key]}", "give one of the two")
        overrides[key] = value
    if preset is not None and protocol is not None:
        raise UsageError(
            f"--preset {preset} and --protocol {protocol} both say how to train", "give one; --epochs shortens either"
        )
    if target in SUITES:
        if protocol is not None and f"{target}/{protocol}" not in recipe_names():
            known = [name for name in PROTOCOLS if f"{target}/{name}" in recipe_names()]
            if not known:
                raise UsageError(
                    f"--protocol {protocol} says nothing to the suite {target}", "its protocol is a --preset"
                )
            raise unknown_name(f"protocol of {target}", protocol, known)
        target = f"{target}/{protocol or preset or 'standard'}"
    elif preset is not None or protocol is not None:
        flag = f"--preset {preset}" if preset else f"--protocol {protocol}"
        raise UsageError(f"{flag} goes with a suite, and '{target}' is a recipe", "leave one of the two out")
    return load_recipe(target, overrides, _FLAGS)


def _own_counts(path: Path, recipe: AnyRecipe, others: dict[str, Any]) -> dict[str, Any]:
    """The recipe keys of `--counts`; opens the recipe's data set for the names of its classes."""
    from slabench.core.errors import UsageError
    from slabench.data.loading import load_images
    from slabench.data.longtail import read_counts

    given = [flag for flag, value in others.items() if value is not None]
    if given:
        raise UsageError("--counts says how many images each class keeps", f"leave {' and '.join(given)} out")
    if recipe.suite != "imbalanced":
        raise UsageError(
            f"--counts says nothing to the suite {recipe.suite}", "slabench run imbalanced --counts FILE.csv"
        )
    _, train, _ = load_images(recipe.data.dataset)
    return {"data.counts": read_counts(path, train.class_names), "data.profile": "counts"}
