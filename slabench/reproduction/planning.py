"""What a table takes: its recipes and those of the controls, the trials of each, and which data is not here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slabench.core import paths
from slabench.core.errors import DataError
from slabench.data.catalog import info
from slabench.data.store import is_prepared, store_folder
from slabench.recipes import AnyRecipe
from slabench.recipes.base import checked_seeds
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.reproduction.definition import Cell, Table, cells, load_table
from slabench.runner.trials import Trial
from slabench.runner.trials import plan as plan_trials
from slabench.suites import suite_of


@dataclass(frozen=True)
class Needs:
    """Data that is not here, or damaged: why, and the command that brings it."""

    dataset: str
    why: str
    command: str


@dataclass(frozen=True)
class TablePlan:
    """A table under one preset, and where each of its trials stands.

    Attributes:
        table: its definition.
        preset: `paper`, `standard` or `quick`.
        cells: the rows asked for, column by column.
        seeds: asked for; None takes the recipes' own.
        results: the folder of records.
        recipes: every recipe once, by digest, in the order in which they are run.
        trials: of each recipe whose data is here, by digest, one a seed.
        needs: why a recipe cannot be run here, by digest.
        recorded: finished records of such a recipe, by digest: made where the data is, and good for reading.
    """

    table: Table
    preset: str
    cells: list[Cell]
    seeds: tuple[int, ...] | None
    results: Path
    recipes: dict[str, AnyRecipe]
    trials: dict[str, list[Trial]]
    needs: dict[str, Needs]
    recorded: dict[str, list[RunRecord]]

    @property
    def missing(self) -> list[AnyRecipe]:
        """The recipes that have a trial to run."""
        return [
            self.recipes[digest]
            for digest, trials in self.trials.items()
            if any(trial.done is None for trial in trials)
        ]

    @property
    def wanted(self) -> list[Needs]:
        """The data that trials without a record wait for."""
        waiting = (
            needs
            for digest, needs in self.needs.items()
            if self.n_done(self.recipes[digest]) < self.n_seeds(self.recipes[digest])
        )
        return list(dict.fromkeys(waiting))

    def n_seeds(self, recipe: AnyRecipe) -> int:
        """Trials of a recipe."""
        return len(self.seeds or recipe.seeds)

    def n_done(self, recipe: AnyRecipe) -> int:
        """Finished trials of a recipe."""
        trials = self.trials.get(recipe.digest, [])
        return sum(trial.done is not None for trial in trials) + len(self.recorded.get(recipe.digest, []))


def plan_table(
    name: str,
    preset: str = "standard",
    *,
    only: Sequence[str] = (),
    seeds: Iterable[int] | None = None,
    results: Path | None = None,
    data_folder: Path | None = None,
) -> TablePlan:
    """Where each trial of a published table stands. Nothing is downloaded; embedded data is drawn.

    Args:
        name: `sla2020/few-shot`, or a path that ends in `.toml`.
        preset: `paper` (the paper's protocol), `standard` or `quick`.
        only: globs over `column/row`, columns or rows; none takes all.
        seeds: overrides the recipes' own.
        results: the folder of records.
        data_folder: of prepared data.

    Raises:
        UsageError: an unknown table, preset or row.
        DataError: the table's file is damaged.
    """
    given = None if seeds is None else checked_seeds(seeds)
    table = load_table(name)
    chosen = cells(table, preset, only)
    recipes = {recipe.digest: recipe for cell in chosen for recipe in of_cell(cell)}
    trials: dict[str, list[Trial]] = {}
    needs: dict[str, Needs] = {}
    for recipe in recipes.values():  # all of them before any data is opened, those without data too
        suite_of(recipe).check(recipe)
    for dataset in dict.fromkeys(recipe.data.dataset for recipe in recipes.values()):
        own = [recipe for recipe in recipes.values() if recipe.data.dataset == dataset]
        why = _absent(dataset, data_folder)
        if why is None:
            try:
                for trial in plan_trials(own, given, results, data_folder):
                    trials.setdefault(trial.recipe.digest, []).append(trial)
            except DataError as error:
                why = Needs(dataset, error.message, error.remedy)
        if why is not None:
            needs |= {recipe.digest: why for recipe in own}
    root = paths.results(results)
    recorded = _recorded(root, {digest: list(given or recipes[digest].seeds) for digest in needs})
    return TablePlan(table, preset, chosen, given or None, root, recipes, trials, needs, recorded)


def of_cell(cell: Cell) -> Iterator[AnyRecipe]:
    """The recipes of a cell: its own, then those of its controls."""
    yield cell.recipe
    if cell.controls is not None:
        yield from (cell.controls.baseline, cell.controls.aggregated, cell.controls.equal_images)


def _recorded(root: Path, seeds: dict[str, list[int]]) -> dict[str, list[RunRecord]]:
    """Finished records of recipes whose data is not here, by digest, one a seed: the latest, all on the same data."""
    if not seeds:
        return {}
    records, _ = ResultStore(root).scan()
    found: dict[str, list[RunRecord]] = {}
    for record in sorted(records, key=lambda record: (record.finished, record.key), reverse=True):
        if record.status != "done" or record.seed not in seeds.get(record.recipe_digest, []):
            continue
        own = found.setdefault(record.recipe_digest, [])
        same = not own or own[0].protocol_digest == record.protocol_digest
        if same and all(other.seed != record.seed for other in own):
            own.append(record)
    return found


def _absent(dataset: str, folder: Path | None) -> Needs | None:
    entry = info(dataset)
    if entry.embedded or is_prepared(store_folder(entry, paths.data(folder))):
        return None
    command = "get" if entry.downloadable else "import"
    path = "" if entry.downloadable else " PATH"
    return Needs(dataset, "not on this machine", f"slabench data {command} {entry.store}{path}")
