"""What is to be run: the trials of some recipes, each with its key and its finished record if there is one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slabench import plugins
from slabench.core import paths
from slabench.recipes import AnyRecipe
from slabench.recipes.base import checked_seeds
from slabench.recipes.images import images_per_step, steps_of
from slabench.records.agenda import Planned
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.suites import Prepared, suite_of


@dataclass(frozen=True)
class Trial:
    """A recipe and a seed, on prepared data.

    Attributes:
        recipe: resolved.
        seed: the trial's.
        key: digest of all that decides the result.
        prepared: opened data and episodes.
        done: the finished record, if there is one already.
        code: what it takes from plug-ins (`slabench.plugins.used`), as it was when the trial was planned.
    """

    recipe: AnyRecipe
    seed: int
    key: str
    prepared: Prepared
    done: RunRecord | None
    code: tuple[dict[str, str], ...] = ()

    @property
    def untold(self) -> str | None:
        """Why nobody can know that two trials of this key run the same code; None where they do."""
        return plugins.untold(self.code)

    @property
    def warnings(self) -> list[str]:
        """What is doubtful about the trial, with the reason; the record keeps it."""
        own = [f"{self.untold}; run anew each time, never ranked"] if self.untold else []
        return [*suite_of(self.recipe).warnings(self.recipe), *self.prepared.doubts(), *own]

    @property
    def label(self) -> str:
        """What a person calls it: `fc100 5w5s protonet/conv4 sla 4,000 steps seed 0`."""
        return suite_of(self.recipe).label(self.recipe, self.seed)

    @property
    def planned(self) -> Planned:
        """What `slabench status` tells of it while it is waiting."""
        recipe, n = self.recipe, self.prepared.n_train
        return Planned(
            key=self.key,
            name=recipe.name,
            objective=recipe.sla.objective,
            protocol=self.prepared.protocol,
            seed=self.seed,
            steps=steps_of(recipe, n),
            images=steps_of(recipe, n) * images_per_step(recipe, n),
        )

    @property
    def notes(self) -> list[str]:
        """What a reader should know beforehand: the training set where it is chosen, and what is doubtful."""
        return [*self.prepared.notes(), *(f"warning: {text}" for text in self.warnings)]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: `ran`, `skipped` (finished before, or meanwhile by another process), `failed`, or `busy` (another
    process runs it, and this one does not wait)."""

    trial: Trial
    state: Literal["ran", "skipped", "failed", "busy"]
    record: RunRecord | None
    error: str | None = None


def plan(
    recipes: AnyRecipe | Sequence[AnyRecipe],
    seeds: Iterable[int] | None = None,
    results: Path | None = None,
    data_folder: Path | None = None,
) -> list[Trial]:
    """The trials of some recipes, seed by seed, each with its finished record if there is one.

    Args:
        recipes: one or several.
        seeds: overrides the recipes' own.
        results: the folder of records.
        data_folder: of prepared data; missing data is prepared now.
    """
    recipes = list(recipes) if isinstance(recipes, Sequence) else [recipes]
    chosen = None if seeds is None else checked_seeds(seeds)
    prepared: dict[str, Any] = {}
    trials: dict[str, tuple[AnyRecipe, int, Any, tuple[dict[str, str], ...]]] = {}
    for recipe in recipes:
        suite_of(recipe).check(recipe)
    code = [tuple(plugins.used(recipe)) for recipe in recipes]
    depth = max((len(chosen or recipe.seeds) for recipe in recipes), default=0)
    for place in range(depth):  # all recipes at the first seed, then all at the next: comparable early
        for recipe, used in zip(recipes, code, strict=True):
            own = chosen or recipe.seeds
            if place >= len(own):
                continue
            suite = suite_of(recipe)
            task = f"{recipe.suite} {suite.task_id(recipe)}"
            if task not in prepared:
                prepared[task] = suite.prepare(recipe, data_folder)
            suite.check_data(recipe, prepared[task])
            key = suite.trial_key(recipe, own[place], prepared[task], used)
            trials.setdefault(key, (recipe, own[place], prepared[task], used))
    known = [key for key, (*_, used) in trials.items() if not plugins.untold(used)]
    done = ResultStore(paths.results(results)).finished_among(known)
    return [Trial(recipe, seed, key, data, done.get(key), used) for key, (recipe, seed, data, used) in trials.items()]
