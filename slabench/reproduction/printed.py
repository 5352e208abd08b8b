"""The published numbers of a table: rows of `results/published`, matched with its cells as the leaderboard matches its rows."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from slabench import paths
from slabench.recipe import Recipe
from slabench.reproduction.definition import Cell, Table, cells
from slabench.results.published import Method, PublishedRow, images_of, match, read
from slabench.suites.classification_data import protocol_name


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
