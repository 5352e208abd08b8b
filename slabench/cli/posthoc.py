"""`slabench posthoc RUN`: logit adjustment, tau-normalisation, cRT, LWS and temperature on a finished classifier."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.words import names, public_argv

if TYPE_CHECKING:
    from rich.table import Table

    from slabench.suites.posthoc import Posthoc, Row


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
    from rich.console import Console

    from slabench.suites import posthoc as suite

    chosen = None if methods == "all" else names(methods, "--methods")
    found = suite.posthoc(
        run, chosen, tau=tau, norm_tau=norm_tau, results=results, save=save, argv=public_argv(sys.argv[1:])
    )
    console = Console(highlight=False)
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
