"""`slabench score RUN` and `slabench posthoc RUN`: what a finished run gives without training, with other heads or methods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.common import names, numbers, public_argv
from slabench.cli.streams import Screen

if TYPE_CHECKING:
    from rich.table import Table

    from slabench.posthoc.scoring import Posthoc, Row
    from slabench.suites.fewshot.score_heads import HeadScores


def score(
    run: Annotated[str, typer.Argument(help="The first characters of a run's key (slabench list runs).")],
    heads: Annotated[str, typer.Option(help="all, transductive, or some: protonet,tim (slabench list heads).")] = "all",
    ways: Annotated[str | None, typer.Option(help="Such as 5,10,20. Default: the run's.")] = None,
    shots: Annotated[str | None, typer.Option(help="Such as 1,5,10,20. Default: the run's.")] = None,
    queries: Annotated[int | None, typer.Option(help="Query images of a class. Default: the run's.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Test episodes. Default: the run's.")] = None,
    predictors: Annotated[
        str, typer.Option(help="single, aggregated, or both: single,aggregated.")
    ] = "single,aggregated",
    support_profile: Annotated[
        str | None, typer.Option(help="Unequal shots: linear:9, step:9, exp:9 or dirichlet:2.")
    ] = None,
    query_profile: Annotated[
        str | None, typer.Option(help="Unequal queries: dirichlet:2, linear:9, step:9 or exp:9.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Another few-shot data set to score on (cross-domain).", metavar="DATASET")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Keep a record of each head and setting, for the leaderboard.")
    ] = True,
    again: Annotated[bool, typer.Option("--again", help="Compute again what an earlier scoring kept.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
) -> None:
    """Score every head on a trained backbone, without training anything.

    The test images are embedded once under every transformation and kept; all heads, ways and shots are scored from these
    features, on frozen episodes.
    """

    from slabench.suites.fewshot.score_heads import score_heads

    console = Screen()
    chosen = None if heads == "all" else names(heads, "--heads")
    found = score_heads(
        run,
        chosen,
        numbers(ways, "--ways"),
        numbers(shots, "--shots"),
        queries=queries,
        episodes=episodes,
        predictors=names(predictors, "--predictors"),
        support_profile=support_profile,
        query_profile=query_profile,
        on=on,
        results=results,
        device=device,
        threads=threads,
        save=save,
        again=again,
        argv=public_argv(sys.argv[1:]),
        told=lambda text: console.print(text, style="dim", markup=False),
    )
    across = f" scored on {on}" if on else ""
    console.print(f"{found.of.name}, {found.of.dataset}{across}, seed {found.of.seed}", markup=False, soft_wrap=True)
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


def tables(rows: list[HeadScores]) -> list[Table]:
    """One table for each number of ways: heads and predictors down, shots across, percent and half a 95 % interval."""
    from rich.table import Table

    made = []
    for ways in dict.fromkeys(row.setting.ways for row in rows):
        own = [row for row in rows if row.setting.ways == ways]
        shots = list(dict.fromkeys(row.setting.shots for row in own))
        profile = own[0].record.protocol.partition("q-")[2]
        title = f"{ways} ways{', ' + profile if profile else ''}; accuracy in %"
        balanced = any(score.balanced is not None for row in own for score in row.record.scores)
        if balanced:
            title += ", then balanced accuracy"
        table = Table(
            title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0)
        )
        table.add_column("head", no_wrap=True)
        table.add_column("predictor", no_wrap=True)
        for k in shots:
            table.add_column(f"{k} shot{'s' if k > 1 else ''}", justify="right", no_wrap=True)
        for head in dict.fromkeys(row.head for row in own):
            by_shots = {row.setting.shots: row.record for row in own if row.head == head}
            scored = dict.fromkeys(score.predictor for record in by_shots.values() for score in record.scores)
            for place, predictor in enumerate(scored):
                cells = []
                for k in shots:
                    score = by_shots[k].score(predictor)
                    if score is None:  # an earlier scoring kept this predictor for other shots only
                        cells.append("-")
                        continue
                    cell = f"{100 * score.value:.2f}" + (f"±{100 * score.ci95:.2f}" if score.ci95 is not None else "")
                    cells.append(cell + (f" {100 * score.balanced:.2f}" if score.balanced is not None else ""))
                table.add_row(head if place == 0 else "", predictor, *cells)
        made.append(table)
    return made


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
