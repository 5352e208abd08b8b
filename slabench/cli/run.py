"""`slabench run fewshot ...` and `slabench run RECIPE`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from slabench.cli import complete
from slabench.cli.after import say_next
from slabench.cli.common import WAIT, numbers, public_argv
from slabench.cli.dry_run import show_plan
from slabench.cli.executing import (
    EXECUTOR,
    JOBS,
    PARTITION,
    RESOURCE,
    executor_of,
    measured_on,
    show_jobs,
    submitted_alone,
)
from slabench.cli.streams import Screen, forgive
from slabench.core import paths
from slabench.core.errors import UsageError, unknown_name
from slabench.core.suites import SUITES
from slabench.core.torchrun import launched
from slabench.progress import ConsoleListener

if TYPE_CHECKING:
    from slabench.executors.jobs import Job
    from slabench.executors.running import Executor
    from slabench.recipes import AnyRecipe
    from slabench.runner.trials import Outcome, Trial

PRESETS = ("quick", "standard", "paper")
PROTOCOLS = ("ldam", "sla")
_FIRST, _METHOD, _HOW, _WHERE = "Used most", "Method", "How long and how", "Where"
_FEWSHOT, _CLASSIFIER = "Few-shot episodes", "Imbalanced and supervised"


@dataclass(frozen=True)
class Flag:
    """An option of `slabench run`; those with a recipe key set it.

    Attributes:
        name: of the parameter; `data_seed` is typed `--data-seed` unless `spelled` says otherwise.
        panel: of the help.
        help: its line there.
        key: the recipe key that it sets; None where `run` itself reads it.
        kind: the type of the value; None means not given where there is no `default`.
        completer: names for the tab key.
        spelled: as typed.
        default: of the value.
        least: the smallest number that is allowed.
        value: what stands for it in the help, where its type does not say enough.
    """

    name: str
    panel: str
    help: str
    key: str | None = None
    kind: Any = str
    completer: complete.Completer | None = None
    spelled: tuple[str, ...] = ()
    default: Any = None
    least: int | None = None
    value: str | None = None

    @property
    def typed(self) -> str:
        """What a person types, for errors."""
        return self.spelled[0] if self.spelled else f"--{self.name.replace('_', '-')}"

    def parameter(self) -> Parameter:
        """The keyword of `run` that typer makes an option of."""
        option = typer.Option(
            *self.spelled,
            help=self.help,
            metavar=self.value or ("NAME" if self.completer else None),
            autocompletion=self.completer,
            rich_help_panel=self.panel,
            min=self.least,
        )
        kind = self.kind if self.default is not None else self.kind | None
        return Parameter(self.name, Parameter.KEYWORD_ONLY, default=self.default, annotation=Annotated[kind, option])


_RESUME = "auto: skip finished trials, go on with interrupted ones; never: start those again; force: run all again."
FLAGS = (
    Flag("dataset", _FIRST, "See: slabench list datasets.", "data.dataset", completer=complete.datasets),
    Flag("sla", _FIRST, "Train with joint labels: --objective sla.", kind=bool, spelled=("--sla/--no-sla",)),
    Flag("shots", _FIRST, "Support images of a class (fewshot).", "protocol.shots", int),
    Flag("head", _FIRST, "Few-shot head; see: slabench list heads.", "model.head", completer=complete.heads),
    Flag("ratio", _FIRST, "Largest over smallest class, at least 1 (imbalanced).", "data.ratio", float),
    Flag("loss", _FIRST, "Of a classifier; see: slabench list losses.", "loss.name", completer=complete.losses),
    Flag("backbone", _FIRST, "See: slabench list backbones.", "model.backbone", completer=complete.backbones),
    Flag("preset", _FIRST, "quick (never ranked), standard (the default) or paper."),
    Flag("seeds", _FIRST, "Trials to run: 0 or 0,1,2", spelled=("--seeds", "--seed"), value="LIST"),
    Flag(
        "dry_run",
        _FIRST,
        "Show recipe, trials, images and time; run nothing.",
        kind=bool,
        spelled=("--dry-run",),
        default=False,
    ),
    Flag(
        "objective",
        _METHOD,
        "baseline, da, sla; rotated-classes (fewshot); mt, sla+sd (others).",
        "sla.objective",
        completer=complete.objectives,
    ),
    Flag(
        "transforms", _METHOD, "rotation, rotation2, color-perm, ...", "sla.transforms", completer=complete.transforms
    ),
    Flag("embedder", _METHOD, "A feature set: its frozen features in place of images.", "model.embedder"),
    Flag("adapter", _METHOD, "Of features: none, linear, mlp or last-block.", "model.adapter"),
    Flag(
        "settings",
        _METHOD,
        "Any recipe key: --set train.lr=0.01",
        kind=list[str],
        spelled=("--set",),
        value="KEY=VALUE",
    ),
    Flag("ways", _FEWSHOT, "Classes of an episode.", "protocol.ways", int),
    Flag("queries", _FEWSHOT, "Query images of a class in the test.", "protocol.queries", int),
    Flag("episodes", _FEWSHOT, "Test episodes.", "protocol.episodes", int),
    Flag("learner", _FEWSHOT, "episodic, classifier (pre-trained on the classes), maml or anil.", "model.learner"),
    Flag(
        "support_profile",
        _FEWSHOT,
        "Unequal shots in the test: linear:9, step:9, exp:9, dirichlet:2.",
        "protocol.support_profile",
    ),
    Flag("query_profile", _FEWSHOT, "Unequal queries in the test: dirichlet:2, ...", "protocol.query_profile"),
    Flag("profile", _CLASSIFIER, "exp or step.", "data.profile"),
    Flag("counts", _CLASSIFIER, "Own counts: a CSV with the columns class,count.", kind=Path),
    Flag("class_order", _CLASSIFIER, "Most frequent class first: label, reversed or random:SEED.", "data.class_order"),
    Flag("data_seed", _CLASSIFIER, "Of the draw of training images.", "data.seed", int),
    Flag("per_class", _CLASSIFIER, "Limited data: training images a class.", "data.per_class", int),
    Flag("reweight", _CLASSIFIER, "none, inverse, sqrt-inverse, effective, drw.", "balance.reweight"),
    Flag("sampler", _CLASSIFIER, "none, sqrt, class-balanced, progressive, deferred.", "balance.sampler"),
    Flag("mix", _CLASSIFIER, "none, mixup, cutmix, remix, cmo.", "mix.name"),
    Flag("policy", _CLASSIFIER, "none, autoaugment, randaugment.", "augment.policy"),
    Flag("cutout", _CLASSIFIER, "Side of the square, in pixels.", "augment.cutout", int),
    Flag("protocol", _CLASSIFIER, "ldam or sla: the training of a paper, in full."),
    Flag("epochs", _CLASSIFIER, "Epochs over the training images.", "train.epochs", int),
    Flag("steps", _HOW, "Updates.", "train.steps", int),
    Flag("precision", _HOW, "auto, float32 or bfloat16.", "train.precision"),
    Flag("select", _HOW, "last or best-val.", "select.rule"),
    Flag("resume", _HOW, _RESUME, default="auto"),
    Flag("wait", _HOW, WAIT, kind=bool, spelled=("--wait/--no-wait",), default=True),
    Flag("device", _WHERE, "auto, cpu, cuda, cuda:1.", default="auto"),
    Flag("threads", _WHERE, "CPU threads.", kind=int, least=1),
    Flag("executor", _WHERE, EXECUTOR),
    Flag("jobs", _WHERE, JOBS, kind=int, least=1),
    Flag("partition", _WHERE, PARTITION),
    Flag("resources", _WHERE, RESOURCE, kind=list[str], spelled=("--resource",), value="KEY=VALUE"),
    Flag("results", _WHERE, "Folder of records. Default: results/ here.", kind=Path),
)
"""Every option, in the order of the help: what is typed, the recipe key behind it and its line in the help."""


def run(target: str, **given: Any) -> None:
    """Train and score what a recipe says, on frozen episodes and subsets; finished trials are never run twice.

    \b
    slabench run fewshot --dataset fc100 --shots 5 --sla
    slabench run imbalanced --ratio 100 --loss ldam --reweight drw --sla
    slabench run supervised --dataset cifar100 --objective sla+sd
    slabench run fewshot --dataset glyphs --preset quick --sla
    slabench run fewshot/controls --dataset fc100 --seeds 0,1,2 --dry-run
    """
    console = Screen()
    recipes = _asked_for(target, given)
    seeds = numbers(given["seeds"], "--seeds", least=0)
    results, device, threads = given["results"], given["device"], given["threads"]
    resume, wait = given["resume"], given["wait"]
    executor = executor_of(
        given["executor"],
        given["jobs"],
        given["partition"],
        given["resources"],
        device=device,
        resume=resume,
        wait=wait,
    )
    follows = (launch := launched()) is not None and launch.follows  # the first process alone prints
    if given["dry_run"]:
        if follows:
            return
        with paths.nothing_stays():
            trials = show_plan(console, recipes, seeds, results, measured_on(executor, device), threads)
            if executor is not None:
                todo = [trial for trial in trials if trial.done is None or resume == "force"]
                show_jobs(console, executor, _jobs(todo, executor, given), paths.results(results))
        return
    if executor is None:
        outcomes = execute(console, recipes, seeds, results, device=device, threads=threads, resume=resume, wait=wait)
        if follows:
            return
    else:
        outcomes = execute_on(console, executor, recipes, seeds, given)
    if submitted_alone(executor, wait, outcomes):
        return
    say_next(console, outcomes, results)
    if not all_done(outcomes):
        raise typer.Exit(1)


_TARGET = typer.Argument(
    help="".join(f"`{suite}`, " for suite in SUITES) + "the name of a recipe, or a TOML file.",
    metavar="SUITE|RECIPE",
    autocompletion=complete.suites_and_recipes,
)
# typer makes the options of a command from the signature of its function.
run.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        Parameter("target", Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[str, _TARGET]),
        *(flag.parameter() for flag in FLAGS),
    ]
)


def _asked_for(target: str, given: Mapping[str, Any]) -> list[AnyRecipe]:
    """The recipes of a command line."""
    overrides = {flag.key: given[flag.name] for flag in FLAGS if flag.key is not None}
    overrides["sla.objective"] = _objective(given["sla"], given["objective"])
    if given["select"]:
        overrides["select.rule"] = given["select"].replace("-", "_")
    preset, protocol, settings = given["preset"], given["protocol"], given["settings"] or []
    if given["counts"] is not None:
        base = _recipes(target, preset, protocol, overrides, settings)[0]
        others = {flag.typed: given[flag.name] for flag in FLAGS if flag.name in ("ratio", "profile", "class_order")}
        overrides |= _own_counts(given["counts"], base, others)
    return _recipes(target, preset, protocol, overrides, settings)


def execute(
    console: Console,
    recipes: list[AnyRecipe],
    seeds: list[int] | None,
    results: Path | None,
    *,
    device: str = "auto",
    threads: int | None = None,
    resume: str = "auto",
    wait: bool = True,
) -> list[Outcome]:
    """Run, and show progress and how many trials are done in the end."""
    from slabench.runner import run as run_trials

    forgive()
    listener = ConsoleListener(console)
    try:
        outcomes = run_trials(
            recipes,
            seeds,
            results=results,
            device=device,
            threads=threads,
            resume=resume,
            wait=wait,
            listener=listener,
            argv=public_argv(sys.argv[1:]),
        )
    finally:
        listener.close()
    say_done(console, outcomes, results)
    return outcomes


def execute_on(
    console: Console, executor: Executor, recipes: list[AnyRecipe], seeds: list[int] | None, given: Mapping[str, Any]
) -> list[Outcome]:
    """Have an executor run what is missing, and show its lines and how many trials are done in the end."""
    from slabench.executors.jobs import Settings, outcomes
    from slabench.executors.running import run_jobs
    from slabench.records.store import ResultStore
    from slabench.runner import RESUME
    from slabench.runner.trials import Outcome, plan
    from slabench.training.device import choose_device
    from slabench.training.loop import checkpoint_seconds

    forgive()
    results, resume = paths.results(given["results"]), given["resume"]
    if resume not in RESUME:
        raise UsageError(f"--resume {resume} is unknown", f"known: {', '.join(RESUME)}")
    if executor.name == "local":
        choose_device(given["device"])
    checkpoint_seconds()
    trials = plan(recipes, seeds, results)
    todo = [trial for trial in trials if trial.done is None or resume == "force"]
    settings = Settings(results, None, given["device"], given["threads"], resume, tuple(public_argv(sys.argv[1:])))
    listener = ConsoleListener(console)
    try:
        ended = run_jobs(
            executor,
            _jobs(todo, executor, given),
            settings,
            lambda line: console.print(line, markup=False, soft_wrap=True),
            wait=given["wait"],
            listener=listener,
        )
    finally:
        listener.close()
    found = {outcome.trial.key: outcome for outcome in outcomes(todo, ended, ResultStore(results))}
    all_of = [found.get(trial.key) or Outcome(trial, "skipped", trial.done) for trial in trials]
    for outcome in all_of:
        if outcome.state == "failed":
            console.print(f"failed: {outcome.trial.label}: {outcome.error}", markup=False, soft_wrap=True)
    say_done(console, all_of, given["results"])
    return all_of


def _jobs(trials: list[Trial], executor: Executor, given: Mapping[str, Any]) -> list[Job]:
    """With what each of them needs."""
    from slabench.executors.jobs import trial_jobs
    from slabench.executors.resources import Request, resources_of_all
    from slabench.runner.estimate import seconds_of

    request = Request.parse(given["resources"] or (), given["partition"])
    return trial_jobs(trials, resources_of_all(trials, request, executor.name, given["device"], seconds_of()))


def say_done(console: Console, outcomes: Sequence[Outcome], results: Path | None) -> None:
    """How many trials are done, and where their records are."""
    done = sum(outcome.state in ("ran", "skipped") for outcome in outcomes)
    where = paths.results(results)
    console.print(f"{done} of {len(outcomes)} trials are done; records in {where}", soft_wrap=True, markup=False)


def all_done(outcomes: Sequence[Outcome]) -> bool:
    """Whether no trial failed, and none was held by another process: exit code 0."""
    return all(outcome.state in ("ran", "skipped") for outcome in outcomes)


def _objective(sla: bool | None, objective: str | None) -> str | None:
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
    from slabench.recipes import load_recipe, parse_assignment, recipe_names

    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    for text in settings:
        key, value = parse_assignment(text)
        if overrides.get(key) is not None and overrides[key] != value:
            raise UsageError(f"--set {text} contradicts a flag that says {overrides[key]}", "give one of the two")
        overrides[key] = value
    if preset is not None and protocol is not None:
        raise UsageError(
            f"--preset {preset} and --protocol {protocol} both choose the training",
            "give one; --epochs shortens either",
        )
    if target in SUITES:
        if protocol is not None and f"{target}/{protocol}" not in recipe_names():
            known = [name for name in PROTOCOLS if f"{target}/{name}" in recipe_names()]
            if not known:
                raise UsageError(
                    f"--protocol {protocol} has no effect in the suite {target}", "choose its training with --preset"
                )
            raise unknown_name(f"protocol of {target}", protocol, known)
        target = f"{target}/{protocol or preset or 'standard'}"
    elif preset is not None or protocol is not None:
        flag = f"--preset {preset}" if preset else f"--protocol {protocol}"
        raise UsageError(
            f"{flag} is for a suite, and '{target}' is a recipe",
            f"leave {flag.split()[0]} out, or name a suite: {', '.join(SUITES)}",
        )
    return load_recipe(target, overrides, {flag.key: flag.typed for flag in FLAGS if flag.key})


def _own_counts(path: Path, recipe: AnyRecipe, others: dict[str, Any]) -> dict[str, Any]:
    """The recipe keys of `--counts`; opens the recipe's data set for the names of its classes."""
    from slabench.data.loading import load_images
    from slabench.data.longtail import read_counts

    given = [flag for flag, value in others.items() if value is not None]
    if given:
        raise UsageError("--counts says how many images each class keeps", f"leave {' and '.join(given)} out")
    if recipe.suite != "imbalanced":
        raise UsageError(
            f"--counts has no effect in the suite {recipe.suite}", "slabench run imbalanced --counts FILE.csv"
        )
    _, train, _ = load_images(recipe.data.dataset)
    return {"data.counts": read_counts(path, train.class_names), "data.profile": "counts"}
