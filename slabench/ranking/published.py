"""Published numbers: read from `results/published/*.csv`, and matched with rows of the leaderboard.

A file holds what was printed, as it was printed (percent, errors as errors), and in its last columns what slabench calls the
same thing: `learner`, `head`, `loss`, ..., `predictor`, `net`. A published row without a `learner` is of a method that slabench
does not run, or not as printed: it is data, and matches nothing. `results/published/README.md` says where each file comes from.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from slabench.core import paths
from slabench.core.errors import DataError
from slabench.core.files import read_text
from slabench.core.suites import SUITES

if TYPE_CHECKING:
    from slabench.ranking.columns import LeaderboardRow


COLUMNS = (
    *(
        "paper",
        "table",
        "kind",
        "suite",
        "dataset",
        "ways",
        "shots",
        "profile",
        "ratio",
        "setting",
        "backbone",
        "method",
    ),
    *("variant", "metric", "value", "interval", "selection", "verified", "source", "second_source", "protocol"),
    *("learner", "head", "loss", "reweight", "sampler", "mix", "objective", "transforms", "predictor", "net"),
)


KINDS = ("paper", "quoted", "rerun", "memory")
"""The paper's own table; another text that quotes it; somebody's own run of the method; memory, never held against the paper."""


METRICS = ("accuracy", "error", "relative-gain")


SELECTIONS = ("last", "best_val", "oracle", "not known")


_REMEDY = "results/published/README.md says what each column holds"


_NO_METHOD = ("head", "loss", "reweight", "sampler", "mix", "objective", "transforms", "predictor")


@dataclass(frozen=True)
class PublishedRow:
    """One printed number.

    Attributes:
        paper: authors and venue, or the repository.
        table: where in it.
        kind: one of `KINDS`.
        suite: of slabench.
        dataset: as slabench names it, where it has it.
        ways: few-shot; None elsewhere or where it was not shown.
        shots: likewise.
        profile: images by class: `full`, `exp` or `step`; "" for few-shot.
        ratio: imbalance ratio.
        setting: as printed.
        backbone: as printed.
        method: as printed.
        variant: as printed.
        metric: one of `METRICS`.
        printed: the number as printed, in percent.
        accuracy: the same as an accuracy, a fraction; None for a relative gain.
        printed_interval: its half width as printed, in percent; "" where none was.
        interval: the same as a fraction; None where none was.
        selection: which weights were scored, one of `SELECTIONS`.
        verified: somebody has seen the number in the source.
        source: where it was seen, and how sure a memory is.
        second_source: an independent text that prints the same number, and what differs there; "" where none is known.
        protocol: the recipe of slabench that is the published training; "" where it is not known.
        learner: and the fields after it: what slabench calls the same; "" where it says nothing.
        net: the backbone's registered name; "" where slabench has none of that shape.
    """

    paper: str
    table: str
    kind: str
    suite: str
    dataset: str
    ways: int | None
    shots: int | None
    profile: str
    ratio: float | None
    setting: str
    backbone: str
    method: str
    variant: str
    metric: str
    printed: str
    accuracy: float | None
    printed_interval: str
    interval: float | None
    selection: str
    verified: bool
    source: str
    second_source: str
    protocol: str
    learner: str
    head: str
    loss: str
    reweight: str
    sampler: str
    mix: str
    objective: str
    transforms: str
    predictor: str
    net: str

    @property
    def printed_accuracy(self) -> str:
        """The accuracy in percent with two digits: what two texts that print the same number have in common."""
        return "" if self.accuracy is None else f"{100 * self.accuracy:.2f}"

    @property
    def text(self) -> str:
        """The accuracy in percent and the half width of its interval, with the digits of the print: `52.5 ± 0.6`."""
        if self.accuracy is None:
            return ""
        digits = len(self.printed.partition(".")[2])
        interval = f" ± {self.printed_interval}" if self.printed_interval else ""
        return f"{100 * self.accuracy:.{digits}f}{interval}"

    @property
    def where(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.table}"


def load(folder: Path | None = None) -> list[PublishedRow]:
    """Every published number, file by file in order of their names; none where there is no such folder.

    Args:
        folder: with the CSV files; by default those that travel with slabench.

    Raises:
        DataError: a file is not what it should be; names the line and the value.
    """
    folder = folder or paths.shipped_results() / "published"
    return [row for path in sorted(folder.glob("*.csv")) for row in read(path)]


def read(path: Path) -> tuple[PublishedRow, ...]:
    """The published numbers of one file.

    Raises:
        DataError: it is not there, or not what it should be; names the line and the value.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path} of published numbers", _REMEDY)
    return _read(path, path.stat().st_mtime_ns)


@dataclass(frozen=True)
class Method:
    """What is scored, in which setting, as far as published numbers can be told apart by it; names are slabench's.

    `images` says how many training images each class has, as the third part of a protocol does: `full`,
    `exp-r100`, `exp-r100-s3`; it is of classifiers, `ways` and `shots` are of few-shot.
    """

    suite: str
    dataset: str
    ways: int | None
    shots: int | None
    images: str
    learner: str | None
    backbone: str | None
    head: str | None
    loss: str | None
    reweight: str | None
    sampler: str | None
    mix: str | None
    objective: str | None
    transforms: str | None
    predictor: str

    @classmethod
    def of(cls, row: LeaderboardRow) -> Method | None:
        """The method of a row; None for what nobody prints: post-hoc methods, transductive, quick and pre-trained runs,
        unequal episodes.
        """
        unequal = row.suite == "fewshot" and "-" in images_of(row.protocol)
        if row.posthoc or row.transductive or row.embedder or row.limited or unequal:
            return None
        names = (field.name for field in fields(cls) if field.name != "images")
        return cls(**{name: getattr(row, name) for name in names}, images=images_of(row.protocol))


