"""`slabench score RUN` and `slabench posthoc RUN`: what a finished run gives without training, with other heads or methods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slabench.cli.common import names, numbers, public_argv
from slabench.cli.executing import EXECUTOR, PARTITION, RESOURCE, executor_of, measured_on, show_jobs
from slabench.cli.score_tables import calibrations, open_sets, selections, tables
from slabench.cli.streams import Screen
from slabench.core import paths
from slabench.core.errors import SlabenchError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from slabench.executors.running import Executor
    from slabench.posthoc.scoring import Posthoc, Row
    from slabench.suites.fewshot.head_scores import HeadScores
    from slabench.suites.fewshot.score_features import FeatureScoring
    from slabench.suites.fewshot.score_heads import Scoring


_BOTH = "single,aggregated"


def score(
    run: Annotated[str | None, typer.Argument(help="The first characters of a run's key (slabench list runs).")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="In place of a run: a feature set (slabench features list), or a file of features."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Of --features: whose episodes. Default: the set's own, where it came with labels."),
    ] = None,
    heads: Annotated[str, typer.Option(help="all, transductive, or some: protonet,tim (slabench list heads).")] = "all",
    ways: Annotated[str | None, typer.Option(help="Such as 5,10,20. Default: the run's, or the usual.")] = None,
    shots: Annotated[str | None, typer.Option(help="Such as 1,5,10,20. Default: the run's, or the usual.")] = None,
    queries: Annotated[
        int | None, typer.Option(help="Query images of a class. Default: the run's, or the usual.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="Test episodes. Default: the run's, or the usual.")] = None,
    predictors: Annotated[str, typer.Option(help="single, aggregated, or both: single,aggregated.")] = _BOTH,
    support_profile: Annotated[
        str | None, typer.Option(help="Unequal shots: linear:9, step:9, exp:9 or dirichlet:2.")
    ] = None,
    query_profile: Annotated[
        str | None, typer.Option(help="Unequal queries: dirichlet:2, linear:9, step:9 or exp:9.")
    ] = None,
    all_classes: Annotated[
        bool,
        typer.Option(
            "--all-classes",
            help="Of --features: no episodes, but --shots images of every class, and the whole test set.",
        ),
    ] = False,
    seeds: Annotated[
        str | None, typer.Option(help="Of --all-classes: draws of training images, 0 to 9. Default: 0,1,2.")
    ] = None,
    open_set: Annotated[
        int | None,
        typer.Option(
            help="So many classes of an episode are unknown: queries, no supports. Scored by AUROC.", metavar="U"
        ),
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Another few-shot data set to score on (cross-domain).", metavar="DATASET")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="NLL and ECE too, as they are and at a temperature chosen on validation classes."
        ),
    ] = False,
    head_selection: Annotated[
        str, typer.Option(help="A head's own parameter: fixed, validation (the best of a grid there), or ensemble.")
    ] = "fixed",
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Keep a record of each head and setting, for the leaderboard.")
    ] = True,
    again: Annotated[bool, typer.Option("--again", help="Compute again what an earlier scoring kept.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be scored, and where; score nothing.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    executor: Annotated[str | None, typer.Option(help=EXECUTOR)] = None,
    jobs: Annotated[int | None, typer.Option(help="Heads at a time; see --executor.", min=1)] = None,
    partition: Annotated[str | None, typer.Option(help=PARTITION)] = None,
    resources: Annotated[list[str] | None, typer.Option("--resource", help=RESOURCE, metavar="KEY=VALUE")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
) -> None:
    """Score every head on a trained backbone or on features of a frozen one, without training anything.

    The test images are embedded once under every transformation and kept; all heads, ways and shots are scored from these
    features, on frozen episodes. With --features they are those of a pre-trained network, or your own.
    """

    where = executor_of(executor, jobs, partition, resources, device=device)
    if where is not None and not save:
        raise UsageError("--no-save: an executor's scores come back as records", "leave --no-save out, or --executor")
    console = Screen()
    if (run is None) == (features is None):
        raise UsageError(
            "nothing says what to score"
            if run is None
            else f"{run} and --features {features}: one of them is too many",
            "name a run (slabench list runs), or features: slabench score --features NAME --dataset fc100",
        )
    if run is not None and dataset is not None:
        raise UsageError(f"--dataset {dataset} has no effect on a run: it has its own", "leave --dataset out")
    if run is None and on is not None:
        raise UsageError(f"--on {on} has no effect on features: no data set was trained on", f"--dataset {on}")
    chosen = None if heads == "all" else names(heads, "--heads")
    what: dict[str, Any] = {
        "ways": numbers(ways, "--ways"),
        "shots": numbers(shots, "--shots"),
        "queries": queries,
        "episodes": episodes,
        "predictors": names(predictors, "--predictors"),
        "support_profile": support_profile,
        "query_profile": query_profile,
        "open_set": open_set,
        "calibrate": calibrate,
        "head_selection": head_selection,
    }
    argv = public_argv(sys.argv[1:])

    def told(text: str) -> None:
        console.print(text, style="dim", markup=False)

    more: dict[str, Any] = {"results": results, "device": device, "threads": threads, "save": save, "again": again}
    if all_classes or seeds is not None:
        from slabench.cli.score_all_classes import show_all_classes

        without = {"--ways": ways, "--queries": queries, "--episodes": episodes, "RUN": run, "--on": on}
        profiles = {"--support-profile": support_profile, "--query-profile": query_profile}
        elsewhere = {
            "--open-set": open_set,
            "--calibrate": calibrate or None,
            "--head-selection": head_selection if head_selection != "fixed" else None,
            "--executor": executor or jobs or partition or resources,
            "--dry-run": dry_run or None,
        }
        _alone(all_classes, without | profiles | elsewhere)
        asked = {
            "shots": what["shots"],
            "seeds": numbers(seeds, "--seeds", least=0),
            "predictors": None if predictors == _BOTH else what["predictors"],
        }
        show_all_classes(console, str(features), dataset, chosen, asked | more | {"argv": argv, "told": told})
        return

    def score_here(again: bool, plan_only: bool = False) -> Scoring:
        from slabench.suites.fewshot.score_heads import score_heads

        return score_heads(
            str(run),
            chosen,
            **what,
            on=on,
            results=results,
            device=measured_on(where, device) if where else device,
            threads=threads,
            save=save,
            again=again,
            plan_only=plan_only,
            argv=argv,
            told=told,
        )

    found: Scoring | FeatureScoring
    if run is None:
        from slabench.embedders.importing import named_or_imported
        from slabench.suites.fewshot.score_features import score_features

        if where is not None or dry_run:
            flag = "--dry-run" if where is None else "--executor"
            raise UsageError(f"{flag} has no effect on features: no image is embedded", f"leave {flag} out")
        name, dataset = named_or_imported(str(features), dataset, told)
        if predictors == _BOTH:
            what["predictors"] = None  # what the features have
        found = score_features(name, dataset, heads=chosen, **what, **more, argv=argv, told=told)
        facts = found.features.embedder
        network = f"{facts.embedder} on {facts.pretraining}, contaminated: {facts.contaminated}"
        title = f"{name}: {network}; {found.features.images.name}"
    else:
        if where is not None or dry_run:
            planned = score_here(again, plan_only=True)
            if dry_run:
                count = (
                    f"{planned.count} scorings: {len(planned.heads)} heads on "
                    f"{planned.count // len(planned.heads)} settings"
                )
                console.print(f"{planned.of.name}, {planned.of.dataset}, seed {planned.of.seed}: {count}", markup=False)
            if where is not None:
                asked = what | {"again": again, "on": on}
                _elsewhere(console, where, planned, asked, dry_run, device, threads, results, resources, partition)
            if dry_run:
                return
        found = score_here(again and where is None)  # what an executor has made is kept
        across = f" scored on {on}" if on else ""
        title = f"{found.of.name}, {found.of.dataset}{across}, seed {found.of.seed}"
    console.print(title, markup=False, soft_wrap=True)
    rows: list[HeadScores] = []
    for number, result in enumerate(found.results, 1):
        rows.append(result)
        s = result.setting
        scores = "  ".join(f"{score.predictor} {100 * score.value:.2f}" for score in result.record.scores)
        took = f"{result.seconds:.1f} s" if result.seconds else "kept"
        console.print(
            f"  {number}/{found.count} {s.ways}w{s.shots}s {result.head}: {scores}  ({took})",
            style="dim",
            markup=False,
            soft_wrap=True,
        )
    for table in tables(rows):
        console.print(table)
    if calibrate:
        console.print(calibrations(rows))
    for line in selections(rows):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    if open_set:
        console.print(open_sets(rows))
    for line in found.left_out:
        console.print(f"left out: {line}", markup=False, soft_wrap=True, style="dim")
    residuals = [
        (score.solver_residual, row.head) for row in rows for score in row.record.scores if score.solver_residual
    ]
    if residuals:
        worst, head = max(residuals)
        console.print(f"largest residual of a solver: {worst:.1e} ({head})", style="dim")
    if save:
        console.print(f"{len(rows)} records kept: slabench leaderboard", markup=False, soft_wrap=True)


def _alone(all_classes: bool, without: dict[str, Any]) -> None:
    """Refuse what has no meaning for all classes, and `--seeds` without it.

    Raises:
        UsageError: names it.
    """
    if not all_classes:
        raise UsageError("--seeds are draws of --all-classes: test episodes are frozen", "give --all-classes too")
    given = [flag for flag, value in without.items() if value is not None]
    if given:
        why = "it learned from some of the classes" if given[0] == "RUN" else "there are no episodes"
        raise UsageError(f"{given[0]} has no effect with --all-classes: {why}", f"leave {given[0]} out")


def _elsewhere(
    console: Console,
    executor: Executor,
    planned: Scoring,
    what: dict[str, Any],
    dry_run: bool,
    device: str,
    threads: int | None,
    results: Path | None,
    resources: list[str] | None,
    partition: str | None,
) -> None:
    """Have an executor score, a job a head; what it made is kept, and read here then."""
    from slabench.executors.jobs import Resources, Settings, scoring_jobs
    from slabench.executors.resources import Request, asked
    from slabench.executors.running import run_jobs

    request = Request.parse(resources or (), partition)
    gpus = int(executor.name != "local" and device.startswith("cuda"))
    needs = asked(request, Resources(1, _SCORING_MB, gpus, _SCORING_MINUTES if executor.name == "slurm" else 0))
    jobs = scoring_jobs(planned.of.key, planned.heads, what, needs)
    root = paths.results(results)
    if dry_run:
        show_jobs(console, executor, jobs, root)
        return
    settings = Settings(root, None, device, threads, argv=tuple(public_argv(sys.argv[1:])))
    ended = run_jobs(executor, jobs, settings, lambda line: console.print(line, markup=False, soft_wrap=True))
    failed = [result for result in ended if result.state == "failed"]
    if failed:
        raise SlabenchError(
            f"{len(failed)} of {len(ended)} heads were not scored: {failed[0].error}", "the others are kept; see above"
        )


_SCORING_MB, _SCORING_MINUTES = 4000, 120
"""What a scoring asks for: the test images and their features, and an hour or two for the largest settings."""


def posthoc(
    run: Annotated[str, typer.Argument(help="The first characters of a run's key (slabench list runs).")],
    methods: Annotated[str, typer.Option(help="all, or some of logit-adjust,tau-norm,crt,lws,temperature.")] = "all",
    tau: Annotated[float, typer.Option(help="Of logit-adjust: how much of the log priors is taken off.")] = 1.0,
    norm_tau: Annotated[
        float | None, typer.Option(help="Of tau-norm: the power of the norm. Default: the best on validation.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Keep a record of each method, for the leaderboard.")] = False,
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
) -> None:
    """What can be gained from a trained classifier without training its backbone again.

    Works on the saved features, logits and layers of a run of the suites imbalanced and supervised. Parameters are chosen
    on validation images, never on the test.
    """

    from slabench.posthoc import scoring as suite

    chosen = None if methods == "all" else names(methods, "--methods")
    found = suite.posthoc(
        run, chosen, tau=tau, norm_tau=norm_tau, results=results, save=save, argv=public_argv(sys.argv[1:])
    )
    console = Screen()
    console.print(f"{found.of.name}, {found.of.protocol}, seed {found.of.seed}", markup=False, soft_wrap=True)
    console.print(table(found))
    for note in found.notes:
        console.print(note, markup=False, soft_wrap=True, style="dim")
    if save:
        count = len(found.records)
        console.print(f"{count} records kept: slabench leaderboard", markup=False, soft_wrap=True)


def table(found: Posthoc) -> Table:
    """The rows for people, within 80 columns: accuracies and ECE in percent, n/a where a score is not defined."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("method", "chosen", "predictor"):
        made.add_column(heading, no_wrap=True)
    for heading in ("top-1", "bal.", "many", "med.", "few", "NLL", "ECE"):
        made.add_column(heading, justify="right", no_wrap=True)
    before = None
    for row in found.rows:
        s = row.scores
        made.add_row(
            row.method if row.method != before else "",
            _value(row),
            row.predictor,
            f"{100 * s.top1:.2f}",
            f"{100 * s.balanced:.2f}",
            *("n/a" if part is None else f"{100 * part:.1f}" for part in (s.many, s.medium, s.few)),
            f"{s.nll:.3f}",
            f"{100 * s.ece:.1f}",
        )
        before = row.method
    return made


def _value(row: Row) -> str:
    return "" if row.parameter is None or row.value is None else f"{row.parameter} {row.value:.3g}"
