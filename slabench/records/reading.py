"""One record from its file: whatever is wrong with it is a named error, and a head that was renamed has its present name."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from slabench.core.errors import DataError
from slabench.core.files import read_json
from slabench.core.versions import RENAMED_HEADS
from slabench.records.record import SCHEMA, RunRecord
from slabench.records.settings import odd_setting


def read_record(path: Path) -> RunRecord:
    """Read one record. Whatever is wrong with it is a `DataError` that names the file."""
    value = read_json(path)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise DataError(
            f"{path} has the schema '{schema}', not '{SCHEMA}'", "it was written by another version of slabench"
        )
    try:
        record = RunRecord.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise DataError(f"{path} is not a valid record: {where}: {first['msg']}", "run the trial again") from error
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