def images_of(protocol: str) -> str:
    """How many images of each class a classifier learns from, by the name of its protocol; "" where that does not say it."""
    return "".join(protocol.split("/")[2:3])


def match(what: LeaderboardRow | Method, published: Iterable[PublishedRow]) -> list[PublishedRow]:
    """What was published for the method and the setting of a row, the fittest first.

    The same dataset, ways and shots (or profile and ratio), learner, head, loss, weights, sampler, mixing, objective,
    transformations and predictor; the backbone may differ and is stated. Verified numbers come before others, the row's own
    backbone before others, a paper's own table before quotations and re-runs.
    """
    method = what if isinstance(what, Method) else Method.of(what)
    if method is None:
        return []
    found = [candidate for candidate in published if _fits(candidate, method)]
    # sorted() is stable: equal ones stay in the order of the files.
    return sorted(
        found, key=lambda p: (not p.verified, p.net != (method.backbone or "-"), KINDS.index(p.kind), not p.protocol)
    )


def _fits(p: PublishedRow, method: Method) -> bool:
    if not p.learner or p.accuracy is None:
        return False
    if (p.suite, p.dataset, p.learner) != (method.suite, method.dataset, method.learner):
        return False
    if p.suite == "fewshot":
        if (p.ways, p.shots) != (method.ways, method.shots):
            return False
    elif not _same_images(p, method):
        return False
    # A field that the published row leaves empty says nothing, as the transformations of a baseline.
    wanted = ((name, getattr(p, name)) for name in _NO_METHOD)
    return all(not value or value == getattr(method, name) for name, value in wanted)


def _same_images(p: PublishedRow, method: Method) -> bool:
    """Whether it learns from as many images of each class, whichever they are."""
    what = p.profile if p.ratio is None else f"{p.profile}-r{p.ratio:g}"
    return method.images == what or method.images.startswith(f"{what}-s")


@lru_cache(maxsize=64)
def _read(path: Path, mtime_ns: int) -> tuple[PublishedRow, ...]:
    reader = csv.reader(read_text(path).splitlines(), strict=True)
    rows: list[PublishedRow] = []
    seen: dict[tuple[str, ...], int] = {}
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            odd = sorted(set(header) ^ set(COLUMNS)) or ["their order"]
            raise DataError(f"{path} does not have the columns of a published table: {', '.join(odd)}", _REMEDY)
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if len(values) != len(COLUMNS):
                raise DataError(f"{where} has {len(values)} values, the header {len(COLUMNS)}", _REMEDY)
            row = _parse(dict(zip(COLUMNS, values, strict=True)), where)
            name = (row.paper, row.table, row.suite, row.dataset, row.setting, row.backbone, row.method, row.variant)
            if name in seen:
                raise DataError(f"{where} repeats line {seen[name]}: {row.method}, {row.setting}", _REMEDY)
            seen[name] = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not valid CSV: {error}", _REMEDY) from error
    return tuple(rows)


def _parse(cells: dict[str, str], where: str) -> PublishedRow:
    for name in ("paper", "table", "dataset", "setting", "backbone", "method", "variant", "source"):
        if not cells[name].strip():
            raise DataError(f"{where}: '{name}' is empty", _REMEDY)
    for name, options in (
        ("kind", KINDS),
        ("suite", tuple(SUITES)),
        ("metric", METRICS),
        ("selection", SELECTIONS),
        ("verified", ("yes", "no")),
        ("profile", ("", "full", "exp", "step")),
    ):
        if cells[name] not in options:
            raise DataError(f"{where}: '{name}' is '{cells[name]}', not one of {', '.join(options)}", _REMEDY)
    verified = cells["verified"] == "yes"
    if verified == (cells["kind"] == "memory"):
        raise DataError(
            f"{where}: 'verified' is '{cells['verified']}' for the kind '{cells['kind']}': only memory is unverified",
            _REMEDY,
        )
    if bool(cells["learner"]) != bool(cells["objective"] and cells["predictor"]):
        raise DataError(f"{where}: 'learner', 'objective' and 'predictor' are all given or all empty", _REMEDY)
    value = _number(cells["value"], "value", where)
    metric = cells["metric"]
    if metric != "relative-gain" and not 0 <= value <= 100:
        raise DataError(f"{where}: 'value' is {cells['value']}, which is not a percentage", _REMEDY)
    accuracy = {"accuracy": value / 100, "error": (100 - value) / 100}.get(metric)
    interval = _number(cells["interval"], "interval", where) / 100 if cells["interval"] else None
    if interval is not None and interval < 0:
        raise DataError(f"{where}: 'interval' is {cells['interval']}, below 0", _REMEDY)
    return PublishedRow(
        **{
            name: cells[name]
            for name in COLUMNS
            if name not in ("ways", "shots", "ratio", "value", "interval", "verified")
        },
        ways=_whole(cells["ways"], "ways", where),
        shots=_whole(cells["shots"], "shots", where),
        ratio=_number(cells["ratio"], "ratio", where) if cells["ratio"] else None,
        printed=cells["value"],
        accuracy=accuracy,
        printed_interval=cells["interval"],
        interval=interval,
        verified=verified,
    )


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: '{name}' is '{text}', which is not a number", _REMEDY)
    return value


def _whole(text: str, name: str, where: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise DataError(f"{where}: '{name}' is '{text}', which is not a whole number above 0", _REMEDY)
    return int(text)


def best(row: LeaderboardRow, published: Sequence[PublishedRow]) -> PublishedRow | None:
    """The fittest published number of a row, None where nothing was published."""
    return next(iter(match(row, published)), None)
