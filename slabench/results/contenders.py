"""Rows of the leaderboard as sides of a comparison: their accuracies by seed, and what of the recipe is not in question.

Used by `slabench compare` and by benchmarks/analysis/paired.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slabench.errors import DataError, UsageError
from slabench.results.leaderboard import Entry
from slabench.results.record import RunRecord
from slabench.results.store import ResultStore

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Accuracies = dict[int, NDArray[numpy.float64]]  # by seed, [n] accuracies of the test units

# Batches are whole numbers of images, so that budgets meant to be equal may differ by a fraction of a step.
_EQUAL_PASSES = 0.01


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
        return str(self.record.recipe.get("sla", {}).get("objective", ""))

    @property
    def model(self) -> tuple[str, ...]:
        """What is not in question between objectives: backbone, head; of a classifier also loss, balance, mixing, post-hoc."""
        recipe = self.record.recipe
        model, balance = recipe.get("model", {}), recipe.get("balance", {})
        rest = (recipe.get("loss", {}).get("name", ""), balance.get("reweight", ""), balance.get("sampler", ""))
        head = model.get("head", model.get("layer", ""))
        posthoc, mix = recipe.get("posthoc", {}).get("method", ""), recipe.get("mix", {}).get("name", "")
        return tuple(str(part) for part in (model.get("backbone", ""), head, *rest, posthoc, mix))

    @property
    def passes(self) -> int:
        """Images passed through the backbone in training, of one seed."""
        cost = self.record.cost
        return cost.images_seen if cost else 0

    @property
    def looks(self) -> int:
        """How often the predictor looks at an image: M when it aggregates over transformed copies, else once."""
        if self.predictor != "aggregated":
            return 1
        from slabench.sla.transforms import transform_set

        try:
            return transform_set(str(self.record.recipe.get("sla", {}).get("transforms", ""))).M
        except UsageError:  # a set of a plug-in that is not installed here
            return 0


def equal_passes(a: Contender, b: Contender) -> bool:
    """Whether both were trained with the same number of image passes, within 1 %."""
    return abs(a.passes - b.passes) <= _EQUAL_PASSES * max(a.passes, b.passes)


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
