"""Rows of the leaderboard parted into tables: what may be compared stands in one, under the facts that all of it shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slabench.ranking.columns import PUBLISHED, STALE, UNVERIFIED, Column, Format, LeaderboardRow, columns
from slabench.records.record import AUROC


@dataclass(frozen=True)
class Board:
    """One table: rows that may be compared.

    Attributes:
        rows: from the best to the worst.
        title: the protocol.
        facts: version and the values that all rows share, for the line above the table.
        digests: of data, split, episodes and of the protocol, which covers them: first letters, "" where there is none.
        stale: why none of the rows is ranked; None for a present table.
        columns: what is shown, in order.
    """

    rows: tuple[LeaderboardRow, ...]
    title: str
    facts: tuple[str, ...]
    digests: Mapping[str, str]
    stale: str | None
    columns: tuple[Column, ...]

    @property
    def caption(self) -> str:
        """Facts and digests in one line."""
        return "; ".join([*self.facts, *(f"{name} {digest}" for name, digest in self.digests.items() if digest)])


def table_of(row: LeaderboardRow) -> tuple[Any, ...]:
    """What rows of one table share: protocol, version and every digest, whether it is pre-trained and transductive, and why it is
    stale."""
    digests = (row.protocol_digest, row.dataset_digest, row.split_digest, row.episodes_digest)
    return (row.protocol, row.protocol_version, *digests, row.embedder is not None, row.transductive, row.stale_why)


def boards(rows: Sequence[LeaderboardRow], output: Format) -> list[Board]:
    """The tables of the leaderboard: rows of unequal protocol, version or digest stand apart; stale tables come last."""
    grouped: dict[tuple[Any, ...], list[LeaderboardRow]] = {}
    for row in rows:
        grouped.setdefault(table_of(row), []).append(row)
    made = [_board(tuple(group), output) for group in grouped.values()]
    return sorted(made, key=lambda board: board.stale is not None)


def _board(rows: tuple[LeaderboardRow, ...], output: Format) -> Board:
    first = rows[0]
    kept: list[Column] = []
    shared: list[str] = []
    longtail = any(getattr(row, name) is not None for row in rows for name in GROUPS)
    for column in columns():
        if output not in column.shown:
            continue
        values = {column.text(row) for row in rows}
        if column.optional and values <= {""} and not (longtail and column.name in GROUPS):
            continue
        if column.fold and output not in ("table", "wide") and len(values) == 1:
            shared.extend(f"{column.heading} {value}" for value in values if value not in ("", "none"))
        elif not (output == "latex" and column.fold and not column.printed):
            named = column.name == "mean" and first.metric == AUROC
            kept.append(replace(column, heading="AUROC", help=_AUROC) if named else column)
    digests = {
        "data": first.dataset_digest,
        "split": first.split_digest,
        "episodes": first.episodes_digest,
        "protocol": first.protocol_digest,
    }
    kinds = [*(["transductive"] if first.transductive else []), *_pretrained(rows)]
    facts = (f"version {first.protocol_version}", *kinds, *shared)
    # sort() is stable: both halves keep the order of the CSV.
    kept.sort(key=lambda column: not column.first)
    return Board(rows, first.protocol, facts, digests, first.stale_why, tuple(kept))


def _pretrained(rows: Sequence[LeaderboardRow]) -> list[str]:
    """That a table is of pre-trained networks, and of which one, where it is one."""
    if rows[0].embedder is None:
        return []
    known = {(row.embedder, row.pretraining, row.resolution, row.contaminated) for row in rows}
    if len(known) > 1:
        return [f"pre-trained ({len(known)} embedders)"]
    name, data, size, seen = known.pop()
    pixels = f", {size} px" if size else ""
    return [f"pre-trained ({name} on {data}{pixels}, contaminated: {seen})"]


_AUROC = "percent, mean over seeds: the chance that a known query has a larger largest logit than an unknown one"

GROUPS = ("many", "medium", "few")
"""Of a long tail: they stand together, also where one of them has no class."""


def notes(tables: Sequence[Board]) -> list[str]:
    """What a reader of the tables must know, a sentence or two each."""
    shown = {column.name for table in tables for column in table.columns}
    found = [
        "Accuracy in percent; ±test: half of the 95 % interval over test episodes or images; ±seeds: standard deviation over "
        "the n seeds; images: images seen in training, transformed copies counted. Rows that share a rank cannot "
        "be distinguished on this test."
    ]
    if "few" in shown:
        found.append(
            "many, med., few: recall of classes of more than 100, 20 to 100 and fewer than 20 training images."
        )
    if "published" in shown:
        found.append(f"published: {PUBLISHED}.")
    if "fpr95" in shown:
        found.append(
            "AUROC: known queries against unknown ones by the largest logit, in percent; FPR95: the unknown ones that are "
            "accepted where 95 % of the known are; known acc.: of the known ones alone."
        )
    rows = [row for table in tables for row in table.rows]
    if "published" in shown and any(row.published is not None and not row.published_verified for row in rows):
        found.append(f"{UNVERIFIED}, so it has no gap.")
    if "contaminated" in shown:
        found.append(
            "contam.: yes where the pre-training has shown the network the test classes, so that nothing new is learned; such "
            "rows stand in tables of their own."
        )
    if any(table.stale for table in tables):
        found.append(f"Stale rows {STALE}.")
    return found
