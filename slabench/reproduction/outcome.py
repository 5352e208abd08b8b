"""A table of our numbers beside the published ones, from records; each gain against its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

from slabench.comparison.controls import Gain, gain
from slabench.core import paths
from slabench.ranking.entries import Entry, entries, entry_interval
from slabench.ranking.published import Method, PublishedRow, images_of, match, read
from slabench.recipes import AnyRecipe
from slabench.recipes.fewshot import Recipe
from slabench.records.record import RunRecord
from slabench.records.store import EpisodeCache, ResultStore
from slabench.reproduction.definition import Cell, Table, cells
from slabench.reproduction.planning import Needs, TablePlan
from slabench.suites.classifier.data import protocol_name

if TYPE_CHECKING:
    from slabench.runner.trials import Outcome


Against = Literal["baseline", "aggregated", "equal images seen", "both"]
"""The controls of `slabench.comparison.controls`, and a baseline with as many images seen and as many views at once."""

AGAINST: tuple[Against, ...] = get_args(Against)


@dataclass(frozen=True)
class Measured:
    """Our number of one recipe under one predictor; fractions.

    Attributes:
        value: mean over seeds.
        ci95: half width of the 95 % interval over test episodes or images of the seed-averaged accuracies.
        std_seeds: standard deviation over seeds; None for one.
        seeds: behind it.
        images_seen: in training, transformed copies counted; the mean over seeds.
        keys: of the records.
    """

    value: float
    ci95: float | None
    std_seeds: float | None
    seeds: tuple[int, ...]
    images_seen: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class RowResult:
    """One cell of the table.

    Attributes:
        state: `done`; `partly` (some seeds); `to run`; `failed`; `busy` (another process runs it); `needs data`.
        measured: our number; None without a record.
        published: the printed number; None where there is none.
        controls: the controls' own numbers.
        gains: over the controls that have records.
        needs: the data that is missing.
    """

    cell: Cell
    state: str
    measured: Measured | None
    published: PublishedRow | None
    controls: Mapping[Against, Measured]
    gains: Mapping[Against, Gain]
    needs: Needs | None

    @property
    def difference(self) -> float | None:
        """Ours minus the published number, a fraction."""
        if self.measured is None or self.published is None or self.published.accuracy is None:
            return None
        return self.measured.value - self.published.accuracy


@dataclass(frozen=True)
class Reproduction:
    """A table, filled as far as there are records.

    Attributes:
        plan: what was asked for, and where it stood before anything was run.
        rows: column by column.
        outcomes: of the trials that this call ran.
    """

    plan: TablePlan
    rows: list[RowResult]
    outcomes: list[Outcome]

    @property
    def failed(self) -> list[Outcome]:
        """The trials that failed."""
        return [outcome for outcome in self.outcomes if outcome.state == "failed"]

    @property
    def busy(self) -> list[Outcome]:
        """The trials that another process was running."""
        return [outcome for outcome in self.outcomes if outcome.state == "busy"]


def collect(plan: TablePlan, outcomes: Sequence[Outcome] = ()) -> Reproduction:
    """The table from the records that are there now."""
    reader = _Reader(plan, outcomes)
    published = printed(plan.table)
    rows = []
    for cell in plan.cells:
        measured = reader.measured(cell.recipe, cell.row.predictor)
        controls = {}
        gains = {}
        for against, (recipe, predictor) in _controls(cell).items():
            own = reader.measured(recipe, predictor)
            held = reader.gain((cell.recipe, cell.row.predictor), (recipe, predictor), against)
            if own is not None:
                controls[against] = own
            if held is not None:
                gains[against] = held
        state, needs = reader.state(cell.recipe), plan.needs.get(cell.recipe.digest)
        rows.append(RowResult(cell, state, measured, published.get(cell.name), controls, gains, needs))
    return Reproduction(plan, rows, list(outcomes))


def _controls(cell: Cell) -> dict[Against, tuple[AnyRecipe, str]]:
    if cell.controls is None:
        return {}
    found: dict[Against, tuple[AnyRecipe, str]] = {
        "baseline": (cell.controls.baseline, "single"),
        "aggregated": (cell.controls.aggregated, cell.control_predictor),
        "equal images seen": (cell.controls.equal_images, "single"),
    }
    if cell.control_predictor == "aggregated":
        found["both"] = (cell.controls.equal_images, "aggregated")
    return found


class _Reader:
    """Records of a plan's trials by recipe, and their accuracies, each read once."""

    def __init__(self, plan: TablePlan, outcomes: Sequence[Outcome]) -> None:
        self.plan, self.store = plan, ResultStore(plan.results)
        self.states = {outcome.trial.key: outcome.state for outcome in outcomes}
        self._records: dict[str, list[RunRecord]] = {}
        open_keys = [t.key for trials in plan.trials.values() for t in trials if t.done is None]
        self._new = self.store.finished_among(open_keys)
        self._cache = EpisodeCache(self.store)  # `finished_among` has warned of what is damaged

    def records(self, recipe: AnyRecipe) -> list[RunRecord]:
        """The finished records of a recipe, those of trials that were run since the plan too."""
        if recipe.digest not in self._records:
            found = list(self.plan.recorded.get(recipe.digest, []))
            for trial in self.plan.trials.get(recipe.digest, []):
                record = trial.done or self._new.get(trial.key)
                if record is not None:
                    found.append(record)
            self._records[recipe.digest] = found
        return self._records[recipe.digest]

    def state(self, recipe: AnyRecipe) -> str:
        """Where the trials of a recipe stand."""
        done = {record.key for record in self.records(recipe)}
        if len(done) == self.plan.n_seeds(recipe):
            return "done"
        if recipe.digest in self.plan.needs:
            return "partly" if done else "needs data"
        states = {self.states.get(trial.key) for trial in self.plan.trials[recipe.digest] if trial.key not in done}
        for state in ("failed", "busy"):
            if state in states:
                return state
        return "partly" if done else "to run"

    def measured(self, recipe: AnyRecipe, predictor: str) -> Measured | None:
        """Our number of a recipe."""
        entry = self._entry(self.records(recipe), predictor)
        if entry is None:
            return None
        return Measured(
            entry.mean,
            entry_interval(entry)[0],
            entry.spread.std,
            tuple(record.seed for record in entry.records),
            entry.images_seen,
            tuple(record.key for record in entry.records),
        )

    def gain(self, ours: tuple[AnyRecipe, str], theirs: tuple[AnyRecipe, str], against: Against) -> Gain | None:
        """The difference of two recipes over their common seeds."""
        a, b = (self._entry(self.records(recipe), predictor) for recipe, predictor in (ours, theirs))
        if a is None or b is None or a.group != b.group:
            return None
        found = gain(a, b, against, self._cache)
        return found if found.seeds else None

    def _entry(self, records: Sequence[RunRecord], predictor: str) -> Entry | None:
        found = entries(records, include_limited=True, episodes=self._cache)
        return next((entry for entry in found if entry.predictor == predictor), None)


