"""The leaderboard for people: a table per group of comparable rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from slabench.results.leaderboard import LeaderboardRow


def table(rows: Sequence[LeaderboardRow]) -> Table:
    """The rows for people, a table per group: accuracies in percent, the two uncertainties in columns of their own."""
    from rich.markup import escape
    from rich.table import Table

    made = Table.grid()
    made.add_column()
    groups: dict[tuple[Any, ...], list[LeaderboardRow]] = defaultdict(list)
    for row in rows:
        digests = (row.dataset_digest, row.split_digest, row.episodes_digest)
        groups[row.protocol, row.protocol_version, row.protocol_digest, *digests, row.transductive].append(row)
    for group in groups.values():
        first = group[0]
        kind = ", transductive" if first.transductive else ""
        made.add_row(
            f"[bold]{escape(first.protocol)}[/bold], version {first.protocol_version}{kind}; "
            f"data {escape(first.dataset_digest) or '-'}, episodes {escape(first.episodes_digest) or '-'}"
        )
        made.add_row(_group_table(group))
        made.add_row("")
    made.add_row(
        "[dim]accuracy in percent; ±test: half of the 95 % interval over test episodes or images; ±seeds: standard deviation "
        "over seeds; many, med., few: recall by training images; images: passes through the backbone in training. Rows "
        "that share a rank cannot be told apart on this test.[/dim]"
    )
    return made


def _group_table(group: Sequence[LeaderboardRow]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    # Names fold, numbers never: it is to be read in 80 columns.
    classes = any(row.balanced is not None for row in group)
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    made.add_column("#", justify="right", no_wrap=True)
    made.add_column("recipe", overflow="fold")
    made.add_column("predictor", no_wrap=True)
    groups = ("many", "med.", "few") if classes else ()
    for heading in ("accuracy", "±test", "±seeds", "n", *groups, "images", "min."):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in group:
        made.add_row(
            "-" if row.rank is None else str(row.rank),
            escape(row.name.removeprefix(f"{row.suite}/")) + (" (quick)" if row.limited else ""),
            escape(row.predictor),
            f"{100 * row.mean:.2f}",
            percent(row.ci95_test),
            percent(row.std_seeds),
            str(row.n_seeds),
            *("n/a" if v is None else f"{100 * v:.1f}" for v in (row.many, row.medium, row.few) if classes),
            f"{row.image_passes / 1e6:.2f}M",
            f"{row.train_seconds / 60:.1f}",
        )
    return made


def percent(value: float | None) -> str:
    """A fraction as percent with two digits; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"
