"""Records made of a finished trial without training: post-hoc methods on a classifier, heads on a few-shot run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from slabench.core.files import digest_json
from slabench.plugins import bound
from slabench.records.environment import describe
from slabench.records.record import RunRecord

_VERSIONS = ("slabench", "commit", "dirty", "torch", "numpy")
"""Of the machine that derived it: the rest of the environment is the trial's."""


def derive(
    record: RunRecord,
    kind: str,
    method: str,
    given: Mapping[str, Any],
    started: datetime,
    argv: Sequence[str],
    changes: Mapping[str, Any],
    code: list[dict[str, str]] | None = None,
) -> RunRecord:
    """The record of `method` on a trial: the trial's own, with what the method changes and without the trial's files.

    Args:
        record: of the trial.
        kind: `posthoc` or `score`: what the digests and the environment call it.
        method: ends the name.
        given: what decides the result, apart from the trial; equal over seeds.
        started: when.
        argv: the command line.
        changes: the fields that differ, `recipe`, `scores`, `derived` and `cost` among them.
        code: what the method takes from plug-ins (`slabench.plugins.used`).
    """
    here = describe("cpu")
    environment = {**record.environment, **{f"{kind}_{name}": here[name] for name in _VERSIONS}}
    common = {
        "key": derived_key(record.key, kind, given, code),
        "name": f"{record.name}+{method}",
        "recipe_digest": derived_key(record.recipe_digest, kind, given, code),
        "curve": [],
        "environment": environment | ({f"{kind}_plugins": code} if code else {}),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "side_file": None,
        "side_sha256": None,
        "outputs_file": None,
        "outputs_sha256": None,
        "argv": list(argv),
    }
    return RunRecord.model_validate(record.model_copy(update={**common, **changes}).model_dump(by_alias=True))


def derived_key(of: str, kind: str, given: Mapping[str, Any], code: list[dict[str, str]] | None = None) -> str:
    """The key of what is derived from the trial (or recipe) with the digest `of`; see `derive`."""
    return bound(digest_json({"of": of, kind: given}), code or [])
