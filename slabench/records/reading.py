"""One record from its file: whatever is wrong with it is a named error, and a head that was renamed has its present name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slabench.core.errors import DataError
from slabench.core.files import read_json
from slabench.core.versions import RENAMED_HEADS
from slabench.records.record import SCHEMA, WHOLE, RunRecord


def read_record(path: Path) -> RunRecord:
    """Read one record. Whatever is wrong with it is a `DataError` that names the file."""
    return record_of(read_json(path), path)


def record_of(value: Any, path: Path | str, *, before: bool = False) -> RunRecord:
    """The record in the JSON value of the file `path`; errors as of `read_record`.

    Args:
        value: what the file says.
        path: to be named in an error.
        before: this very value was read as a record before, by this very code: of it only the schema is held against it again.
    """
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise DataError(
            f"{path} has the schema '{schema}', not '{SCHEMA}'", "it was written by another version of slabench"
        )
    try:
        record = RunRecord.model_validate(value, context=WHOLE if before else None)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise DataError(f"{path} is not a valid record: {where}: {first['msg']}", "run the trial again") from error
    if not before:
        from slabench.records.settings import odd_setting  # start-up time: imports every recipe

        odd = odd_setting(record.suite, record.recipe)
        if odd is not None:
            raise DataError(f"{path} is not a valid record: {odd}", "run the trial again")
    return _as_called_now(record)


def _as_called_now(record: RunRecord) -> RunRecord:
    """The record with its head's present name, where a later revision has taken the old one; key and name stay."""
    head = record.setting("model", "head")
    if not isinstance(head, str) or head not in RENAMED_HEADS or record.setting("model", "head_revision") is not None:
        return record
    now = RENAMED_HEADS[head]
    recipe = {**record.recipe, "model": {**record.recipe["model"], "head": now}}
    derived = record.derived
    if derived and derived.get("head") == head:
        derived = {**derived, "head": now}
    return record.model_copy(update={"recipe": recipe, "derived": derived})
