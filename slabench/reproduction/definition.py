"""A published table as a TOML file: columns (data, shots, ratio), rows (methods), and the recipe behind every cell.

A row's recipe is a published one (`[presets]`) with the settings of its column and row laid over it, so that a cell is the
same trial as `slabench run` makes of the same settings. `docs/reproduce.md` describes the file.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slabench.comparison.controls import same_views
from slabench.core import paths
from slabench.core.errors import DataError, UsageError, did_you_mean, unknown_name
from slabench.core.files import read_toml
from slabench.recipes import AnyRecipe, load_recipe
from slabench.recipes.fewshot import Recipe
from slabench.recipes.images import copies_per_image

PRESETS = ("paper", "standard", "quick")

_Settings = dict[str, Any]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([-+][a-z0-9]+)*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layered(_Part):
    """Recipe settings: `set` for all presets, the others for one."""

    set: _Settings = Field(default_factory=dict)
    paper: _Settings = Field(default_factory=dict)
    standard: _Settings = Field(default_factory=dict)
    quick: _Settings = Field(default_factory=dict)

    def of(self, preset: str) -> dict[str, Any]:
        """The settings under one preset as dotted recipe keys."""
        return {**_dotted(self.set), **_dotted(getattr(self, preset))}


class Column(Layered):
    """Where the methods are compared: a data set, its shots or ratio."""

    name: _Name
    label: str


class Row(Layered):
    """A method as it is printed.

    Attributes:
        predictor: how the trained model is scored.
        baseline: the row that its gain is counted from; a row with one is shown against the two controls.
    """

    name: _Name
    label: str
    predictor: str = "single"
    baseline: str | None = None


class CellSettings(Layered):
    """Settings of some cells alone; `match` are globs over `column/row`."""

    match: list[str]


class Numbers(_Part):
    """Where published numbers come from.

    Attributes:
        file: one of `results/published` by its name without `.csv`, or a file beside the table, which ends in it.
        tables: of that file, globs over its column `table`.
    """

    file: str
    tables: list[str] = ["*"]


class Table(_Part):
    """A published table.

    Attributes:
        name: as typed, `sla2020/few-shot`; of a file elsewhere the name of the file.
        title: one line.
        source: where the published numbers come from.
        note: in what the protocol here differs from the published one.
        presets: the recipe under all cells, by preset.
        published: where the published numbers come from; of several that fit a cell the fittest is taken.
        folder: where the file lies.
    """

    name: str
    title: str
    source: str = ""
    note: str = ""
    presets: dict[str, str]
    columns: list[Column] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)
    cells: list[CellSettings] = Field(default_factory=list)
    published: list[Numbers] = Field(default_factory=list)
    folder: Path

    def row(self, name: str) -> Row:
        """The row called `name`."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Controls:
    """What a row's gain is held against, three recipes of its baseline.

    Attributes:
        baseline: as printed.
        aggregated: the same method, scored with as many views of a test image as the row.
        equal_images: the same method, trained on as many images seen as the row, copies counted.
    """

    baseline: AnyRecipe
    aggregated: AnyRecipe
    equal_images: AnyRecipe


@dataclass(frozen=True)
class Cell:
    """One row in one column: what is trained, how it is scored, what it is held against."""

    column: Column
    row: Row
    recipe: AnyRecipe
    controls: Controls | None

    @property
    def name(self) -> str:
        """`fc100-5shot/protonet+sla`: for `--only`."""
        return f"{self.column.name}/{self.row.name}"

    @property
    def control_predictor(self) -> str:
        """The baseline's predictor with as many views of a test image as the row takes."""
        return same_views(self.row.predictor)


def table_names() -> list[str]:
    """The tables that travel with slabench, such as `sla2020/few-shot`."""
    root = paths.benchmarks() / "tables"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml"))


