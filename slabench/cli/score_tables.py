"""The tables that `slabench score` ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from slabench.suites.fewshot.head_scores import HeadScores


def tables(rows: list[HeadScores]) -> list[Table]:
    """One table for each number of ways: heads and predictors down, shots across, percent and half a 95 % interval."""
    made = []
    for ways in dict.fromkeys(row.setting.ways for row in rows):
        own = [row for row in rows if row.setting.ways == ways]
        shots = list(dict.fromkeys(row.setting.shots for row in own))
        profile = own[0].record.protocol.partition("q-")[2]
        of_what = "AUROC" if own[0].setting.unknown else "accuracy"
        title = f"{ways} ways{', ' + profile if profile else ''}; {of_what} in %"
        balanced = any(score.balanced is not None for row in own for score in row.record.scores)
        if balanced:
            title += ", then balanced accuracy"
        table = _plain(title)
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


def calibrations(rows: list[HeadScores]) -> Table:
    """NLL and ECE of every head, number of ways and shots, and predictor: as they are, and at the temperature T."""
    made = _plain("calibration on the test, T from validation classes; ECE in %")
    for heading in ("episodes", "head", "predictor"):
        made.add_column(heading, no_wrap=True)
    for heading in ("NLL", "ECE", "T", "NLL(T)", "ECE(T)"):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        for score in row.record.scores:
            c = score.calibration
            if c is None:  # an earlier scoring kept this predictor without one
                continue
            values = (f"{c.nll:.3f}", f"{100 * c.ece:.1f}", f"{c.temperature:.3g}", f"{c.nll_scaled:.3f}")
            episodes = f"{row.setting.ways}w{row.setting.shots}s"
            made.add_row(episodes, row.head, score.predictor, *values, f"{100 * c.ece_scaled:.1f}")
    return made


def open_sets(rows: list[HeadScores]) -> Table:
    """AUROC, FPR at 95 % and accuracy on known queries of every head, number of ways and shots, and predictor, in percent."""
    made = _plain("known queries against unknown ones, in %")
    for heading in ("episodes", "head", "predictor"):
        made.add_column(heading, no_wrap=True)
    for heading in ("AUROC", "FPR95", "known acc."):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        for score in row.record.scores:
            found, s = score.open_set, row.setting
            if found is None:
                continue
            pairs = (
                (score.value, score.ci95),
                (found.fpr95, found.fpr95_ci95),
                (found.accuracy, found.accuracy_ci95),
            )
            cells = [f"{100 * mean:.2f}" + (f"±{100 * half:.2f}" if half is not None else "") for mean, half in pairs]
            made.add_row(f"{s.ways}w{s.shots}s+{s.unknown}", row.head, score.predictor, *cells)
    return made


def selections(rows: list[HeadScores]) -> list[str]:
    """A line for each parameter that was chosen on validation episodes."""
    return [
        f"{row.setting.ways}w{row.setting.shots}s {row.head}, {score.predictor}: {chosen.parameter} = {chosen.value:g}, "
        f"{100 * (chosen.val_accuracy or 0):.2f} on validation"
        for row in rows
        for score in row.record.scores
        if (chosen := score.head_selection) is not None and chosen.value is not None
    ]


def _plain(title: str) -> Table:
    from rich.table import Table

    return Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
