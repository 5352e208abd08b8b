"""Small CSV files that people write or download: read as text by column, with errors that name the file and the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from pathlib import Path

from slabench.core.errors import DataError
from slabench.core.files import read_text


def read_table(path: Path, columns: Collection[str], remedy: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a CSV with a header, each with its number.

    Args:
        path: of the file, UTF-8 with or without a byte-order mark.
        columns: what the header has to name, in any order and beside others.
        remedy: what to do about an error.

    Yields:
        The number of the line, and its cells of these columns without blanks around them; a cell that is not there is empty.

    Raises:
        DataError: the file cannot be read, is not UTF-8, lacks a column, or is no CSV (a cell has at most 131,072 characters).
    """
    reader = csv.DictReader(io.StringIO(read_text(path, "utf-8-sig"), newline=""))
    try:
        header = list(reader.fieldnames or ())
        if not set(columns) <= set(header):
            found = ", ".join(header)[:200] or "none"
            raise DataError(f"{path} has the columns {found}; it needs the columns {','.join(columns)}", remedy)
        for row in reader:
            yield reader.line_num, {name: (row[name] or "").strip() for name in columns}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.reader.line_num} is not valid CSV: {error}", remedy) from error
