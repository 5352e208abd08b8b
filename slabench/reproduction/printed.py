"""The published numbers of a table: a CSV beside its TOML file, `table,row,value,interval,verified`, in percent.

`row` is `column/row` of the table. `verified` is `yes` where the number was seen in a paper's text (which may be that of the
paper it is quoted from); any other number is shown with the word "unverified" and decides nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass

from slabench.errors import DataError, did_you_mean
from slabench.reproduction.definition import Table

_COLUMNS = ["table", "row", "value", "interval", "verified"]
_FILE = "published.csv"


@dataclass(frozen=True)
class Printed:
    """A published accuracy: fractions, and the digits it was printed with.

    Attributes:
        value: a fraction.
        interval: half width of its interval, a fraction; None where none is printed.
        verified: whether it was seen in print.
        text: as printed, percent: `52.5 ± 0.6`.
    """

    value: float
    interval: float | None
    verified: bool
    text: str


def printed(table: Table) -> Mapping[str, Printed]:
    """The published numbers by cell; empty where there is no file.

    Raises:
        DataError: a line that is none, or that names no cell; names file and line.
    """
    path = table.folder / _FILE
    if not path.is_file():
        return {}
    names = {f"{column.name}/{row.name}" for column in table.columns for row in table.rows}
    short = table.name.rpartition("/")[2]
    found: dict[str, Printed] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != _COLUMNS:
                raise DataError(f"{path} has the columns {reader.fieldnames}", f"wanted: {','.join(_COLUMNS)}")
            for line in reader:
                if line["table"] != short:
                    continue
                where = f"{path}, line {reader.line_num}"
                if line["row"] not in names:
                    raise DataError(f"{where}: '{line['row']}' is no cell of {short}", did_you_mean(line["row"], names))
                if line["row"] in found:
                    raise DataError(f"{where}: a second number for {line['row']}", "leave one of them out")
                found[line["row"]] = _number(line, where)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file: {error}", "restore it from its source") from error
    return found


def _number(line: Mapping[str, str | None], where: str) -> Printed:
    value, interval, verified = (line[name] or "" for name in ("value", "interval", "verified"))
    numbers = []
    for text in (value, interval or "0"):
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 100:
            raise DataError(f"{where}: '{text}' is no accuracy in percent", "write for example 52.5")
        numbers.append(number / 100)
    if verified not in ("yes", "no"):
        raise DataError(f"{where}: verified is '{verified}'", "write yes or no")
    text = f"{value} ± {interval}" if interval else value
    return Printed(numbers[0], numbers[1] if interval else None, verified == "yes", text)