def load_table(name: str) -> Table:
    """The table of a published name, or of a path that ends in `.toml`.

    Raises:
        UsageError: no such table.
        DataError: the file is not a table; names the file and the key.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in table_names():
            raise unknown_name("table", name, table_names())
        path = paths.benchmarks() / "tables" / f"{name}.toml"
    elif not path.is_file():
        raise UsageError(f"there is no table file {path}", f"published ones: {', '.join(table_names())}")
    values = read_toml(path)
    own = {"name": name if Path(name).suffix != ".toml" else path.stem, "folder": path.parent}
    for key in own:
        if key in values:
            raise DataError(
                f"{path}: the key '{key}' does not belong in a table file", "remove it: a table is named after its file"
            )
    try:
        table = Table.model_validate(values | own)
    except ValidationError as error:
        raise _explain(error, path) from error
    _check(table, path)
    return table


def cells(table: Table, preset: str = "standard", only: Sequence[str] = ()) -> list[Cell]:
    """The cells of a table with their recipes, column by column.

    Args:
        table: see `load_table`.
        preset: `paper`, `standard` or `quick`, as far as the table has it.
        only: globs over `column/row`, column names or row names; none takes all.

    Raises:
        UsageError: a preset that the table does not have, a glob that matches nothing.
        DataError: settings that are not a recipe's; names the cell.
    """
    if preset not in table.presets:
        raise unknown_name(f"preset of {table.name}", preset, table.presets)
    every = [(column, row) for column in table.columns for row in table.rows]
    for glob in only:
        if not any(_matches(glob, column, row) for column, row in every):
            names = [name for column, row in every for name in (row.name, column.name, f"{column.name}/{row.name}")]
            raise unknown_name(f"row of {table.name}", glob, set(names))
    return [
        _cell(table, column, row, preset)
        for column, row in every
        if not only or any(_matches(glob, column, row) for glob in only)
    ]


def _matches(glob: str, column: Column, row: Row) -> bool:
    return any(fnmatchcase(name, glob) for name in (row.name, column.name, f"{column.name}/{row.name}"))


def _cell(table: Table, column: Column, row: Row, preset: str) -> Cell:
    recipe = _recipe(table, column, row, preset)
    _check_predictor(table, column, row, recipe)
    if row.baseline is None:
        return Cell(column, row, recipe, None)
    base = table.row(row.baseline)
    baseline = _recipe(table, column, base, preset)
    transforms = recipe.sla.transforms
    same = {"sla.transforms": transforms}
    suffix = "" if transforms == baseline.sla.transforms else f"-{transforms}"
    # One view needs no transformations: the baseline itself takes as many.
    aggregated = _recipe(table, column, base, preset, same, suffix) if row.predictor == "aggregated" else baseline
    equal_images = _recipe(table, column, base, preset, same | _longer(baseline, recipe), f"{suffix}-equal-passes")
    return Cell(column, row, recipe, Controls(baseline, aggregated, equal_images))


def _longer(baseline: AnyRecipe, recipe: AnyRecipe) -> dict[str, Any]:
    """The settings with which the baseline sees as many images as the row: M times the steps, its warm-up too."""
    m = copies_per_image(recipe)
    t = baseline.train
    if isinstance(baseline, Recipe) or t.steps is not None:
        assert t.steps is not None
        return {"train.steps": m * t.steps}
    return {"train.epochs": m * (t.epochs or 0), "train.warmup_epochs": m * t.warmup_epochs}


def _recipe(
    table: Table, column: Column, row: Row, preset: str, over: Mapping[str, Any] | None = None, suffix: str = ""
) -> AnyRecipe:
    name = f"{column.name}/{row.name}"
    settings = {**column.of(preset), **row.of(preset)}
    for part in table.cells:
        if any(fnmatchcase(name, glob) for glob in part.match):
            settings |= part.of(preset)
    settings |= {**(over or {}), "name": f"{table.name}/{row.name}{suffix}"}
    base = table.presets[preset]
    if base.endswith(".toml"):
        base = str(table.folder / base)
    try:
        found = load_recipe(base, settings)
    except UsageError as error:
        raise DataError(f"table {table.name}, {name}: {error.message}", error.remedy) from error
    if len(found) != 1:
        raise DataError(
            f"table {table.name}: the recipe {base} of the preset {preset} has {len(found)} variants",
            "a preset is one recipe: name one without [[variants]]",
        )
    return found[0]


def _check(table: Table, path: Path) -> None:
    for preset in table.presets:
        if preset not in PRESETS:
            raise DataError(f"{path}: unknown preset '{preset}'", did_you_mean(preset, PRESETS))
    if not table.presets:
        raise DataError(f"{path}: [presets] names no recipe", 'write for example standard = "fewshot/standard"')
    for kind, names in (("column", [c.name for c in table.columns]), ("row", [r.name for r in table.rows])):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise DataError(f"{path}: two {kind}s are called '{twice}'", "give each its own name")
    names = [row.name for row in table.rows]
    for row in table.rows:
        if row.baseline is None:
            continue
        if row.baseline not in names:
            raise DataError(
                f"{path}: row '{row.name}' has the unknown baseline '{row.baseline}'",
                did_you_mean(row.baseline, names),
            )
        if table.row(row.baseline).baseline is not None:
            raise DataError(
                f"{path}: row '{row.name}' has the baseline '{row.baseline}', which has one itself",
                "name the plain row at the end of it",
            )


def _check_predictor(table: Table, column: Column, row: Row, recipe: AnyRecipe) -> None:
    known = ["single", "aggregated", *(["distilled"] if recipe.sla.objective == "sla+sd" else [])]
    where = f"table {table.name}, {column.name}/{row.name}"
    if row.predictor not in known:
        raise DataError(
            f"{where}: the objective {recipe.sla.objective} has no predictor '{row.predictor}'",
            did_you_mean(row.predictor, known),
        )
    if recipe.sla.objective.startswith("sla") and row.baseline is None:
        raise DataError(
            f"{where}: a row of SLA without a baseline could not be held against its controls",
            f'write baseline = "ROW"; rows: {", ".join(other.name for other in table.rows if other is not row)}',
        )


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"lr": 0.1}}` as `{"train.lr": 0.1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _explain(error: ValidationError, path: Path) -> DataError:
    errors = error.errors(include_url=False)
    # A misspelt key is also a missing one: what was written says more than what was not.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        kinds: dict[str, type[BaseModel]] = {
            "columns": Column,
            "rows": Row,
            "cells": CellSettings,
            "published": Numbers,
        }
        options = set(kinds.get(str(first["loc"][0]), Table).model_fields) - {"folder"}
        return DataError(f"{path}: unknown key '{where}'", did_you_mean(str(first["loc"][-1]), options))
    if first["type"] == "missing":
        return DataError(f"{path}: the key '{where}' is missing", "see docs/reproduce.md")
    return DataError(
        f"{path}: {where} = {reprlib.repr(first['input'])}: {first['msg'].lower()}", "see docs/reproduce.md"
    )
