"""Rows of the leaderboard as sides of a comparison: their accuracies by seed, and what of the recipe is not in question.

Used by `slabench compare` and by benchmarks/analysis/paired.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slabench.errors import DataError
from slabench.results.controls import model
from slabench.results.leaderboard import Entry, copies
from slabench.results.record import RunRecord
from slabench.results.store import ResultStore

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Accuracies = dict[int, NDArray[numpy.float64]]  # by seed, [n] accuracies of the test units


@dataclass(frozen=True)
class Contender:
    """A row of the leaderboard (one recipe, one predictor, its seeds) with the accuracies behind it."""

    entry: Entry
    accuracies: Accuracies

    @property
    def record(self) -> RunRecord:
        """The record of the first seed."""
        return self.entry.records[0]

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return self.record.name

    @property
    def predictor(self) -> str:
        """The predictor of the row."""
        return self.entry.predictor

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, ascending."""
        return tuple(sorted(self.accuracies))

    @property
    def objective(self) -> str:
        """The training objective: baseline, da, rotated-classes, sla."""
        return self.entry.objective

    @property
    def backbone(self) -> str:
        """The registered name of the backbone."""
        return str(self.record.setting("model", "backbone") or "")

    @property
    def model(self) -> tuple[Any, ...]:
        """What is not in question between objectives; see `slabench.results.controls.model`."""
        return model(self.entry)

    @property
    def passes(self) -> int:
        """Images passed through the backbone in training, mean over seeds."""
        return self.entry.passes

    @property
    def looks(self) -> int:
        """How often the predictor looks at an image: M when it aggregates over transformed copies, else once."""
        if self.predictor != "aggregated":
            return 1
        return copies(str(self.record.setting("sla", "transforms") or "")) or 0  # 0: of a plug-in that is not here


def contender(entry: Entry, store: ResultStore) -> Contender:
    """The row with the accuracies of each seed.

    Raises:
        DataError: a record has none, or its side file is missing or damaged.
    """
    return Contender(entry, {record.seed: _accuracies(store, record, entry.predictor) for record in entry.records})


def usable(entries: Sequence[Entry], store: ResultStore, problems: list[str]) -> list[Contender]:
    """The rows that have accuracies; a seed without them is left out, and `problems` says why."""
    found = []
    for entry in entries:
        accuracies: Any = {}
        for record in entry.records:
            try:
                accuracies[record.seed] = _accuracies(store, record, entry.predictor)
            except DataError as error:
                problems.append(error.message)
        if accuracies:
            found.append(Contender(entry, accuracies))
    return found


def _accuracies(store: ResultStore, record: RunRecord, predictor: str) -> NDArray[numpy.float64]:
    import numpy

    array = store.episodes(record).get(predictor)
    if array is None:
        raise DataError(
            f"{store.path(record)} has no side file with the {predictor} accuracy of each test "
            f"{'episode' if record.episodes else 'image'}, which a paired comparison is made from",
            "run the trial again with --resume force, or restore the file from its source",
        )
    return array.astype(numpy.float64)