def printed(table: Table) -> Mapping[str, PublishedRow]:
    """The published numbers by cell, from the files that the table names; of several that fit a cell the fittest.

    The backbone is that of the paper's preset where the table has one.

    Raises:
        DataError: a file is missing, or not what it should be; names file and line.
    """
    rows: list[PublishedRow] = []
    for source in table.published:
        name = source.file
        path = table.folder / name if name.endswith(".csv") else paths.shipped_results() / "published" / f"{name}.csv"
        rows += [row for row in read(path) if any(fnmatchcase(row.table, glob) for glob in source.tables)]
    preset = "paper" if "paper" in table.presets else next(iter(table.presets))
    found = {cell.name: match(_method(cell), rows) for cell in (cells(table, preset) if rows else ())}
    return {name: fitting[0] for name, fitting in found.items() if fitting}


def _method(cell: Cell) -> Method:
    """The method of a cell, by its recipe."""
    recipe = cell.recipe
    fewshot = recipe if isinstance(recipe, Recipe) else None
    classifier = None if isinstance(recipe, Recipe) else recipe
    return Method(
        suite=recipe.suite,
        dataset=recipe.data.dataset,
        ways=fewshot.protocol.ways if fewshot else None,
        shots=fewshot.protocol.shots if fewshot else None,
        images=images_of(protocol_name(classifier)) if classifier else "",
        learner=fewshot.model.learner if fewshot else "classifier",
        backbone=recipe.model.backbone,
        head=fewshot.model.head if fewshot else None,
        loss=classifier.loss.name if classifier else None,
        reweight=classifier.balance.reweight if classifier else None,
        sampler=classifier.balance.sampler if classifier else None,
        mix=classifier.mix.name if classifier else None,
        objective=recipe.sla.objective,
        transforms=recipe.sla.transforms,
        predictor=cell.row.predictor,
    )
